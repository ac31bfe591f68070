package command

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
	"github.com/labstack/echo/v4"
	webhooks "github.com/standard-webhooks/standard-webhooks/libraries/go"

	"github.com/dopaminestore/dopamine/command/payments"
	"github.com/dopaminestore/dopamine/domain"
	"github.com/dopaminestore/dopamine/internal/auth"
	"github.com/dopaminestore/dopamine/internal/httpapi"
	"github.com/dopaminestore/dopamine/internal/problem"
)

// hearGateway brings a callback of the payment gateway to its effect.
func (s *services) hearGateway(ctx context.Context, _ *invocation, h payments.Heard) (done[nothing], error) {
	place, err := s.payments.Hear(ctx, h)
	if err != nil {
		return done[nothing]{}, err
	}
	return done[nothing]{product: place.Product, place: place.Position}, nil
}

const (
	// callbackAge is how far a callback's timestamp may lie from now, either way.
	callbackAge = 5 * time.Minute
	// maxWebhookID is the longest id of a callback that is taken, in bytes.
	maxWebhookID = 255
)

var (
	errSignature = problem.New(problem.InvalidSignature, "the callback is not signed by the gateway, or not now")
	errWebhookID = problem.Invalid(problem.Field(webhooks.HeaderWebhookID, "must be 1 to 255 bytes of text"))
	errCallback  = problem.New(problem.InvalidRequest, "the callback is not valid JSON with a type and the type's data")
)

// signatures verifies callbacks after the Standard Webhooks convention
// (https://www.standardwebhooks.com): HMAC-SHA256 over id, timestamp and body,
// by any of the secrets.
type signatures []*webhooks.Webhook

// newSignatures takes secrets in the form whsec_<base64>.
func newSignatures(secrets []string) (signatures, error) {
	s := make(signatures, len(secrets))
	for i, secret := range secrets {
		var err error
		if s[i], err = webhooks.NewWebhook(secret); err != nil {
			return nil, fmt.Errorf("webhook secret %d of %d: not whsec_ and base64", i+1, len(secrets))
		}
	}
	return s, nil
}

// verify is the callback's id, or errSignature.
func (s signatures) verify(h http.Header, body []byte, now time.Time) (string, error) {
	seconds, err := strconv.ParseInt(h.Get(webhooks.HeaderWebhookTimestamp), 10, 64)
	if err != nil {
		return "", errSignature.Wrap(errors.New("no timestamp"))
	}
	if at := time.Unix(seconds, 0); at.Before(now.Add(-callbackAge)) || at.After(now.Add(callbackAge)) {
		return "", errSignature.Wrap(fmt.Errorf("its timestamp is %s", at.UTC()))
	}
	err = errors.New("no secret")
	for _, secret := range s {
		if err = secret.VerifyIgnoringTimestamp(body, h); err == nil {
			return h.Get(webhooks.HeaderWebhookID), nil
		}
	}
	return "", errSignature.Wrap(err)
}

// callback is the body of POST /v1/webhooks/payment. Members that are not here
// are the gateway's own affair.
type callback struct {
	Type string         `json:"type"`
	Data jsontext.Value `json:"data"`
}

// callbackData is a callback's data, where its type is one of ours.
type callbackData struct {
	Reference     *httpapi.UUID  `json:"reference"`
	PaymentID     *string        `json:"paymentId"`
	Amount        jsontext.Value `json:"amount"` // looked at where money was taken
	Currency      jsontext.Value `json:"currency"`
	FailureReason *string        `json:"failureReason"`
}

// The types of callbacks that mean something here.
const (
	paymentSucceeded = "payment.succeeded"
	paymentFailed    = "payment.failed"
)

// word reads what a callback says; false where that is nothing to us.
func word(body []byte) (payments.Heard, bool, error) {
	var c callback
	if err := json.Unmarshal(body, &c); err != nil || c.Type == "" {
		return payments.Heard{}, false, errCallback.Wrap(err)
	}
	if c.Type != paymentSucceeded && c.Type != paymentFailed {
		return payments.Heard{}, false, nil
	}
	var d callbackData
	if err := json.Unmarshal(c.Data, &d); err != nil {
		return payments.Heard{}, false, errCallback.Wrap(err)
	}
	if d.Reference == nil {
		return payments.Heard{}, false, problem.Invalid(problem.Field("data.reference", "is missing"))
	}
	h := payments.Heard{GatewayWord: domain.GatewayWord{PaymentID: d.Reference.UUID}}
	if d.PaymentID != nil {
		h.GatewayPaymentID = *d.PaymentID
	}
	if c.Type == paymentFailed {
		if d.FailureReason != nil {
			h.Reason = *d.FailureReason
		}
		return h, true, nil
	}
	var amount number
	var currency string
	if err := amount.UnmarshalJSON(d.Amount); err != nil {
		return h, false, problem.Invalid(problem.Field("data.amount", "must be "+aDecimal)).Wrap(err)
	}
	if err := json.Unmarshal(d.Currency, &currency); err != nil {
		return h, false, problem.Invalid(problem.Field("data.currency", "must be "+aText)).Wrap(err)
	}
	h.Succeeded = true
	h.Paid, h.Unreadable = payments.Paid(amount.Decimal, currency)
	return h, true, nil
}

func (a *API) postCallback(c echo.Context) error {
	body := httpapi.ReadBody(c)
	id, err := a.signatures.verify(c.Request().Header, body, a.now())
	if err != nil {
		return err
	}
	if len(id) > maxWebhookID || !utf8.ValidString(id) {
		return errWebhookID
	}
	h, ours, err := word(body)
	if err != nil {
		return err
	}
	if !ours {
		return c.NoContent(http.StatusNoContent)
	}
	h.WebhookID = id
	r, err := a.hear(c.Request().Context(), auth.Identity{}, h)
	if err != nil {
		return refused(c, err)
	}
	httpapi.SetPosition(c, r.product, r.place)
	return c.NoContent(http.StatusNoContent)
}
