package command

import (
	"fmt"
	"reflect"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/dopaminestore/dopamine/db"
	"github.com/dopaminestore/dopamine/eventstore"
	"github.com/dopaminestore/dopamine/internal/auth"
	"github.com/dopaminestore/dopamine/tools/dbtest"
	"github.com/dopaminestore/dopamine/tools/testkit"
)

// outage bounds how long a system may take until it serves again.
const outage = 20 * time.Second

// TestPostgresOutage: no response without a durable event, refusals stop too
// once Postgres is unavailable for longer than a lease, and no unit is lost.
func TestPostgresOutage(t *testing.T) {
	t.Parallel()
	postgres, pool := dbtest.Own(t, db.MigrateWrite)
	s := &system{tokens: newTokens(t), pool: pool, redis: testkit.Redis(t)}
	s.reader, s.stores = eventstore.NewReader(pool), newStores(pool)
	s.admin = s.user(t, auth.Admin)
	n := s.node(t)
	const stock = 1000
	full, open := s.product(t, n, 1), s.product(t, n, stock)
	s.granted(t, n, s.user(t, auth.Buyer), full)

	postgres.Kill9()
	c := newTally()
	testkit.Eventually(t, outage, "grants to stop: a backend outlives its postmaster a little", func() error {
		a := c.acquire(t, n, s.user(t, auth.Buyer), open)
		if a.status != 503 {
			return fmt.Errorf("%d %s", a.status, a.slug())
		}
		require.Equal(t, "unavailable", a.slug())
		require.NotEmpty(t, a.header.Get("Retry-After"))
		return nil
	})
	require.Equal(t, "unavailable", s.update(t, n, open, map[string]any{"paused": true}).slug())
	s.acquireUntil(t, outage, n, s.user(t, auth.Buyer), full, "unavailable")
	requireReady(t, n, 503, map[string]any{"database": "DOWN", "redis": "UP"})

	require.NoError(t, postgres.Restart(t.Context()))
	for _, u := range s.buyers(t, 2) {
		s.acquireUntil(t, outage, n, u, open, "")
	}
	s.requireDurable(t, open, c)
	s.requireLawful(t, open)
	require.NoError(t, n.gate.Sync(t.Context(), open))
	state, err := n.gate.State(t.Context(), open)
	require.NoError(t, err)
	// The worker withdraws the grant whose commit was in progress when Postgres died.
	require.LessOrEqual(t, state.Pending, 1, "grants that were never sent were not given back")
	require.Equal(t, stock, state.Free+state.Held+state.Pending)
	s.requireFair(t, n, open)
}

// TestRedisOutage: an empty Redis process replaces the one that died.
func TestRedisOutage(t *testing.T) {
	t.Parallel()
	own := testkit.OwnRedis(t)
	s := newSystem(t, own.URL())
	n := s.node(t)
	product := s.product(t, n, 2)
	holder := s.user(t, auth.Buyer)
	held := s.granted(t, n, holder, product)

	own.Kill9()
	a := s.acquire(t, n, s.user(t, auth.Buyer), product)
	requireProblem(t, 503, "unavailable", a)
	start := time.Now()
	require.Equal(t, 204, s.release(t, n, holder, held.text("id")).status, "the store decides, the gate is synced later")
	require.Less(t, time.Since(start), 2*syncTimeout)
	requireReady(t, n, 503, map[string]any{"database": "UP", "redis": "DOWN"})

	require.NoError(t, own.Restart(t.Context()))
	for _, u := range s.buyers(t, 2) {
		s.acquireUntil(t, outage, n, u, product, "")
	}
	require.Equal(t, "sold-out", s.acquire(t, n, holder, product).slug())
	require.Len(t, s.requireLawful(t, product), 2)
	s.requireFair(t, n, product)
}

// requireReady waits until /health/ready has the status and the components.
func requireReady(t *testing.T, n node, status int, components map[string]any) {
	t.Helper()
	testkit.Eventually(t, outage, "readiness", func() error {
		a := n.do(t, user{}, "GET", "/health/ready", nil)
		if a.status != status || !reflect.DeepEqual(a.body["components"], components) {
			return fmt.Errorf("%d %v", a.status, a.body)
		}
		return nil
	})
}
