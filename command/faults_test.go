package command

import (
	"context"
	"errors"
	"net/http"
	"sync/atomic"
	"testing"

	"github.com/google/uuid"
	"github.com/stretchr/testify/require"

	"github.com/dopaminestore/dopamine/command/claims"
	"github.com/dopaminestore/dopamine/domain"
	"github.com/dopaminestore/dopamine/eventstore"
	"github.com/dopaminestore/dopamine/internal/auth"
	"github.com/dopaminestore/dopamine/redis"
)

// between is between an API and its gate and runs a function after a
// decision, before the API receives it.
type between struct {
	Gate
	after func(try int32, d *redis.Decision, err *error)
	tries atomic.Int32
}

func (b *between) Decide(ctx context.Context, r redis.Request) (redis.Decision, error) {
	d, err := b.Gate.Decide(ctx, r)
	b.after(b.tries.Add(1), &d, &err)
	return d, err
}

// interposed starts a node with such a gate.
func (s *system) interposed(t *testing.T, after func(try int32, d *redis.Decision, err *error)) node {
	t.Helper()
	return s.node(t, func(c *Config) { c.Gate = &between{Gate: c.Gate, after: after} })
}

// at1 runs a function after the first decision only.
func at1(do func(d *redis.Decision, err *error)) func(int32, *redis.Decision, *error) {
	return func(try int32, d *redis.Decision, err *error) {
		if try == 1 {
			do(d, err)
		}
	}
}

func TestAcquire_RetriesGrantOfEarlierEpoch(t *testing.T) {
	s, other, product := onSale(t, 1)
	var number int64
	n := s.interposed(t, at1(func(d *redis.Decision, _ *error) {
		number = d.Number
		require.Equal(t, 200, s.update(t, other, product, map[string]any{"paused": true}).status)
		require.Equal(t, 200, s.update(t, other, product, map[string]any{"paused": false}).status)
	}))
	a := s.granted(t, n, s.user(t, auth.Buyer), product)
	require.Greater(t, redis.EpochOf(a.number("arrivalSequence")), redis.EpochOf(number))
	require.Equal(t, int64(1), a.number("unit"), "the unit was not lost with the epoch")
}

func TestAcquire_SalePausedAfterGrant(t *testing.T) {
	s, other, product := onSale(t, 1)
	n := s.interposed(t, at1(func(*redis.Decision, *error) {
		require.Equal(t, 200, s.update(t, other, product, map[string]any{"paused": true}).status)
	}))
	require.Equal(t, "sale-paused", s.acquire(t, n, s.user(t, auth.Buyer), product).slug())
}

func TestAcquire_ProductDeletedAfterGrant(t *testing.T) {
	s, other, product := onSale(t, 1)
	n := s.interposed(t, at1(func(*redis.Decision, *error) {
		require.Equal(t, 204, s.remove(t, other, product).status)
	}))
	require.Equal(t, "product-not-found", s.acquire(t, n, s.user(t, auth.Buyer), product).slug())
	require.Empty(t, s.requireLawful(t, product))
}

func TestAcquire_RetriesWithdrawnGrant(t *testing.T) {
	s, other, product := onSale(t, 1)
	var withdrawn int64
	n := s.interposed(t, at1(func(d *redis.Decision, _ *error) {
		withdrawn = d.Number
		_, err := other.store.Append(t.Context(), eventstore.Append{
			Key:     product,
			Guards:  []eventstore.GuardItem{claims.Withdraw{Product: product, Number: d.Number, Unit: d.Unit}.GuardItem()},
			Streams: []eventstore.StreamAppend{{Stream: product, Expected: eventstore.Any, Events: withdrawal(t, *d)}},
		})
		require.NoError(t, err)
	}))
	a := s.granted(t, n, s.user(t, auth.Buyer), product)
	require.Greater(t, a.number("arrivalSequence"), withdrawn)
}

// TestAcquire_RebuildsWrongGate makes the gate grant a unit that is held, as a
// Redis with wrong data would.
func TestAcquire_RebuildsWrongGate(t *testing.T) {
	s, other, product := onSale(t, 2)
	held := s.acquire(t, other, s.user(t, auth.Buyer), product)
	require.Equal(t, 201, held.status)
	var epoch int64
	n := s.interposed(t, at1(func(d *redis.Decision, _ *error) {
		d.Unit, epoch = int(held.number("unit")), d.Epoch
	}))
	a := s.granted(t, n, s.user(t, auth.Buyer), product)
	require.NotEqual(t, held.number("unit"), a.number("unit"))
	require.Greater(t, redis.EpochOf(a.number("arrivalSequence")), epoch)
	require.Len(t, s.requireLawful(t, product), 2)
}

