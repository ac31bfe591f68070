package command

import (
	"fmt"
	"net/http"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/shopspring/decimal"
	"github.com/stretchr/testify/require"

	"github.com/dopaminestore/dopamine/domain"
	"github.com/dopaminestore/dopamine/eventstore"
	"github.com/dopaminestore/dopamine/internal/auth"
	"github.com/dopaminestore/dopamine/tools/testkit"
)

func TestAcquire(t *testing.T) {
	s, n, product := onSale(t, 3)
	buyer := s.user(t, auth.Buyer)
	a := s.granted(t, n, buyer, product)
	require.Equal(t, "/v1/slots/"+a.text("id"), a.header.Get("Location"))
	require.Equal(t, product.String(), a.text("productId"))
	require.Equal(t, "n", a.text("productName"))
	require.Equal(t, buyer.id.String(), a.text("userId"))
	require.Equal(t, "ACTIVE", a.text("status"))
	require.InDelta(t, 1799, a.number("remainingTimeSeconds"), 2)

	slot := s.slots(t, product)[uuid.MustParse(a.text("id"))]
	require.Equal(t, slot.AcquiredAt.Format("2006-01-02T15:04:05.000Z"), a.text("acquisitionTimestamp"))
	require.Equal(t, slot.AcquiredAt.Add(30*time.Minute).Format("2006-01-02T15:04:05.000Z"), a.text("expirationTimestamp"))
	require.Equal(t, slot.ArrivalSequence, a.number("arrivalSequence"))
	require.Equal(t, int64(slot.Unit), a.number("unit"))

	event, err := s.reader.At(t.Context(), a.place(t).Position)
	require.NoError(t, err)
	require.Equal(t, a.text("id"), event.Stream.String())
	require.Equal(t, buyer.id.String(), event.Meta.Actor)
	require.Contains(t, event.Meta.Traceparent, a.header.Get("X-Trace-ID"))
	require.NotEmpty(t, event.Meta.CorrelationID)
	require.NotEmpty(t, event.Meta.CausationID)
}

// TestAcquire_Refusals checks the states in the order of the code:
// each one is tested while the later ones apply too.
func TestAcquire_Refusals(t *testing.T) {
	s, n := oneNode(t)
	end := time.Now().Add(2 * time.Second).Truncate(time.Millisecond)
	product := s.product(t, n, 1, "saleEndDate", end)
	holder, other := s.user(t, auth.Buyer), s.user(t, auth.Buyer)
	slot := s.granted(t, n, holder, product)

	t.Run("a buyer without a slot is refused with sold-out", func(t *testing.T) {
		a := s.acquire(t, n, other, product)
		requireProblem(t, 409, "sold-out", a)
		require.Empty(t, a.header.Get("X-Position"))
	})
	t.Run("the holder is refused with duplicate-slot and their slot", func(t *testing.T) {
		a := s.acquire(t, n, holder, product)
		requireProblem(t, 409, "duplicate-slot", a)
		require.Equal(t, slot.text("id"), a.text("slotId"))
		require.Equal(t, slot.header.Get("X-Position"), a.header.Get("X-Position"))
	})
	t.Run("a paused sale refuses both", func(t *testing.T) {
		require.Equal(t, 200, s.update(t, n, product, map[string]any{"paused": true}).status)
		require.Equal(t, "sale-paused", s.acquire(t, n, holder, product).slug())
		require.Equal(t, "sale-paused", s.acquire(t, n, other, product).slug())
	})
	t.Run("an ended sale is refused with sale-ended", func(t *testing.T) {
		a := s.acquireUntil(t, 10*time.Second, n, holder, product, "sale-ended")
		require.Equal(t, 409, a.status)
	})
	t.Run("a reopened sale is refused as before its end", func(t *testing.T) {
		a := s.update(t, n, product, map[string]any{"saleEndDate": nil, "paused": false})
		require.Equal(t, 200, a.status, a.body)
		require.Equal(t, "SOLD_OUT", a.text("status"))
		require.Equal(t, "duplicate-slot", s.acquire(t, n, holder, product).slug(), "the sale is open again")
	})
	t.Run("an upcoming sale is refused with its date", func(t *testing.T) {
		later := time.Now().Add(time.Hour).Truncate(time.Millisecond)
		upcoming := s.upcoming(t, n, 1, time.Minute)
		require.Equal(t, 200, s.update(t, n, upcoming, map[string]any{"saleDate": later, "paused": true}).status)
		a := s.acquire(t, n, holder, upcoming)
		require.Equal(t, "sale-not-started", a.slug())
		require.Equal(t, later.UTC().Format("2006-01-02T15:04:05.000Z"), a.text("saleDate"))
	})
	t.Run("an unknown product is not found", func(t *testing.T) {
		a := s.acquire(t, n, holder, uuid.New())
		requireProblem(t, 404, "product-not-found", a)
	})
}

