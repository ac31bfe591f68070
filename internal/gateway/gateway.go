package gateway

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"time"

	"github.com/google/uuid"

	"github.com/dopaminestore/dopamine/domain"
)

// Gateway takes money and returns it. The package comment lists the errors; an
// error that it does not list means that the outcome is unknown.
type Gateway interface {
	// EncodePayment renders the request body of Pay. It is stored with the payment
	// and repeated byte for byte. The error is a *Rejected if the gateway cannot
	// take the amount at all; the payment has failed then, with its Reason.
	EncodePayment(r PaymentRequest) ([]byte, error)
	// Pay posts a payment request. Repeated with the same reference and the same
	// bytes, it takes the money once.
	Pay(ctx context.Context, reference uuid.UUID, request []byte) (Payment, error)
	// FindPayment returns the payment's present state, or ErrUnknownReference.
	FindPayment(ctx context.Context, q PaymentQuery) (Payment, error)
	// CancelPayment requests the cancellation of a payment and returns the resulting state:
	// canceled, or succeeded if it was too late. *Rejected means that the gateway answered and did
	// not cancel it.
	CancelPayment(ctx context.Context, q PaymentQuery) (Payment, error)
	// Refund returns money. Repeated with the same RefundID it does so once, for as
	// long as the gateway remembers the key: query FindRefund before repeating it.
	Refund(ctx context.Context, r RefundRequest) (Refund, error)
	// FindRefund returns the refund's present state, or ErrUnknownReference.
	FindRefund(ctx context.Context, r RefundRequest) (Refund, error)
}

// PaymentRequest is the content of a payment request to the gateway.
type PaymentRequest struct {
	Reference   uuid.UUID // our payment id, and the idempotency key
	Amount      domain.Money
	Method      domain.PaymentMethod
	CallbackURL string
	ReturnURL   string    // where the buyer returns after a redirect; "" for none
	StoreID     uuid.UUID // of the event store, so that a shared account can tell stores apart
}

// PaymentQuery identifies a payment for a look-up or a cancellation.
type PaymentQuery struct {
	Reference uuid.UUID
	GatewayID string // the gateway's payment id; "" until known
	// Request is the stored request; some gateways can be queried only by repeating it.
	Request []byte
	// FirstPost and LastPost are when Request was first and last sent; zero if it
	// never was. If only LastPost is known, it counts as the first one too.
	FirstPost, LastPost time.Time
	// Unwanted is set if the payment is no longer PENDING or is to be cancelled: a
	// look-up that finds it unpaid at a gateway that can be queried only by
	// repeating the request cancels it at once.
	Unwanted bool
}

// Status is a payment's state at the gateway.
type Status string

// The states of a payment. Pending and RequiresAction are not final.
const (
	Pending        Status = "pending"
	RequiresAction Status = "requires_action"
	Succeeded      Status = "succeeded"
	Failed         Status = "failed"
	Canceled       Status = "canceled"
)

// Final reports whether s is an outcome.
func (s Status) Final() bool { return s == Succeeded || s == Failed || s == Canceled }

func (s Status) known() bool { return s == Pending || s == RequiresAction || s.Final() }

// Payment is the gateway's report of a payment.
type Payment struct {
	ID     string // the gateway's; "" if it named none
	Status Status
	// Paid is what was taken, if Status is Succeeded. It is nil if the gateway named
	// no amount, which only a response to Pay may omit: then it is what was requested.
	Paid *Paid
	// FailureReason is a code; not empty if Status is Failed or Canceled.
	FailureReason string
	// NextAction is what the buyer has to do next; nil for nothing.
	NextAction *NextAction
}

// LogValue implements slog.LogValuer without the next action's content.
func (p Payment) LogValue() slog.Value {
	return slog.GroupValue(slog.String("id", p.ID), slog.String("status", string(p.Status)), slog.String("failureReason", p.FailureReason))
}

// Paid is an amount as a gateway reported it: money, or if it is none, the text.
type Paid struct {
	Money      domain.Money // the zero value if Unreadable is set
	Unreadable string       // what was reported, printable ASCII, 200 bytes at most; "none" for nothing
}

// The types of NextAction.
const (
	Redirect     = "redirect"
	ClientSecret = "client_secret"
)

// NextAction is what the buyer's page has to do next, in the JSON form of
// contract 4.5. It is for the payment's owner alone: it formats and logs as its
// type only.
type NextAction struct {
	Type           string `json:"type"`
	URL            string `json:"url,omitempty"`            // of Redirect
	ClientSecret   string `json:"clientSecret,omitempty"`   // of ClientSecret
	PublishableKey string `json:"publishableKey,omitempty"` // of ClientSecret
}

// String implements fmt.Stringer without the content.
func (a NextAction) String() string { return a.Type }

// GoString implements fmt.GoStringer without the content.
func (a NextAction) GoString() string { return fmt.Sprintf("gateway.NextAction{Type: %q}", a.Type) }

// LogValue implements slog.LogValuer without the content.
func (a NextAction) LogValue() slog.Value { return slog.StringValue(a.Type) }

// RefundRequest identifies a refund and states what it returns.
type RefundRequest struct {
	RefundID         uuid.UUID // ours, and the idempotency key
	Reference        uuid.UUID // of the payment
	GatewayPaymentID string    // of the charge that it returns
	GatewayRefundID  string    // "" until known
	Amount           domain.Money
}

// RefundStatus is a refund's state at the gateway.
type RefundStatus string

// The states of a refund. RefundPending is not final, and a gateway may fail a
// refund that had succeeded.
const (
	RefundPending   RefundStatus = "pending"
	RefundSucceeded RefundStatus = "succeeded"
	RefundFailed    RefundStatus = "failed"
)

func (s RefundStatus) known() bool {
	return s == RefundPending || s == RefundSucceeded || s == RefundFailed
}

// Refund is the gateway's report of a refund.
type Refund struct {
	ID            string // the gateway's; "" if it named none
	Status        RefundStatus
	FailureReason string // a code; not empty if Status is RefundFailed
}

// Reasons set by the adapters themselves.
const (
	// ReasonAlreadyRefunded: the money has been returned already.
	ReasonAlreadyRefunded = "ALREADY_REFUNDED"
	// ReasonAmountNotSupported: the gateway cannot represent the amount.
	ReasonAmountNotSupported = "AMOUNT_NOT_SUPPORTED"
	reasonCanceled           = "CANCELED"
)

// Rejected reports that the gateway decided against a request.
type Rejected struct {
	Reason     string // a code, DECLINED if the gateway gave none that is one
	HTTPStatus int    // 0 if the adapter rejected it itself
}

func (e *Rejected) Error() string { return "gateway: rejected: " + e.Reason }

// Unwrap returns ErrCredentials for 401 and 403.
func (e *Rejected) Unwrap() error {
	if e.HTTPStatus == http.StatusUnauthorized || e.HTTPStatus == http.StatusForbidden {
		return ErrCredentials
	}
	return nil
}

// AlreadyRefunded reports whether err rejects a refund because the money has
// been returned already.
func AlreadyRefunded(err error) bool {
	var rejected *Rejected
	return errors.As(err, &rejected) && rejected.Reason == ReasonAlreadyRefunded
}

var (
	// ErrUnknownReference: the gateway does not know the payment or refund.
	ErrUnknownReference = errors.New("gateway: unknown reference")
	// ErrNotSent: the circuit breaker is open, or all calls of this kind are in use.
	// Nothing was sent.
	ErrNotSent = errors.New("gateway: not sent")
	// ErrCredentials: the gateway refused our credentials (401, 403).
	ErrCredentials = errors.New("gateway: credentials refused")
)
