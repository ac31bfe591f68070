package redis_test

import (
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/stretchr/testify/require"

	"github.com/dopaminestore/dopamine/redis"
	"github.com/dopaminestore/dopamine/tools/dbtest"
	"github.com/dopaminestore/dopamine/tools/testkit"
)

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
			g, product := w.gate(), w.product(5)
			require.NoError(t, w.claim(w.granted(g, product)))
			require.NoError(t, g.Sync(w.ctx, product))
			require.NoError(t, g.Ship(w.ctx, product))
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
