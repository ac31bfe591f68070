package domain

import (
	"fmt"
	"time"

	"github.com/google/uuid"
)

// Caller is the user of a request, according to their token.
type Caller struct {
	User  uuid.UUID
	Buyer bool // has the role buyer
	Admin bool // has the role admin
}

// OwnedBy reports whether the slot belongs to the caller: whether they are its buyer
// and still have that role.
func (s Slot) OwnedBy(by Caller) bool { return by.Buyer && by.User == s.UserID }

// NotOwnerError refuses an action that is reserved for a slot's owner, or an admin.
type NotOwnerError struct{ Slot uuid.UUID }

func (e *NotOwnerError) Error() string {
	return fmt.Sprintf("slot %s belongs to someone else", e.Slot)
}

// SlotNotActiveError refuses to end a slot that has ended.
type SlotNotActiveError struct {
	Slot   uuid.UUID
	Status SlotStatus
}

func (e *SlotNotActiveError) Error() string {
	return fmt.Sprintf("slot %s is %s", e.Slot, e.Status)
}

// PaymentInProgressError refuses an action that must not happen while a payment
// is pending.
type PaymentInProgressError struct{ Slot, Payment uuid.UUID }

func (e *PaymentInProgressError) Error() string {
	return fmt.Sprintf("payment %s of slot %s is pending", e.Payment, e.Slot)
}

// Release ends an active slot before its time: its owner releases it, or an admin
// reclaims it; an owner who is also an admin releases it. It does so after the
// deadline as well, as long as the slot has not expired. An admin's release of a
// purchase whose money is gone returns its unit (contract 4.4). The error is a
// *NotOwnerError, a *SlotNotActiveError or a *PaymentInProgressError.
func (s Slot) Release(by Caller) ([]Event, error) {
	var how ReclaimStatus
	switch {
	case s.OwnedBy(by):
		how = BuyerReleased
	case by.Admin:
		how = ManualReclaimed
	default:
		return nil, &NotOwnerError{s.ID}
	}
	if s.Status == CompletedSlot && by.Admin {
		for _, p := range s.Payments {
			if free := p.Status == SuccessfulPayment && p.SlotID == s.ID && p.Price.IsZero(); free || s.returnable(p) ||
				p.Status == SuccessfulPayment && p.SlotID == s.ID && p.Reversed {
				return []Event{s.returned(p)}, nil
			}
		}
	}
	if s.Status != ActiveSlot {
		return nil, &SlotNotActiveError{s.ID, s.Status}
	}
	if p, pending := s.Pending(); pending {
		return nil, &PaymentInProgressError{s.ID, p.ID}
	}
	return []Event{s.expired(how)}, nil
}

// Expire ends an active slot that is due at the time at of the store's
// clock. A payment that is still pending then, paymentTimeout after the
// deadline, fails with ReasonTimeout in the same append. There are no events
// if the slot is not due or has ended.
func (s Slot) Expire(at time.Time, paymentTimeout time.Duration) []Event {
	if s.Status != ActiveSlot || at.Before(s.DueAt(paymentTimeout)) {
		return nil
	}
	return s.end(AutoExpired, ReasonTimeout)
}

// ExpireCancelled ends an active slot whose sale was cancelled. A pending payment
// fails in the same append. There are no events if the slot has ended.
func (s Slot) ExpireCancelled() []Event {
	if s.Status != ActiveSlot {
		return nil
	}
	return s.end(ManualReclaimed, ReasonSaleCancelled)
}

// end expires the slot, and fails its pending payment for that reason.
func (s Slot) end(how ReclaimStatus, reason string) []Event {
	var events []Event
	if p, pending := s.Pending(); pending {
		events = append(events, s.failed(p, "", reason))
	}
	return append(events, s.expired(how))
}

// Warn warns the owner once that the deadline is near. There are no events
// before the warning time, and none from the deadline on, when a warning
// would be useless.
func (s Slot) Warn(at time.Time) []Event {
	from, ever := s.WarnAt()
	if !ever || s.Warned || s.Status != ActiveSlot || at.Before(from) || !at.Before(s.Deadline) {
		return nil
	}
	return []Event{SlotExpiringSoon{UserID: s.UserID, Deadline: s.Deadline}}
}

func (s Slot) expired(how ReclaimStatus) SlotExpired {
	return SlotExpired{
		UserID:          s.UserID,
		Unit:            s.Unit,
		ArrivalSequence: s.ArrivalSequence,
		Deadline:        s.Deadline,
		ReclaimStatus:   how,
	}
}
