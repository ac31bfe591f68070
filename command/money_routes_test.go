package command

import (
	"errors"
	"fmt"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/stretchr/testify/require"

	"github.com/dopaminestore/dopamine/command/payments"
	"github.com/dopaminestore/dopamine/domain"
	"github.com/dopaminestore/dopamine/internal/auth"
	"github.com/dopaminestore/dopamine/internal/gateway"
	"github.com/dopaminestore/dopamine/tools/testkit"
)

// bought is a buyer with a purchase, over what node n serves.
func (s *system) bought(t testing.TB, n node, product uuid.UUID) (user, string, string) {
	t.Helper()
	u, slot, id := s.paying(t, n, product)
	require.Equal(t, 204, n.callback(t, uuid.NewString(), succeeded(id, "10")).status)
	return u, slot, id
}

func (s *system) refund(t testing.TB, n node, payment string, body map[string]any) answered {
	t.Helper()
	if body["idempotencyKey"] == nil {
		body["idempotencyKey"] = uuid.NewString()
	}
	return n.do(t, s.admin, http.MethodPost, "/v1/payments/"+payment+"/refunds", body)
}

// refundAll posts what is due of the payment's refunds.
func (s *system) refundAll(t testing.TB, n node, payment string) {
	t.Helper()
	s.refundNow(t, payment)
	due, err := n.payments.Due(t.Context(), payments.Refund, 1000)
	require.NoError(t, err)
	for _, id := range due {
		require.NoError(t, n.payments.Do(t.Context(), payments.Refund, id))
	}
}

func TestCancelPayment_Responses(t *testing.T) {
	s, n, product := onSale(t, 2)
	buyer, slot, id := s.paying(t, n, product)
	cancel := func(u user, id string) answered { return n.do(t, u, http.MethodDelete, "/v1/payments/"+id, nil) }

	require.Equal(t, "invalid-request", cancel(buyer, "x").slug())
	require.Equal(t, "payment-not-found", cancel(buyer, uuid.NewString()).slug())
	stranger := cancel(s.user(t, auth.Buyer), id)
	requireProblem(t, 403, "forbidden", stranger)

	first := cancel(buyer, id)
	require.Equal(t, 202, first.status, first.body)
	require.Equal(t, "PENDING", first.text("paymentStatus"))
	again := cancel(s.admin, id)
	require.Equal(t, 202, again.status, again.body)
	require.Equal(t, first.header.Get("X-Position"), again.header.Get("X-Position"), "a repetition changes nothing")
	require.Equal(t, []string{"SlotAcquired", "PaymentInitiated", "PaymentCancelRequested"}, s.story(t, slot))

	require.NoError(t, n.payments.Do(t.Context(), payments.Cancel, uuid.MustParse(id)))
	p := s.payment(t, product, slot, id)
	require.Equal(t, []any{domain.FailedPayment, "CANCELED"}, []any{p.Status, p.FailureReason})
	over := cancel(buyer, id)
	requireProblem(t, 409, "payment-not-pending", over)
	require.NotEmpty(t, over.header.Get("X-Position"))
	require.Equal(t, 201, s.pay(t, n, buyer, slot).status, "at once")
}

