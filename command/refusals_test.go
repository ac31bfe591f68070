package command

import (
	"bytes"
	"log/slog"
	"net/http"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/dopaminestore/dopamine/eventstore"
	"github.com/dopaminestore/dopamine/internal/auth"
	"github.com/dopaminestore/dopamine/tools/testkit"
)

// The key of a slot that is paid has no effect: the request is
// decided like one without a key, numbered and in the order of the states.
func TestAcquire_KeyOfPaidSlot(t *testing.T) {
	s, n, product := onSale(t, 2)
	buyer := s.user(t, auth.Buyer)
	slot := s.granted(t, n, buyer, product, "Idempotency-Key", "k")
	paid := s.pay(t, n, buyer, slot.text("id"))
	require.Equal(t, 201, paid.status, paid.body)
	require.Equal(t, 204, n.callback(t, "w1", succeeded(paid.text("id"), "10")).status)

	decided := func() int64 {
		state, err := n.gate.State(t.Context(), product)
		require.NoError(t, err)
		return state.Decided
	}
	require.NoError(t, n.gate.Sync(t.Context(), product))
	before := decided()
	a := s.acquire(t, n, buyer, product, "Idempotency-Key", "k")
	require.Equal(t, "duplicate-slot", a.slug())
	require.Equal(t, slot.text("id"), a.text("slotId"))
	require.Equal(t, slot.header.Get("X-Position"), a.header.Get("X-Position"))
	require.Equal(t, before+1, decided(), "a refusal is a decision")

	require.Equal(t, 200, s.update(t, n, product, map[string]any{"paused": true}).status)
	require.Equal(t, "sale-paused", s.acquire(t, n, buyer, product, "Idempotency-Key", "k").slug())
}

// A full append queue is reported after missing objects and foreign
// ones, and before the state.
func TestRefusals_OverloadedBeforeState(t *testing.T) {
	s, n, product := onSale(t, 2)
	owner, stranger := s.user(t, auth.Buyer), s.user(t, auth.Buyer)
	ended, held := s.acquire(t, n, stranger, product), s.acquire(t, n, owner, product)
	require.Equal(t, 204, s.release(t, n, stranger, ended.text("id")).status)

	small, err := eventstore.Open(t.Context(), s.pool, eventstore.Options{Queue: 1})
	require.NoError(t, err)
	full := s.node(t, func(c *Config) { c.Store, c.AppendQueue = small, 1 })
	reserved, err := small.Reserve()
	require.NoError(t, err)
	for name, ask := range map[string]func() answered{
		"end a slot that has ended":              func() answered { return s.release(t, full, stranger, ended.text("id")) },
		"delete a product with an active slot":   func() answered { return s.remove(t, full, product) },
		"move the date of a product with a slot": func() answered { return s.update(t, full, product, map[string]any{"saleDate": "2100-01-01T00:00:00Z"}) },
	} {
		a := ask()
		require.Equal(t, "overloaded", a.slug(), name)
		require.NotEmpty(t, a.header.Get("Retry-After"), name)
	}
	require.Equal(t, "forbidden", s.release(t, full, stranger, held.text("id")).slug())
	require.Equal(t, "slot-not-found", s.release(t, full, stranger, product.String()).slug())
	reserved.Release()
	require.Equal(t, "slot-not-active", s.release(t, full, stranger, ended.text("id")).slug())
	require.Equal(t, "product-delete-conflict", s.remove(t, full, product).slug())
	require.NoError(t, small.Close(t.Context()))
}

// A refusal because of a pending payment has a position that the client can wait for, like
// any other refusal by the store.
func TestRelease_PaymentInProgressHasPosition(t *testing.T) {
	s, n, product := onSale(t, 1)
	buyer := s.user(t, auth.Buyer)
	slot := s.acquire(t, n, buyer, product)
	paid := s.pay(t, n, buyer, slot.text("id"))
	a := s.release(t, n, buyer, slot.text("id"))
	require.Equal(t, http.StatusConflict, a.status)
	require.Equal(t, "payment-in-progress", a.slug())
	require.Equal(t, paid.header.Get("X-Position"), a.header.Get("X-Position"))
}

// The gate of a deleted product is removed, which is not a failure.
func TestDelete_LogsNoWarning(t *testing.T) {
	t.Parallel()
	s := newSystem(t, testkit.Redis(t))
	var log bytes.Buffer
	n := s.node(t, func(c *Config) {
		c.Logger = slog.New(slog.NewTextHandler(&log, &slog.HandlerOptions{Level: slog.LevelWarn}))
	})
	product := s.product(t, n, 1)
	require.Equal(t, 204, s.remove(t, n, product).status)
	require.Empty(t, log.String())
}
