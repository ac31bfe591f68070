package gateway

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"

	"github.com/google/uuid"

	"github.com/dopaminestore/dopamine/domain"
	"github.com/dopaminestore/dopamine/internal/failpoint"
	"github.com/dopaminestore/dopamine/internal/telemetry"
)

// request is one question to the gateway, and how to tell its answer.
type request struct {
	method, url string
	key         string // Idempotency-Key; "" for none
	body        any    // nil for none
	good        func(status int) bool
	look        bool // 404 is never heard of, every other refusal means nothing
	makesSense  func(reply) error
}

type payBody struct {
	Reference   uuid.UUID `json:"reference"`
	Amount      string    `json:"amount"`
	Currency    string    `json:"currency"`
	Method      string    `json:"paymentMethod"`
	CallbackURL string    `json:"callbackUrl"`
}

type refundBody struct {
	Reference uuid.UUID `json:"reference"`
	Amount    string    `json:"amount"`
	Currency  string    `json:"currency"`
}

// reply is what any answer may hold.
type reply struct {
	PaymentID     string `json:"paymentId"`
	Status        Status `json:"status"`
	Amount        amount `json:"amount"`
	Currency      string `json:"currency"`
	FailureReason string `json:"failureReason"`
	RefundID      string `json:"refundId"`
}

// amount is a decimal as text; JSON may have it as a number too, or as null.
type amount string

// UnmarshalJSON takes the text of a string or of a number.
func (a *amount) UnmarshalJSON(b []byte) error {
	if b[0] == '"' {
		return json.Unmarshal(b, (*string)(a))
	}
	var n json.Number
	if err := json.Unmarshal(b, &n); err != nil {
		return err
	}
	*a = amount(n)
	return nil
}

func (a reply) checkStatus() error {
	if !a.Status.known() {
		return fmt.Errorf("status %.32q", string(a.Status))
	}
	return nil
}

func (a reply) checkMoney() error {
	if _, err := domain.ParseDecimal(string(a.Amount)); err != nil {
		return fmt.Errorf("amount %.32q: %w", string(a.Amount), err)
	}
	if a.Currency == "" {
		return errors.New("no currency")
	}
	return nil
}

// send sends the request and tells what the answer means.
func (c *Client) send(ctx context.Context, r request) (reply, error) {
	var body io.Reader
	if r.body != nil {
		text, err := json.Marshal(r.body)
		if err != nil {
			return reply{}, err
		}
		body = bytes.NewReader(text)
	}
	req, err := http.NewRequestWithContext(ctx, r.method, r.url, body)
	if err != nil {
		return reply{}, err
	}
	req.Header.Set("Accept", "application/json")
	if r.body != nil {
		req.Header.Set("Content-Type", "application/json")
	}
	if r.key != "" {
		req.Header.Set("Idempotency-Key", r.key)
	}
	if parent := telemetry.Traceparent(ctx); parent != "" {
		req.Header.Set("Traceparent", parent)
	}
	failpoint.Hit(failpoint.GatewayBefore)
	resp, err := c.http.Do(req)
	if err != nil {
		return reply{}, err
	}
	defer func() { _ = resp.Body.Close() }()
	if err := failpoint.Error(failpoint.GatewayAfter); err != nil {
		return reply{}, err
	}
	text, err := io.ReadAll(io.LimitReader(resp.Body, maxAnswer+1))
	if err != nil {
		return reply{}, fmt.Errorf("read the answer: %w", err)
	}
	return r.tell(resp.StatusCode, text)
}

// tell says what an answer means.
func (r request) tell(status int, text []byte) (reply, error) {
	var a reply
	nonsense := func() error {
		if len(text) > maxAnswer {
			return fmt.Errorf("an answer of more than %d bytes", maxAnswer)
		}
		return json.Unmarshal(text, &a)
	}()
	switch {
	case r.look && status == http.StatusNotFound:
		return reply{}, ErrNeverHeardOf
	case !r.look && refusal(status):
		return reply{}, &Refused{Reason: a.FailureReason, Status: status}
	case !r.good(status):
		return reply{}, fmt.Errorf("answered %d", status)
	}
	if nonsense == nil {
		nonsense = r.makesSense(a)
	}
	if nonsense != nil {
		return reply{}, fmt.Errorf("answered %d with nonsense: %w", status, nonsense)
	}
	return a, nil
}

// refusal: the statuses of 4xx that speak of the moment are none.
func refusal(status int) bool {
	switch status {
	case http.StatusRequestTimeout, http.StatusTooEarly, http.StatusTooManyRequests:
		return false
	}
	return status >= 400 && status < 500
}