func TestAcquire_IdempotencyKey(t *testing.T) {
	s, n, product := onSale(t, 1)
	other := s.node(t)
	buyer := s.user(t, auth.Buyer)
	const key = "a key ~"
	first := s.granted(t, n, buyer, product, "Idempotency-Key", key)

	same := func(a answered) {
		t.Helper()
		require.Equal(t, 201, a.status, a.body)
		require.Equal(t, first.header.Get("X-Position"), a.header.Get("X-Position"))
		require.Equal(t, first.header.Get("Location"), a.header.Get("Location"))
		delete(first.body, "remainingTimeSeconds")
		delete(a.body, "remainingTimeSeconds")
		require.Equal(t, first.body, a.body)
	}
	same(s.acquire(t, n, buyer, product, "Idempotency-Key", key))
	same(s.acquire(t, other, buyer, product, "Idempotency-Key", key))
	require.Equal(t, "duplicate-slot", s.acquire(t, n, buyer, product).slug())
	require.Equal(t, "duplicate-slot", s.acquire(t, n, buyer, product, "Idempotency-Key", "another").slug())
	require.Equal(t, "sold-out", s.acquire(t, n, s.user(t, auth.Buyer), product, "Idempotency-Key", key).slug(), "keys are per buyer")

	require.Equal(t, 200, s.update(t, n, product, map[string]any{"paused": true}).status)
	same(s.acquire(t, other, buyer, product, "Idempotency-Key", key))
	require.Equal(t, "sale-paused", s.acquire(t, n, buyer, product).slug())
	require.Equal(t, 200, s.update(t, n, product, map[string]any{"paused": false}).status)

	require.Equal(t, 204, s.release(t, n, buyer, first.text("id")).status)
	again := s.granted(t, n, buyer, product, "Idempotency-Key", key)
	require.NotEqual(t, first.text("id"), again.text("id"), "the key applies only while the slot is active")
	require.Greater(t, again.number("arrivalSequence"), first.number("arrivalSequence"))
}

func TestRelease(t *testing.T) {
	s, n, product := onSale(t, 1)
	other := s.node(t)
	both := s.user(t, auth.Buyer|auth.Admin)
	owner, stranger := s.user(t, auth.Buyer), s.user(t, auth.Buyer)
	for _, tc := range []struct {
		owner, by user
		want      domain.ReclaimStatus
	}{
		{owner, owner, domain.BuyerReleased},
		{owner, s.admin, domain.ManualReclaimed},
		{both, both, domain.BuyerReleased},
	} {
		slot := s.granted(t, n, tc.owner, product)
		refused := s.release(t, n, stranger, slot.text("id"))
		requireProblem(t, 403, "forbidden", refused)

		a := s.release(t, n, tc.by, slot.text("id"))
		require.Equal(t, 204, a.status, a.body)
		require.Greater(t, a.place(t).Position, slot.place(t).Position)
		require.Equal(t, tc.want, s.slots(t, product)[uuid.MustParse(slot.text("id"))].ReclaimStatus)

		again := s.release(t, other, tc.by, slot.text("id"))
		requireProblem(t, 409, "slot-not-active", again)
		require.Equal(t, a.header.Get("X-Position"), again.header.Get("X-Position"))
		require.Equal(t, 403, s.release(t, n, stranger, slot.text("id")).status, "403 before the state")

		next := s.acquire(t, other, stranger, product)
		require.Equal(t, 201, next.status, "the unit is on sale when the release was answered: %v", next.body)
		require.Equal(t, 204, s.release(t, n, stranger, next.text("id")).status)
	}
	unknown := s.release(t, n, owner, uuid.NewString())
	requireProblem(t, 404, "slot-not-found", unknown)
	require.Equal(t, "slot-not-found", s.release(t, n, s.admin, product.String()).slug(), "a product is not a slot")
}

