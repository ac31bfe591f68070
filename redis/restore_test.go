package redis_test

import (
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/stretchr/testify/require"

	"github.com/dopaminestore/dopamine/command/claims"
	"github.com/dopaminestore/dopamine/redis"
	"github.com/dopaminestore/dopamine/tools/dbtest"
	"github.com/dopaminestore/dopamine/tools/testkit"
)

// shipped returns a gate in use, and a product with one slot whose decision log is stored.
func (w *world) shipped(stock int) (*redis.Gate, uuid.UUID) {
	g, product := w.gate(), w.product(stock)
	require.NoError(w.t, w.claim(w.granted(g, product)))
	require.NoError(w.t, g.Sync(w.ctx, product))
	require.NoError(w.t, g.Ship(w.ctx, product))
	return g, product
}

// snapshot returns what restores the database to this moment.
func (w *world) snapshot() (restore func()) {
	back := dbtest.Snapshot(w.t, w.pool.Config().ConnString())
	w.awaitPostgres()
	return func() {
		back()
		w.awaitPostgres()
	}
}

// awaitPostgres waits until the pool has none but connections that work.
func (w *world) awaitPostgres() {
	w.pool.Reset()
	testkit.Eventually(w.t, 10*time.Second, "Postgres", func() error { return w.pool.Ping(w.ctx) })
}

func TestRestore_LogWithoutLinesThatWereStoredIsNotComplete(t *testing.T) {
	for name, c := range map[string]struct {
		lost     func(*world, *redis.Gate, uuid.UUID)
		complete bool
	}{
		"grants": {func(w *world, g *redis.Gate, product uuid.UUID) {
			require.NoError(w.t, w.claim(w.granted(g, product)))
		}, false},
		"refusals": {func(w *world, g *redis.Gate, product uuid.UUID) {
			w.granted(g, product) // ends the run
			w.decide(g, product, uuid.New(), "")
		}, false},
		"the gate's rebuild": {func(w *world, g *redis.Gate, product uuid.UUID) {
			w.flush()
			w.granted(g, product)
		}, false},
		"nothing": {func(*world, *redis.Gate, uuid.UUID) {}, true},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			w := newWorld(t, testkit.OwnRedis(t))
			g, product := w.shipped(5)
			restore := w.snapshot()
			c.lost(w, g, product)
			if !c.complete {
				require.NoError(t, g.Ship(w.ctx, product))
			}
			restore()
			require.NoError(t, g.Sync(w.ctx, product))
			require.NoError(t, w.claim(w.granted(g, product)))
			require.NoError(t, g.Ship(w.ctx, product))
			require.Equal(t, c.complete, w.complete(product))
			w.agrees(g, product)
		})
	}
}

// The restored store raises to the epoch of a gate that it never built.
func TestRestore_GateOfTheLostHistoryIsNotTheOneOfTheSameEpoch(t *testing.T) {
	w := newWorld(t, testkit.OwnRedis(t))
	g, product := w.gate(), w.product(5)
	require.NoError(t, w.claim(w.granted(g, product)))
	restore := w.snapshot()
	w.flush()
	lost := w.granted(g, product)
	restore()
	w.pause(product, true)
	require.Equal(t, lost.Epoch, w.row(product).Epoch)
	require.NoError(t, g.Sync(w.ctx, product)) // as the command does before it responds
	require.Equal(t, redis.Paused, w.decide(g, product, uuid.New(), "").Outcome)
	w.pause(product, false)
	require.NoError(t, g.Sync(w.ctx, product))
	require.Greater(t, w.granted(g, product).Number, lost.Number)
	require.False(t, w.complete(product))
	w.agrees(g, product)
}

// A gate of the lost history has a pending grant of a number that the gate which has its epoch now
// assigns to another buyer: because its Redis lost its data as well, or on another Redis.
func TestRestore_GrantOfTheLostHistoryIsNotWithdrawn(t *testing.T) {
	for name, c := range map[string]struct {
		sale  bool // the store is in the lost gate's epoch when the grant is withdrawn
		other bool // the gate that has the epoch now is on another Redis
	}{
		"before the epoch, Redis loses its data": {},
		"in the epoch, on another Redis":         {other: true},
		"in the epoch of a changed sale":         {sale: true},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			w := newWorld(t, testkit.OwnRedis(t))
			g, product := w.gate(), w.product(2)
			require.NoError(t, w.claim(w.granted(g, product)))
			require.NoError(t, g.Sync(w.ctx, product))
			restore := w.snapshot()
			w.flush()
			lost := w.granted(g, product)
			restore()
			now := g
			switch {
			case c.other:
				now = w.gateOn(testkit.OwnRedis(t).URL(), w.gateStore)
				require.NoError(t, now.Sync(w.ctx, product))
			case c.sale:
				w.pause(product, false) // raises the epoch to that of the lost gate
			}
			w.withdrawPending(g, product)
			if !c.other {
				w.flush()
			}
			next := w.granted(now, product)
			if !c.sale {
				require.Equal(t, lost.Number, next.Number)
			}
			require.NoError(t, w.claim(next))
			require.NoError(t, now.Sync(w.ctx, product))
			w.withdrawPending(g, product)
			var holds *claims.BuyerHoldsError
			require.ErrorAs(t, w.claim(next), &holds, "what was acknowledged stays")
			require.Equal(t, next.SlotID, holds.Claim.SlotID)
			state := w.agrees(now, product)
			require.Zero(t, state.Pending)
			require.Equal(t, 2, state.Held)
		})
	}
}

// A gate of the lost history has lines of an epoch that the product has not reached, or that had
// another gate and has ended by now.
func TestRestore_LogOfTheLostHistoryIsNotStored(t *testing.T) {
	ship := func(w *world, g *redis.Gate, product uuid.UUID) { // as the worker does
		require.NoError(w.t, g.Ship(w.ctx, product))
	}
	rebuild := func(w *world, g *redis.Gate, product uuid.UUID) {
		testkit.Eventually(w.t, 20*time.Second, "the other Redis to count as unused", func() error { return g.Sync(w.ctx, product) })
	}
	for name, c := range map[string]struct {
		again bool // the epoch was assigned again
		store func(*world, *redis.Gate, uuid.UUID)
	}{
		"shipped":                        {false, ship},
		"shipped, the epoch had another": {true, ship},
		"stored by the rebuild, the epoch had another": {true, rebuild},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			w := newWorld(t, testkit.OwnRedis(t))
			g, product := w.shipped(9)
			restore := w.snapshot()
			w.flush()
			for range 3 {
				w.granted(g, product)
			}
			restore()
			if c.again {
				other := w.gateOn(testkit.OwnRedis(t).URL(), w.gateStore)
				own := w.granted(other, product)
				require.EqualValues(t, 1, own.Epoch)
				require.NoError(t, w.claim(own))
				require.NoError(t, other.Rebuild(w.ctx, product, own.Epoch))
				require.EqualValues(t, 2, w.row(product).Rebuilt)
				require.True(t, w.completeEpoch(product, 1))
			}
			before := w.stored(product)
			c.store(w, g, product)
			require.Equal(t, before, w.stored(product))
			rebuild(w, g, product)
			require.False(t, w.completeEpoch(product, 1))
			w.granted(g, product)
			w.folds(w.log(g, product))
			w.agrees(g, product)
		})
	}
}
