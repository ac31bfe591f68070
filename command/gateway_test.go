package command

import (
	"context"
	"fmt"
	"net/http"
	"net/http/httptest"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/uuid"
	webhooks "github.com/standard-webhooks/standard-webhooks/libraries/go"
	"github.com/stretchr/testify/require"

	"github.com/dopaminestore/dopamine/domain"
	"github.com/dopaminestore/dopamine/internal/auth"
	"github.com/dopaminestore/dopamine/internal/gateway"
)

const (
	webhookSecret  = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"
	paymentTimeout = 400 * time.Millisecond
)

// fakeGateway responds as a test requires: nil functions respond that a payment is
// pending, that it is unknown, and that a refund succeeded.
type fakeGateway struct {
	mu         sync.Mutex
	pay        func(uuid.UUID) (gateway.Payment, error)
	find       func(uuid.UUID) (gateway.Payment, error)
	cancel     func(uuid.UUID) (gateway.Payment, error)
	refund     func(gateway.RefundRequest) (gateway.Refund, error)
	findRefund func(gateway.RefundRequest) (gateway.Refund, error)

	asked    []sentPayment
	looked   []uuid.UUID
	refunded map[uuid.UUID]domain.Money
}

var _ gateway.Gateway = (*fakeGateway)(nil)

// sentPayment is a call of Pay: the reference and the request, as encodedPayment.
type sentPayment struct {
	Reference uuid.UUID
	Request   string
}

func encodedPayment(r gateway.PaymentRequest) string {
	return strings.Join([]string{r.Reference.String(), r.Amount.String(), r.Amount.Currency(), string(r.Method), r.CallbackURL, r.ReturnURL}, " ")
}

func (g *fakeGateway) EncodePayment(r gateway.PaymentRequest) ([]byte, error) {
	return []byte(encodedPayment(r)), nil
}

func (g *fakeGateway) Pay(ctx context.Context, reference uuid.UUID, request []byte) (gateway.Payment, error) {
	g.mu.Lock()
	g.asked = append(g.asked, sentPayment{reference, string(request)})
	f := g.pay
	g.mu.Unlock()
	if f == nil {
		return gateway.Payment{ID: "g-" + reference.String(), Status: gateway.Pending}, ctx.Err()
	}
	return f(reference)
}

func (g *fakeGateway) FindPayment(_ context.Context, q gateway.PaymentQuery) (gateway.Payment, error) {
	g.mu.Lock()
	g.looked = append(g.looked, q.Reference)
	f := g.find
	g.mu.Unlock()
	if f == nil {
		return gateway.Payment{}, gateway.ErrUnknownReference
	}
	return f(q.Reference)
}

func (g *fakeGateway) CancelPayment(_ context.Context, q gateway.PaymentQuery) (gateway.Payment, error) {
	g.mu.Lock()
	f := g.cancel
	g.mu.Unlock()
	if f == nil {
		return gateway.Payment{Status: gateway.Canceled, FailureReason: "CANCELED"}, nil
	}
	return f(q.Reference)
}

