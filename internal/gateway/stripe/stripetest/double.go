// Package stripetest is a double of the part of Stripe's API that the adapter
// uses, with what stripe-mock does not have: state that changes over time,
// idempotency keys that replay responses, a search index that lags, buyers who
// confirm, decline or have to authenticate, disputes, refunds that fail later, and
// webhooks signed by the official library. It is written from Stripe's documentation;
// the real service may differ.
package stripetest

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"net/http"
	"net/http/httptest"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/stripe/stripe-go/v85/webhook"
)

// Object is a JSON object of the API.
type Object map[string]any

// Double is the service. Create it with New.
type Double struct {
	// Key is the secret key that requests must have.
	Key string
	// WebhookURL and WebhookSecret are where and how events are sent; "": nowhere.
	WebhookURL, WebhookSecret string
	// Mock, if it is not nil, checks each request that has the key, and the double responds.
	Mock *Mock

	server *httptest.Server
	mu     sync.Mutex
	next   int
	keys   map[string]response // by idempotency key
	// objects are the PaymentIntents, refunds and disputes by id.
	objects map[string]Object
	indexed map[string]bool // PaymentIntents that the search finds
	posts   []string        // the paths of all POSTs
	fail    func(r *http.Request) bool
}

type response struct {
	request string
	status  int
	body    []byte
}

// New starts a double; close it with Close.
func New(key string) *Double {
	d := &Double{Key: key, keys: map[string]response{}, objects: map[string]Object{}, indexed: map[string]bool{}}
	d.server = httptest.NewServer(http.HandlerFunc(d.serve))
	return d
}

// URL returns the base URL.
func (d *Double) URL() string { return d.server.URL }

// Close stops the double.
func (d *Double) Close() { d.server.Close() }

// Fail makes requests for which f is true take effect and lose their response.
func (d *Double) Fail(f func(r *http.Request) bool) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.fail = f
}

// ForgetKeys forgets all idempotency keys, as Stripe does after a day or more.
func (d *Double) ForgetKeys() {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.keys = map[string]response{}
}

// Index makes the search find everything that there is.
func (d *Double) Index() {
	d.mu.Lock()
	defer d.mu.Unlock()
	for id := range d.objects {
		d.indexed[id] = true
	}
}

// Posts returns the paths of all POSTs.
func (d *Double) Posts() []string {
	d.mu.Lock()
	defer d.mu.Unlock()
	return slices.Clone(d.posts)
}

// Objects returns copies of all objects of a kind ("payment_intent", "refund",
// "dispute"), in the order of their creation.
func (d *Double) Objects(kind string) []Object {
	d.mu.Lock()
	defer d.mu.Unlock()
	var all []Object
	for _, id := range slices.Sorted(maps.Keys(d.objects)) {
		if d.objects[id]["object"] == kind {
			all = append(all, maps.Clone(d.objects[id]))
		}
	}
	return all
}

// Set changes members of an object and sends an event of the type ("": none).
func (d *Double) Set(id, event string, members Object) error {
	d.mu.Lock()
	o := d.objects[id]
	if o == nil {
		d.mu.Unlock()
		return fmt.Errorf("no object %s", id)
	}
	maps.Copy(o, members)
	copied := maps.Clone(o)
	d.mu.Unlock()
	return d.Send(event, copied)
}

// Succeed lets a PaymentIntent succeed.
func (d *Double) Succeed(id string) error {
	d.mu.Lock()
	amount := d.objects[id]["amount"]
	d.mu.Unlock()
	return d.Set(id, "payment_intent.succeeded", Object{"status": "succeeded", "amount_received": amount})
}

// Decline declines a card: the PaymentIntent waits for another one.
func (d *Double) Decline(id string) error {
	return d.Set(id, "payment_intent.payment_failed", Object{
		"status": "requires_payment_method", "last_payment_error": Object{"code": "card_declined", "type": "card_error"},
	})
}

// Authenticate asks for 3-D Secure.
func (d *Double) Authenticate(id string) error {
	return d.Set(id, "payment_intent.requires_action", Object{
		"status": "requires_action", "next_action": Object{"type": "use_stripe_sdk"},
	})
}

// Dispute opens a dispute of a PaymentIntent and returns its id.
func (d *Double) Dispute(intent string) (string, error) {
	d.mu.Lock()
	id := d.id("dp")
	d.objects[id] = Object{
		"id": id, "object": "dispute", "payment_intent": intent, "status": "needs_response",
		"amount": d.objects[intent]["amount"], "currency": d.objects[intent]["currency"], "metadata": Object{},
	}
	d.mu.Unlock()
	return id, d.Set(id, "charge.dispute.created", nil)
}

