package domain

import (
	"slices"
	"time"

	"github.com/google/uuid"
)

// PaymentStatus is where a payment is.
type PaymentStatus string

// The states of a payment. FAILED can still become SUCCESS: a gateway may take
// the money after we had given it up.
const (
	PendingPayment    PaymentStatus = "PENDING"
	SuccessfulPayment PaymentStatus = "SUCCESS"
	FailedPayment     PaymentStatus = "FAILED"
)

// RefundStatus is where the way back of a payment's money is; "" where none is
// owed.
type RefundStatus string

// The states of a refund.
const (
	RefundOwed RefundStatus = "DUE"
	RefundMade RefundStatus = "REFUNDED"
)

// Reasons of ours, for failures and refunds. Others come from the gateway.
const (
	ReasonTimeout        = "TIMEOUT"         // no outcome until the payment timeout past the deadline
	ReasonAmountMismatch = "AMOUNT_MISMATCH" // the gateway took another amount than asked for
	ReasonDeclined       = "DECLINED"        // the gateway refused and gave no reason
	ReasonOtherPayment   = "OTHER_PAYMENT"   // another payment has the slot, or may be about to
	ReasonSlotExpired    = "SLOT_EXPIRED"    // and no other slot could be had in its place
)

// Payment is one try to pay for a slot.
type Payment struct {
	ID            uuid.UUID // ours; the gateway's `reference`
	SlotID        uuid.UUID // whose payment it is: after a re-grant the new slot
	GatewayID     string    // "" until known
	Price         Money     // what was asked for
	Method        PaymentMethod
	Status        PaymentStatus
	FailureReason string // "" unless FAILED
	Refund        RefundStatus
	RefundAmount  Money     // what is owed or went back; no money where Refund is ""
	ConfirmedAt   time.Time // zero unless SUCCESS
	CreatedAt     time.Time
	UpdatedAt     time.Time
}

// evolvePayments is payments after e, in memory of its own; payments itself
// where e is no payment's event.
func evolvePayments(payments []Payment, e Envelope) []Payment {
	switch v := e.Event.(type) {
	case PaymentInitiated:
		return append(slices.Clip(payments), Payment{
			ID: v.PaymentID, SlotID: e.StreamID, Price: v.Price, Method: v.Method,
			Status: PendingPayment, CreatedAt: e.RecordedAt, UpdatedAt: e.RecordedAt,
		})
	case PaymentFailed:
		return changePayment(payments, v.PaymentID, e, func(p *Payment) {
			p.Status, p.FailureReason = FailedPayment, v.Reason
			p.learn(v.GatewayPaymentID)
		})
	case PaymentCompleted:
		if !slices.ContainsFunc(payments, func(p Payment) bool { return p.ID == v.PaymentID }) {
			// A re-grant: the payment was begun in the stream of the slot before.
			payments = append(slices.Clip(payments), Payment{
				ID: v.PaymentID, SlotID: e.StreamID, Price: v.Price, Method: v.Method, CreatedAt: e.RecordedAt,
			})
		}
		return changePayment(payments, v.PaymentID, e, func(p *Payment) {
			p.succeed(e.RecordedAt)
			p.learn(v.GatewayPaymentID)
		})
	case PaymentRegranted:
		return changePayment(payments, v.PaymentID, e, func(p *Payment) {
			p.succeed(e.RecordedAt)
			p.learn(v.GatewayPaymentID)
			p.SlotID = v.NewSlotID
		})
	case RefundDue:
		return changePayment(payments, v.PaymentID, e, func(p *Payment) {
			p.Refund, p.RefundAmount = RefundOwed, v.Amount
			p.learn(v.GatewayPaymentID)
		})
	case RefundCompleted:
		return changePayment(payments, v.PaymentID, e, func(p *Payment) {
			p.Refund, p.RefundAmount = RefundMade, v.Amount
		})
	}
	return payments
}

func changePayment(payments []Payment, id uuid.UUID, e Envelope, change func(*Payment)) []Payment {
	payments = slices.Clone(payments)
	for i := range payments {
		if payments[i].ID == id {
			change(&payments[i])
			payments[i].UpdatedAt = e.RecordedAt
		}
	}
	return payments
}

func (p *Payment) succeed(at time.Time) {
	p.Status, p.FailureReason, p.ConfirmedAt = SuccessfulPayment, "", at
}

func (p *Payment) learn(gatewayID string) {
	if gatewayID != "" {
		p.GatewayID = gatewayID
	}
}
