package claims_test

import (
	"context"
	"sync"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/stretchr/testify/require"

	"github.com/dopaminestore/dopamine/avsc"
	"github.com/dopaminestore/dopamine/command/claims"
	"github.com/dopaminestore/dopamine/domain/fairness"
	"github.com/dopaminestore/dopamine/redis"
)

func (w *world) raise(product uuid.UUID, found, above int64) redis.RaiseResult {
	results, err := w.claims.Raise(w.t.Context(), []redis.RaiseRequest{{Product: product, Found: found, Above: above, Owner: uuid.New()}})
	require.NoError(w.t, err)
	return results[0]
}

func (w *world) lease(product uuid.UUID, epoch int64, instance string) redis.LeaseResult {
	return w.leases(redis.LeaseRequest{Product: product, Epoch: epoch, Instance: instance, Renew: true})[0]
}

func (w *world) leases(requests ...redis.LeaseRequest) []redis.LeaseResult {
	results, err := w.claims.Leases(w.t.Context(), requests)
	require.NoError(w.t, err)
	return results
}

func (w *world) row(product uuid.UUID) redis.GateRow {
	row, err := w.claims.Row(w.t.Context(), product)
	require.NoError(w.t, err)
	return row
}

func TestLeases_RequireCurrentEpoch(t *testing.T) {
	w := newWorld(t)
	product := w.product(1)
	require.Equal(t, redis.LeaseGranted, w.lease(product, 0, "a"))
	raised := w.raise(product, 0, 5)
	require.EqualValues(t, 6, raised.Epoch, "above the gate's own epoch")
	require.Equal(t, "a", raised.Instance)
	require.Equal(t, redis.LeaseRefused, w.lease(product, 0, "a"), "the old epoch is refused a lease")
	require.Equal(t, redis.LeaseRefused, w.leases(redis.LeaseRequest{Product: product, Epoch: 0, Instance: "a"})[0])
	require.Equal(t, redis.LeaseGranted, w.lease(product, 6, "b"))
	require.Equal(t, "b", w.raise(product, 6, redis.NoEpoch).Instance)
	alive, err := w.claims.Alive(t.Context(), []redis.AliveRequest{{Product: product, Epoch: 6}, {Product: product, Epoch: 7}})
	require.NoError(t, err)
	require.Equal(t, []bool{false, true}, alive)
}

// One statement serves all gates of a node, each independently.
func TestLeases_AnswerManyInOrder(t *testing.T) {
	w := newWorld(t)
	a, b, gone := w.product(1), w.product(1), w.product(1)
	w.must(claims.Delete{Product: gone})
	w.must(claimOf(a, 1, 1))
	tx, err := w.pool.Begin(t.Context())
	require.NoError(t, err)
	defer func() { _ = tx.Rollback(context.Background()) }()
	locked := w.product(1)
	_, err = tx.Exec(t.Context(), `select true from product_gates where product_id = $1 for update`, locked)
	require.NoError(t, err)
	require.Equal(t, []redis.LeaseResult{redis.LeaseRefused, redis.LeaseGranted, redis.LeaseRefused, redis.LeaseBusy, redis.LeaseNotHeld, redis.LeaseRefused},
		w.leases(
			redis.LeaseRequest{Product: a, Epoch: 1, Instance: "x", Renew: true},
			redis.LeaseRequest{Product: b, Epoch: 0, Instance: "y", View: 3, Renew: true},
			redis.LeaseRequest{Product: gone, Epoch: 0, Instance: "x", Renew: true},
			redis.LeaseRequest{Product: locked, Epoch: 0, Instance: "x", Renew: true},
			redis.LeaseRequest{Product: a, Epoch: 0, Instance: "z"},
			redis.LeaseRequest{Product: uuid.New(), Epoch: 0, Instance: "x", Renew: true},
		))
	require.Equal(t, "", w.row(a).Lease.Instance, "a check changes nothing")
	require.Equal(t, "y", w.row(b).Lease.Instance)
	require.EqualValues(t, 3, w.row(b).Lease.View)
	require.Equal(t, []redis.LeaseResult{redis.LeaseGranted, redis.LeaseNotHeld},
		w.leases(redis.LeaseRequest{Product: b, Epoch: 0, Instance: "y"}, redis.LeaseRequest{Product: b, Epoch: 0, Instance: "z"}))
	before := w.row(b).Lease.Beat
	w.leases(redis.LeaseRequest{Product: b, Epoch: 0, Instance: "y", Renew: true})
	require.NotEqual(t, before, w.row(b).Lease.Beat)
}

