package command

import (
	"errors"
	"maps"
	"net/http"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/stretchr/testify/require"

	"github.com/dopaminestore/dopamine/command/claims"
	"github.com/dopaminestore/dopamine/domain"
	"github.com/dopaminestore/dopamine/internal/auth"
	"github.com/dopaminestore/dopamine/internal/gateway"
	"github.com/dopaminestore/dopamine/tools/testkit"
)

func TestPayment_FromStartToPurchase(t *testing.T) {
	s, n, product := onSale(t, 2)
	buyer, slot, id := s.paying(t, n, product)
	var heard answered

	t.Run("a slot with a pending payment is neither paid nor released", func(t *testing.T) {
		again := s.pay(t, n, buyer, slot)
		requireProblem(t, 409, "payment-in-progress", again)
		for _, u := range []user{buyer, s.admin} {
			a := s.release(t, n, u, slot)
			require.Equal(t, "payment-in-progress", a.slug())
		}
	})
	if !t.Run("the gateway receives the payment", func(t *testing.T) {
		testkit.EventuallyTrue(t, 5*time.Second, "the gateway is asked", func() bool { return len(s.fake.asks()) != 0 })
		asked := s.fake.asks()[0]
		require.Equal(t, id, asked.Reference.String())
		require.Equal(t, id+" 10 KRW CARD http://here/v1/webhooks/payment ", asked.Request)
	}) {
		return
	}
	if !t.Run("a reported success completes the slot", func(t *testing.T) {
		heard = n.callback(t, "w1", succeeded(id, "10.00"))
		require.Equal(t, 204, heard.status, heard.body)
		head, err := s.reader.Head(t.Context())
		require.NoError(t, err)
		require.Equal(t, head, heard.place(t).Position)
		require.Equal(t, product, heard.place(t).Product)
		stored := s.stored(t, product, slot)
		require.Equal(t, domain.CompletedSlot, stored.Status)
		require.Equal(t, "g1", stored.Payments[0].GatewayID)
		require.Equal(t, []string{"SlotAcquired", "PaymentInitiated", "PaymentCompleted"}, s.story(t, slot))
	}) {
		return
	}
	t.Run("a repeated webhook returns the first position", func(t *testing.T) {
		repeat := n.callback(t, "w1", failed(id, "no"))
		require.Equal(t, 204, repeat.status)
		require.Equal(t, heard.header.Get("X-Position"), repeat.header.Get("X-Position"))
	})
	t.Run("the same success changes nothing and each contradiction is recorded once", func(t *testing.T) {
		require.Equal(t, 204, n.callback(t, "w2", succeeded(id, "10")).status)
		require.Len(t, s.story(t, slot), 3, "the same money changes nothing")
		require.Equal(t, 204, n.callback(t, "w3", failed(id, "no")).status)
		require.Equal(t, 204, n.callback(t, "w4", succeeded(id, "11")).status)
		require.Equal(t, 204, n.callback(t, "w5", succeeded(id, "11")).status)
		require.Equal(t, []string{"PaymentContradicted", "PaymentContradicted"}, s.story(t, slot)[3:], "each contradiction is recorded once")
		require.Equal(t, domain.SuccessfulPayment, s.payment(t, product, slot, id).Status)
	})
	t.Run("a completed slot is neither paid nor released", func(t *testing.T) {
		done := s.pay(t, n, buyer, slot)
		requireProblem(t, 409, "slot-already-completed", done)
		require.Equal(t, "slot-not-active", s.release(t, n, buyer, slot).slug())
		claim, ok, err := s.claims.BySlot(t.Context(), uuid.MustParse(slot))
		require.NoError(t, err)
		require.True(t, ok)
		require.Equal(t, claims.Completed, claim.Status)
	})
}

