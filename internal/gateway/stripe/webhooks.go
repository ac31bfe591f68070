package stripe

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"strconv"
	"strings"
	"time"

	"github.com/google/uuid"
	stripego "github.com/stripe/stripe-go/v85"
	"github.com/stripe/stripe-go/v85/webhook"

	"github.com/dopaminestore/dopamine/internal/gateway"
)

// signatureHeader is where Stripe's signature is.
const signatureHeader = "Stripe-Signature"

// Webhooks parses Stripe's webhooks: the official library verifies them, and the
// state of the object at Stripe decides what they report, because events arrive
// in any order. Safe for concurrent use.
type Webhooks struct {
	client  *Client
	secrets []string
}

var _ gateway.WebhookParser = (*Webhooks)(nil)

// NewWebhooks takes the endpoint's signing secrets as Stripe shows them.
func NewWebhooks(client *Client, secrets []string) (*Webhooks, error) {
	if len(secrets) == 0 {
		return nil, errors.New("stripe: a webhook secret is required")
	}
	return &Webhooks{client, secrets}, nil
}

// Parse implements gateway.WebhookParser. An error that is none of those listed
// there means that Stripe could not be queried, and should send the event again.
func (w *Webhooks) Parse(ctx context.Context, header http.Header, body []byte, now time.Time) (gateway.Notification, error) {
	event, err := w.verify(header.Get(signatureHeader), body, now)
	if err != nil {
		return gateway.Notification{}, err
	}
	if event.ID == "" || len(event.ID) > 255 || event.Data == nil {
		return gateway.Notification{}, &gateway.MalformedError{Field: "id", Err: errors.New("is missing or too long")}
	}
	var object struct {
		ID string `json:"id"`
	}
	if err := json.Unmarshal(event.Data.Raw, &object); err != nil {
		return gateway.Notification{}, &gateway.MalformedError{Field: "data.object", Err: err}
	}
	var n gateway.Notification
	switch event.Type {
	case stripego.EventTypePaymentIntentSucceeded, stripego.EventTypePaymentIntentPaymentFailed, stripego.EventTypePaymentIntentCanceled,
		stripego.EventTypePaymentIntentProcessing, stripego.EventTypePaymentIntentRequiresAction:
		n, err = w.client.reportPayment(ctx, object.ID)
	case stripego.EventTypeRefundCreated, stripego.EventTypeRefundUpdated, stripego.EventTypeRefundFailed:
		n, err = w.client.reportRefund(ctx, object.ID)
	case stripego.EventTypeChargeDisputeCreated, stripego.EventTypeChargeDisputeClosed:
		n, err = w.client.reportDispute(ctx, object.ID)
	default:
		return gateway.Notification{}, nil
	}
	if errors.Is(err, gateway.ErrUnknownReference) {
		// Of another account, or of the other mode (test, live): not of this store.
		return gateway.Notification{}, nil
	}
	if err != nil {
		return gateway.Notification{}, fmt.Errorf("stripe: query the object of event %s: %w", gateway.ID(event.ID), err)
	}
	if n.Kind != gateway.Ignored {
		n.ID = event.ID
	}
	return n, nil
}

// verify returns the event. The signature is verified before the timestamp, which the library does not
// offer, so that the reason separates a wrong clock from a wrong secret.
func (w *Webhooks) verify(signature string, body []byte, now time.Time) (stripego.Event, error) {
	var event stripego.Event
	err := errors.New("no secret")
	for _, secret := range w.secrets {
		event, err = webhook.ConstructEventWithOptions(body, signature, secret, webhook.ConstructEventOptions{
			IgnoreAPIVersionMismatch: true, // the object is read anew, with the library's version
			IgnoreTolerance:          true, // checked below
		})
		if err == nil || !errors.Is(err, webhook.ErrNoValidSignature) {
			break
		}
	}
	switch {
	case errors.Is(err, webhook.ErrNotSigned), errors.Is(err, webhook.ErrInvalidHeader):
		return event, &gateway.SignatureError{Reason: gateway.ReasonHeaders, Err: err}
	case errors.Is(err, webhook.ErrNoValidSignature):
		return event, &gateway.SignatureError{Reason: gateway.ReasonSignature, Err: err}
	case !isRecent(signature, now):
		return event, &gateway.SignatureError{Reason: gateway.ReasonTimestamp, Err: errors.New("its timestamp is too far away")}
	case err != nil:
		return event, &gateway.MalformedError{Err: err}
	}
	return event, nil
}

