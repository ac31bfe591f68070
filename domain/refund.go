package domain

import (
	"time"

	"github.com/google/uuid"
)

// RefundStatus is the status of a refund.
type RefundStatus string

// The states of a refund. A FAILED refund covers nothing.
const (
	DueRefund       RefundStatus = "DUE"       // to be posted to the gateway
	PendingRefund   RefundStatus = "PENDING"   // the gateway has accepted it
	CompletedRefund RefundStatus = "COMPLETED" // the money was returned
	FailedRefund    RefundStatus = "FAILED"    // the gateway did not make it
)

// Refund is money that is returned to a buyer, completely or in part.
type Refund struct {
	ID            uuid.UUID    `json:"id"`                  // our id
	GatewayID     string       `json:"gatewayId,omitempty"` // the gateway's id; "" until known
	ChargeID      string       `json:"chargeId,omitempty"`  // the gateway's id of the charge that is refunded
	Amount        Money        `json:"amount"`
	Cause         RefundCause  `json:"cause"`
	Reason        string       `json:"reason"`
	Status        RefundStatus `json:"status"`
	ReturnUnit    bool         `json:"returnUnit,omitempty"`
	FailureReason string       `json:"failureReason,omitempty"` // "" unless FAILED
	Handled       bool         `json:"handled,omitempty"`       // FAILED, and no operator's decision is needed any more
	CreatedAt     time.Time    `json:"createdAt"`
	UpdatedAt     time.Time    `json:"updatedAt"`
}

// Open reports whether the refund waits for the gateway.
func (r Refund) Open() bool { return r.Status == DueRefund || r.Status == PendingRefund }

// ofPayment reports whether the refund is of the payment itself, not of a
// duplicate charge.
func (r Refund) ofPayment() bool { return r.Cause != RefundDuplicateCharge }

// PaymentRefundStatus summarises the refunds of a payment; "" for none.
type PaymentRefundStatus string

// The values of a payment's refundStatus.
const (
	RefundsFailed   PaymentRefundStatus = "FAILED"   // one failed and waits for an operator
	RefundsDue      PaymentRefundStatus = "DUE"      // one is to be posted
	RefundsPending  PaymentRefundStatus = "PENDING"  // one is accepted by the gateway
	RefundsPartial  PaymentRefundStatus = "PARTIAL"  // a part of what was taken was returned
	RefundsComplete PaymentRefundStatus = "REFUNDED" // everything that was taken was returned
)

// RefundStatus returns the payment's refundStatus: the first of FAILED, DUE,
// PENDING, REFUNDED, PARTIAL that applies. Refunds of a duplicate charge do not
// count.
func (p Payment) RefundStatus() PaymentRefundStatus {
	var failed, due, pending, completed bool
	for _, r := range p.Refunds {
		if !r.ofPayment() {
			continue
		}
		failed = failed || r.Status == FailedRefund && !r.Handled
		due = due || r.Status == DueRefund
		pending = pending || r.Status == PendingRefund
		completed = completed || r.Status == CompletedRefund
	}
	switch {
	case failed:
		return RefundsFailed
	case due:
		return RefundsDue
	case pending:
		return RefundsPending
	case p.WhollyRefunded():
		return RefundsComplete
	case completed:
		return RefundsPartial
	}
	return ""
}

// Refunded returns the sum of the completed refunds of the payment itself, in
// the currency of what was taken.
func (p Payment) Refunded() Money {
	return p.sum(func(r Refund) bool { return r.ofPayment() && r.Status == CompletedRefund })
}

// RefundedAmount returns the payment's refundedAmount: completed refunds in the
// payment's own currency, and whether there are any.
func (p Payment) RefundedAmount() (Money, bool) {
	sum := p.Refunded()
	if sum.currency != p.Price.currency || sum.IsZero() {
		return Money{currency: p.Price.currency, digits: p.Price.digits}, false
	}
	return sum, true
}

// WhollyRefunded reports whether everything that was taken was returned.
func (p Payment) WhollyRefunded() bool {
	return p.WasTaken() && !p.Taken.IsZero() && p.Refunded().amount.GreaterThanOrEqual(p.Taken.amount)
}

// Uncovered returns the amount taken minus the refunds of the payment that have not
// failed: the amount that can still be refunded.
func (p Payment) Uncovered() Money {
	covered := p.sum(func(r Refund) bool { return r.ofPayment() && r.Status != FailedRefund })
	return p.Taken.less(covered)
}

// Settlement is how the counts of a cancelled sale classify a purchase's money.
type Settlement int

// The settlements of a purchase.
const (
	Unsettled       Settlement = iota // neither of the others
	SettledRefunded                   // wholly refunded, or reversed
	SettledFailed                     // its refund failed
)

// Settlement returns the settlement of the payment.
func (p Payment) Settlement() Settlement {
	var failed, open bool
	for _, r := range p.Refunds {
		failed = failed || r.ofPayment() && r.Status == FailedRefund
		open = open || r.ofPayment() && r.Open()
	}
	switch {
	case p.Reversed || p.WhollyRefunded() && !open:
		return SettledRefunded
	case failed && !open:
		return SettledFailed
	}
	return Unsettled
}

// sum adds up the refunds in the currency of what was taken.
func (p Payment) sum(counts func(Refund) bool) Money {
	sum := Money{currency: p.Taken.currency, digits: p.Taken.digits}
	for _, r := range p.Refunds {
		if counts(r) && r.Amount.currency == sum.currency {
			sum = sum.plus(r.Amount)
		}
	}
	return sum
}

// Refund returns the payment's refund with our id; ok is false if there
// is none.
func (p Payment) Refund(id uuid.UUID) (r Refund, ok bool) {
	for _, r := range p.Refunds {
		if r.ID == id {
			return r, true
		}
	}
	return Refund{}, false
}

// RefundOfGateway returns the payment's refund with the gateway's id.
func (p Payment) RefundOfGateway(id string) (r Refund, ok bool) {
	for _, r := range p.Refunds {
		if id != "" && r.GatewayID == id {
			return r, true
		}
	}
	return Refund{}, false
}

func (p *Payment) addRefund(e Envelope, v RefundDue) {
	p.Refunds = append(p.Refunds, Refund{
		ID: v.RefundID, ChargeID: v.GatewayPaymentID, Amount: v.Amount, Cause: v.Cause, Reason: v.Reason,
		Status: DueRefund, ReturnUnit: v.ReturnUnit, CreatedAt: e.RecordedAt, UpdatedAt: e.RecordedAt,
	})
	if v.Cause == RefundDuplicateCharge {
		return
	}
	p.learn(v.GatewayPaymentID)
	if p.Status != SuccessfulPayment && p.Taken.currency == "" {
		p.Taken = v.Amount
	}
}

func (p *Payment) changeRefund(e Envelope, id uuid.UUID, gatewayID string, change func(*Refund)) {
	for i := range p.Refunds {
		r := &p.Refunds[i]
		if r.ID != id {
			continue
		}
		change(r)
		r.UpdatedAt = e.RecordedAt
		if gatewayID != "" {
			r.GatewayID = gatewayID
		}
	}
}

// refundNamespace makes the ids of refunds that result from a recorded event
// a function of it, so that the same decision has the same id.
var refundNamespace = uuid.MustParse("0c8f6f0e-2b7d-5a51-8a43-6a9d1b2f7c35")

func refundID(payment uuid.UUID, what string) uuid.UUID {
	return uuid.NewSHA1(refundNamespace, append(payment[:], what...))
}