// RefundInDashboard returns money as an operator in Stripe's dashboard does.
func (d *Double) RefundInDashboard(intent string, amount int64) (string, error) {
	d.mu.Lock()
	id := d.id("re")
	d.objects[id] = Object{
		"id": id, "object": "refund", "payment_intent": intent, "status": "succeeded",
		"amount": amount, "currency": d.objects[intent]["currency"], "metadata": Object{},
	}
	d.mu.Unlock()
	return id, d.Set(id, "refund.created", nil)
}

// Send sends an event about an object, signed by the official library.
func (d *Double) Send(event string, object Object) error {
	d.mu.Lock()
	target, secret := d.WebhookURL, d.WebhookSecret
	id := d.id("evt")
	d.mu.Unlock()
	if event == "" || target == "" {
		return nil
	}
	payload, err := json.Marshal(Object{
		"id": id, "object": "event", "type": event, "created": time.Now().Unix(), "api_version": "2020-08-27", "data": Object{"object": object},
	})
	if err != nil {
		return err
	}
	signed := webhook.GenerateTestSignedPayload(&webhook.UnsignedPayload{Payload: payload, Secret: secret})
	req, err := http.NewRequest(http.MethodPost, target, bytes.NewReader(payload))
	if err != nil {
		return err
	}
	req.Header.Set("Content-Type", "application/json")
	req.Header.Set("Stripe-Signature", signed.Header)
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return err
	}
	defer func() { _ = resp.Body.Close() }()
	if resp.StatusCode != http.StatusNoContent {
		text, _ := io.ReadAll(resp.Body)
		return fmt.Errorf("event %s: response %d: %s", event, resp.StatusCode, text)
	}
	return nil
}

// id returns the next id. The caller holds mu.
func (d *Double) id(prefix string) string {
	d.next++
	return fmt.Sprintf("%s_%06d", prefix, d.next)
}

func (d *Double) serve(w http.ResponseWriter, r *http.Request) {
	body, _ := io.ReadAll(r.Body)
	d.mu.Lock()
	defer d.mu.Unlock()
	if r.Header.Get("Authorization") != "Bearer "+d.Key {
		d.write(w, r, http.StatusUnauthorized, problem("invalid_request_error", "", "Invalid API Key provided"))
		return
	}
	if d.Mock != nil {
		d.Mock.check(r, body)
	}
	form, err := url.ParseQuery(string(body))
	if err != nil {
		d.write(w, r, http.StatusBadRequest, problem("invalid_request_error", "", "bad form"))
		return
	}
	if r.Method == http.MethodPost {
		d.posts = append(d.posts, r.URL.Path)
		key := r.Header.Get("Idempotency-Key")
		if first, ok := d.keys[key]; ok {
			if first.request != r.URL.Path+" "+string(body) {
				d.write(w, r, http.StatusBadRequest, problem("idempotency_error", "", "Keys for idempotent requests can only be used with the same parameters"))
				return
			}
			d.writeRaw(w, r, first.status, first.body)
			return
		}
		status, object := d.post(r.URL.Path, form)
		content, _ := json.Marshal(object)
		if status < 300 || status == http.StatusPaymentRequired {
			d.keys[key] = response{r.URL.Path + " " + string(body), status, content}
		}
		d.writeRaw(w, r, status, content)
		return
	}
	status, object := d.get(r.URL.Path, r.URL.Query())
	d.write(w, r, status, object)
}

func (d *Double) write(w http.ResponseWriter, r *http.Request, status int, object Object) {
	content, _ := json.Marshal(object)
	d.writeRaw(w, r, status, content)
}

func (d *Double) writeRaw(w http.ResponseWriter, r *http.Request, status int, content []byte) {
	if d.fail != nil && d.fail(r) {
		if c, _, err := http.NewResponseController(w).Hijack(); err == nil {
			_ = c.Close()
		}
		return
	}
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	_, _ = w.Write(content)
}

func problem(kind, code, message string) Object {
	return Object{"error": Object{"type": kind, "code": code, "message": message}}
}

func (d *Double) post(path string, form url.Values) (int, Object) {
	parts := strings.Split(strings.TrimPrefix(path, "/v1/"), "/")
	switch {
	case path == "/v1/payment_intents":
		return d.createIntent(form)
	case len(parts) == 3 && parts[0] == "payment_intents" && parts[2] == "cancel":
		o := d.objects[parts[1]]
		switch {
		case o == nil:
			return missing(parts[1])
		case o["status"] == "succeeded" || o["status"] == "canceled" || o["status"] == "processing":
			return http.StatusBadRequest, Object{"error": Object{
				"type": "invalid_request_error", "code": "payment_intent_unexpected_state", "message": "cannot cancel", "payment_intent": o,
			}}
		}
		o["status"] = "canceled"
		return http.StatusOK, maps.Clone(o)
	case path == "/v1/refunds":
		return d.createRefund(form)
	}
	return missing(path)
}