// isRecent reports whether a verified signature's timestamp is within the tolerance, in either direction.
// It reads what the library reads, the last part that begins with "t=": any other part is not signed.
func isRecent(signature string, now time.Time) bool {
	recent := false
	for part := range strings.SplitSeq(signature, ",") {
		if text, ok := strings.CutPrefix(part, "t="); ok {
			seconds, err := strconv.ParseInt(text, 10, 64)
			recent = err == nil && time.Unix(seconds, 0).Sub(now).Abs() <= webhook.DefaultTolerance
		}
	}
	return recent
}

// of returns a notification about the payment of a PaymentIntent, false if that
// is not of this store.
func (c *Client) of(intent *stripego.PaymentIntent) (gateway.Notification, bool) {
	if intent == nil || !c.ours(intent.Metadata) {
		return gateway.Notification{}, false
	}
	reference, err := uuid.Parse(intent.Metadata[metaReference])
	if err != nil {
		return gateway.Notification{}, false
	}
	return gateway.Notification{Reference: reference, PaymentID: gateway.ID(intent.ID)}, true
}

func (c *Client) reportPayment(ctx context.Context, id string) (gateway.Notification, error) {
	var n gateway.Notification
	err := c.calls.Do(ctx, gateway.CallFindPayment, func(ctx context.Context) error {
		intent, err := c.retrieve(ctx, id)
		if err != nil {
			return err
		}
		of, ours := c.of(intent)
		if !ours {
			return nil
		}
		p := c.payment(intent)
		of.Paid, of.FailureReason, of.NextAction = p.Paid, p.FailureReason, p.NextAction
		switch p.Status {
		case gateway.Succeeded:
			of.Kind = gateway.PaymentSucceeded
		case gateway.Canceled:
			of.Kind = gateway.PaymentCanceled
		case gateway.RequiresAction:
			of.Kind = gateway.PaymentRequiresAction
		default:
			return nil // processing: nothing has changed yet
		}
		n = of
		return nil
	})
	return n, err
}

func (c *Client) reportRefund(ctx context.Context, id string) (gateway.Notification, error) {
	var n gateway.Notification
	err := c.calls.Do(ctx, gateway.CallFindRefund, func(ctx context.Context) error {
		params := &stripego.RefundRetrieveParams{}
		params.AddExpand("payment_intent")
		refund, err := c.api.V1Refunds.Retrieve(ctx, id, params)
		if err := judge(err); err != nil {
			return err
		}
		of, ours := c.of(refund.PaymentIntent)
		if !ours {
			return nil
		}
		state := refundState(refund)
		of.RefundID, of.FailureReason = state.ID, state.FailureReason
		if c.ours(refund.Metadata) {
			of.RefundReference, _ = uuid.Parse(refund.Metadata[metaRefund])
		}
		switch {
		case state.Status == gateway.RefundFailed:
			of.Kind = gateway.RefundHasFailed
		case state.Status == gateway.RefundPending:
			return nil
		case of.RefundReference != uuid.Nil:
			of.Kind = gateway.RefundHasSucceeded
		default: // made in Stripe's dashboard
			of.Kind = gateway.PaymentRefunded
		}
		if state.Status == gateway.RefundSucceeded {
			of.Paid = paid(refund.Amount, string(refund.Currency))
		}
		n = of
		return nil
	})
	return n, err
}

func (c *Client) reportDispute(ctx context.Context, id string) (gateway.Notification, error) {
	var n gateway.Notification
	err := c.calls.Do(ctx, gateway.CallFindPayment, func(ctx context.Context) error {
		params := &stripego.DisputeRetrieveParams{}
		params.AddExpand("payment_intent")
		dispute, err := c.api.V1Disputes.Retrieve(ctx, id, params)
		if err := judge(err); err != nil {
			return err
		}
		of, ours := c.of(dispute.PaymentIntent)
		if !ours {
			return nil
		}
		of.Kind, of.DisputeID = gateway.PaymentDisputed, gateway.ID(dispute.ID)
		switch dispute.Status {
		case stripego.DisputeStatusWon, stripego.DisputeStatusWarningClosed, stripego.DisputeStatusPrevented:
			of.Kind, of.Won = gateway.PaymentDisputeClosed, true
		case stripego.DisputeStatusLost:
			of.Kind = gateway.PaymentDisputeClosed
		}
		n = of
		return nil
	})
	return n, err
}
