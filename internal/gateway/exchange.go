package gateway

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"

	"github.com/go-json-experiment/json"
	"github.com/go-json-experiment/json/jsontext"
	"github.com/google/uuid"

	"github.com/dopaminestore/dopamine/domain"
	"github.com/dopaminestore/dopamine/internal/failpoint"
	"github.com/dopaminestore/dopamine/internal/telemetry"
)

// maxResponse is the longest body that is read; real ones have a few hundred bytes.
const maxResponse = 64 << 10

// exchange is a request to the gateway and the rules for its response.
type exchange struct {
	method, url string
	key         string // Idempotency-Key; "" for none
	body        []byte // nil for none
	accepts     func(status int) bool
	rejects     func(status int, reason string) bool // nil: nothing is a rejection
	unknown     bool                                 // 404 with JSON is ErrUnknownReference
	amounts     bool                                 // a success names its amount
}

type paymentBody struct {
	Reference   uuid.UUID `json:"reference"`
	Amount      string    `json:"amount"`
	Currency    string    `json:"currency"`
	Method      string    `json:"paymentMethod"`
	CallbackURL string    `json:"callbackUrl"`
	ReturnURL   string    `json:"returnUrl,omitempty"`
}

type refundBody struct {
	RefundReference uuid.UUID `json:"refundReference"`
	Reference       uuid.UUID `json:"reference"`
	PaymentID       string    `json:"paymentId,omitempty"`
	Amount          string    `json:"amount"`
	Currency        string    `json:"currency"`
}

// response is a response that the exchange accepts.
type response struct {
	status int
	body   responseBody
}

// responseBody has every member that a response may have. Members that a rule
// does not need are not checked: a gateway may use them otherwise.
type responseBody struct {
	PaymentID     text           `json:"paymentId"`
	Status        text           `json:"status"`
	Amount        jsontext.Value `json:"amount"`
	Currency      jsontext.Value `json:"currency"`
	FailureReason text           `json:"failureReason"`
	RefundID      text           `json:"refundId"`
	NextAction    jsontext.Value `json:"nextAction"`
}

// text is a JSON string; any other value counts as absent.
type text string

// UnmarshalJSON implements json.Unmarshaler.
func (t *text) UnmarshalJSON(b []byte) error {
	*t = ""
	if len(b) > 0 && b[0] == '"' {
		return json.Unmarshal(b, (*string)(t))
	}
	return nil
}

// send sends the request once and judges the response.
func (c *Client) send(ctx context.Context, e exchange) (response, error) {
	var body io.Reader
	if e.body != nil {
		body = bytes.NewReader(e.body)
	}
	req, err := http.NewRequestWithContext(ctx, e.method, e.url, body)
	if err != nil {
		return response{}, err
	}
	// With GetBody, net/http repeats a request that has an Idempotency-Key if a kept connection
	// breaks, and the caller would see only the second response.
	req.GetBody = nil
	req.Header.Set("Accept", "application/json")
	if e.body != nil {
		req.Header.Set("Content-Type", "application/json")
	}
	if e.key != "" {
		req.Header.Set("Idempotency-Key", e.key)
	}
	if c.key != "" {
		req.Header.Set("Authorization", "Bearer "+c.key)
	}
	if parent := telemetry.Traceparent(ctx); parent != "" {
		req.Header.Set("Traceparent", parent)
	}
	failpoint.Hit(failpoint.GatewayBefore)
	resp, err := c.http.Do(req)
	if err != nil {
		return response{}, WithoutURL(err)
	}
	defer func() { _ = resp.Body.Close() }()
	if err := failpoint.Error(failpoint.GatewayAfter); err != nil {
		return response{}, err
	}
	content, err := io.ReadAll(io.LimitReader(resp.Body, maxResponse+1))
	if err != nil {
		return response{}, fmt.Errorf("read the response: %w", err)
	}
	return e.judge(resp.StatusCode, content)
}

// WithoutURL removes the URL from an error of net/http: errors are logged, and a
// URL may hold a secret.
func WithoutURL(err error) error {
	var of *url.Error
	if errors.As(err, &of) {
		return of.Err
	}
	return err
}

