package gateway

import (
	"context"
	"errors"
	"log/slog"
	"net/http"
	"time"

	"github.com/google/uuid"

	"github.com/dopaminestore/dopamine/internal/telemetry"
)

// WebhookParser verifies a callback and normalises it.
//
// The error is a *SignatureError, which is ErrSignature, if the callback is not from the gateway or not
// recent. It is *MalformedError if it is from the gateway and cannot be parsed, and ErrUnknownReference if
// its reference is no id. It is any other error if the
// parser has to query the gateway and cannot; the gateway should then send the callback again.
type WebhookParser interface {
	Parse(ctx context.Context, header http.Header, body []byte, now time.Time) (Notification, error)
}

// Kind is what a notification reports.
type Kind string

// The kinds, named after the callback types of contract 4.5. Ignored is of no
// concern to this store.
const (
	Ignored               Kind = ""
	PaymentSucceeded      Kind = "payment.succeeded"
	PaymentFailed         Kind = "payment.failed"
	PaymentCanceled       Kind = "payment.canceled"
	PaymentRequiresAction Kind = "payment.requires_action"
	PaymentRefunded       Kind = "payment.refunded" // made at the gateway, or one of ours
	PaymentDisputed       Kind = "payment.disputed"
	PaymentDisputeClosed  Kind = "payment.dispute_closed"
	PaymentReversed       Kind = "payment.reversed"
	RefundHasSucceeded    Kind = "refund.succeeded"
	RefundHasFailed       Kind = "refund.failed"
)

// Notification is a verified callback, in the same form for every adapter.
type Notification struct {
	ID   string // of the callback, unique: 1 to 255 bytes
	Kind Kind

	Reference uuid.UUID // our payment id; always set unless Kind is Ignored
	PaymentID string    // the gateway's; "" if it named none

	Paid          *Paid       // of PaymentSucceeded, PaymentRefunded and refunds: what was taken or returned
	FailureReason string      // a code; of PaymentFailed, PaymentCanceled, RefundHasFailed
	NextAction    *NextAction // of PaymentRequiresAction; nil for none

	RefundReference uuid.UUID // our refund id; uuid.Nil if the gateway named none
	RefundID        string    // the gateway's; "" if it named none
	DisputeID       string    // of disputes; "" if the gateway named none
	Won             bool      // of PaymentDisputeClosed
}

// LogValue implements slog.LogValuer without the next action's content.
func (n Notification) LogValue() slog.Value {
	return slog.GroupValue(slog.String("id", n.ID), slog.String("kind", string(n.Kind)), slog.String("payment", n.Reference.String()))
}

// Payment returns the report that a payment.* notification of an outcome or of a
// next action amounts to, false for other kinds.
func (n Notification) Payment() (Payment, bool) {
	p := Payment{ID: n.PaymentID, FailureReason: n.FailureReason}
	switch n.Kind {
	case PaymentSucceeded:
		p.Status, p.Paid = Succeeded, n.Paid
	case PaymentFailed:
		p.Status = Failed
	case PaymentCanceled:
		p.Status = Canceled
	case PaymentRequiresAction:
		p.Status, p.NextAction = RequiresAction, n.NextAction
	default:
		return Payment{}, false
	}
	return p, true
}

// ErrSignature: a callback is not signed by the gateway, or its timestamp is too
// far away.
var ErrSignature = errors.New("gateway: bad callback signature")

// Reasons for which a callback is refused. They contain nothing of the callback, so they may be logged
// and counted.
const (
	ReasonHeaders   = "headers"                  // a header is missing or cannot be read
	ReasonTimestamp = telemetry.RefusedTimestamp // signed by one of our secrets, at a time too far from this machine's clock
	ReasonSignature = telemetry.RefusedSignature // not signed by one of our secrets
)

// SignatureError reports why a callback is refused. It is ErrSignature.
type SignatureError struct {
	Reason string
	Err    error
}

func (e *SignatureError) Error() string { return ErrSignature.Error() + ": " + e.Err.Error() }

// Unwrap returns the cause.
func (e *SignatureError) Unwrap() error { return e.Err }

// Is implements errors.Is for ErrSignature.
func (e *SignatureError) Is(target error) bool { return target == ErrSignature }

// RefusalReason returns Reason.
func (e *SignatureError) RefusalReason() string { return e.Reason }

// MalformedError reports a callback whose signature is good and whose content
// cannot be read.
type MalformedError struct {
	Field string // such as "data.reference"; "" if it is no JSON
	Err   error
}

func (e *MalformedError) Error() string {
	if e.Field == "" {
		return "gateway: malformed callback: " + e.Err.Error()
	}
	return "gateway: malformed callback: " + e.Field + " " + e.Err.Error()
}

// Unwrap returns the cause.
func (e *MalformedError) Unwrap() error { return e.Err }
