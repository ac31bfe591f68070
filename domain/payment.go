package domain

import (
	"slices"
	"time"

	"github.com/google/uuid"
)

// PaymentStatus is the status of a payment.
type PaymentStatus string

// The states of a payment. FAILED can still become SUCCESS: a gateway may take
// the money after the payment was given up here. No refund changes the status.
const (
	PendingPayment    PaymentStatus = "PENDING"
	SuccessfulPayment PaymentStatus = "SUCCESS"
	FailedPayment     PaymentStatus = "FAILED"
)

// Reasons of the shop, for failures and refunds. Others come from the gateway.
const (
	ReasonTimeout         = "TIMEOUT"          // no outcome until the payment timeout past the deadline
	ReasonAmountMismatch  = "AMOUNT_MISMATCH"  // the gateway took another amount than requested
	ReasonDeclined        = "DECLINED"         // the gateway declined and gave no usable reason
	ReasonCanceled        = "CANCELED"         // canceled at the gateway
	ReasonOtherPayment    = "OTHER_PAYMENT"    // another payment has the slot, or is pending
	ReasonSlotExpired     = "SLOT_EXPIRED"     // and there was no other unit
	ReasonSaleCancelled   = "SALE_CANCELLED"   // the sale was cancelled
	ReasonDuplicateCharge = "DUPLICATE_CHARGE" // the gateway took the money twice
	ReasonRequested       = "REQUESTED"        // the default reason of a refund by an admin
	ReasonReversed        = "PAYMENT_REVERSED" // the money is gone already
)

// Payment is one attempt to pay for a slot, with its refunds and disputes.
type Payment struct {
	ID              uuid.UUID // our id; the gateway's `reference`
	SlotID          uuid.UUID // the slot that it pays for: after a re-grant the new slot
	GatewayID       string    // "" until known; for a taken payment, the id in the report of the success
	Price           Money     // the requested amount
	Method          PaymentMethod
	Status          PaymentStatus
	FailureReason   string   // "" unless FAILED
	Failures        []string // the reasons of all recorded failures
	CancelRequested bool
	Taken           Money // the amount that the gateway took; no money while none is known
	Refunds         []Refund
	Disputes        []Dispute
	Reversed        bool // the money is gone without a refund of the shop
	ReversedAt      time.Time
	ReversalHandled bool // an operator has accepted the reversal
	Contradictions  []Contradiction
	ConfirmedAt     time.Time // zero unless SUCCESS
	CreatedAt       time.Time
	UpdatedAt       time.Time
}

// Dispute is one dispute of a payment.
type Dispute struct {
	ID       string
	Closed   bool
	Won      bool // of a closed one
	Accepted bool // an operator has accepted it, so it needs no attention
	OpenedAt time.Time
}

// WasTaken reports whether the gateway is known to have taken money: the
// payment is SUCCESS, or has a refund of the amount taken.
func (p Payment) WasTaken() bool { return p.Status == SuccessfulPayment || p.Taken.currency != "" }

// Disputed reports whether a dispute of the payment is open.
func (p Payment) Disputed() bool {
	return slices.ContainsFunc(p.Disputes, func(d Dispute) bool { return !d.Closed })
}

// EvolvePayment returns p after e, without sharing memory with p. Other events
// change nothing.
func EvolvePayment(p Payment, e Envelope) Payment {
	p = p.clone()
	if id, _, ok := PaymentOf(e.Event); ok {
		p.ID = id
		p.apply(e)
	}
	return p
}

func (p Payment) clone() Payment {
	p.Failures = slices.Clone(p.Failures)
	p.Refunds = slices.Clone(p.Refunds)
	p.Disputes = slices.Clone(p.Disputes)
	p.Contradictions = slices.Clone(p.Contradictions)
	return p
}

// begin sets the fields that the first event of a payment contains.
func (p *Payment) begin(e Envelope, price Money, method PaymentMethod) {
	p.SlotID, p.Price, p.Method = e.StreamID, price, method
	p.Status, p.CreatedAt = PendingPayment, e.RecordedAt
}