func TestRefunds_Responses(t *testing.T) {
	s, n, product := onSale(t, 5)
	buyer, slot, id := s.bought(t, n, product)

	key := uuid.NewString()
	var part answered
	if !t.Run("a part is refunded", func(t *testing.T) {
		part = s.refund(t, n, id, map[string]any{"idempotencyKey": key, "amount": "4.0", "reason": "damaged"})
		require.Equal(t, 201, part.status, part.body)
		require.Equal(t, "/v1/payments/"+id+"/refunds", part.header.Get("Location"))
		for name, want := range map[string]any{"paymentId": id, "amount": "4", "currency": "KRW", "cause": "REQUESTED", "status": "DUE",
			"returnUnit": false, "reason": "DAMAGED", "failureReason": nil} {
			require.Equal(t, want, part.body[name], name)
		}
		s.refundAll(t, n, id)
	}) {
		return
	}
	t.Run("a repeated key returns the first response", func(t *testing.T) {
		repeat := s.refund(t, n, id, map[string]any{"idempotencyKey": strings.ToUpper(key), "amount": 4, "reason": "DAMAGED", "returnUnit": false})
		require.Equal(t, 201, repeat.status, repeat.body)
		require.Equal(t, part.body, repeat.body, "as it was returned first")
		require.Equal(t, part.header.Get("X-Position"), repeat.header.Get("X-Position"))
		other := s.refund(t, n, id, map[string]any{"idempotencyKey": key, "amount": "5", "reason": "DAMAGED"})
		requireProblem(t, 422, "idempotency-key-reused", other)
	})
	t.Run("a wrong field is invalid", func(t *testing.T) {
		for name, body := range map[string]map[string]any{
			"amount": {"amount": "0"}, "reason": {"reason": "to Ms Kim"}, "idempotencyKey": {"idempotencyKey": "x"},
			"returnUnit": {"amount": "1", "returnUnit": true}, // leaves 5
		} {
			r := s.refund(t, n, id, body)
			require.Equal(t, 400, r.status, "%s %v", name, r.body)
			require.Equal(t, []string{name}, r.fields())
		}
		require.Equal(t, []string{"amount"}, s.refund(t, n, id, map[string]any{"amount": "0.5"}).fields(), "KRW has no decimal places")
		require.Equal(t, 400, s.refund(t, n, id, map[string]any{"unknown": 1}).status)
	})
	t.Run("more than the rest and an unknown payment are refused", func(t *testing.T) {
		excess := s.refund(t, n, id, map[string]any{"amount": "7", "returnUnit": true})
		requireProblem(t, 409, "refund-exceeds-payment", excess, "before returnUnit")
		require.Equal(t, "payment-not-found", s.refund(t, n, uuid.NewString(), map[string]any{}).slug())
	})
	if !t.Run("the rest is refunded by default and the unit returned with the money", func(t *testing.T) {
		rest := s.refund(t, n, id, map[string]any{"returnUnit": true})
		require.Equal(t, 201, rest.status, rest.body)
		require.Equal(t, []any{"6", true, "REQUESTED"}, []any{rest.body["amount"], rest.body["returnUnit"], rest.body["reason"]}, "by default what is left")
		require.Equal(t, "duplicate-slot", s.acquire(t, n, buyer, product).slug(), "not before the money is back")
		s.refundAll(t, n, id)
		require.Equal(t, []string{"RefundCompleted", "SlotReturned"}, s.story(t, slot)[len(s.story(t, slot))-2:])
		p := s.payment(t, product, slot, id)
		require.Equal(t, []any{domain.SuccessfulPayment, domain.RefundsComplete}, []any{p.Status, p.RefundStatus()})
		require.Equal(t, 201, s.acquire(t, n, buyer, product).status)
	}) {
		return
	}
	t.Run("a refunded payment is neither refunded nor paid again", func(t *testing.T) {
		none := s.refund(t, n, id, map[string]any{})
		requireProblem(t, 409, "refund-exceeds-payment", none)
		done := n.do(t, buyer, http.MethodPost, "/v1/payments", paymentOf(slot))
		require.Equal(t, "slot-already-completed", done.slug(), "also RETURNED")
	})
	t.Run("a pending payment is not refundable", func(t *testing.T) {
		_, _, pending := s.paying(t, n, product)
		require.Equal(t, "payment-not-refundable", s.refund(t, n, pending, map[string]any{}).slug())
	})
}

func TestResolution_Responses(t *testing.T) {
	s, n, product := onSale(t, 4)
	_, slot, id := s.bought(t, n, product)
	resolve := func(payment, action, note string) answered {
		return n.do(t, s.admin, http.MethodPost, "/v1/payments/"+payment+"/resolution", map[string]any{"action": action, "note": note})
	}
	require.Equal(t, []string{"action"}, resolve(id, "FORGET", "A").fields())
	require.Equal(t, []string{"note"}, resolve(id, "ACCEPT", "called Ms Kim").fields())
	require.Equal(t, "payment-not-found", resolve(uuid.NewString(), "ACCEPT", "A").slug())
	nothing := resolve(id, "ACCEPT", "A")
	requireProblem(t, 409, "nothing-to-resolve", nothing)

	s.fake.set(func(g *fakeGateway) {
		g.refund = func(gateway.RefundRequest) (gateway.Refund, error) {
			return gateway.Refund{ID: "r1", Status: gateway.RefundFailed, FailureReason: "ACCOUNT_CLOSED"}, nil
		}
	})
	require.Equal(t, 201, s.refund(t, n, id, map[string]any{"returnUnit": true}).status)
	s.refundAll(t, n, id)
	require.Equal(t, "nothing-to-resolve", resolve(id, "NOTHING_TAKEN", "A").slug(), "it fits no item")
	retried := resolve(id, "RETRY", "ticket_1")
	require.Equal(t, 200, retried.status, retried.body)
	require.Equal(t, "DUE", retried.text("refundStatus"))
	s.refundAll(t, n, id)
	done := resolve(id, "REFUNDED_ELSEWHERE", "TICKET_2")
	require.Equal(t, 200, done.status, done.body)
	require.Equal(t, []any{"REFUNDED", "10"}, []any{done.body["refundStatus"], done.body["refundedAmount"]})
	require.Equal(t, domain.ReturnedSlot, s.stored(t, product, slot).Status, "the unit goes back with the money")

	_, slot, id = s.bought(t, n, product)
	require.Equal(t, 204, n.callback(t, uuid.NewString(), failed(id, "BOUNCED")).status)
	taken := resolve(id, "NOTHING_TAKEN", "SEEN")
	require.Equal(t, 200, taken.status, taken.body)
	require.Equal(t, true, taken.body["reversed"])
	require.Equal(t, "nothing-to-resolve", resolve(id, "ACCEPT", "A").slug(), "accepted by the same resolution")
	recorded, err := s.reader.Stream(t.Context(), uuid.MustParse(slot), 0)
	require.NoError(t, err)
	require.Equal(t, s.admin.id.String(), recorded[len(recorded)-1].Meta.Actor)
}

