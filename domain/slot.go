package domain

import (
	"slices"
	"time"

	"github.com/google/uuid"
)

// SlotStatus is the status of a slot. "" is a slot that does not exist.
type SlotStatus string

// A slot is active once, then ends in one of two ways. Only a completed one may
// later be returned, once.
const (
	ActiveSlot    SlotStatus = "ACTIVE"
	CompletedSlot SlotStatus = "COMPLETED"
	ExpiredSlot   SlotStatus = "EXPIRED"
	ReturnedSlot  SlotStatus = "RETURNED" // its unit is on sale again after a refund
)

// Slot is a buyer's right to buy one unit, with its payments, according to
// the events of its stream. The zero value is a slot that does not exist.
type Slot struct {
	ID              uuid.UUID
	ProductID       uuid.UUID
	UserID          uuid.UUID
	Version         int // of the last event applied; 0 if there was none
	Unit            int
	ArrivalSequence int64
	KeyHash         []byte
	RegrantOf       *uuid.UUID
	AcquiredAt      time.Time
	Deadline        time.Time
	Warning         time.Duration // how long before the deadline to warn
	Warned          bool
	Status          SlotStatus
	EndedAt         time.Time     // zero while active
	ReclaimStatus   ReclaimStatus // "" unless it expired
	Payments        []Payment     // in the order of their creation
}

// EvolveSlot returns s after the event of e. It never modifies memory of s, so a
// state can be kept while another is derived from it. Events that are not of a slot are
// ignored.
func EvolveSlot(s Slot, e Envelope) Slot {
	payments := make([]Payment, len(s.Payments))
	for i, p := range s.Payments {
		payments[i] = p.clone()
	}
	if s.Payments != nil {
		s.Payments = payments
	}
	s.apply(e)
	return s
}

// apply changes s by an event, in place.
func (s *Slot) apply(e Envelope) {
	s.Version = e.StreamVersion
	switch v := e.Event.(type) {
	case SlotAcquired:
		s.ID, s.ProductID, s.UserID = e.StreamID, e.ProductID, v.UserID
		s.Unit, s.ArrivalSequence = v.Unit, v.ArrivalSequence
		s.KeyHash, s.RegrantOf = v.KeyHash, v.RegrantOf
		s.AcquiredAt = e.RecordedAt
		s.Deadline = e.RecordedAt.Add(v.TTL())
		s.Warning = time.Duration(v.WarningMillis) * time.Millisecond
		s.Status = ActiveSlot
	case SlotExpiringSoon:
		s.Warned = true
	case SlotExpired:
		s.Status, s.EndedAt, s.ReclaimStatus = ExpiredSlot, e.RecordedAt, v.ReclaimStatus
	case SlotReturned:
		s.Status = ReturnedSlot // when and how it ended stays unchanged
	case PaymentCompleted:
		s.Status, s.EndedAt = CompletedSlot, e.RecordedAt
		s.applyToPayment(e)
	default:
		s.applyToPayment(e)
	}
}

// FoldSlot returns the slot that results from the events of one stream, in order. It
// takes time linear in their number.
func FoldSlot(events []Envelope) Slot {
	var s Slot
	for _, e := range events {
		s.apply(e)
	}
	return s
}

// AdoptHistory completes a payment of a re-granted slot with its history
// in the stream of the previous slot.
func (s *Slot) AdoptHistory(before Payment) {
	p := s.payment(before.ID)
	if p == nil {
		return
	}
	p.CreatedAt = before.CreatedAt
	p.Failures = append(slices.Clone(before.Failures), p.Failures...)
	p.Contradictions = append(slices.Clone(before.Contradictions), p.Contradictions...)
}

// Exists reports whether the slot was ever acquired.
func (s Slot) Exists() bool { return s.Status != "" }

// Payment returns the payment with that id, and whether this slot has it.
func (s Slot) Payment(id uuid.UUID) (Payment, bool) {
	for _, p := range s.Payments {
		if p.ID == id {
			return p, true
		}
	}
	return Payment{}, false
}

// Pending returns the payment that has no outcome yet, and whether there
// is one; there is never more than one.
func (s Slot) Pending() (Payment, bool) {
	for _, p := range s.Payments {
		if p.Status == PendingPayment {
			return p, true
		}
	}
	return Payment{}, false
}

// DueAt returns the time from which an active slot must be expired: its
// deadline, or paymentTimeout later while a payment is pending.
func (s Slot) DueAt(paymentTimeout time.Duration) time.Time {
	if _, pending := s.Pending(); pending {
		return s.Deadline.Add(paymentTimeout)
	}
	return s.Deadline
}

// WarnAt returns the time from which an active slot's owner must be warned, and
// whether a warning is due at all: there is none if the slot lives no longer than
// the warning time.
func (s Slot) WarnAt() (time.Time, bool) {
	at := s.Deadline.Add(-s.Warning)
	return at, s.Warning > 0 && at.After(s.AcquiredAt)
}
