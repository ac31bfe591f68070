package main

import (
	"bytes"
	"context"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"net/url"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/google/uuid"
)

const (
	jwtSecret = "0123456789abcdef0123456789abcdef0123456789abcdef"
	// steadyProducts always have free units, so that a missing grant is a fault's
	// doing; scarceProducts are sold out most of the time.
	steadyProducts, scarceProducts = 4, 2
	steadyStock, scarceStock       = 50_000, 12
	// requestTimeout is how long a client waits.
	requestTimeout = 10 * time.Second
	price          = "259000"
)

// product is one on sale.
type product struct {
	id     string
	scarce bool
}

// sale plays buyers and an admin against the fleet.
type sale struct {
	fleet    *fleet
	history  *history
	http     *http.Client
	admin    string // token
	rate     int    // acquires per second
	seed     uint64
	products []product
	// dependent reports whether a product depends on what will be hurt, if that follows
	// from its id; nil otherwise.
	dependent func(r *run, product string) bool
	paying    float64 // share of the buyers with a slot who pay

	buyers atomic.Int64
	wg     sync.WaitGroup
	stop   context.CancelFunc
}

func newSale(f *fleet, seed uint64, rate int, mostPay bool) *sale {
	paying := 0.3
	if mostPay {
		paying = 0.6
	}
	transport := &http.Transport{MaxIdleConnsPerHost: 64, DisableCompression: true}
	return &sale{fleet: f, seed: seed, rate: rate, paying: paying, history: &history{start: time.Now()}, admin: token(uuid.New(), "admin"),
		http: &http.Client{Transport: transport, Timeout: requestTimeout}}
}

// token signs one for an hour.
func token(sub uuid.UUID, roles ...string) string {
	part := func(v any) string {
		b, _ := json.Marshal(v)
		return base64.RawURLEncoding.EncodeToString(b)
	}
	text := part(map[string]string{"alg": "HS256", "typ": "JWT"}) + "." +
		part(map[string]any{"sub": sub.String(), "roles": roles, "exp": time.Now().Add(time.Hour).Unix()})
	mac := hmac.New(sha256.New, []byte(jwtSecret))
	mac.Write([]byte(text))
	return text + "." + base64.RawURLEncoding.EncodeToString(mac.Sum(nil))
}

// do sends one request; what came back is in the attempt and the object.
func (s *sale) do(ctx context.Context, a attempt, token, method, url string, body any) (attempt, map[string]any) {
	var raw []byte
	if body != nil {
		raw, _ = json.Marshal(body)
	}
	req, err := http.NewRequestWithContext(ctx, method, url, bytes.NewReader(raw))
	if err != nil {
		panic(err) // our own URL
	}
	req.Header.Set("Authorization", "Bearer "+token)
	if raw != nil {
		req.Header.Set("Content-Type", "application/json")
	}
	if a.Op == "acquire" && a.Key != "" {
		req.Header.Set("Idempotency-Key", a.Key)
	}
	a.Sent = s.history.now()
	resp, err := s.http.Do(req)
	var got map[string]any
	if err == nil {
		var b []byte
		if b, err = io.ReadAll(resp.Body); err == nil {
			a.Status = resp.StatusCode
			d := json.NewDecoder(bytes.NewReader(b))
			d.UseNumber()
			_ = d.Decode(&got)
		}
		_ = resp.Body.Close()
	}
	a.Answered = s.history.now()
	if err != nil {
		a.Error = err.Error()
	}
	if t, ok := got["type"].(string); ok && a.Status >= 400 {
		a.Slug = t[strings.LastIndex(t, "/")+1:]
	}
	return a, got
}

