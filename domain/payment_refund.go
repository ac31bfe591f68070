package domain

import (
	"fmt"
	"slices"

	"github.com/google/uuid"
)

// PaymentNotRefundableError refuses to refund a payment that is not SUCCESS, was
// free, is disputed or reversed.
type PaymentNotRefundableError struct{ Payment uuid.UUID }

func (e *PaymentNotRefundableError) Error() string {
	return fmt.Sprintf("payment %s cannot be refunded", e.Payment)
}

// RefundExceedsError refuses a refund of more than is not covered by other refunds.
type RefundExceedsError struct {
	Payment   uuid.UUID
	Uncovered Money
}

func (e *RefundExceedsError) Error() string {
	return fmt.Sprintf("of payment %s only %s %s can be refunded", e.Payment, e.Uncovered, e.Uncovered.Currency())
}

// RequestRefund is an admin's request to refund a payment.
type RequestRefund struct {
	ID         uuid.UUID // the id of the new refund
	Payment    uuid.UUID
	Amount     *Money // above 0; nil: everything that no other refund covers
	ReturnUnit bool   // the unit goes back on sale once everything is refunded
	Reason     string // a code
}

// RequestRefund decides a refund by an admin. The error is, in this order, a
// *PaymentNotRefundableError, a *RefundExceedsError, or an *InvalidError of
// returnUnit, which is valid only for a refund that leaves nothing.
func (s Slot) RequestRefund(c RequestRefund) ([]Event, error) {
	p, _ := s.Payment(c.Payment)
	if p.Status != SuccessfulPayment || p.Price.IsZero() || p.Disputed() || p.Reversed {
		return nil, &PaymentNotRefundableError{c.Payment}
	}
	left := p.Uncovered()
	amount := left
	if c.Amount != nil {
		amount = *c.Amount
	}
	if amount.currency != left.currency || amount.Exceeds(left) || amount.IsZero() {
		return nil, &RefundExceedsError{c.Payment, left}
	}
	if c.ReturnUnit && !amount.Equal(left) {
		return nil, &InvalidError{Fields: []FieldError{{"returnUnit", "must be false unless the refund leaves nothing"}}}
	}
	return []Event{RefundDue{
		UserID: s.UserID, PaymentID: p.ID, GatewayPaymentID: p.GatewayID, Amount: amount, Reason: c.Reason,
		RefundID: c.ID, Cause: RefundRequested, ReturnUnit: c.ReturnUnit,
	}}, nil
}

// RefundCancelledSale makes the remainder of a payment due because its sale was
// cancelled, once. There are no events if nothing remains, if it was due before,
// or if the payment did not succeed.
func (s Slot) RefundCancelledSale(payment uuid.UUID) []Event {
	p, _ := s.Payment(payment)
	left := p.Uncovered()
	once := slices.ContainsFunc(p.Refunds, func(r Refund) bool { return r.Cause == RefundSaleCancelled })
	if p.Status != SuccessfulPayment || p.Reversed || left.IsZero() || once {
		return nil
	}
	return []Event{RefundDue{
		UserID: s.UserID, PaymentID: p.ID, GatewayPaymentID: p.GatewayID, Amount: left, Reason: ReasonSaleCancelled,
		RefundID: refundID(p.ID, "sale cancelled"), Cause: RefundSaleCancelled,
	}}
}

// RefundReport is the gateway's report of a refund that we requested.
type RefundReport struct {
	PaymentID       uuid.UUID
	RefundID        uuid.UUID    // our id
	GatewayRefundID string       // the gateway's id; "" if it reported none
	Status          RefundStatus // PENDING, COMPLETED or FAILED
	Reason          string       // if it failed
	// Confirmed: the report is the result of a query that was made after the state was
	// read. No callback and no earlier result changes a final state.
	Confirmed bool
}

// RefundResult is the result of a report of a refund, a dispute or a
// reversal.
type RefundResult struct {
	Query  bool // nothing is decided yet: query the gateway and decide again with the result
	Events []Event
}

// ReportRefund decides the effects of a report of a refund. Events that complete
// the last refund of a purchase include SlotReturned if one of the refunds requested
// it.
func (s Slot) ReportRefund(r RefundReport) RefundResult {
	p, _ := s.Payment(r.PaymentID)
	refund, known := p.Refund(r.RefundID)
	r.GatewayRefundID = PlainID(r.GatewayRefundID)
	final := !refund.Open()
	switch {
	case !known, refund.Status == r.Status, final && r.Status == PendingRefund:
		return RefundResult{}
	case final && !r.Confirmed:
		return RefundResult{Query: true}
	}
	id, amount := r.GatewayRefundID, refund.Amount
	switch r.Status {
	case PendingRefund:
		return RefundResult{Events: []Event{RefundPending{
			UserID: s.UserID, PaymentID: p.ID, RefundID: refund.ID, GatewayRefundID: id, Amount: amount}}}
	case FailedRefund:
		return RefundResult{Events: []Event{RefundFailed{
			UserID: s.UserID, PaymentID: p.ID, RefundID: refund.ID, GatewayRefundID: id, Amount: amount, Reason: FailureCode(r.Reason)}}}
	case CompletedRefund:
		return RefundResult{Events: s.refunded(p, refund, id)}
	}
	return RefundResult{}
}

