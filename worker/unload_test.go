package worker

import (
	"context"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/stretchr/testify/require"

	"github.com/dopaminestore/dopamine/command/claims"
	"github.com/dopaminestore/dopamine/tools/dbtest"
	"github.com/dopaminestore/dopamine/tools/testkit"
)

func TestUnload_RemovesIdleGatesOfEndedSalesOnly(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	ended, recent, open := w.product(1), w.product(1), w.product(1)
	for product, ago := range map[uuid.UUID]string{ended: "11 minutes", recent: "9 minutes", open: "-1 hour"} {
		require.NoError(t, w.gate.Sync(t.Context(), product))
		dbtest.Exec(t, w.Pool, `
			update product_gates set sale_date = clock_timestamp() - interval '1 day', sale_end = clock_timestamp() - $2::interval,
			       leased_at = clock_timestamp() - interval '11 minutes' where product_id = $1`, product, ago)
	}
	cancelled := w.product(1)
	require.NoError(t, w.gate.Sync(t.Context(), cancelled))
	w.Must(claims.Sale{Product: cancelled, SaleDate: time.Now(), Cancelled: true})
	dbtest.Exec(t, w.Pool, `update product_gates set leased_at = clock_timestamp() - interval '11 minutes' where product_id = $1`, cancelled)
	worker, _ := w.work()
	exists := func(product uuid.UUID) bool {
		state, err := w.gate.State(context.Background(), product)
		require.NoError(t, err)
		return state.Exists
	}
	testkit.EventuallyTrue(t, 10*time.Second, "the gates to go once their own leases have run out", func() bool {
		require.NoError(t, worker.unloadIdle(t.Context()))
		return !exists(ended) && !exists(cancelled)
	})
	require.True(t, exists(recent))
	require.True(t, exists(open))
	require.Nil(t, dbtest.One[*string](t, w.Pool, `select lease_stamp from product_gates where product_id = $1`, ended), "it is not listed again")
}

// The new history assigns positions again that the worker has followed.
func TestSync_FollowsARestoredStore(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	product := w.product(9)
	w.acquire(product, life{ttl: time.Hour})
	worker, _ := w.work()
	w.awaitGate(5*time.Second, product, 8, 1, 0)
	restore := dbtest.Snapshot(t, w.Pool.Config().ConnString())
	w.Pool.Reset()
	for range 5 {
		w.acquire(product, life{ttl: time.Hour})
	}
	w.awaitGate(10*time.Second, product, 3, 6, 0)
	lost := worker.followed.Load()
	restore()
	w.Pool.Reset()
	testkit.Eventually(t, 10*time.Second, "the store", func() error { return w.gate.Sync(context.Background(), product) })
	w.acquire(product, life{ttl: time.Hour})
	w.awaitGate(10*time.Second, product, 7, 2, 0)
	require.Less(t, worker.followed.Load(), lost)
}
