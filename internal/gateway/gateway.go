package gateway

import (
	"context"
	"errors"

	"github.com/google/uuid"
	"github.com/shopspring/decimal"

	"github.com/dopaminestore/dopamine/domain"
)

// Gateway takes money and gives it back. A call that fails with anything but the
// errors named at it has an unknown outcome: make it again, with the same
// reference, until it has one.
type Gateway interface {
	// Pay asks for money, once however often it is called for a reference. The
	// error is a *Refused where the gateway will not take it.
	Pay(ctx context.Context, r PayRequest) (PayAnswer, error)
	// Look asks what became of a payment. The error is ErrNeverHeardOf where the
	// gateway does not know it.
	Look(ctx context.Context, reference uuid.UUID) (State, error)
	// Refund gives money back, once however often it is called for a reference.
	// The error is a *Refused where the gateway will not.
	Refund(ctx context.Context, reference uuid.UUID, amount domain.Money) (refundID string, err error)
}

// PayRequest is what the gateway is asked for.
type PayRequest struct {
	Reference   uuid.UUID // our payment id, and the idempotency key
	Amount      domain.Money
	Method      domain.PaymentMethod
	CallbackURL string
}

// Status is a payment's as the gateway knows it.
type Status string

// The statuses; Pending is the only one that is not final.
const (
	Pending   Status = "pending"
	Succeeded Status = "succeeded"
	Failed    Status = "failed"
)

func (s Status) known() bool { return s == Pending || s == Succeeded || s == Failed }

// PayAnswer is the gateway's answer to Pay. Where Status is Succeeded, what was
// asked for was taken.
type PayAnswer struct {
	PaymentID     string // the gateway's; "" where it named none
	Status        Status
	FailureReason string // of Failed; "" where it named none
}

// State is what the gateway says about a payment.
type State struct {
	PaymentID     string // the gateway's; "" where it named none
	Status        Status
	Amount        decimal.Decimal // as told: may be any number; always there where Status is Succeeded
	Currency      string          // as told; not empty where Status is Succeeded
	FailureReason string          // of Failed; "" where it named none
}

// Refused says that the gateway has decided against what it was asked for.
type Refused struct {
	Reason string // the gateway's; "" where it named none
	Status int    // of HTTP
}

func (e *Refused) Error() string {
	if e.Reason == "" {
		return "gateway: refused"
	}
	return "gateway: refused: " + e.Reason
}

var (
	// ErrNeverHeardOf: the gateway knows no payment of that reference.
	ErrNeverHeardOf = errors.New("gateway: no such payment")
	// ErrNotAsked: the gateway has failed so often lately that it was not asked.
	// Nothing was sent.
	ErrNotAsked = errors.New("gateway: not asked, it has failed too often lately")
)