func TestPayment_CanBeRetriedAfterFailure(t *testing.T) {
	s, n, product := onSale(t, 1)
	buyer, slot, id := s.paying(t, n, product)
	due := func() (waits bool) {
		require.NoError(t, s.pool.QueryRow(t.Context(), `select due_at > deadline from slot_claims where slot_id = $1`, slot).Scan(&waits))
		return waits
	}
	require.True(t, due(), "the slot's end waits for the payment")
	require.Equal(t, 204, n.callback(t, "w1", failed(id, `no\u0007 cover`)).status)
	require.False(t, due())
	p := s.payment(t, product, slot, id)
	require.Equal(t, domain.FailedPayment, p.Status)
	require.Equal(t, "DECLINED", p.FailureReason)

	second := s.pay(t, n, buyer, slot)
	require.Equal(t, 201, second.status)
	require.Equal(t, 204, n.callback(t, "w2", succeeded(id, "10")).status, "late, while another is pending")
	require.Equal(t, domain.RefundsDue, s.payment(t, product, slot, id).RefundStatus())
	require.True(t, due(), "the slot still waits for the other payment")
	require.Equal(t, 204, n.callback(t, "w3", succeeded(second.text("id"), "10")).status)
	require.Equal(t, domain.CompletedSlot, s.stored(t, product, slot).Status)
}

// Each refusal, in the order of the code: every request also violates
// all later rules, as far as possible.
func TestPayment_RefusalsInOrder(t *testing.T) {
	s, n, product := onSale(t, 10)
	buyer, other := s.user(t, auth.Buyer), s.user(t, auth.Buyer)
	slot := s.acquire(t, n, buyer, product).text("id")
	with := func(body map[string]any, change ...any) map[string]any {
		body = maps.Clone(body)
		for i := 0; i < len(change); i += 2 {
			body[change[i].(string)] = change[i+1]
		}
		return body
	}
	send := func(t *testing.T, u user, body map[string]any) answered {
		t.Helper()
		return n.do(t, u, http.MethodPost, "/v1/payments", body)
	}
	wrong := with(paymentOf(slot), "amount", "11")
	good := with(paymentOf(slot), "idempotencyKey", wrong["idempotencyKey"])
	var first answered

	t.Run("a missing or wrong field is invalid", func(t *testing.T) {
		for name, body := range map[string]map[string]any{
			"purchaseSlotId": with(wrong, "purchaseSlotId", "x"), "idempotencyKey": with(wrong, "idempotencyKey", 1),
			"amount": with(wrong, "amount", "1.5"), "currency": with(wrong, "currency", "XYZ"),
			"paymentMethod": with(wrong, "paymentMethod", "CASH"), "note": with(wrong, "note", "x"),
		} {
			a := send(t, buyer, body)
			require.Equal(t, 400, a.status, name)
			require.Equal(t, []string{name}, a.fields(), name)
		}
		for _, name := range []string{"purchaseSlotId", "idempotencyKey", "amount", "currency", "paymentMethod"} {
			body := maps.Clone(wrong)
			delete(body, name)
			require.Equal(t, []string{name}, send(t, buyer, body).fields())
		}
	})
	t.Run("a caller without a right to the slot is refused", func(t *testing.T) {
		require.Equal(t, 401, send(t, user{}, wrong).status)
		require.Equal(t, 403, send(t, s.admin, wrong).status)
		for _, id := range []string{uuid.NewString(), product.String()} {
			a := send(t, other, with(wrong, "purchaseSlotId", id))
			requireProblem(t, 404, "slot-not-found", a)
		}
		require.Equal(t, 403, send(t, other, wrong).status)
	})
	t.Run("another amount or currency is a mismatch", func(t *testing.T) {
		mismatch := send(t, buyer, wrong)
		requireProblem(t, 400, "amount-mismatch", mismatch)
		require.Equal(t, "amount-mismatch", send(t, buyer, with(paymentOf(slot), "currency", "USD")).slug())
	})
	if !t.Run("a refusal is not stored for the key", func(t *testing.T) {
		first = send(t, buyer, good)
		require.Equal(t, 201, first.status, "an error is not stored for the key: %v", first.body)
		require.Equal(t, "/v1/payments/"+first.text("id"), first.header.Get("Location"))
		require.Equal(t, "PENDING", first.text("paymentStatus"))
	}) {
		return
	}
	t.Run("a second payment of the slot is refused while the first is pending", func(t *testing.T) {
		require.Equal(t, 403, send(t, other, with(good, "amount", "11")).status)
		require.Equal(t, "payment-in-progress", send(t, buyer, with(wrong, "idempotencyKey", uuid.NewString())).slug())
	})
	if !t.Run("a repeat returns the first response after the purchase", func(t *testing.T) {
		require.Equal(t, 204, n.callback(t, "w1", succeeded(first.text("id"), "10")).status)
		for _, amount := range []any{"10", "10.0", 10, 10.00} { // by value
			repeat := send(t, buyer, with(good, "amount", amount))
			require.Equal(t, 201, repeat.status)
			require.Equal(t, first.body, repeat.body, "the first response")
			require.Equal(t, first.header.Get("X-Position"), repeat.header.Get("X-Position"))
		}
	}) {
		return
	}
	t.Run("a key with other values is refused", func(t *testing.T) {
		for name, value := range map[string]any{"amount": "11", "currency": "USD", "paymentMethod": "WALLET"} {
			reused := send(t, buyer, with(good, name, value))
			requireProblem(t, 422, "idempotency-key-reused", reused)
		}
	})
	t.Run("a paid slot is not paid again", func(t *testing.T) {
		require.Equal(t, "slot-already-completed", send(t, buyer, with(wrong, "idempotencyKey", uuid.NewString())).slug())
	})
	t.Run("keys are per buyer", func(t *testing.T) {
		mine := s.acquire(t, n, other, product).text("id")
		require.Equal(t, 201, send(t, other, with(good, "purchaseSlotId", mine)).status, "keys are per buyer")
	})
}

