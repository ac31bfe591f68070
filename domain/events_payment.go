package domain

import "github.com/google/uuid"

// PaymentMethod is how a buyer pays.
type PaymentMethod string

// The accepted payment methods.
const (
	Card         PaymentMethod = "CARD"
	BankTransfer PaymentMethod = "BANK_TRANSFER"
	Wallet       PaymentMethod = "WALLET"
)

// PaymentInitiated is durable before the gateway is called.
type PaymentInitiated struct {
	UserID    uuid.UUID     `json:"userId"`
	PaymentID uuid.UUID     `json:"paymentId"` // our id; the gateway's `reference`
	Price     Money         `json:"price"`
	Method    PaymentMethod `json:"method"`
}

// PaymentCancelRequested records that the payment is to be canceled at the
// gateway. The payment stays PENDING until it has an outcome.
type PaymentCancelRequested struct {
	UserID    uuid.UUID `json:"userId"`
	PaymentID uuid.UUID `json:"paymentId"`
}

// PaymentFailed ends an attempt to pay; the slot stays as it is.
type PaymentFailed struct {
	UserID           uuid.UUID `json:"userId"`
	PaymentID        uuid.UUID `json:"paymentId"`
	GatewayPaymentID string    `json:"gatewayPaymentId,omitempty"`
	Reason           string    `json:"reason"`
}

// PaymentCompleted makes the slot a purchase. It repeats what PaymentInitiated has, because after a
// re-grant it is the first event of the payment in the new slot's stream.
type PaymentCompleted struct {
	UserID           uuid.UUID     `json:"userId"`
	PaymentID        uuid.UUID     `json:"paymentId"`
	GatewayPaymentID string        `json:"gatewayPaymentId,omitempty"` // empty if the price was zero
	Price            Money         `json:"price"`
	Method           PaymentMethod `json:"method"`
}

// PaymentRegranted is in the stream of a slot that had expired when its payment
// succeeded: the buyer received NewSlotID instead, in whose stream the payment is
// completed and continues.
type PaymentRegranted struct {
	UserID           uuid.UUID `json:"userId"`
	PaymentID        uuid.UUID `json:"paymentId"`
	GatewayPaymentID string    `json:"gatewayPaymentId,omitempty"`
	NewSlotID        uuid.UUID `json:"newSlotId"`
}

// RefundCause is why a refund became due.
type RefundCause string

// The causes of refunds.
const (
	RefundLate            RefundCause = "LATE"             // the money came too late to buy anything
	RefundAmountMismatch  RefundCause = "AMOUNT_MISMATCH"  // the gateway took another amount than requested
	RefundDuplicateCharge RefundCause = "DUPLICATE_CHARGE" // the gateway took the money twice
	RefundRequested       RefundCause = "REQUESTED"        // by an admin, or made at the gateway
	RefundSaleCancelled   RefundCause = "SALE_CANCELLED"   // the sale was cancelled
)

// RefundDue records money that must be returned to the buyer.
type RefundDue struct {
	UserID           uuid.UUID   `json:"userId"`
	PaymentID        uuid.UUID   `json:"paymentId"`
	GatewayPaymentID string      `json:"gatewayPaymentId,omitempty"` // of the charge that is refunded
	Amount           Money       `json:"amount"`
	Reason           string      `json:"reason"`          // a code
	RefundID         uuid.UUID   `json:"refundReference"` // our id
	Cause            RefundCause `json:"cause"`
	ReturnUnit       bool        `json:"returnUnit,omitempty"` // the unit goes back on sale once everything is refunded
}

// RefundPending records that the gateway has accepted a refund.
type RefundPending struct {
	UserID          uuid.UUID `json:"userId"`
	PaymentID       uuid.UUID `json:"paymentId"`
	RefundID        uuid.UUID `json:"refundReference"`    // our id
	GatewayRefundID string    `json:"refundId,omitempty"` // the gateway's id
	Amount          Money     `json:"amount"`
}

// RefundCompleted records that the money was returned.
type RefundCompleted struct {
	UserID          uuid.UUID `json:"userId"`
	PaymentID       uuid.UUID `json:"paymentId"`
	GatewayRefundID string    `json:"refundId"` // the gateway's id; empty if it was refunded in another way
	Amount          Money     `json:"amount"`
	RefundID        uuid.UUID `json:"refundReference"` // our id
}

// RefundFailed records a refund that the gateway did not make.
type RefundFailed struct {
	UserID          uuid.UUID `json:"userId"`
	PaymentID       uuid.UUID `json:"paymentId"`
	RefundID        uuid.UUID `json:"refundReference"`    // our id
	GatewayRefundID string    `json:"refundId,omitempty"` // the gateway's id
	Amount          Money     `json:"amount"`
	Reason          string    `json:"reason"`
}