// refunded completes a refund, with its consequences.
func (s Slot) refunded(p Payment, r Refund, gatewayID string) []Event {
	events := []Event{RefundCompleted{
		UserID: s.UserID, PaymentID: p.ID, RefundID: r.ID, GatewayRefundID: gatewayID, Amount: r.Amount,
	}}
	return s.afterRefund(p, events)
}

// afterRefund appends the consequences of a completed refund to its events.
func (s Slot) afterRefund(p Payment, events []Event) []Event {
	was := p
	p = p.clone()
	for _, e := range events {
		p.apply(Envelope{StreamID: s.ID, Event: e})
	}
	if p.Refunded().Exceeds(p.Taken) && !was.Refunded().Exceeds(was.Taken) {
		excess := p.Refunded().less(p.Taken)
		events = append(events, s.contradicts(p, contradictionContent{Code: RefundExceeds, GatewayPaymentID: p.GatewayID, Amount: &excess})...)
	}
	if p.Reversed && !p.Refunded().IsZero() {
		events = append(events, s.contradicts(p, contradictionContent{Code: RefundedAndReversed, GatewayPaymentID: p.GatewayID})...)
	}
	if s.returnable(p) && slices.ContainsFunc(p.Refunds, func(r Refund) bool { return r.ReturnUnit && r.Status == CompletedRefund }) {
		events = append(events, s.returned(p))
	}
	return events
}

// returnable reports whether the unit of a purchase may be sold again because
// its money is gone, and nothing else is pending.
func (s Slot) returnable(p Payment) bool {
	under := slices.ContainsFunc(p.Refunds, func(r Refund) bool { return r.ofPayment() && r.Open() })
	return s.Status == CompletedSlot && p.Status == SuccessfulPayment && p.SlotID == s.ID && p.WhollyRefunded() && !under
}

func (s Slot) returned(p Payment) SlotReturned {
	return SlotReturned{UserID: s.UserID, PaymentID: p.ID, Unit: s.Unit, ArrivalSequence: s.ArrivalSequence}
}

// GatewayRefund is a refund that was made at the gateway, without a request.
type GatewayRefund struct {
	PaymentID        uuid.UUID
	GatewayRefundID  string
	GatewayPaymentID string // of the charge; "" if it named none
	Amount           *Money // nil if it is unreadable
	Unreadable       string // the unreadable amount as reported, "<number> <currency>"
	NewID            uuid.UUID
	// Queried: the payment and our refunds that are not final were queried, and
	// the results recorded. Unknown are those that the gateway does not know.
	Queried bool
	Unknown map[uuid.UUID]bool
}

// RefundedAtGateway decides about a refund that was made at the gateway. If it
// is not one of ours, it is recorded for at most the remaining amount.
func (s Slot) RefundedAtGateway(g GatewayRefund) RefundResult {
	p, _ := s.Payment(g.PaymentID)
	g.GatewayRefundID = PlainID(g.GatewayRefundID)
	what := contradictionContent{GatewayPaymentID: PlainID(g.GatewayPaymentID), GatewayRefundID: g.GatewayRefundID, Amount: g.Amount, Reported: PlainAmount(g.Unreadable)}
	if ours, ok := p.RefundOfGateway(g.GatewayRefundID); ok {
		return s.ReportRefund(RefundReport{PaymentID: p.ID, RefundID: ours.ID, GatewayRefundID: g.GatewayRefundID, Status: CompletedRefund})
	}
	if slices.ContainsFunc(p.Contradictions, func(c Contradiction) bool {
		// That nothing had been taken is over once the success is recorded.
		return g.GatewayRefundID != "" && c.GatewayRefundID == g.GatewayRefundID && !(c.Code == RefundOfNothing && p.WasTaken())
	}) {
		return RefundResult{} // recorded before
	}
	open := slices.ContainsFunc(p.Refunds, Refund.Open)
	switch {
	case !g.Queried && (open || !p.WasTaken()):
		return RefundResult{Query: true}
	case !p.WasTaken():
		what.Code = RefundOfNothing
		return RefundResult{Events: s.contradicts(p, what)}
	case g.Amount == nil || g.GatewayRefundID == "":
		what.Code = RefundUnreadable
		return RefundResult{Events: s.contradicts(p, what)}
	}
	for _, r := range p.Refunds {
		if r.Open() && g.Unknown[r.ID] && r.Amount.Equal(*g.Amount) {
			return RefundResult{Events: s.refunded(p, r, g.GatewayRefundID)}
		}
	}
	return RefundResult{Events: s.madeAtGateway(p, g, what)}
}

func (s Slot) madeAtGateway(p Payment, g GatewayRefund, what contradictionContent) []Event {
	left, amount := p.Uncovered(), *g.Amount
	what.Code = RefundExceeds
	if amount.currency != left.currency {
		return s.contradicts(p, what)
	}
	var events []Event
	if amount.Exceeds(left) {
		excess := amount.less(left)
		what.Amount, amount = &excess, left
		events = s.contradicts(p, what)
	}
	if amount.IsZero() {
		return events
	}
	charge := what.GatewayPaymentID
	if charge == "" {
		charge = p.GatewayID
	}
	made := []Event{
		RefundDue{
			UserID: s.UserID, PaymentID: p.ID, GatewayPaymentID: charge, Amount: amount, Reason: ReasonRequested,
			RefundID: g.NewID, Cause: RefundRequested,
		},
		RefundCompleted{UserID: s.UserID, PaymentID: p.ID, RefundID: g.NewID, GatewayRefundID: g.GatewayRefundID, Amount: amount},
	}
	return append(s.afterRefund(p, made), events...)
}
