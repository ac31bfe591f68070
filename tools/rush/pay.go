package rush

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math/rand/v2"
	"net/http"
	"net/url"
	"strings"
	"sync"
	"time"

	"github.com/google/uuid"
	"github.com/shopspring/decimal"
)

const (
	// askInterval is the interval at which an outcome is polled.
	askInterval = 250 * time.Millisecond
	// maxAttempts is how many times a buyer whose payment failed tries.
	maxAttempts = 10
	// maxCalls is the maximum number of concurrent requests of the payers.
	maxCalls = 64
	// moneyTimeout is how long after the last slot's life the payments may take to settle: the wait
	// for a payment, the queries to the gateway after that, a refund.
	moneyTimeout = 12 * time.Minute
)

type payment struct {
	ID             uuid.UUID        `json:"id"`
	PurchaseSlotID uuid.UUID        `json:"purchaseSlotId"`
	Status         string           `json:"paymentStatus"`
	Amount         string           `json:"amount"`
	Currency       string           `json:"currency"`
	FailureReason  *string          `json:"failureReason"`
	RefundStatus   *string          `json:"refundStatus"`
	RefundedAmount *decimal.Decimal `json:"refundedAmount"`
	Disputed       bool             `json:"disputed"`
	Reversed       bool             `json:"reversed"`
	NextAction     *struct {
		Type string `json:"type"`
		URL  string `json:"url"`
	} `json:"nextAction"`
}

// payers are the buyers who hold a slot: some pay, some let it expire. Refused buyers come back for
// the units that become free.
type payers struct {
	cfg     Config
	api     *api
	crowd   *crowd
	product product
	calls   chan struct{} // places for requests under way
	tasks   sync.WaitGroup

	mu       sync.Mutex
	running  int
	problems []string
}

// payAndAbandon continues after the rush until every slot has ended and no buyer waits for a free
// unit. It returns the clicks of those who came back.
func payAndAbandon(ctx context.Context, cfg Config, api *api, crowd *crowd, sale product, attempts []attempt) ([]attempt, []string, error) {
	p := &payers{cfg: cfg, api: api, crowd: crowd, product: sale, calls: make(chan struct{}, maxCalls)}
	latest := map[int]attempt{}
	for _, a := range attempts {
		latest[a.buyer] = a
	}
	var waiting []int
	var positions []string      // of the grants: no older state is read
	for i := range cfg.Buyers { // in order, so that the rush is repeatable except for the random choice of who pays
		if a := latest[i]; a.granted() {
			positions = append(positions, a.position)
			p.begin(ctx, a)
		} else {
			waiting = append(waiting, i)
		}
	}
	var again []attempt
	for {
		if err := waitUntil(ctx, time.Now().Add(askInterval)); err != nil {
			return again, p.problems, err
		}
		var now product
		err := p.patiently(ctx, func() (err error) {
			now, err = api.product(ctx, sale.ID, after(positions))
			return err
		})
		if err != nil {
			return again, p.problems, err
		}
		if p.under() == 0 && (now.Stock == 0 || len(waiting) == 0) {
			return again, p.problems, nil
		}
		if now.Stock == 0 || len(waiting) == 0 {
			continue
		}
		n := min(len(waiting), now.Stock)
		round := crowd.click(ctx, "for what was freed", waiting[:n]).attempts
		waiting = waiting[n:]
		for _, a := range round {
			if a.granted() {
				p.begin(ctx, a)
			} else {
				waiting = append(waiting, a.buyer)
			}
		}
		again = append(again, round...)
	}
}

func (p *payers) under() int {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.running
}

func (p *payers) complain(format string, args ...any) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.problems = append(p.problems, fmt.Sprintf(format, args...))
}

// begin lets the holder of a slot act.
func (p *payers) begin(ctx context.Context, a attempt) {
	pays := rand.Float64() < p.cfg.Pay
	p.mu.Lock()
	p.running++
	p.mu.Unlock()
	p.tasks.Go(func() {
		defer func() {
			p.mu.Lock()
			p.running--
			p.mu.Unlock()
		}()
		ctx, cancel := context.WithTimeout(ctx, time.Until(a.slot.Expires)+moneyTimeout)
		defer cancel()
		as := p.api.as(p.crowd.buyers[a.buyer].token)
		if pays {
			p.pay(ctx, as, a)
		}
		p.end(ctx, as, a)
	})
}

// pay pays, with a new key after each failure, while the slot lasts.
func (p *payers) pay(ctx context.Context, as *api, a attempt) {
	for range maxAttempts {
		pay, position, err := p.start(ctx, as, a.slot.ID)
		var refused *refusal
		switch {
		case errors.As(err, &refused) && (refused.slug == "slot-expired" || refused.slug == "slot-already-completed" || refused.slug == "too-many-payments"):
			return
		case errors.As(err, &refused) && refused.slug == "payment-in-progress":
			// The response of a start was lost; it ends without further action.
		case err != nil:
			if ctx.Err() == nil {
				p.complain("slot %s: payment not started: %v", a.slot.ID, err)
			}
			return
		default:
			status := p.outcome(ctx, as, pay, position)
			if status != "FAILED" {
				return
			}
		}
		if waitUntil(ctx, time.Now().Add(askInterval)) != nil {
			return
		}
	}
}

