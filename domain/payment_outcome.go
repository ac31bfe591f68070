package domain

import (
	"slices"
	"strings"
	"time"

	"github.com/google/uuid"
)

// PaymentOutcome is a final status of a payment that the gateway reports: in a
// callback, in its response to the payment request, or when it is queried.
type PaymentOutcome struct {
	PaymentID        uuid.UUID // our id
	GatewayPaymentID string    // the gateway's id; "" if it reported none
	// KnownGatewayID is the gateway's id if it is known from outside the
	// slot's events; "" for none.
	KnownGatewayID string
	Succeeded      bool
	Paid           *Money // the amount taken, if it succeeded; nil if it is unreadable
	Unreadable     string // the unreadable amount as reported, "<number> <currency>"
	Reason         string // if it failed; "" if none was reported
}

// GateAnswer is the gate's decision about another unit for the buyer of an
// expired slot.
type GateAnswer struct {
	Granted         bool // false: refused by the gate, or the buyer holds another slot
	Unit            int
	ArrivalSequence int64
	TTL, Warning    time.Duration // as for any slot
}

// OutcomeResult is the result of a PaymentOutcome. Events, and those of a
// re-grant, belong into one append.
type OutcomeResult struct {
	AskGate bool     // nothing is decided yet: request a unit from the gate and apply the outcome again with its answer
	Events  []Event  // for the slot's own stream; empty if the outcome changes nothing
	Regrant *Regrant // nil unless the buyer receives another slot
}

// Regrant is a slot that is granted and completed at once, instead of one that
// had expired when its payment succeeded.
type Regrant struct {
	Slot   uuid.UUID
	Events []Event // of the new slot's stream, which they begin
}

// ApplyOutcome decides the effects of an outcome, in whatever way, order and
// number reports arrive (contract 4.5, Outcome). Money that was taken ends as
// the slot's payment, as a re-grant or as a refund that is due, once; a
// contradiction of that is recorded once. gate is nil until the gate was asked; if the
// gate cannot respond, the caller retries later. If ApplyOutcome does not use the grant,
// because another outcome came first, the caller gives it back.
// There is no effect if the payment is not the slot's.
func (s Slot) ApplyOutcome(o PaymentOutcome, gate *GateAnswer) OutcomeResult {
	p, ours := s.Payment(o.PaymentID)
	if !ours || p.SlotID != s.ID {
		return OutcomeResult{} // after a re-grant the new slot decides
	}
	o.GatewayPaymentID = PlainID(o.GatewayPaymentID)
	switch {
	case p.WasTaken():
		return OutcomeResult{Events: s.afterTaken(p, o)}
	case !o.Succeeded && p.Status == PendingPayment:
		return OutcomeResult{Events: []Event{s.failed(p, o.gatewayID(), FailureCode(o.Reason))}}
	case !o.Succeeded:
		return OutcomeResult{}
	case o.Paid == nil || !o.Paid.Equal(p.Price):
		return OutcomeResult{Events: s.mismatch(p, o)}
	}

	other, pending := s.Pending()
	switch {
	case s.Status == ActiveSlot && (!pending || other.ID == p.ID):
		return OutcomeResult{Events: []Event{s.completed(p, o)}}
	case s.Status != ExpiredSlot:
		return OutcomeResult{Events: s.late(p, o, ReasonOtherPayment)}
	case gate == nil:
		return OutcomeResult{AskGate: true}
	case !gate.Granted:
		return OutcomeResult{Events: s.late(p, o, ReasonSlotExpired)}
	}
	return s.regrant(p, o, *gate)
}

// gatewayID returns the id of the charge that the outcome concerns: a report without
// one refers to the recorded charge.
func (o PaymentOutcome) gatewayID() string {
	if o.GatewayPaymentID != "" {
		return o.GatewayPaymentID
	}
	return o.KnownGatewayID
}

// afterTaken decides about a report on a payment whose money was taken.
func (s Slot) afterTaken(p Payment, o PaymentOutcome) []Event {
	recorded := p.GatewayID
	if recorded == "" {
		recorded = o.KnownGatewayID
	}
	same := recorded == "" || o.GatewayPaymentID == "" || o.GatewayPaymentID == recorded
	what := contradictionContent{GatewayPaymentID: o.GatewayPaymentID, Amount: o.Paid, Reported: PlainAmount(o.Unreadable)}
	if same && what.GatewayPaymentID == "" {
		what.GatewayPaymentID = recorded
	}
	switch {
	case !o.Succeeded && same && slices.Contains(p.Failures, FailureCode(o.Reason)):
		return nil // recorded before the success
	case !o.Succeeded && same:
		what.Code, what.Amount, what.Reported = FailedAfterSuccess, nil, ""
		return s.contradicts(p, what)
	case !o.Succeeded:
		return nil // the charge did not happen
	case same && o.Paid != nil && o.Paid.Equal(p.Taken):
		return nil // a repeat
	case same:
		what.Code = OtherAmountTaken
		return s.contradicts(p, what)
	}
	return s.duplicate(p, o, what)
}

// duplicate refunds a second charge under the same reference, once.
func (s Slot) duplicate(p Payment, o PaymentOutcome, what contradictionContent) []Event {
	for _, r := range p.Refunds {
		if r.Cause == RefundDuplicateCharge && r.ChargeID == o.GatewayPaymentID {
			if o.Paid != nil && o.Paid.Equal(r.Amount) {
				return nil
			}
			what.Code = OtherAmountTaken
			return s.contradicts(p, what)
		}
	}
	switch {
	case o.Paid == nil:
		what.Code = UnreadableAmount
		return s.contradicts(p, what)
	case o.Paid.IsZero():
		return nil
	}
	return []Event{RefundDue{
		UserID: s.UserID, PaymentID: p.ID, GatewayPaymentID: o.GatewayPaymentID, Amount: *o.Paid,
		Reason: ReasonDuplicateCharge, Cause: RefundDuplicateCharge, RefundID: refundID(p.ID, "duplicate "+o.GatewayPaymentID),
	}}
}

