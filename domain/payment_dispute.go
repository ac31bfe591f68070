package domain

import (
	"slices"

	"github.com/google/uuid"
)

// DisputeReport is the gateway's report of a dispute.
type DisputeReport struct {
	PaymentID        uuid.UUID
	GatewayPaymentID string // "" if it named none
	DisputeID        string
	Closed, Won      bool
	// Queried: the payment was queried at the gateway, and the result recorded.
	Queried bool
	// Posted are the refunds that may have reached the gateway.
	Posted map[uuid.UUID]bool
}

// ReportDispute decides the effects of a report of a dispute. Reports of one
// dispute may arrive in any order; a lost one reverses the payment.
func (s Slot) ReportDispute(d DisputeReport) RefundResult {
	p, _ := s.Payment(d.PaymentID)
	d.DisputeID, d.GatewayPaymentID = PlainID(d.DisputeID), PlainID(d.GatewayPaymentID)
	what := contradictionContent{GatewayPaymentID: d.GatewayPaymentID, DisputeID: d.DisputeID}
	if !p.WasTaken() {
		if !d.Queried {
			return RefundResult{Query: true}
		}
		what.Code = DisputeOfNothing
		return RefundResult{Events: s.contradicts(p, what)}
	}
	i := slices.IndexFunc(p.Disputes, func(k Dispute) bool { return k.ID == d.DisputeID })
	switch {
	case !d.Closed && i < 0:
		return RefundResult{Events: []Event{PaymentDisputed{
			UserID: s.UserID, PaymentID: p.ID, GatewayPaymentID: d.GatewayPaymentID, DisputeID: d.DisputeID}}}
	case !d.Closed, i >= 0 && p.Disputes[i].Closed && p.Disputes[i].Won == d.Won:
		return RefundResult{}
	case i >= 0 && p.Disputes[i].Closed:
		what.Code = DisputeOutcomeChanged
		return RefundResult{Events: s.contradicts(p, what)}
	}
	events := []Event{PaymentDisputeClosed{
		UserID: s.UserID, PaymentID: p.ID, GatewayPaymentID: d.GatewayPaymentID, DisputeID: d.DisputeID, Won: d.Won}}
	if !d.Won {
		events = append(events, s.reversed(p, d.GatewayPaymentID, "DISPUTE_LOST", d.Posted)...)
	}
	return RefundResult{Events: events}
}

// ReversalReport is the gateway's report of money that was reversed.
type ReversalReport struct {
	PaymentID        uuid.UUID
	GatewayPaymentID string // "" if it named none
	Reason           string
	Queried          bool               // as in DisputeReport
	Posted           map[uuid.UUID]bool // likewise
}

// ReportReversal decides the effects of a reversal. It happens once.
func (s Slot) ReportReversal(r ReversalReport) RefundResult {
	p, _ := s.Payment(r.PaymentID)
	r.GatewayPaymentID = PlainID(r.GatewayPaymentID)
	what := contradictionContent{GatewayPaymentID: r.GatewayPaymentID}
	switch {
	case !p.WasTaken() && !r.Queried:
		return RefundResult{Query: true}
	case !p.WasTaken():
		what.Code = ReversalOfNothing
		return RefundResult{Events: s.contradicts(p, what)}
	case r.GatewayPaymentID != "" && p.GatewayID != "" && r.GatewayPaymentID != p.GatewayID:
		what.Code = OtherChargeReversed
		return RefundResult{Events: s.contradicts(p, what)}
	}
	return RefundResult{Events: s.reversed(p, r.GatewayPaymentID, r.Reason, r.Posted)}
}

// reversed records that a payment's money is gone, once. Refunds that never
// reached the gateway have nothing left to return; a completed one
// returned the money a second time.
func (s Slot) reversed(p Payment, gatewayID, reason string, posted map[uuid.UUID]bool) []Event {
	if p.Reversed {
		return nil
	}
	code, _ := Code(reason)
	events := []Event{PaymentReversed{UserID: s.UserID, PaymentID: p.ID, GatewayPaymentID: gatewayID, Reason: code}}
	for _, r := range p.Refunds {
		if r.ofPayment() && r.Status == DueRefund && !posted[r.ID] {
			events = append(events, RefundFailed{
				UserID: s.UserID, PaymentID: p.ID, RefundID: r.ID, Amount: r.Amount, Reason: ReasonReversed})
		}
	}
	if !p.Refunded().IsZero() {
		events = append(events, s.contradicts(p, contradictionContent{Code: RefundedAndReversed, GatewayPaymentID: p.GatewayID})...)
	}
	return events
}