func TestPayment_RefusedFromDeadline(t *testing.T) {
	t.Parallel()
	s := newSystem(t, testkit.Redis(t))
	n := s.node(t, func(c *Config) { c.SlotTTL = 250 * time.Millisecond })
	product := s.product(t, n, 3)
	buyer, slot, id := s.paying(t, n, product)
	other := s.user(t, auth.Buyer)
	idle := s.acquire(t, n, other, product).text("id")
	released := s.user(t, auth.Buyer)
	given := s.acquire(t, n, released, product).text("id")
	require.Equal(t, 204, s.release(t, n, released, given).status)
	require.Equal(t, "slot-expired", s.pay(t, n, released, given).slug(), "however it ended")

	testkit.Eventually(t, 5*time.Second, "the deadline", func() error {
		body := paymentOf(idle)
		body["amount"] = "11"
		if a := n.do(t, other, http.MethodPost, "/v1/payments", body); a.slug() != "slot-expired" {
			return errors.New(a.slug())
		}
		return nil
	})
	require.Equal(t, domain.ActiveSlot, s.stored(t, product, idle).Status, "before the event")
	require.Equal(t, "slot-expired", s.pay(t, n, buyer, slot).slug(), "one is pending")
	require.Equal(t, 204, n.callback(t, "w1", succeeded(id, "10")).status)
	require.Equal(t, domain.CompletedSlot, s.stored(t, product, slot).Status, "a payment that was started in time completes after the deadline")
}