// mismatch refunds what was taken if it differs from the requested amount. If
// nothing was taken nothing is owed; if the amount is unreadable an operator decides.
func (s Slot) mismatch(p Payment, o PaymentOutcome) []Event {
	failed := s.failed(p, o.gatewayID(), ReasonAmountMismatch)
	switch {
	case o.Paid == nil:
		what := contradictionContent{Code: UnreadableAmount, GatewayPaymentID: o.gatewayID(), Reported: PlainAmount(o.Unreadable)}
		contradicted := s.contradicts(p, what)
		if p.Status == PendingPayment || len(contradicted) > 0 && p.FailureReason != ReasonAmountMismatch {
			return append([]Event{failed}, contradicted...)
		}
		return contradicted
	case !o.Paid.IsZero():
		return []Event{failed, s.due(p, o, RefundAmountMismatch, ReasonAmountMismatch)}
	case p.Status == PendingPayment:
		return []Event{failed}
	}
	return nil
}

// late refunds what was taken if it can no longer buy anything.
func (s Slot) late(p Payment, o PaymentOutcome, reason string) []Event {
	due := s.due(p, o, RefundLate, reason)
	if p.Status == PendingPayment {
		return []Event{s.failed(p, o.gatewayID(), reason), due}
	}
	return []Event{due}
}

func (s Slot) regrant(p Payment, o PaymentOutcome, gate GateAnswer) OutcomeResult {
	id := SlotID(s.ProductID, gate.ArrivalSequence)
	return OutcomeResult{
		Events: []Event{PaymentRegranted{
			UserID: s.UserID, PaymentID: p.ID, GatewayPaymentID: o.gatewayID(), NewSlotID: id,
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
			s.completed(p, o),
		}},
	}
}

// FailUnknown fails a pending payment that the gateway does not know, or whose
// outcome cannot be determined, without a report of the gateway. There are no events
// if it is not pending.
func (s Slot) FailUnknown(payment uuid.UUID, reason string) []Event {
	p, _ := s.Payment(payment)
	if p.Status != PendingPayment {
		return nil
	}
	return []Event{s.failed(p, "", FailureCode(reason))}
}

// PaymentNotPendingError refuses to cancel a payment that has an outcome.
type PaymentNotPendingError struct {
	Payment uuid.UUID
	Status  PaymentStatus
}

func (e *PaymentNotPendingError) Error() string {
	return "payment " + e.Payment.String() + " is " + string(e.Status)
}

// CancelPayment requests that a pending payment is canceled at the gateway.
// There are no events if it was requested before. The error is a
// *PaymentNotPendingError. The caller has already checked the payment's
// owner.
func (s Slot) CancelPayment(payment uuid.UUID) ([]Event, error) {
	p, _ := s.Payment(payment)
	switch {
	case p.Status != PendingPayment:
		return nil, &PaymentNotPendingError{payment, p.Status}
	case p.CancelRequested:
		return nil, nil
	}
	return []Event{PaymentCancelRequested{UserID: s.UserID, PaymentID: p.ID}}, nil
}

func (s Slot) completed(p Payment, o PaymentOutcome) PaymentCompleted {
	return PaymentCompleted{
		UserID: s.UserID, PaymentID: p.ID, GatewayPaymentID: o.gatewayID(), Price: p.Price, Method: p.Method,
	}
}

func (s Slot) failed(p Payment, gatewayID, reason string) PaymentFailed {
	return PaymentFailed{UserID: s.UserID, PaymentID: p.ID, GatewayPaymentID: gatewayID, Reason: reason}
}

func (s Slot) due(p Payment, o PaymentOutcome, cause RefundCause, reason string) RefundDue {
	return RefundDue{
		UserID: s.UserID, PaymentID: p.ID, GatewayPaymentID: o.gatewayID(), Amount: *o.Paid,
		Reason: reason, Cause: cause, RefundID: refundID(p.ID, "taken"),
	}
}

const (
	maxCode    = 64  // characters of a code
	maxPlainID = 255 // characters of a gateway's id
)

// Code returns a code in its stored form, upper case of
// [A-Z0-9_]{1,64}; ok is false if s is not a code.
func Code(s string) (code string, ok bool) {
	code = strings.ToUpper(s)
	if code == "" || len(code) > maxCode {
		return "", false
	}
	for _, c := range []byte(code) {
		if (c < 'A' || c > 'Z') && (c < '0' || c > '9') && c != '_' {
			return "", false
		}
	}
	return code, true
}

// FailureCode returns the stored form of a failure's code: ReasonDeclined for
// a reason that is not a code. Free text of a gateway may contain personal data,
// so it is never stored.
func FailureCode(reason string) string {
	if code, ok := Code(reason); ok {
		return code
	}
	return ReasonDeclined
}

// PlainID returns the stored form of a gateway's id: 1 to 255 printable ASCII
// characters; "" for any other text.
func PlainID(id string) string {
	if len(id) > maxPlainID {
		return ""
	}
	for _, c := range []byte(id) {
		if c < ' ' || c > '~' {
			return ""
		}
	}
	return strings.TrimSpace(id)
}