func TestLeases_RefuseGateAheadOfStore(t *testing.T) {
	w := newWorld(t)
	product := w.product(1)
	snapshot, err := w.claims.Snapshot(t.Context(), product, nil)
	require.NoError(t, err)
	for name, c := range map[string]struct {
		at   redis.LogPosition
		want redis.LeaseResult
	}{
		"not known":     {redis.LogPosition{Position: 99}, redis.LeaseGranted},
		"another event": {redis.LogPosition{Position: 1, Event: uuid.New()}, redis.LeaseTailLost},
		"beyond":        {redis.LogPosition{Position: snapshot.At.Position + 1, Event: uuid.New()}, redis.LeaseTailLost},
	} {
		t.Run(name, func(t *testing.T) {
			require.Equal(t, c.want, w.leases(redis.LeaseRequest{Product: product, Epoch: 0, Instance: "x", Renew: true, At: c.at})[0])
			_, err := w.claims.Events(t.Context(), product, c.at, 10)
			if c.want == redis.LeaseTailLost {
				require.ErrorIs(t, err, redis.ErrTailLost)
			} else {
				require.NoError(t, err)
			}
		})
	}
}

// Many raises at once: each epoch is raised once, all under one append lock.
func TestRaise_ComparesAndSwapsEachEpoch(t *testing.T) {
	w := newWorld(t)
	const n = 50
	requests := make([]redis.RaiseRequest, n)
	for i := range requests {
		requests[i] = redis.RaiseRequest{Product: w.product(1), Found: 0, Above: redis.NoEpoch, Owner: uuid.New()}
	}
	requests[7].Found = 3
	var mu sync.Mutex
	raised := make([]int, n)
	var wg sync.WaitGroup
	for range 4 {
		wg.Go(func() {
			results, err := w.claims.Raise(t.Context(), requests)
			if err != nil {
				t.Errorf("raise: %v", err)
				return
			}
			mu.Lock()
			defer mu.Unlock()
			for i, r := range results {
				if r.Raised {
					raised[i]++
				}
			}
		})
	}
	wg.Wait()
	for i := range requests {
		want := 1
		if i == 7 {
			want = 0
		}
		require.Equal(t, want, raised[i])
		require.EqualValues(t, want, w.row(requests[i].Product).Epoch)
	}
	require.Equal(t, requests[0].Owner, w.row(requests[0].Product).Rebuild.Owner)
}

// A locked row delays no other product's raise, and no append.
func TestRaise_SkipsLockedRow(t *testing.T) {
	w := newWorld(t)
	product, other := w.product(1), w.product(1)
	tx, err := w.pool.Begin(t.Context())
	require.NoError(t, err)
	defer func() { _ = tx.Rollback(context.Background()) }()
	_, err = tx.Exec(t.Context(), `select true from product_gates where product_id = $1 for update`, product)
	require.NoError(t, err)
	began := time.Now()
	results, err := w.claims.Raise(t.Context(), []redis.RaiseRequest{{Product: product}, {Product: other}})
	require.NoError(t, err)
	require.False(t, results[0].Raised)
	require.True(t, results[1].Raised)
	require.Less(t, time.Since(began), 2*time.Second)
}

// A snapshot holds a connection while its holders are read: heartbeats and
// leases must not need one of the same pool.
func TestSnapshots_LeaveConnectionsToLeases(t *testing.T) {
	w := newWorld(t)
	product := w.product(1)
	w.must(claimOf(product, 1, 1))
	small := func() *pgxpool.Pool {
		cfg := w.pool.Config()
		cfg.MaxConns, cfg.MinConns = 1, 0
		pool, err := pgxpool.NewWithConfig(t.Context(), cfg)
		require.NoError(t, err)
		t.Cleanup(pool.Close)
		return pool
	}
	store := claims.NewStore(small(), avsc.Decode).WithLeasePool(small())
	var wg sync.WaitGroup
	for range 4 {
		wg.Go(func() {
			_, err := store.Snapshot(t.Context(), product, func([]redis.Holder) error {
				alive, err := store.Alive(t.Context(), []redis.AliveRequest{{Product: product, Epoch: 0}})
				if err == nil && !alive[0] {
					t.Error("not alive")
				}
				return err
			})
			if err != nil {
				t.Errorf("snapshot: %v", err)
			}
		})
	}
	wg.Wait()
}

func TestScanRow_LargestNumbersStayExact(t *testing.T) {
	require.Less(t, int64(redis.MaxEpoch+1)*fairness.NumbersPerEpoch, int64(1)<<53)
}
