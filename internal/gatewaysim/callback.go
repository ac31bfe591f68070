package gatewaysim

import (
	"bytes"
	"context"
	"encoding/json"
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
	// tries is how often a callback is sent until it is answered 2xx, with pauses
	// from firstPause on, each twice the last, up to lastPause: half a minute in all.
	tries      = 10
	firstPause = 200 * time.Millisecond
	lastPause  = 5 * time.Second
	// heldBack is for how long a callback that is overtaken is held back at most.
	heldBack = 3 * time.Second
)

// message is the body of a callback.
type message struct {
	Type      string    `json:"type"`
	Timestamp time.Time `json:"timestamp"`
	Data      told      `json:"data"`
}

type told struct {
	Reference     uuid.UUID `json:"reference"`
	PaymentID     string    `json:"paymentId"`
	Amount        string    `json:"amount"`
	Currency      string    `json:"currency"`
	FailureReason *string   `json:"failureReason"`
}

// carryOut lets the latency pass, decides the payment, and tells of it.
func (s *Server) carryOut(reference uuid.UUID) {
	if s.pause(s.opts.Latency) != nil {
		return
	}
	succeeds := s.happens(s.opts.SuccessRate)
	p := s.books.change(reference, func(p *payment) {
		p.Status = gateway.Succeeded
		if !succeeds {
			p.Status, p.Reason = gateway.Failed, reasonDeclined
		}
	})
	if s.happens(s.opts.Lost) {
		return
	}
	if s.happens(s.opts.Reordered) && s.pause(s.anywhere(heldBack)) != nil {
		return
	}
	ids := []string{newMessageID()}
	if s.happens(s.opts.Repeated) {
		ids = append(ids, ids[0])
		if s.happens(0.5) {
			ids[1] = newMessageID()
		}
	}
	body, err := json.Marshal(message{
		Type: "payment." + string(p.Status), Timestamp: time.Now().UTC(),
		Data: told{p.Reference, p.PaymentID, p.Amount.String(), p.Amount.Currency(), p.reason()},
	})
	if err != nil {
		s.log.Error("a callback cannot be written", "reference", reference, "error", err)
		return
	}
	var both sync.WaitGroup
	for _, id := range ids { // at the same instant
		both.Go(func() { s.tell(p, id, body) })
	}
	both.Wait()
}

func newMessageID() string { return "msg_" + uuid.NewString() }

// tell sends a callback until it is answered 2xx, a few times at most.
func (s *Server) tell(p payment, id string, body []byte) {
	wait := firstPause
	for try := 1; ; try++ {
		err := s.send(p.CallbackURL, id, body)
		if err == nil || s.ctx.Err() != nil {
			return
		}
		if try == tries {
			s.log.Warn("a callback was never taken, giving it up", "reference", p.Reference, "error", err)
			return
		}
		if s.pause(wait) != nil {
			return
		}
		wait = min(2*wait, lastPause)
	}
}

func (s *Server) send(url, id string, body []byte) error {
	at := time.Now()
	signatures := make([]string, len(s.signers))
	for i, signer := range s.signers {
		signature, err := signer.Sign(id, at, body)
		if err != nil {
			return fmt.Errorf("sign: %w", err)
		}
		signatures[i] = signature
	}
	r, err := http.NewRequestWithContext(s.ctx, http.MethodPost, url, bytes.NewReader(body))
	if err != nil {
		return err
	}
	r.Header.Set("Content-Type", "application/json")
	r.Header.Set(standardwebhooks.HeaderWebhookID, id)
	r.Header.Set(standardwebhooks.HeaderWebhookTimestamp, strconv.FormatInt(at.Unix(), 10))
	r.Header.Set(standardwebhooks.HeaderWebhookSignature, strings.Join(signatures, " "))
	resp, err := s.client.Do(r)
	if err != nil {
		return err
	}
	defer func() { _ = resp.Body.Close() }()
	_, _ = io.Copy(io.Discard, io.LimitReader(resp.Body, maxBody)) // so that the connection can be used again
	if resp.StatusCode < 200 || resp.StatusCode > 299 {
		return fmt.Errorf("answered %d", resp.StatusCode)
	}
	return nil
}

// pause waits; the error is that the server has ended.
func (s *Server) pause(d time.Duration) error {
	if d <= 0 {
		return context.Cause(s.ctx)
	}
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return nil
	case <-s.ctx.Done():
		return s.ctx.Err()
	}
}