// PaymentDisputed records that the buyer disputes a payment with their bank.
type PaymentDisputed struct {
	UserID           uuid.UUID `json:"userId"`
	PaymentID        uuid.UUID `json:"paymentId"`
	GatewayPaymentID string    `json:"gatewayPaymentId,omitempty"`
	DisputeID        string    `json:"disputeId"` // the gateway's id
}

// PaymentDisputeClosed ends a dispute. A lost one also reverses the payment.
type PaymentDisputeClosed struct {
	UserID           uuid.UUID `json:"userId"`
	PaymentID        uuid.UUID `json:"paymentId"`
	GatewayPaymentID string    `json:"gatewayPaymentId,omitempty"`
	DisputeID        string    `json:"disputeId"`
	Won              bool      `json:"won"`
}

// PaymentReversed records that the money of a payment is gone without a refund
// of the shop: it bounced or was charged back. It happens once.
type PaymentReversed struct {
	UserID           uuid.UUID `json:"userId"`
	PaymentID        uuid.UUID `json:"paymentId"`
	GatewayPaymentID string    `json:"gatewayPaymentId,omitempty"`
	Reason           string    `json:"reason,omitempty"`
}

// PaymentContradicted keeps what the gateway reports against what is recorded.
// It changes no field of the payment and waits for an operator.
type PaymentContradicted struct {
	UserID           uuid.UUID         `json:"userId"`
	PaymentID        uuid.UUID         `json:"paymentId"`
	Code             ContradictionCode `json:"code"`
	GatewayPaymentID string            `json:"gatewayPaymentId,omitempty"`
	GatewayRefundID  string            `json:"refundId,omitempty"`
	DisputeID        string            `json:"disputeId,omitempty"`
	Amount           *Money            `json:"amount,omitempty"`   // as reported; nil if there was none or it was unreadable
	Reported         string            `json:"reported,omitempty"` // an unreadable amount as it was reported, see PlainAmount; "" for none
}

// PaymentResolved records an operator's decision about one item of a payment
// that needed one.
type PaymentResolved struct {
	UserID    uuid.UUID         `json:"userId"`
	PaymentID uuid.UUID         `json:"paymentId"`
	Cause     AttentionCause    `json:"cause"`
	RefundID  *uuid.UUID        `json:"refundReference,omitempty"` // of REFUND_FAILED and REFUND_STUCK
	Code      ContradictionCode `json:"code,omitempty"`            // of CONTRADICTED
	DisputeID string            `json:"disputeId,omitempty"`       // of DISPUTED
	Action    ResolveAction     `json:"action"`
	Note      string            `json:"note"` // a code
}

// EventType implements Event.
func (PaymentInitiated) EventType() string       { return "PaymentInitiated" }
func (PaymentCancelRequested) EventType() string { return "PaymentCancelRequested" }
func (PaymentFailed) EventType() string          { return "PaymentFailed" }
func (PaymentCompleted) EventType() string       { return "PaymentCompleted" }
func (PaymentRegranted) EventType() string       { return "PaymentRegranted" }
func (RefundDue) EventType() string              { return "RefundDue" }
func (RefundPending) EventType() string          { return "RefundPending" }
func (RefundCompleted) EventType() string        { return "RefundCompleted" }
func (RefundFailed) EventType() string           { return "RefundFailed" }
func (PaymentDisputed) EventType() string        { return "PaymentDisputed" }
func (PaymentDisputeClosed) EventType() string   { return "PaymentDisputeClosed" }
func (PaymentReversed) EventType() string        { return "PaymentReversed" }
func (PaymentContradicted) EventType() string    { return "PaymentContradicted" }
func (PaymentResolved) EventType() string        { return "PaymentResolved" }

// PaymentOf returns the id and the owner of the payment that an event concerns;
// ok is false for other events.
func PaymentOf(e Event) (payment, user uuid.UUID, ok bool) {
	switch v := e.(type) {
	case PaymentInitiated:
		return v.PaymentID, v.UserID, true
	case PaymentCancelRequested:
		return v.PaymentID, v.UserID, true
	case PaymentFailed:
		return v.PaymentID, v.UserID, true
	case PaymentCompleted:
		return v.PaymentID, v.UserID, true
	case PaymentRegranted:
		return v.PaymentID, v.UserID, true
	case RefundDue:
		return v.PaymentID, v.UserID, true
	case RefundPending:
		return v.PaymentID, v.UserID, true
	case RefundCompleted:
		return v.PaymentID, v.UserID, true
	case RefundFailed:
		return v.PaymentID, v.UserID, true
	case PaymentDisputed:
		return v.PaymentID, v.UserID, true
	case PaymentDisputeClosed:
		return v.PaymentID, v.UserID, true
	case PaymentReversed:
		return v.PaymentID, v.UserID, true
	case PaymentContradicted:
		return v.PaymentID, v.UserID, true
	case PaymentResolved:
		return v.PaymentID, v.UserID, true
	}
	return uuid.Nil, uuid.Nil, false
}