// apply changes p by one of its events.
func (p *Payment) apply(e Envelope) {
	switch v := e.Event.(type) {
	case PaymentInitiated:
		p.begin(e, v.Price, v.Method)
	case PaymentCancelRequested:
		p.CancelRequested = true
	case PaymentFailed:
		p.Status, p.FailureReason = FailedPayment, v.Reason
		p.Failures = append(p.Failures, v.Reason)
		p.learn(v.GatewayPaymentID)
	case PaymentCompleted:
		if p.CreatedAt.IsZero() { // a re-grant: it was created in the stream of the previous slot
			p.begin(e, v.Price, v.Method)
		}
		p.succeed(e.RecordedAt, v.GatewayPaymentID)
		p.SlotID = e.StreamID
	case PaymentRegranted:
		p.succeed(e.RecordedAt, v.GatewayPaymentID)
		p.SlotID = v.NewSlotID
	case RefundDue:
		p.addRefund(e, v)
	case RefundPending:
		p.changeRefund(e, v.RefundID, v.GatewayRefundID, func(r *Refund) { r.Status = PendingRefund })
	case RefundCompleted:
		p.changeRefund(e, v.RefundID, v.GatewayRefundID, func(r *Refund) {
			r.Status, r.FailureReason, r.Handled = CompletedRefund, "", false
		})
	case RefundFailed:
		p.changeRefund(e, v.RefundID, v.GatewayRefundID, func(r *Refund) {
			r.Status, r.FailureReason, r.Handled = FailedRefund, v.Reason, v.Reason == ReasonReversed
		})
	case PaymentDisputed:
		p.Disputes = append(p.Disputes, Dispute{ID: v.DisputeID, OpenedAt: e.RecordedAt})
	case PaymentDisputeClosed:
		p.closeDispute(e, v)
	case PaymentReversed:
		p.Reversed, p.ReversedAt = true, e.RecordedAt
	case PaymentContradicted:
		p.Contradictions = append(p.Contradictions, Contradiction{contentOf(v), e.RecordedAt, false})
		return // it changes no visible field, not even the time of the last change
	case PaymentResolved:
		p.resolved(v)
	default:
		return
	}
	p.UpdatedAt = e.RecordedAt
}

func (p *Payment) succeed(at time.Time, gatewayID string) {
	p.Status, p.FailureReason, p.ConfirmedAt = SuccessfulPayment, "", at
	p.Taken = p.Price
	p.learn(gatewayID)
}

func (p *Payment) learn(gatewayID string) {
	if gatewayID != "" {
		p.GatewayID = gatewayID
	}
}

func (p *Payment) closeDispute(e Envelope, v PaymentDisputeClosed) {
	for i := range p.Disputes {
		if p.Disputes[i].ID == v.DisputeID {
			p.Disputes[i].Closed, p.Disputes[i].Won = true, v.Won
			return
		}
	}
	p.Disputes = append(p.Disputes, Dispute{ID: v.DisputeID, Closed: true, Won: v.Won, OpenedAt: e.RecordedAt})
}

// payment returns a pointer to the slot's payment with that id. The
// newest come first, because most events concern them.
func (s *Slot) payment(id uuid.UUID) *Payment {
	for i := len(s.Payments) - 1; i >= 0; i-- {
		if s.Payments[i].ID == id {
			return &s.Payments[i]
		}
	}
	return nil
}

// applyToPayment changes the payment that an event concerns, in place. If the slot does
// not have it, the payment is created, if the event can create one.
func (s *Slot) applyToPayment(e Envelope) {
	id, _, ok := PaymentOf(e.Event)
	if !ok {
		return
	}
	p := s.payment(id)
	if p == nil {
		switch e.Event.(type) {
		case PaymentInitiated, PaymentCompleted:
			s.Payments = append(s.Payments, Payment{ID: id})
			p = &s.Payments[len(s.Payments)-1]
		default:
			return
		}
	}
	p.apply(e)
}
