package domain

import "github.com/google/uuid"

// PaymentMethod is how a buyer pays.
type PaymentMethod string

// The payment methods that are taken.
const (
	Card         PaymentMethod = "CARD"
	BankTransfer PaymentMethod = "BANK_TRANSFER"
	Wallet       PaymentMethod = "WALLET"
)

// PaymentInitiated is durable before the gateway is asked for money.
type PaymentInitiated struct {
	UserID    uuid.UUID     `json:"userId"`
	PaymentID uuid.UUID     `json:"paymentId"` // ours; the gateway's `reference`
	Price     Money         `json:"price"`
	Method    PaymentMethod `json:"method"`
}

// PaymentFailed ends a try to pay; the slot stays as it is.
type PaymentFailed struct {
	UserID           uuid.UUID `json:"userId"`
	PaymentID        uuid.UUID `json:"paymentId"`
	GatewayPaymentID string    `json:"gatewayPaymentId,omitempty"`
	Reason           string    `json:"reason"`
}

// PaymentCompleted makes the slot a purchase.
type PaymentCompleted struct {
	UserID           uuid.UUID     `json:"userId"`
	PaymentID        uuid.UUID     `json:"paymentId"`
	GatewayPaymentID string        `json:"gatewayPaymentId,omitempty"` // empty where nothing was to pay
	Price            Money         `json:"price"`
	Method           PaymentMethod `json:"method"`
}

// PaymentRegranted stands in the stream of a slot that had expired when its
// payment succeeded: the buyer got NewSlotID instead, where the payment is
// completed.
type PaymentRegranted struct {
	UserID           uuid.UUID `json:"userId"`
	PaymentID        uuid.UUID `json:"paymentId"`
	GatewayPaymentID string    `json:"gatewayPaymentId,omitempty"`
	NewSlotID        uuid.UUID `json:"newSlotId"`
}

// RefundDue says that money was taken for nothing and is owed back.
type RefundDue struct {
	UserID           uuid.UUID `json:"userId"`
	PaymentID        uuid.UUID `json:"paymentId"`
	GatewayPaymentID string    `json:"gatewayPaymentId,omitempty"`
	Amount           Money     `json:"amount"` // what was paid
	Reason           string    `json:"reason"`
}

// RefundCompleted says that the money went back.
type RefundCompleted struct {
	UserID    uuid.UUID `json:"userId"`
	PaymentID uuid.UUID `json:"paymentId"`
	RefundID  string    `json:"refundId"` // the gateway's
	Amount    Money     `json:"amount"`
}

// EventType implements Event.
func (PaymentInitiated) EventType() string { return "PaymentInitiated" }

// EventType implements Event.
func (PaymentFailed) EventType() string { return "PaymentFailed" }

// EventType implements Event.
func (PaymentCompleted) EventType() string { return "PaymentCompleted" }

// EventType implements Event.
func (PaymentRegranted) EventType() string { return "PaymentRegranted" }

// EventType implements Event.
func (RefundDue) EventType() string { return "RefundDue" }

// EventType implements Event.
func (RefundCompleted) EventType() string { return "RefundCompleted" }