func TestPayment_PriceZero(t *testing.T) {
	s, n, product := onSale(t, 1, "price", 0)
	buyer := s.user(t, auth.Buyer)
	slot := s.acquire(t, n, buyer, product).text("id")
	body := paymentOf(slot)
	body["amount"] = "0"
	a := n.do(t, buyer, http.MethodPost, "/v1/payments", body)
	require.Equal(t, 201, a.status, a.body)
	require.Equal(t, "SUCCESS", a.text("paymentStatus"))
	require.Equal(t, a.text("createdAt"), a.text("confirmationTimestamp"))
	require.Equal(t, a.body, n.do(t, buyer, http.MethodPost, "/v1/payments", body).body)
	require.Equal(t, domain.CompletedSlot, s.stored(t, product, slot).Status)
	require.Empty(t, s.fake.asks())
	require.Equal(t, 204, n.callback(t, "w1", failed(a.text("id"), "no")).status)
	require.Equal(t, []string{"SlotAcquired", "PaymentInitiated", "PaymentCompleted", "PaymentContradicted"}, s.story(t, slot),
		"a gateway that reports a payment it never got contradicts us")
}

// Every response of the gateway to a payment request.
func TestPayment_GatewayResponses(t *testing.T) {
	s, n, product := onSale(t, 10)
	for name, c := range map[string]struct {
		answer gateway.Payment
		err    error
		status domain.PaymentStatus
		reason string
	}{
		"refused":            {err: &gateway.Rejected{Reason: "no such card", HTTPStatus: 402}, status: domain.FailedPayment, reason: "DECLINED"},
		"refused, no reason": {err: &gateway.Rejected{HTTPStatus: 400}, status: domain.FailedPayment, reason: "DECLINED"},
		"succeeded":          {answer: gateway.Payment{ID: "g", Status: gateway.Succeeded}, status: domain.SuccessfulPayment},
		"failed":             {answer: gateway.Payment{ID: "g", Status: gateway.Failed, FailureReason: "late"}, status: domain.FailedPayment, reason: "LATE"},
	} {
		s.fake.set(func(g *fakeGateway) {
			g.pay = func(uuid.UUID) (gateway.Payment, error) { return c.answer, c.err }
		})
		_, slot, id := s.paying(t, n, product)
		testkit.EventuallyEqual(t, 5*time.Second, name, c.status, func() domain.PaymentStatus { return s.payment(t, product, slot, id).Status })
		require.Equal(t, c.reason, s.payment(t, product, slot, id).FailureReason, name)
	}
}

// Many requests with one key at the same time create one payment.
func TestPayment_ConcurrentRequestsWithOneKey(t *testing.T) {
	s, nodes, product := onTwoNodes(t, 50)
	for range 40 {
		buyer := s.user(t, auth.Buyer)
		slot := s.acquire(t, nodes[0], buyer, product).text("id")
		body := paymentOf(slot)
		var ids [6]string
		crowd(len(ids), func(i int) {
			a, err := nodes[i%2].send(t.Context(), buyer, http.MethodPost, "/v1/payments", body)
			if err == nil && a.status == 201 {
				ids[i] = a.text("id")
			}
		})
		for _, id := range ids {
			require.NotEmpty(t, id)
			require.Equal(t, ids[0], id)
		}
		require.Len(t, s.stored(t, product, slot).Payments, 1)
	}
}

// Two payments of one slot at the same time, with separate keys.
func TestPayment_TwoAtTheSameTime(t *testing.T) {
	s, nodes, product := onTwoNodes(t, 300)
	for range 200 {
		buyer := s.user(t, auth.Buyer)
		slot := s.acquire(t, nodes[0], buyer, product).text("id")
		var begun, refused atomic.Int32
		crowd(2, func(i int) {
			a, _ := nodes[i].send(t.Context(), buyer, http.MethodPost, "/v1/payments", paymentOf(slot))
			switch {
			case a.status == 201:
				begun.Add(1)
			case a.slug() == "payment-in-progress":
				refused.Add(1)
			}
		})
		require.EqualValues(t, 1, begun.Load())
		require.EqualValues(t, 1, refused.Load())
		require.Equal(t, []string{"SlotAcquired", "PaymentInitiated"}, s.story(t, slot))
	}
}