func TestCancelSale_Responses(t *testing.T) {
	s, n, product := onSale(t, 3)
	buyer, slot, id := s.bought(t, n, product)
	active := s.user(t, auth.Buyer)
	held := s.acquire(t, n, active, product).text("id")
	path := "/v1/products/" + product.String() + "/cancel"

	require.Equal(t, "product-not-found", n.do(t, s.admin, http.MethodPost, "/v1/products/"+uuid.NewString()+"/cancel", nil).slug())
	cancelled := n.do(t, s.admin, http.MethodPost, path, nil)
	require.Equal(t, 202, cancelled.status, cancelled.body)
	require.Equal(t, "CANCELLED", cancelled.text("status"))
	require.Equal(t, map[string]any{"purchases": 1.0, "refunded": 0.0, "failed": 0.0, "open": 1.0}, cancelled.body["cancellation"])
	require.Equal(t, "sale-ended", s.acquire(t, n, buyer, product).slug(), "before duplicate-slot")
	require.Equal(t, "slot-expired", s.pay(t, n, active, held).slug())
	require.Equal(t, "product-update-conflict", s.update(t, n, product, map[string]any{"paused": true}).slug())
	require.Equal(t, 200, s.update(t, n, product, map[string]any{"name": "gone"}).status)
	require.Equal(t, "product-delete-conflict", s.remove(t, n, product).slug())

	a := moneyArena{arena{system: s, nodes: []node{n, n}, product: product}, nil}
	a.endSale(t, n)
	require.Equal(t, domain.ManualReclaimed, s.stored(t, product, held).ReclaimStatus)
	require.Equal(t, "product-delete-conflict", s.remove(t, n, product).slug(), "a refund is open")
	s.refundAll(t, n, id)
	require.Equal(t, domain.CompletedSlot, s.stored(t, product, slot).Status)
	again := n.do(t, s.admin, http.MethodPost, path, nil)
	require.Equal(t, 202, again.status, again.body)
	require.Equal(t, map[string]any{"purchases": 1.0, "refunded": 1.0, "failed": 0.0, "open": 0.0}, again.body["cancellation"])
	require.Equal(t, []string{"SlotAcquired", "PaymentInitiated", "PaymentCompleted", "RefundDue", "RefundCompleted"}, s.story(t, slot))
	require.Equal(t, 204, s.remove(t, n, product).status)
}

func TestUpdateProduct_PriceAndStockDecrease(t *testing.T) {
	s, n := oneNode(t)
	upcoming := s.upcoming(t, n, 5, time.Hour)
	for name, c := range map[string]struct {
		change map[string]any
		want   map[string]any
		fields []string
	}{
		"price":             {change: map[string]any{"price": 12.0}, want: map[string]any{"price": "12"}},
		"less stock":        {change: map[string]any{"stockDecrease": 2}, want: map[string]any{"totalStock": 3.0, "stock": 3.0, "initialStock": 3.0}},
		"all stock":         {change: map[string]any{"stockDecrease": 5}, fields: []string{"stockDecrease"}},
		"both":              {change: map[string]any{"stockDecrease": 1, "stockIncrease": 1}, fields: []string{"stockDecrease"}},
		"fraction of a won": {change: map[string]any{"price": "1.5"}, fields: []string{"price"}},
		"another currency":  {change: map[string]any{"price": "1", "currency": "USD"}, fields: []string{"currency"}},
	} {
		r := s.update(t, n, upcoming, c.change)
		if c.fields != nil {
			require.Equal(t, 400, r.status, "%s: %v", name, r.body)
			continue
		}
		require.Equal(t, 200, r.status, "%s: %v", name, r.body)
		for field, want := range c.want {
			require.Equal(t, want, r.body[field], "%s: %s", name, field)
		}
	}
	begun := s.product(t, n, 5)
	for _, change := range []map[string]any{{"price": "11"}, {"stockDecrease": 1}} {
		r := s.update(t, n, begun, change)
		requireProblem(t, 409, "product-update-conflict", r, "%v", r.body)
	}
}