// start starts a payment. If the response is lost, it retries with the same key.
func (p *payers) start(ctx context.Context, as *api, slot uuid.UUID) (pay payment, position string, err error) {
	body, err := json.Marshal(map[string]any{
		"purchaseSlotId": slot, "idempotencyKey": uuid.New(), "amount": p.product.Price, "currency": p.product.Currency, "paymentMethod": "CARD",
	})
	if err != nil {
		return pay, "", err
	}
	err = p.patiently(ctx, func() error {
		resp, err := as.open(ctx, http.MethodPost, as.command+"/v1/payments", body, nil)
		if err != nil {
			return err
		}
		defer resp.Body.Close()
		position = resp.Header.Get("X-Position")
		return json.NewDecoder(resp.Body).Decode(&pay)
	})
	return pay, position, err
}

// outcome waits for the payment's end.
func (p *payers) outcome(ctx context.Context, as *api, pay payment, position string) string {
	h := after([]string{position})
	acted := false
	for pay.Status == "PENDING" {
		if pay.NextAction != nil && !acted {
			acted = true
			p.act(ctx, as, pay)
		}
		if waitUntil(ctx, time.Now().Add(askInterval)) != nil {
			return pay.Status
		}
		err := p.patiently(ctx, func() error {
			return as.call(ctx, http.MethodGet, as.query+"/v1/payments/"+pay.ID.String(), nil, h, &pay)
		})
		if err != nil {
			if ctx.Err() == nil {
				p.complain("payment %s cannot be read: %v", pay.ID, err)
			}
			return pay.Status
		}
	}
	return pay.Status
}

// act does what the gateway requires of the buyer next, as buyers do: most confirm, some decline or
// cancel, a few close the page.
func (p *payers) act(ctx context.Context, as *api, pay payment) {
	if pay.NextAction.Type != "redirect" {
		return // the page for a client_secret belongs to the shop
	}
	decision := "confirm"
	switch draw := rand.Float64(); {
	case draw < 0.05:
		return
	case draw < 0.15:
		var refused *refusal
		err := p.patiently(ctx, func() error {
			return as.call(ctx, http.MethodDelete, as.command+"/v1/payments/"+pay.ID.String(), nil, nil, &json.RawMessage{})
		})
		if err != nil && !(errors.As(err, &refused) && refused.slug == "payment-not-pending") && ctx.Err() == nil {
			p.complain("payment %s cannot be cancelled: %v", pay.ID, err)
		}
		return
	case draw < 0.25:
		decision = "decline"
	}
	if err := p.patiently(ctx, func() error { return as.submit(ctx, pay.NextAction.URL, url.Values{"decision": {decision}}) }); err != nil && ctx.Err() == nil {
		p.complain("payment %s: the gateway's page: %v", pay.ID, err)
	}
}

// submit sends a form to the gateway's page, without our token.
func (a *api) submit(ctx context.Context, page string, form url.Values) error {
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, page, strings.NewReader(form.Encode()))
	if err != nil {
		return err
	}
	req.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	resp, err := a.http.Do(req)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	if resp.StatusCode >= 400 {
		return fmt.Errorf("status %d", resp.StatusCode)
	}
	return nil
}

// end waits for the slot's end, at the latest when its deadline has passed and
// its payment's wait is over.
func (p *payers) end(ctx context.Context, as *api, a attempt) {
	s, seen := a.slot, after([]string{a.position})
	for {
		var now slot
		err := p.patiently(ctx, func() error {
			return as.call(ctx, http.MethodGet, as.query+"/v1/slots/"+s.ID.String(), nil, seen, &now)
		})
		switch {
		case ctx.Err() != nil:
			p.complain("slot %s has not ended %s after its deadline", s.ID, moneyTimeout)
			return
		case err != nil:
			p.complain("slot %s cannot be read: %v", s.ID, err)
			return
		case now.Status != "ACTIVE":
			return
		}
		// Before the deadline nothing ends it but its owner, and that was us.
		next := time.Now().Add(4 * askInterval)
		if until := s.Expires.Add(askInterval); until.After(next) {
			next = until
		}
		if waitUntil(ctx, next) != nil {
			continue // sent above
		}
	}
}

// patiently retries a call while there is no response, like a buyer whose page does not load: a
// node may be down for a moment.
func (p *payers) patiently(ctx context.Context, call func() error) error {
	const patience = time.Minute
	for deadline := time.Now().Add(patience); ; {
		p.calls <- struct{}{}
		err := call()
		<-p.calls
		var refused *refusal
		if err == nil || (errors.As(err, &refused) && !refused.passing()) || time.Now().After(deadline) {
			return err
		}
		if waitErr := waitUntil(ctx, time.Now().Add(2*askInterval)); waitErr != nil {
			return errors.Join(err, waitErr)
		}
	}
}
