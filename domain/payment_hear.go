package domain

import (
	"strings"
	"time"
	"unicode"

	"github.com/google/uuid"
)

// GatewayWord is what the gateway finally says of a payment: in a callback, in
// its answer to our asking for the money, or when it is asked about it.
type GatewayWord struct {
	PaymentID        uuid.UUID // ours
	GatewayPaymentID string    // its own; "" where it named none
	Succeeded        bool
	Paid             Money  // where it succeeded: what was taken
	Reason           string // where it failed; "" where it named none
}

// GateAnswer is what became of asking the gate for another unit for the buyer
// of an expired slot.
type GateAnswer struct {
	Granted         bool // else there is none: refused by the gate, or the buyer holds another slot
	Unit            int
	ArrivalSequence int64
	TTL, Warning    time.Duration // as for any slot
}

// Hearing is what follows from a GatewayWord. Events, and those of a re-grant,
// belong into one append.
type Hearing struct {
	AskGate bool     // nothing follows before the gate was asked for a unit: hear again with its answer
	Events  []Event  // for the slot's own stream; empty where the word changes nothing
	Regrant *Regrant // nil unless the buyer gets another slot
}

// Regrant is a slot that is granted and completed at once, in place of one
// that had expired when its payment succeeded.
type Regrant struct {
	Slot   uuid.UUID
	Events []Event // of the new slot's stream, which they begin
}

// Hear decides what a word of the gateway comes to, whichever way it came, in
// whatever order and how often. Money that was taken ends as the slot's
// payment, as a re-grant or as a refund that is due, once. gate is nil as long
// as the gate was not asked; a gate that cannot answer is asked again later. A
// grant that Hear does not use, because another word was faster, is the
// caller's to give back. Nothing follows for a payment that is not the slot's.
func (s Slot) Hear(w GatewayWord, gate *GateAnswer) Hearing {
	w.GatewayPaymentID = plainText(w.GatewayPaymentID)
	p, ours := s.Payment(w.PaymentID)
	switch {
	case !ours || p.Status == SuccessfulPayment || p.Refund != "":
		return Hearing{} // the same money again
	case !w.Succeeded && p.Status == PendingPayment:
		return Hearing{Events: []Event{s.failed(w, w.reason())}}
	case !w.Succeeded:
		return Hearing{}
	case !w.Paid.Equal(p.Price):
		return Hearing{Events: s.mismatch(p, w)}
	}

	other, pending := s.Pending()
	switch {
	case s.Status == ActiveSlot && (!pending || other.ID == p.ID):
		return Hearing{Events: []Event{s.completed(p, w)}}
	case s.Status != ExpiredSlot:
		return Hearing{Events: s.owed(p, w, ReasonOtherPayment)}
	case gate == nil:
		return Hearing{AskGate: true}
	case !gate.Granted:
		return Hearing{Events: s.owed(p, w, ReasonSlotExpired)}
	}
	return s.regrant(p, w, *gate)
}

// RefundMade records that a refund that was due went through at the gateway.
// There are no events where none is due (any more).
func (s Slot) RefundMade(payment uuid.UUID, refundID string) []Event {
	p, _ := s.Payment(payment)
	if p.Refund != RefundOwed {
		return nil
	}
	return []Event{RefundCompleted{UserID: s.UserID, PaymentID: p.ID, RefundID: plainText(refundID), Amount: p.RefundAmount}}
}

// mismatch gives back what was taken, where it is another amount than asked
// for. Where nothing was taken nothing is owed.
func (s Slot) mismatch(p Payment, w GatewayWord) []Event {
	failed := s.failed(w, ReasonAmountMismatch)
	switch {
	case !w.Paid.IsZero():
		return []Event{failed, s.due(w, ReasonAmountMismatch)}
	case p.Status == PendingPayment:
		return []Event{failed}
	}
	return nil
}

// owed gives back what was taken where it can buy nothing.
func (s Slot) owed(p Payment, w GatewayWord, reason string) []Event {
	if p.Status == PendingPayment {
		return []Event{s.failed(w, reason), s.due(w, reason)}
	}
	return []Event{s.due(w, reason)}
}

func (s Slot) regrant(p Payment, w GatewayWord, gate GateAnswer) Hearing {
	id := SlotID(s.ProductID, gate.ArrivalSequence)
	return Hearing{
		Events: []Event{PaymentRegranted{
			UserID: s.UserID, PaymentID: p.ID, GatewayPaymentID: w.GatewayPaymentID, NewSlotID: id,
		}},
		Regrant: &Regrant{Slot: id, Events: []Event{
			SlotAcquired{
				UserID:          s.UserID,
				Unit:            gate.Unit,
				ArrivalSequence: gate.ArrivalSequence,
				TTLMillis:       gate.TTL.Milliseconds(),
				WarningMillis:   gate.Warning.Milliseconds(),
				RegrantOf:       &s.ID,
			},
			s.completed(p, w),
		}},
	}
}

func (s Slot) completed(p Payment, w GatewayWord) PaymentCompleted {
	return PaymentCompleted{
		UserID: s.UserID, PaymentID: p.ID, GatewayPaymentID: w.GatewayPaymentID, Price: p.Price, Method: p.Method,
	}
}

func (s Slot) failed(w GatewayWord, reason string) PaymentFailed {
	return PaymentFailed{UserID: s.UserID, PaymentID: w.PaymentID, GatewayPaymentID: w.GatewayPaymentID, Reason: reason}
}

func (s Slot) due(w GatewayWord, reason string) RefundDue {
	return RefundDue{
		UserID: s.UserID, PaymentID: w.PaymentID, GatewayPaymentID: w.GatewayPaymentID, Amount: w.Paid, Reason: reason,
	}
}

func (w GatewayWord) reason() string {
	if r := plainText(w.Reason); r != "" {
		return r
	}
	return ReasonDeclined
}

// maxPlainText is the longest text of the gateway's that is kept, in code
// points.
const maxPlainText = 255

// plainText is a text of the gateway's as it can be stored, sent and shown:
// UTF-8 without control characters, and not endless.
func plainText(s string) string {
	s = strings.Map(func(r rune) rune {
		if unicode.IsControl(r) {
			return -1
		}
		return r
	}, strings.ToValidUTF8(s, "\uFFFD"))
	s = strings.TrimSpace(s)
	n := 0
	for i := range s {
		if n == maxPlainText {
			return s[:i]
		}
		n++
	}
	return s
}