// prepare makes the products and waits until each has granted.
func (s *sale) prepare(ctx context.Context) error {
	for i := range steadyProducts + scarceProducts {
		stock := steadyStock
		if i >= steadyProducts {
			stock = scarceStock
		}
		id, err := s.create(ctx, stock)
		// One product depends on what fails, and one does not.
		for s.dependent != nil && err == nil && i < 2 && s.dependent(nil, id) != (i == 0) {
			id, err = s.create(ctx, stock)
		}
		if err != nil {
			return err
		}
		s.products = append(s.products, product{id: id, scarce: i >= steadyProducts})
	}
	for _, p := range s.products {
		if err := poll(ctx, 50*time.Millisecond, "a first grant", func() error {
			a, _ := s.acquire(ctx, p.id, uuid.New(), "", 0)
			if a.Status != http.StatusCreated {
				return fmt.Errorf("%d %s %s", a.Status, a.Slug, a.Error)
			}
			return nil
		}); err != nil {
			return err
		}
	}
	return nil
}

func (s *sale) create(ctx context.Context, stock int) (id string, err error) {
	// The sale date has to be in the future when the request is served.
	for _, lead := range []time.Duration{400 * time.Millisecond, 2 * time.Second, 8 * time.Second} {
		body := map[string]any{"name": "Thing", "description": "Made to be sold.", "stock": stock, "price": price,
			"saleDate": time.Now().Add(lead).UTC().Format("2006-01-02T15:04:05.000Z")}
		a, got := s.do(ctx, attempt{Op: "change"}, s.admin, http.MethodPost, s.fleet.commandURLs[0]+"/v1/products", body)
		s.history.add(a)
		if a.Status == http.StatusCreated {
			return got["id"].(string), nil
		}
		err = fmt.Errorf("create a product: %d %s %s", a.Status, a.Slug, a.Error)
		if a.Status != http.StatusBadRequest {
			break
		}
	}
	return "", err
}

// acquire asks for a slot once and records it.
func (s *sale) acquire(ctx context.Context, productID string, buyer uuid.UUID, key string, node int) (attempt, string) {
	bearer := token(buyer, "buyer")
	a, got := s.do(ctx, attempt{Op: "acquire", Product: productID, Buyer: buyer.String(), Key: key, Node: node}, bearer,
		http.MethodPost, s.fleet.commandURLs[node]+"/v1/slots/acquire", map[string]any{"productId": productID})
	if a.Status == http.StatusCreated {
		a.Slot, _ = got["id"].(string)
		a.Unit, a.Sequence = int(number(got["unit"])), number(got["arrivalSequence"])
	}
	s.history.add(a)
	return a, bearer
}

func number(v any) int64 {
	n, ok := v.(json.Number)
	if !ok {
		return 0
	}
	i, _ := n.Int64()
	return i
}

// begin starts the traffic.
func (s *sale) begin(ctx context.Context) {
	ctx, s.stop = context.WithCancel(ctx)
	s.wg.Go(func() {
		r := rand.New(rand.NewPCG(s.seed, 1))
		tick := time.NewTicker(time.Second / time.Duration(s.rate))
		defer tick.Stop()
		for i := 0; ; i++ {
			select {
			case <-ctx.Done():
				return
			case <-tick.C:
			}
			// Every product in turn, so that a gap is not caused by random choice.
			p, own := s.products[i%len(s.products)], r.Uint64()
			if s.buyers.Load() > 400 { // enough buyers wait
				continue
			}
			s.buyers.Add(1)
			s.wg.Go(func() {
				defer s.buyers.Add(-1)
				s.buyer(ctx, p, rand.New(rand.NewPCG(own, 2)))
			})
		}
	})
	s.wg.Go(func() { s.administrate(ctx, rand.New(rand.NewPCG(s.seed, 3))) })
}

// end stops the traffic and waits for responses.
func (s *sale) end() {
	s.stop()
	s.wg.Wait()
	s.http.CloseIdleConnections()
}