func TestStartPayment_ReturnURL(t *testing.T) {
	t.Parallel()
	s := newSystem(t, testkit.Redis(t))
	n := s.node(t, func(c *Config) { c.ReturnOrigins = []string{"https://shop.example.com"} })
	product := s.product(t, n, 2)
	buyer := s.user(t, auth.Buyer)
	slot := s.acquire(t, n, buyer, product).text("id")
	for _, wrong := range []any{"https://evil.example.com/x", "http://shop.example.com/x", "http://127.0.0.1:3000/x", "https://u:p@shop.example.com/",
		"javascript:alert(1)", "https://shop.example.com/" + strings.Repeat("x", 2000), 7} {
		body := paymentOf(slot)
		body["returnUrl"] = wrong
		r := n.do(t, buyer, http.MethodPost, "/v1/payments", body)
		require.Equal(t, 400, r.status, "%v: %v", wrong, r.body)
		require.Equal(t, []string{"returnUrl"}, r.fields())
	}
	body := paymentOf(slot)
	body["returnUrl"] = "https://shop.example.com/thanks?x=1"
	require.Equal(t, 201, n.do(t, buyer, http.MethodPost, "/v1/payments", body).status)
	testkit.Eventually(t, 5*time.Second, "the gateway gets it", func() error {
		for _, asked := range s.fake.asks() {
			if strings.HasSuffix(asked.Request, " https://shop.example.com/thanks?x=1") {
				return nil
			}
		}
		return errors.New("not yet")
	})
}

// TestStartPayment_WaitsForTheNextAction, for two seconds at most, and never keeps
// it in the remembered response.
func TestStartPayment_WaitsForTheNextAction(t *testing.T) {
	s, n, product := onSale(t, 3)
	action := &gateway.NextAction{Type: gateway.Redirect, URL: "https://pay.example.com/1"}
	hang := make(chan struct{})
	defer close(hang)
	s.fake.set(func(g *fakeGateway) {
		g.pay = func(id uuid.UUID) (gateway.Payment, error) {
			return gateway.Payment{ID: "g1", Status: gateway.RequiresAction, NextAction: action}, nil
		}
	})
	buyer := s.user(t, auth.Buyer)
	body := paymentOf(s.acquire(t, n, buyer, product).text("id"))
	first := n.do(t, buyer, http.MethodPost, "/v1/payments", body)
	require.Equal(t, 201, first.status, first.body)
	require.Equal(t, map[string]any{"type": "redirect", "url": action.URL}, first.body["nextAction"])
	var remembered, events string
	require.NoError(t, s.pool.QueryRow(t.Context(), `select answer::text from payment_keys where idempotency_key = $1`, body["idempotencyKey"]).Scan(&remembered))
	require.NotContains(t, remembered, action.URL)
	require.NoError(t, s.pool.QueryRow(t.Context(), `select string_agg(payload::text, '') from events`).Scan(&events))
	require.NotContains(t, events, action.URL)
	repeat := n.do(t, buyer, http.MethodPost, "/v1/payments", body)
	require.Equal(t, first.body["nextAction"], repeat.body["nextAction"], "as it is now")
	require.Equal(t, 204, n.callback(t, uuid.NewString(), succeeded(first.text("id"), "10")).status)
	over := n.do(t, buyer, http.MethodPost, "/v1/payments", body)
	require.Equal(t, 201, over.status)
	require.Nil(t, over.body["nextAction"])

	s.fake.set(func(g *fakeGateway) {
		g.pay = func(uuid.UUID) (gateway.Payment, error) { <-hang; return gateway.Payment{}, errors.New("too late") }
	})
	slow := s.user(t, auth.Buyer)
	body = paymentOf(s.acquire(t, n, slow, product).text("id"))
	began := time.Now()
	r := n.do(t, slow, http.MethodPost, "/v1/payments", body)
	took := time.Since(began)
	require.Equal(t, 201, r.status, r.body)
	require.Nil(t, r.body["nextAction"])
	require.GreaterOrEqual(t, took, 2*time.Second)
	require.Less(t, took, 6*time.Second, "it does not wait for the gateway's own timeout: %s", fmt.Sprint(took))
}