func (d *Double) createIntent(form url.Values) (int, Object) {
	amount, err := strconv.ParseInt(form.Get("amount"), 10, 64)
	if err != nil || amount <= 0 || form.Get("automatic_payment_methods[enabled]") != "true" {
		return http.StatusBadRequest, problem("invalid_request_error", "parameter_invalid_integer", "Invalid integer")
	}
	if amount > 99_999_999 {
		return http.StatusBadRequest, problem("invalid_request_error", "amount_too_large", "Amount must be no more than 999,999.99")
	}
	id := d.id("pi")
	d.objects[id] = Object{
		"id": id, "object": "payment_intent", "amount": amount, "amount_received": 0, "currency": form.Get("currency"),
		"status": "requires_payment_method", "client_secret": id + "_secret_x", "metadata": metadata(form),
	}
	return http.StatusOK, maps.Clone(d.objects[id])
}

func (d *Double) createRefund(form url.Values) (int, Object) {
	intent := d.objects[form.Get("payment_intent")]
	amount, err := strconv.ParseInt(form.Get("amount"), 10, 64)
	if intent == nil {
		return missing(form.Get("payment_intent"))
	}
	if err != nil || intent["status"] != "succeeded" {
		return http.StatusBadRequest, problem("invalid_request_error", "charge_not_refundable", "no")
	}
	left := intent["amount"].(int64)
	for _, o := range d.objects {
		if o["object"] == "refund" && o["payment_intent"] == form.Get("payment_intent") && o["status"] != "failed" {
			left -= o["amount"].(int64)
		}
	}
	switch {
	case left == 0:
		return http.StatusBadRequest, problem("invalid_request_error", "charge_already_refunded", "Charge has already been refunded.")
	case amount > left:
		return http.StatusBadRequest, problem("invalid_request_error", "", "Refund amount is greater than unrefunded amount on charge")
	}
	id := d.id("re")
	d.objects[id] = Object{
		"id": id, "object": "refund", "amount": amount, "currency": intent["currency"], "payment_intent": form.Get("payment_intent"),
		"status": "pending", "metadata": metadata(form),
	}
	return http.StatusOK, maps.Clone(d.objects[id])
}

func metadata(form url.Values) Object {
	m := Object{}
	for name, values := range form {
		if key, ok := strings.CutPrefix(name, "metadata["); ok {
			m[strings.TrimSuffix(key, "]")] = values[0]
		}
	}
	return m
}

func missing(id string) (int, Object) {
	return http.StatusNotFound, problem("invalid_request_error", "resource_missing", "No such object: "+id)
}

func (d *Double) get(path string, query url.Values) (int, Object) {
	switch path {
	case "/v1/payment_intents/search":
		return d.search(query.Get("query"))
	case "/v1/refunds":
		var data []any
		for _, id := range slices.Sorted(maps.Keys(d.objects)) {
			if o := d.objects[id]; o["object"] == "refund" && o["payment_intent"] == query.Get("payment_intent") {
				data = append(data, o)
			}
		}
		return http.StatusOK, Object{"object": "list", "url": "/v1/refunds", "has_more": false, "data": data}
	}
	parts := strings.Split(strings.TrimPrefix(path, "/v1/"), "/")
	o := d.objects[parts[len(parts)-1]]
	if o == nil {
		return missing(path)
	}
	o = maps.Clone(o)
	if slices.Contains(query["expand[0]"], "payment_intent") || slices.Contains(query["expand[]"], "payment_intent") {
		if intent, ok := o["payment_intent"].(string); ok {
			o["payment_intent"] = d.objects[intent]
		}
	}
	return http.StatusOK, o
}

// search understands metadata['a']:'b' AND metadata['c']:'d'.
func (d *Double) search(query string) (int, Object) {
	want := map[string]string{}
	for part := range strings.SplitSeq(query, " AND ") {
		name, value, ok := strings.Cut(strings.TrimPrefix(part, "metadata['"), "']:'")
		if !ok {
			return http.StatusBadRequest, problem("invalid_request_error", "", errors.New("bad query").Error())
		}
		want[name] = strings.TrimSuffix(value, "'")
	}
	var data []any
	for _, id := range slices.Sorted(maps.Keys(d.objects)) {
		o := d.objects[id]
		m, _ := o["metadata"].(Object)
		if o["object"] != "payment_intent" || !d.indexed[id] {
			continue
		}
		matches := true
		for name, value := range want {
			matches = matches && m[name] == value
		}
		if matches {
			data = append(data, o)
		}
	}
	return http.StatusOK, Object{"object": "search_result", "url": "/v1/payment_intents/search", "has_more": false, "data": data}
}