func TestRelease_WhilePaymentIsPending(t *testing.T) {
	s, n, product := onSale(t, 1)
	owner := s.user(t, auth.Buyer)
	slot := uuid.MustParse(s.acquire(t, n, owner, product).text("id"))
	by := invocation{user: auth.Identity{Sub: owner.id}}
	price, err := domain.NewMoney(decimal.NewFromInt(10), "KRW")
	require.NoError(t, err)
	events, err := by.Encode(t.Context(), domain.PaymentInitiated{UserID: owner.id, PaymentID: uuid.New(), Price: price, Method: domain.Card})
	require.NoError(t, err)
	_, err = n.store.Append(t.Context(), eventstore.Append{
		Key: product, Streams: []eventstore.StreamAppend{{Stream: slot, Expected: 1, Events: events}},
	})
	require.NoError(t, err)
	for _, u := range []user{owner, s.admin} {
		a := s.release(t, n, u, slot.String())
		requireProblem(t, 409, "payment-in-progress", a)
	}
	require.Equal(t, 403, s.release(t, n, s.user(t, auth.Buyer), slot.String()).status)
}

func TestRelease_AfterDeadline(t *testing.T) {
	t.Parallel()
	s := newSystem(t, testkit.Redis(t))
	n := s.node(t, func(c *Config) { c.SlotTTL = time.Millisecond })
	product := s.upcoming(t, n, 1, opening)
	owner := s.user(t, auth.Buyer)
	slot := s.acquireUntil(t, 10*time.Second, n, owner, product, "")
	require.Zero(t, slot.number("remainingTimeSeconds"))
	testkit.EventuallyTrue(t, time.Second, "its deadline", func() bool { return !time.Now().Before(s.slots(t, product)[uuid.MustParse(slot.text("id"))].Deadline) })
	require.Equal(t, 204, s.release(t, n, owner, slot.text("id")).status)
}

func TestAcquire_ReturnsCurrentProductName(t *testing.T) {
	s, n, product := onSale(t, 10)
	other := s.node(t)
	require.Equal(t, "n", s.acquire(t, other, s.user(t, auth.Buyer), product).text("productName"))
	for i := range 5 {
		name := fmt.Sprint("name ", i)
		require.Equal(t, 200, s.update(t, n, product, map[string]any{"name": name}).status)
		require.Equal(t, name, s.acquire(t, other, s.user(t, auth.Buyer), product).text("productName"))
	}
}

func TestAcquire_FullAppendQueue(t *testing.T) {
	s, _, product := onSale(t, 1)
	small, err := eventstore.Open(t.Context(), s.pool, eventstore.Options{Queue: 1})
	require.NoError(t, err)
	n := s.node(t, func(c *Config) { c.Store, c.AppendQueue = small, 1 })
	reserved, err := small.Reserve()
	require.NoError(t, err)
	buyer := s.user(t, auth.Buyer)

	a := s.acquire(t, n, buyer, product)
	requireProblem(t, 503, "overloaded", a)
	require.NotEmpty(t, a.header.Get("Retry-After"))
	require.Equal(t, 404, s.acquire(t, n, buyer, uuid.New()).status, "404 before 503")
	a = n.do(t, s.admin, http.MethodPut, "/v1/products/"+product.String(), `{"paused":true}`)
	require.Equal(t, "overloaded", a.slug())

	reserved.Release()
	require.Equal(t, 201, s.acquire(t, n, buyer, product).status, "no number was drawn, nothing is lost")
	require.NoError(t, small.Close(t.Context()))
}