// buyer is one person: asks until there is an answer, and then keeps the slot,
// releases it, or pays. Requests go on when the traffic ends; only pauses do not.
func (s *sale) buyer(ctx context.Context, p product, r *rand.Rand) {
	background := context.WithoutCancel(ctx)
	buyer, key, node := uuid.New(), uuid.NewString(), r.IntN(len(s.fleet.commandURLs))
	var a attempt
	var bearer string
	for try := 0; ; try++ {
		a, bearer = s.acquire(background, p.id, buyer, key, node)
		if !a.unanswered() || try == 8 || ctx.Err() != nil {
			break
		}
		node = r.IntN(len(s.fleet.commandURLs)) // as a load balancer would
		if !pause(ctx, time.Duration(100+r.IntN(400))*time.Millisecond) {
			break
		}
	}
	if !a.granted() {
		return
	}
	switch draw := r.Float64(); {
	case draw < 0.25:
		if pause(ctx, time.Duration(r.IntN(1500))*time.Millisecond) {
			b, _ := s.do(background, attempt{Op: "release", Product: p.id, Buyer: a.Buyer, Node: node, Slot: a.Slot}, bearer,
				http.MethodDelete, s.fleet.commandURLs[node]+"/v1/slots/"+a.Slot, nil)
			s.history.add(b)
		}
	case draw < 0.25+s.paying:
		if pause(ctx, time.Duration(r.IntN(1000))*time.Millisecond) {
			s.pay(background, p, a, bearer, node, r)
		}
	}
}

// pay pays for a slot, and retries with the same key if there is no response.
func (s *sale) pay(ctx context.Context, p product, held attempt, bearer string, node int, r *rand.Rand) {
	key := uuid.NewString()
	var b attempt
	for range 3 {
		var got map[string]any
		b, got = s.do(ctx, attempt{Op: "pay", Product: p.id, Buyer: held.Buyer, Key: key, Node: node, Slot: held.Slot}, bearer,
			http.MethodPost, s.fleet.commandURLs[node]+"/v1/payments", map[string]any{
				"purchaseSlotId": held.Slot, "idempotencyKey": key, "amount": price, "currency": "KRW", "paymentMethod": "CARD"})
		if b.Status == http.StatusCreated {
			b.Payment, _ = got["id"].(string)
		}
		s.history.add(b)
		if !b.unanswered() {
			break
		}
		if !pause(ctx, 300*time.Millisecond) {
			break
		}
	}
	if b.Status != http.StatusCreated {
		return
	}
	s.act(ctx, b, bearer, node, r)
	if r.Float64() > 0.3 || !s.fleet.services.refunds {
		return
	}
	// Once it has succeeded, an admin refunds it and puts the unit back on sale.
	for range 6 {
		if !pause(ctx, 500*time.Millisecond) {
			return
		}
		c, _ := s.do(ctx, attempt{Op: "refund", Product: p.id, Node: node, Slot: held.Slot, Payment: b.Payment}, s.admin,
			http.MethodPost, s.fleet.commandURLs[node]+"/v1/payments/"+b.Payment+"/refunds", map[string]any{"idempotencyKey": uuid.NewString(), "returnUnit": true})
		if c.Slug == "payment-not-refundable" {
			continue // pending, most likely
		}
		s.history.add(c)
		return
	}
}

// act does what the gateway wants the buyer to do next, as buyers do: most confirm,
// some decline or cancel, a few close the page.
func (s *sale) act(ctx context.Context, paid attempt, bearer string, node int, r *rand.Rand) {
	if !s.fleet.worstGateway {
		return // its simulator wants no confirmation
	}
	draw := r.Float64()
	for range 6 {
		var p struct {
			Status     string `json:"paymentStatus"`
			NextAction *struct {
				URL string `json:"url"`
			} `json:"nextAction"`
		}
		body, err := s.rawAs(ctx, bearer, "/v1/payments/"+paid.Payment)
		if err == nil {
			err = json.Unmarshal([]byte(body), &p)
		}
		switch {
		case err != nil || (p.Status == "PENDING" && p.NextAction == nil):
			if !pause(ctx, 400*time.Millisecond) {
				return
			}
			continue
		case p.Status != "PENDING" || draw < 0.05:
		case draw < 0.15:
			a, _ := s.do(ctx, attempt{Op: "cancel", Product: paid.Product, Node: node, Slot: paid.Slot, Payment: paid.Payment}, bearer,
				http.MethodDelete, s.fleet.commandURLs[node]+"/v1/payments/"+paid.Payment, nil)
			s.history.add(a)
		default:
			decision := "confirm"
			if draw < 0.25 {
				decision = "decline"
			}
			if resp, err := s.http.PostForm(p.NextAction.URL, url.Values{"decision": {decision}}); err == nil {
				_ = resp.Body.Close()
			}
		}
		return
	}
}