func (g *fakeGateway) Refund(_ context.Context, r gateway.RefundRequest) (gateway.Refund, error) {
	g.mu.Lock()
	f := g.refund
	g.mu.Unlock()
	refund := gateway.Refund{ID: "r-" + r.RefundID.String(), Status: gateway.RefundSucceeded}
	if f != nil {
		var err error
		if refund, err = f(r); err != nil {
			return refund, err
		}
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.refunded == nil {
		g.refunded = map[uuid.UUID]domain.Money{}
	}
	g.refunded[r.Reference] = r.Amount
	return refund, nil
}

func (g *fakeGateway) FindRefund(_ context.Context, r gateway.RefundRequest) (gateway.Refund, error) {
	g.mu.Lock()
	f := g.findRefund
	g.mu.Unlock()
	if f == nil {
		return gateway.Refund{}, gateway.ErrUnknownReference
	}
	return f(r)
}

// set changes how the gateway responds.
func (g *fakeGateway) set(change func(*fakeGateway)) {
	g.mu.Lock()
	defer g.mu.Unlock()
	change(g)
}

func (g *fakeGateway) asks() []sentPayment {
	g.mu.Lock()
	defer g.mu.Unlock()
	return append([]sentPayment(nil), g.asked...)
}

// paymentOf returns the body of a payment of the slot, at the price of tests.
func paymentOf(slot string) map[string]any {
	return map[string]any{
		"purchaseSlotId": slot, "idempotencyKey": uuid.NewString(), "amount": "10", "currency": "KRW", "paymentMethod": "CARD",
	}
}

func (s *system) pay(t testing.TB, n node, u user, slot string) answered {
	t.Helper()
	return n.do(t, u, http.MethodPost, "/v1/payments", paymentOf(slot))
}

// paying returns a buyer with a slot and a pending payment.
func (s *system) paying(t testing.TB, n node, product uuid.UUID) (user, string, string) {
	t.Helper()
	u := s.user(t, auth.Buyer)
	a := s.granted(t, n, u, product)
	p := s.pay(t, n, u, a.text("id"))
	require.Equal(t, 201, p.status, p.body)
	return u, a.text("id"), p.text("id")
}

func succeeded(payment, amount string) string {
	return fmt.Sprintf(`{"type":"payment.succeeded","timestamp":"2026-01-01T00:00:00Z","more":1,
		"data":{"reference":%q,"paymentId":"g1","amount":%q,"currency":"KRW","failureReason":null,"more":[]}}`, payment, amount)
}

// failed takes its reason as the content of a JSON string.
func failed(payment, reason string) string {
	return fmt.Sprintf(`{"type":"payment.failed","timestamp":"2026-01-01T00:00:00Z",
		"data":{"reference":%q,"paymentId":"g1","amount":"10","currency":"KRW","failureReason":"%s"}}`, payment, reason)
}

// signed returns the headers of a callback.
func signed(t testing.TB, secret, id string, at time.Time, body string) []string {
	t.Helper()
	w, err := webhooks.NewWebhook(secret)
	require.NoError(t, err)
	signature, err := w.Sign(id, at, []byte(body))
	require.NoError(t, err)
	return []string{"webhook-id", id, "webhook-timestamp", strconv.FormatInt(at.Unix(), 10), "webhook-signature", signature}
}

// callback sends a callback with a valid signature.
func (n node) callback(t testing.TB, id, body string) answered {
	t.Helper()
	return n.do(t, user{}, http.MethodPost, "/v1/webhooks/payment", body, signed(t, webhookSecret, id, time.Now(), body)...)
}

// rawCallback sends a callback from another goroutine than the test's.
func (n node) rawCallback(id, body string) int {
	w, _ := webhooks.NewWebhook(webhookSecret)
	at := time.Now()
	signature, _ := w.Sign(id, at, []byte(body))
	r := httptest.NewRequest(http.MethodPost, "/v1/webhooks/payment", strings.NewReader(body))
	r.Header.Set("webhook-id", id)
	r.Header.Set("webhook-timestamp", strconv.FormatInt(at.Unix(), 10))
	r.Header.Set("webhook-signature", signature)
	rec := httptest.NewRecorder()
	n.handler.ServeHTTP(rec, r)
	return rec.Code
}

// stored returns the slot according to its events.
func (s *system) stored(t testing.TB, product uuid.UUID, slot string) domain.Slot {
	t.Helper()
	return s.slots(t, product)[uuid.MustParse(slot)]
}

// payment returns a payment of the slot according to its events.
func (s *system) payment(t testing.TB, product uuid.UUID, slot, payment string) domain.Payment {
	t.Helper()
	p, ok := s.stored(t, product, slot).Payment(uuid.MustParse(payment))
	require.True(t, ok, "payment %s of slot %s", payment, slot)
	return p
}

// event types of one stream, in order.
func (s *system) story(t testing.TB, stream string) []string {
	t.Helper()
	recorded, err := s.reader.Stream(t.Context(), uuid.MustParse(stream), 0)
	require.NoError(t, err)
	var types []string
	for _, r := range recorded {
		types = append(types, r.Type)
	}
	return types
}