// The gate granted, and the answer was lost.
func TestAcquire_LostGrantBelongsToItsBuyer(t *testing.T) {
	s, _, product := onSale(t, 1)
	var number int64
	n := s.interposed(t, at1(func(d *redis.Decision, err *error) {
		number = d.Number
		*d, *err = redis.Decision{}, &redis.UnavailableError{Doing: "answer", Err: errors.New("lost")}
	}))
	buyer := s.user(t, auth.Buyer)
	a := s.acquire(t, n, buyer, product)
	requireProblem(t, 503, "unavailable", a)
	require.NotEmpty(t, a.header.Get("Retry-After"))
	require.Equal(t, "sold-out", s.acquire(t, n, s.user(t, auth.Buyer), product).slug())
	a = s.acquire(t, n, buyer, product)
	require.Equal(t, 201, a.status, a.body)
	require.Equal(t, number, a.number("arrivalSequence"))
}

func TestAcquire_AppendsAfterClientDisconnected(t *testing.T) {
	s, _, product := onSale(t, 1)
	ctx, leave := context.WithCancel(t.Context())
	n := s.interposed(t, func(int32, *redis.Decision, *error) { leave() })
	buyer := s.user(t, auth.Buyer)
	_, err := n.send(ctx, buyer, http.MethodPost, "/v1/slots/acquire", map[string]any{"productId": product})
	require.NoError(t, err)
	active := s.requireLawful(t, product)
	require.Len(t, active, 1)
	for _, slot := range active {
		require.Equal(t, buyer.id, slot.UserID)
	}
}

// TestAcquire_GivesBackUnsentGrant closes the store after a grant.
func TestAcquire_GivesBackUnsentGrant(t *testing.T) {
	s, other, product := onSale(t, 1)
	broken, err := eventstore.Open(t.Context(), s.pool, eventstore.Options{})
	require.NoError(t, err)
	n := s.node(t, func(c *Config) {
		c.Store = broken
		c.Gate = &between{Gate: c.Gate, after: at1(func(*redis.Decision, *error) {
			now, cancel := context.WithCancel(context.Background())
			cancel()
			require.Error(t, broken.Close(now))
		})}
	})
	a := s.acquire(t, n, s.user(t, auth.Buyer), product)
	requireProblem(t, 503, "unavailable", a)
	require.Equal(t, 201, s.acquire(t, other, s.user(t, auth.Buyer), product).status, "the unit was lost")
}

// TestAcquire_TwoRequestsOfOneGrant lets a buyer's second request append the grant that the
// first one received.
func TestAcquire_TwoRequestsOfOneGrant(t *testing.T) {
	s, other := oneNode(t)
	for key, want := range map[string]int{"k": 201, "": 409} {
		product := s.product(t, other, 2)
		buyer := s.user(t, auth.Buyer)
		headers := []string{}
		if key != "" {
			headers = []string{"Idempotency-Key", key}
		}
		var twin answered
		n := s.interposed(t, at1(func(d *redis.Decision, _ *error) {
			twin = s.acquire(t, other, buyer, product, headers...)
		}))
		a := s.acquire(t, n, buyer, product, headers...)
		require.Equal(t, 201, twin.status, twin.body)
		require.Equal(t, want, a.status, a.body)
		require.Equal(t, twin.header.Get("X-Position"), a.header.Get("X-Position"))
		if want == 201 {
			require.Equal(t, twin.text("id"), a.text("id"))
		} else {
			require.Equal(t, twin.text("id"), a.text("slotId"))
		}
		require.Len(t, s.requireLawful(t, product), 1)
	}
}

// The slot of the second request is released before this node
// appends the same grant.
func TestAcquire_SecondRequestOfEndedSlot(t *testing.T) {
	s, other, product := onSale(t, 1)
	buyer := s.user(t, auth.Buyer)
	var twin answered
	n := s.interposed(t, at1(func(*redis.Decision, *error) {
		twin = s.acquire(t, other, buyer, product)
		require.Equal(t, 204, s.release(t, other, buyer, twin.text("id")).status)
	}))
	a := s.granted(t, n, buyer, product)
	require.NotEqual(t, twin.text("id"), a.text("id"), "a slot never comes twice")
}

func TestReady(t *testing.T) {
	s, n := oneNode(t)
	a := n.do(t, user{}, http.MethodGet, "/health/ready", nil)
	require.Equal(t, 200, a.status)
	require.Equal(t, map[string]any{"database": "UP", "redis": "UP"}, a.body["components"])

	down := s.node(t, func(c *Config) { c.Gate = away{c.Gate} })
	a = down.do(t, user{}, http.MethodGet, "/health/ready", nil)
	require.Equal(t, 503, a.status)
	require.Equal(t, "DOWN", a.body["status"])
}

type away struct{ Gate }

func (away) Health(context.Context) (int, int, error) { return 0, 1, errors.New("away") }
func (away) Decide(context.Context, redis.Request) (redis.Decision, error) {
	return redis.Decision{}, redis.ErrUnavailable
}

func withdrawal(t *testing.T, d redis.Decision) []eventstore.NewEvent {
	t.Helper()
	by := invocation{user: auth.Identity{Sub: uuid.Nil}}
	events, err := by.Encode(t.Context(), domain.GrantWithdrawn{ArrivalSequence: d.Number, Unit: d.Unit, SlotID: d.SlotID})
	require.NoError(t, err)
	return events
}