// administrate changes products: more stock, a pause, a new product.
func (s *sale) administrate(ctx context.Context, r *rand.Rand) {
	background := context.WithoutCancel(ctx)
	change := func(p product, body map[string]any) attempt {
		a, _ := s.do(background, attempt{Op: "change", Product: p.id, Node: 0}, s.admin, http.MethodPut,
			s.fleet.commandURLs[r.IntN(len(s.fleet.commandURLs))]+"/v1/products/"+p.id, body)
		s.history.add(a)
		return a
	}
	for pause(ctx, time.Duration(300+r.IntN(700))*time.Millisecond) {
		scarce := s.products[steadyProducts+r.IntN(scarceProducts)]
		if r.Float64() < 0.6 {
			change(scarce, map[string]any{"stockIncrease": 1 + r.IntN(3)})
			continue
		}
		change(scarce, map[string]any{"paused": true})
		pause(ctx, 200*time.Millisecond)
		// A sale is not left paused because an answer was lost.
		for change(scarce, map[string]any{"paused": false}).Status != http.StatusOK {
			if !pause(ctx, 200*time.Millisecond) {
				break
			}
		}
	}
}

// resume ends pauses that were left behind, once everything is healthy.
func (s *sale) resume(ctx context.Context) error {
	for _, p := range s.products {
		if !p.scarce {
			continue
		}
		err := poll(ctx, pollInterval, "a sale to be resumed", func() error {
			a, _ := s.do(ctx, attempt{Op: "change", Product: p.id}, s.admin, http.MethodPut, s.fleet.commandURLs[0]+"/v1/products/"+p.id, map[string]any{"paused": false})
			s.history.add(a)
			if a.Status != http.StatusOK {
				return fmt.Errorf("%d %s %s", a.Status, a.Slug, a.Error)
			}
			return nil
		})
		if err != nil {
			return err
		}
	}
	return nil
}

// finish is R2: it asks for the scarce products until every unit is held at once.
func (s *sale) finish(ctx context.Context, timeout time.Duration) error {
	ctx, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	for _, p := range s.products {
		if !p.scarce {
			continue
		}
		err := poll(ctx, 20*time.Millisecond, "every unit of a scarce product to be held", func() error {
			a, _ := s.acquire(ctx, p.id, uuid.New(), "", 0)
			for a.Status == http.StatusCreated {
				a, _ = s.acquire(ctx, p.id, uuid.New(), "", 0)
			}
			var held, units int
			if err := s.fleet.db.QueryRow(ctx, `SELECT (SELECT count(*) FROM slot_claims WHERE product_id = $1), units FROM product_gates WHERE product_id = $1`, p.id).
				Scan(&held, &units); err != nil {
				return err
			}
			if held != units {
				return fmt.Errorf("product %s: %d of %d units are held; the last answer: %d %s %s", p.id, held, units, a.Status, a.Slug, a.Error)
			}
			return nil
		})
		if err != nil {
			return err
		}
	}
	return nil
}

// pause waits; false if the context has ended.
func pause(ctx context.Context, d time.Duration) bool {
	select {
	case <-ctx.Done():
		return false
	case <-time.After(d):
		return true
	}
}