// judge applies the exchange's rules to a response.
func (e exchange) judge(status int, content []byte) (response, error) {
	r := response{status: status}
	var malformed error
	if len(content) > maxResponse {
		malformed = fmt.Errorf("more than %d bytes", maxResponse)
	} else {
		malformed = json.Unmarshal(content, &r.body)
	}
	if malformed != nil {
		r.body = responseBody{}
	}
	switch {
	case e.accepts(status):
		if malformed != nil {
			return response{}, fmt.Errorf("unintelligible response %d: %w", status, malformed)
		}
		return r, nil
	case e.unknown && status == http.StatusNotFound && malformed == nil:
		return response{}, ErrUnknownReference
	case e.rejects != nil && e.rejects(status, string(r.body.FailureReason)):
		return response{}, &Rejected{Reason: Code(string(r.body.FailureReason)), HTTPStatus: status}
	case status == http.StatusUnauthorized || status == http.StatusForbidden:
		return response{}, fmt.Errorf("%w: response %d", ErrCredentials, status)
	}
	return response{}, fmt.Errorf("response %d", status)
}

func okay(status int) bool { return status == http.StatusOK || status == http.StatusAccepted }

func created(status int) bool { return okay(status) || status == http.StatusCreated }

// rejection is the rule for payments and refunds: a 4xx with a reason, or 402. 408, 425 and 429 are
// about the moment, not about the request.
func rejection(status int, reason string) bool {
	switch status {
	case http.StatusRequestTimeout, http.StatusTooEarly, http.StatusTooManyRequests:
		return false
	case http.StatusPaymentRequired:
		return true
	}
	return status >= 400 && status < 500 && reason != ""
}

// refusal is the rule for cancellations, which need no reason to be refused: the payment is queried
// further in any case, so a wrong result does no harm.
func refusal(status int, reason string) bool {
	return rejection(status, reason) || status == http.StatusConflict || status == http.StatusUnprocessableEntity ||
		status == http.StatusBadRequest || status == http.StatusMethodNotAllowed
}

// payment reads a payment; needAmount is set if a success has to name its amount.
func (r response) payment(needAmount bool) (Payment, error) {
	p := Payment{ID: ID(string(r.body.PaymentID)), Status: Status(r.body.Status)}
	if !p.Status.known() {
		return Payment{}, fmt.Errorf("unintelligible response: status %.32q", string(r.body.Status))
	}
	switch p.Status {
	case Succeeded:
		if present(r.body.Amount) || present(r.body.Currency) {
			p.Paid = report(r.body.Amount, r.body.Currency)
		} else if needAmount {
			return Payment{}, errors.New("unintelligible response: success without an amount")
		}
	case Failed:
		p.FailureReason = Code(string(r.body.FailureReason))
	case Canceled:
		p.FailureReason = reasonCanceled
	case Pending, RequiresAction:
		p.NextAction = nextAction(r.body.NextAction)
	}
	return p, nil
}

func present(v jsontext.Value) bool { return len(v) > 0 && v.Kind() != 'n' }

// report reads an amount, which is a decimal as a JSON string or number, and a
// currency. It never fails: what a success reports and cannot be read is reported as
// such, because the money is taken all the same (contract 4.5, Outcome).
func report(amount, currency jsontext.Value) *Paid {
	var value, code text
	if present(amount) && amount.Kind() == '0' {
		value = text(amount)
	} else {
		_ = value.UnmarshalJSON(amount) // not a string, or a broken one: no decimal either
	}
	_ = code.UnmarshalJSON(currency)
	number, err := domain.ParseDecimal(string(value))
	if err != nil || code == "" {
		return &Paid{Unreadable: printable(string(value) + " " + string(code))}
	}
	return Report(number, string(code))
}

// nextAction reads a nextAction; one that is unknown or unsafe is none.
func nextAction(v jsontext.Value) *NextAction {
	if len(v) == 0 {
		return nil
	}
	var a *NextAction
	if err := json.Unmarshal(v, &a); err != nil {
		return nil
	}
	return a.valid()
}

// refund reads a refund.
func (r response) refund() (Refund, error) {
	f := Refund{ID: ID(string(r.body.RefundID)), Status: RefundStatus(r.body.Status)}
	if f.Status == "" && f.ID != "" {
		f.Status = RefundSucceeded
		if r.status == http.StatusAccepted {
			f.Status = RefundPending
		}
	}
	if !f.Status.known() {
		// Without id and status it could be any server's 200.
		return Refund{}, fmt.Errorf("unintelligible response: refund status %.32q", string(r.body.Status))
	}
	if f.Status == RefundFailed {
		f.FailureReason = Code(string(r.body.FailureReason))
	}
	return f, nil
}
