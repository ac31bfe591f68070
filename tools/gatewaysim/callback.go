package gatewaysim

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/google/uuid"
	standardwebhooks "github.com/standard-webhooks/standard-webhooks/libraries/go"

	"github.com/dopaminestore/dopamine/internal/gateway"
)

const (
	// maxAttempts is how many times a callback is sent until its response is 2xx. The pauses start
	// with firstPause and double up to lastPause: half a minute in total. Callbacks that must
	// arrive have no limit.
	maxAttempts = 10
	firstPause  = 200 * time.Millisecond
	lastPause   = 5 * time.Second
	// maxReorder is the maximum delay of a callback that others overtake.
	maxReorder = 3 * time.Second
)

// callbackBody is the body of a callback.
type callbackBody struct {
	Type      string       `json:"type"`
	Timestamp time.Time    `json:"timestamp"`
	Data      callbackData `json:"data"`
}

type callbackData struct {
	Reference       uuid.UUID           `json:"reference"`
	PaymentID       string              `json:"paymentId"`
	Amount          string              `json:"amount"`
	Currency        string              `json:"currency"`
	FailureReason   *string             `json:"failureReason"`
	NextAction      *gateway.NextAction `json:"nextAction,omitempty"`
	RefundReference *uuid.UUID          `json:"refundReference,omitempty"`
	RefundID        string              `json:"refundId,omitempty"`
	DisputeID       string              `json:"disputeId,omitempty"`
	Won             *bool               `json:"won,omitempty"`
}

func (p payment) callbackData() callbackData {
	state := p.state()
	return callbackData{
		Reference: p.Reference, PaymentID: state.PaymentID, Amount: state.Amount, Currency: state.Currency,
		FailureReason: state.FailureReason, NextAction: state.NextAction,
	}
}

func newMessage(url, kind string, data callbackData) (message, error) {
	body, err := json.Marshal(callbackBody{Type: kind, Timestamp: time.Now().UTC(), Data: data})
	return message{ID: newMessageID(), URL: url, Body: string(body)}, err
}

func newMessageID() string { return "msg_" + uuid.NewString() }

// errUnchanged means that there is nothing to change.
var errUnchanged = errors.New("unchanged")

// change changes a payment together with a callback that must arrive, if f
// returns one. It reports false if f returns errUnchanged.
func (s *Server) change(reference uuid.UUID, f func(*payment) (*message, error)) (payment, bool, error) {
	s.books.mu.Lock()
	defer s.books.mu.Unlock()
	p, ok := s.books.get(reference)
	if !ok {
		return p, false, nil
	}
	m, err := f(&p)
	if errors.Is(err, errUnchanged) {
		return p, false, nil
	}
	if err != nil {
		return p, false, err
	}
	changed := p
	changed.Charges = append([]charge(nil), p.Charges...)
	records := []record{{Payment: &changed}}
	if m != nil {
		stored := *m
		records = append(records, record{Message: &stored})
	}
	return p, true, s.books.put(records...)
}

// report sends the callback of a payment's present state, with the configured reliability.
func (s *Server) report(p payment) {
	m, err := newMessage(p.CallbackURL, "payment."+string(p.Status), p.callbackData())
	if err != nil {
		s.log.Error("encode a callback failed", "payment", p.Reference, "error", err)
		return
	}
	s.work.Go(func() { s.tell(m) })
}

// tell sends a callback, or loses, repeats or delays it.
func (s *Server) tell(m message) {
	if s.happens(s.opts.Lost) {
		return
	}
	if s.happens(s.opts.Reordered) && s.pause(s.upTo(maxReorder)) != nil {
		return
	}
	copies := []message{m}
	if s.happens(s.opts.Repeated) {
		copies = append(copies, m)
		if s.happens(0.5) {
			copies[1].ID = newMessageID()
		}
	}
	var all sync.WaitGroup
	for _, m := range copies { // at the same instant
		all.Go(func() { s.deliver(m, false) })
	}
	all.Wait()
}

// deliver sends a callback until its response is 2xx. One that must arrive is
// sent until the server stops, and stored, so that it is sent again after that.
func (s *Server) deliver(m message, must bool) {
	wait := firstPause
	for attempt := 1; ; attempt++ {
		err := s.send(m)
		if err == nil {
			break
		}
		if s.ctx.Err() != nil {
			return
		}
		if attempt == maxAttempts {
			s.log.Warn("callback was not accepted", "callback", m.ID, "retrying", must, "error", err)
			if !must {
				return
			}
		}
		if s.pause(wait) != nil {
			return
		}
		wait = min(2*wait, lastPause)
	}
	if must {
		s.books.mu.Lock()
		defer s.books.mu.Unlock()
		if err := s.books.put(record{Message: &message{ID: m.ID, Done: true}}); err != nil {
			s.log.Error("write the books failed", "error", err) // it is sent again after a restart, which is harmless
		}
	}
}

func (s *Server) send(m message) error {
	at := time.Now()
	signatures := make([]string, len(s.signers))
	for i, signer := range s.signers {
		signature, err := signer.Sign(m.ID, at, []byte(m.Body))
		if err != nil {
			return fmt.Errorf("sign: %w", err)
		}
		signatures[i] = signature
	}
	r, err := http.NewRequestWithContext(s.ctx, http.MethodPost, m.URL, bytes.NewReader([]byte(m.Body)))
	if err != nil {
		return err
	}
	r.Header.Set("Content-Type", "application/json")
	r.Header.Set(standardwebhooks.HeaderWebhookID, m.ID)
	r.Header.Set(standardwebhooks.HeaderWebhookTimestamp, strconv.FormatInt(at.Unix(), 10))
	r.Header.Set(standardwebhooks.HeaderWebhookSignature, strings.Join(signatures, " "))
	resp, err := s.client.Do(r)
	if err != nil {
		return err
	}
	defer func() { _ = resp.Body.Close() }()
	_, _ = io.Copy(io.Discard, io.LimitReader(resp.Body, maxBody)) // so that the connection is reused
	if resp.StatusCode < 200 || resp.StatusCode > 299 {
		return fmt.Errorf("response %d", resp.StatusCode)
	}
	return nil
}
