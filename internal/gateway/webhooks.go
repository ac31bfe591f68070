package gateway

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"strconv"
	"time"
	"unicode/utf8"

	"github.com/go-json-experiment/json"
	"github.com/go-json-experiment/json/jsontext"
	"github.com/google/uuid"
	standardwebhooks "github.com/standard-webhooks/standard-webhooks/libraries/go"
)

// maxCallbackAge is how far a callback's timestamp may be from now, either way.
const maxCallbackAge = 5 * time.Minute

// Webhooks parses the callbacks of the HTTP contract, which follow the Standard
// Webhooks convention (https://www.standardwebhooks.com): HMAC-SHA256 over id,
// timestamp and body, by any of the secrets. Safe for concurrent use.
type Webhooks struct {
	secrets []*standardwebhooks.Webhook
}

var _ WebhookParser = (*Webhooks)(nil)

// NewWebhooks takes secrets in the form whsec_<base64>.
func NewWebhooks(secrets []string) (*Webhooks, error) {
	w := &Webhooks{secrets: make([]*standardwebhooks.Webhook, len(secrets))}
	for i, secret := range secrets {
		var err error
		if w.secrets[i], err = standardwebhooks.NewWebhook(secret); err != nil {
			return nil, fmt.Errorf("webhook secret %d of %d: not whsec_ and base64", i+1, len(secrets))
		}
	}
	return w, nil
}

// Parse implements WebhookParser.
func (w *Webhooks) Parse(_ context.Context, header http.Header, body []byte, now time.Time) (Notification, error) {
	id, err := w.verify(header, body, now)
	if err != nil {
		return Notification{}, err
	}
	if id == "" || len(id) > maxID || !utf8.ValidString(id) {
		return Notification{}, &MalformedError{standardwebhooks.HeaderWebhookID, errors.New("must be 1 to 255 bytes of text")}
	}
	n, err := parseCallback(body)
	n.ID = id
	return n, err
}

// verify returns the callback's id. The error is a *SignatureError. The signature is verified before the
// timestamp, so that ReasonTimestamp means a clock that is wrong, here or at the gateway.
func (w *Webhooks) verify(h http.Header, body []byte, now time.Time) (string, error) {
	seconds, err := strconv.ParseInt(h.Get(standardwebhooks.HeaderWebhookTimestamp), 10, 64)
	if err != nil {
		return "", &SignatureError{ReasonHeaders, errors.New("no timestamp")}
	}
	err = errors.New("no secret")
	for _, secret := range w.secrets {
		if err = secret.VerifyIgnoringTimestamp(body, h); err == nil {
			break
		}
	}
	switch {
	case errors.Is(err, standardwebhooks.ErrRequiredHeaders):
		return "", &SignatureError{ReasonHeaders, err}
	case err != nil:
		return "", &SignatureError{ReasonSignature, err}
	}
	if at := time.Unix(seconds, 0); at.Before(now.Add(-maxCallbackAge)) || at.After(now.Add(maxCallbackAge)) {
		return "", &SignatureError{ReasonTimestamp, fmt.Errorf("its timestamp is %s", at.UTC())}
	}
	return h.Get(standardwebhooks.HeaderWebhookID), nil
}

// callback is the body of POST /v1/webhooks/payment. Other members are ignored.
type callback struct {
	Type string         `json:"type"`
	Data jsontext.Value `json:"data"`
}

// callbackData has every member that a callback's data may have. Members that
// its type does not need are not checked.
type callbackData struct {
	Reference       text           `json:"reference"`
	PaymentID       text           `json:"paymentId"`
	Amount          jsontext.Value `json:"amount"`
	Currency        jsontext.Value `json:"currency"`
	FailureReason   text           `json:"failureReason"`
	NextAction      jsontext.Value `json:"nextAction"`
	RefundReference text           `json:"refundReference"`
	RefundID        text           `json:"refundId"`
	DisputeID       text           `json:"disputeId"`
	Won             jsontext.Value `json:"won"`
}

// parseCallback reads a callback whose signature is good.
func parseCallback(body []byte) (Notification, error) {
	var c callback
	if err := json.Unmarshal(body, &c); err != nil {
		return Notification{}, &MalformedError{Err: err}
	}
	if c.Type == "" {
		return Notification{}, &MalformedError{"type", errors.New("is missing")}
	}
	n := Notification{Kind: Kind(c.Type)}
	if !n.Kind.known() {
		return Notification{}, nil
	}
	var d callbackData
	if err := json.Unmarshal(c.Data, &d); err != nil {
		return Notification{}, &MalformedError{"data", err}
	}
	if d.Reference == "" {
		return Notification{}, &MalformedError{"data.reference", errors.New("must be a payment id")}
	}
	var err error
	if n.Reference, err = uuid.Parse(string(d.Reference)); err != nil {
		return Notification{}, ErrUnknownReference // no id of ours
	}
	n.PaymentID, n.RefundID, n.DisputeID = ID(string(d.PaymentID)), ID(string(d.RefundID)), ID(string(d.DisputeID))
	// A reference that is not an id of this system belongs to an unknown refund.
	n.RefundReference, _ = uuid.Parse(string(d.RefundReference))
	switch n.Kind {
	case PaymentSucceeded, PaymentRefunded:
		n.Paid = report(d.Amount, d.Currency)
	case RefundHasSucceeded:
		if present(d.Amount) {
			n.Paid = report(d.Amount, d.Currency)
		}
	case PaymentFailed, RefundHasFailed:
		n.FailureReason = Code(string(d.FailureReason))
	case PaymentCanceled:
		n.FailureReason = reasonCanceled
	case PaymentRequiresAction:
		n.NextAction = nextAction(d.NextAction)
	case PaymentDisputeClosed:
		switch string(d.Won) {
		case "true", "false":
			n.Won = string(d.Won) == "true"
		default:
			err = &MalformedError{"won", errors.New("must be true or false")}
		}
	}
	var malformed *MalformedError
	if errors.As(err, &malformed) {
		return Notification{}, &MalformedError{"data." + malformed.Field, malformed.Err}
	}
	return n, nil
}

func (k Kind) known() bool {
	switch k {
	case PaymentSucceeded, PaymentFailed, PaymentCanceled, PaymentRequiresAction, PaymentRefunded,
		PaymentDisputed, PaymentDisputeClosed, PaymentReversed, RefundHasSucceeded, RefundHasFailed:
		return true
	}
	return false
}
