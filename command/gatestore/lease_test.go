package gatestore_test

import (
	"context"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/stretchr/testify/require"

	"github.com/dopaminestore/dopamine/avsc"
	"github.com/dopaminestore/dopamine/command/claims"
	"github.com/dopaminestore/dopamine/command/gatestore"
	"github.com/dopaminestore/dopamine/domain/fairness"
	"github.com/dopaminestore/dopamine/redis"
	"github.com/dopaminestore/dopamine/tools/claimstest"
	"github.com/dopaminestore/dopamine/tools/dbtest"
)

func lease(w *claimstest.World, product uuid.UUID, epoch int64, instance string) redis.LeaseResult {
	return leases(w, redis.LeaseRequest{Product: product, Epoch: epoch, Instance: instance, Renew: true})[0]
}

func leases(w *claimstest.World, requests ...redis.LeaseRequest) []redis.LeaseResult {
	results, err := w.Gates.Leases(w.TB.Context(), requests)
	require.NoError(w.TB, err)
	return results
}

func row(w *claimstest.World, product uuid.UUID) redis.GateRow {
	row, err := w.Gates.Row(w.TB.Context(), product)
	require.NoError(w.TB, err)
	return row
}

func TestLeases_RequireCurrentEpoch(t *testing.T) {
	w := claimstest.New(t)
	product := w.Product(1)
	require.Equal(t, redis.LeaseGranted, lease(w, product, 0, "a"))
	raised := w.Raise(product, 0, 5)
	require.EqualValues(t, 6, raised.Epoch, "above the gate's own epoch")
	require.Equal(t, "a", raised.Instance)
	require.Equal(t, redis.LeaseRefused, lease(w, product, 0, "a"), "the old epoch is refused a lease")
	require.Equal(t, redis.LeaseRefused, leases(w, redis.LeaseRequest{Product: product, Epoch: 0, Instance: "a"})[0])
	require.Equal(t, redis.LeaseGranted, lease(w, product, 6, "b"))
	require.Equal(t, "b", w.Raise(product, 6, redis.NoEpoch).Instance)
	alive, err := w.Gates.Alive(t.Context(), []redis.AliveRequest{{Product: product, Epoch: 6}, {Product: product, Epoch: 7}})
	require.NoError(t, err)
	require.Equal(t, []bool{false, true}, alive)
}

// One statement serves all gates of a node, each independently.
func TestLeases_AnswerManyInOrder(t *testing.T) {
	w := claimstest.New(t)
	a, b, gone := w.Product(1), w.Product(1), w.Product(1)
	w.Must(claims.Delete{Product: gone})
	w.Must(claimstest.Claim(a, 1, 1))
	tx, err := w.Pool.Begin(t.Context())
	require.NoError(t, err)
	defer func() { _ = tx.Rollback(context.Background()) }()
	locked := w.Product(1)
	dbtest.Exec(t, tx, `select true from product_gates where product_id = $1 for update`, locked)
	require.Equal(t, []redis.LeaseResult{redis.LeaseRefused, redis.LeaseGranted, redis.LeaseRefused, redis.LeaseBusy, redis.LeaseNotHeld, redis.LeaseRefused},
		leases(w,
			redis.LeaseRequest{Product: a, Epoch: 1, Instance: "x", Renew: true},
			redis.LeaseRequest{Product: b, Epoch: 0, Instance: "y", View: 3, Renew: true},
			redis.LeaseRequest{Product: gone, Epoch: 0, Instance: "x", Renew: true},
			redis.LeaseRequest{Product: locked, Epoch: 0, Instance: "x", Renew: true},
			redis.LeaseRequest{Product: a, Epoch: 0, Instance: "z"},
			redis.LeaseRequest{Product: uuid.New(), Epoch: 0, Instance: "x", Renew: true},
		))
	require.Equal(t, "", row(w, a).Lease.Instance, "a check changes nothing")
	require.Equal(t, "y", row(w, b).Lease.Instance)
	require.EqualValues(t, 3, row(w, b).Lease.View)
	require.Equal(t, []redis.LeaseResult{redis.LeaseGranted, redis.LeaseNotHeld},
		leases(w, redis.LeaseRequest{Product: b, Epoch: 0, Instance: "y"}, redis.LeaseRequest{Product: b, Epoch: 0, Instance: "z"}))
	before := row(w, b).Lease.Beat
	leases(w, redis.LeaseRequest{Product: b, Epoch: 0, Instance: "y", Renew: true})
	require.NotEqual(t, before, row(w, b).Lease.Beat)
}

func TestLeases_RefuseGateAheadOfStore(t *testing.T) {
	w := claimstest.New(t)
	product := w.Product(1)
	snapshot, err := w.Gates.Snapshot(t.Context(), product, nil)
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
			require.Equal(t, c.want, leases(w, redis.LeaseRequest{Product: product, Epoch: 0, Instance: "x", Renew: true, At: c.at})[0])
			_, err := w.Gates.Events(t.Context(), product, c.at, 10)
			if c.want == redis.LeaseTailLost {
				require.ErrorIs(t, err, redis.ErrTailLost)
			} else {
				require.NoError(t, err)
			}
		})
	}
}

func TestGatesOfEndedSales_ListsCancelledSale(t *testing.T) {
	w := claimstest.New(t)
	end := time.Now().Add(time.Hour)
	for name, c := range map[string]struct {
		sale claims.Sale
		idle string
		want bool
	}{
		"cancelled, without an end":      {claims.Sale{Cancelled: true}, "1 hour", true},
		"cancelled, before its end":      {claims.Sale{Cancelled: true, SaleEnd: &end}, "1 hour", true},
		"cancelled, its gate was leased": {claims.Sale{Cancelled: true}, "1 minute", false},
		"open":                           {claims.Sale{}, "1 hour", false},
	} {
		t.Run(name, func(t *testing.T) {
			product := w.Product(1)
			require.Equal(t, redis.LeaseGranted, lease(w, product, 0, "a"))
			c.sale.Product, c.sale.SaleDate = product, time.Now()
			w.Must(c.sale)
			dbtest.Exec(t, w.Pool, `update product_gates set leased_at = leased_at - $2::interval where product_id = $1`, product, c.idle)
			list, err := w.Gates.GatesOfEndedSales(t.Context(), 10*time.Minute, 100)
			require.NoError(t, err)
			require.Equal(t, c.want, slices.Contains(list, product))
		})
	}
}

// Many raises at once: each epoch is raised once, all under one append lock.
func TestRaise_ComparesAndSwapsEachEpoch(t *testing.T) {
	w := claimstest.New(t)
	const n = 50
	requests := make([]redis.RaiseRequest, n)
	for i := range requests {
		requests[i] = redis.RaiseRequest{Product: w.Product(1), Found: 0, Above: redis.NoEpoch, Owner: uuid.New()}
	}
	requests[7].Found = 3
	var mu sync.Mutex
	raised := make([]int, n)
	var wg sync.WaitGroup
	for range 4 {
		wg.Go(func() {
			results, err := w.Gates.Raise(t.Context(), requests)
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
		require.EqualValues(t, want, row(w, requests[i].Product).Epoch)
	}
	require.Equal(t, requests[0].Owner, row(w, requests[0].Product).Rebuild.Owner)
}

// A node may rebuild a product twice at the same time, if it dropped the state of the product
// meanwhile: only one of the rebuilds has the new epoch.
func TestRaise_TwoRequestsOfOneProduct(t *testing.T) {
	w := claimstest.New(t)
	product, other := w.Product(1), w.Product(1)
	request := redis.RaiseRequest{Product: product, Found: 0, Above: redis.NoEpoch, Owner: uuid.New()}
	results, err := w.Gates.Raise(t.Context(), []redis.RaiseRequest{request, request, {Product: other, Found: 0, Above: redis.NoEpoch}})
	require.NoError(t, err)
	require.True(t, results[0].Raised)
	require.False(t, results[1].Raised, "only one of them has the epoch")
	require.True(t, results[2].Raised)
	require.EqualValues(t, 1, row(w, product).Epoch)
}

// A lease that was renewed after its row was read may be in use: the next rebuild waits for it.
func TestRecordUnload_KeepsRenewedLease(t *testing.T) {
	w := claimstest.New(t)
	product := w.Product(1)
	require.Equal(t, redis.LeaseGranted, lease(w, product, 0, "a"))
	read := row(w, product)
	require.Equal(t, redis.LeaseGranted, lease(w, product, 0, "a"))
	require.NoError(t, w.Gates.RecordUnload(t.Context(), product, read.Epoch, read.Lease))
	require.Equal(t, "a", row(w, product).Lease.Instance)
	require.NoError(t, w.Gates.RecordUnload(t.Context(), product, read.Epoch, row(w, product).Lease))
	require.Empty(t, row(w, product).Lease.Instance)
}

// A locked row delays no other product's raise, and no append.
func TestRaise_SkipsLockedRow(t *testing.T) {
	w := claimstest.New(t)
	product, other := w.Product(1), w.Product(1)
	tx, err := w.Pool.Begin(t.Context())
	require.NoError(t, err)
	defer func() { _ = tx.Rollback(context.Background()) }()
	dbtest.Exec(t, tx, `select true from product_gates where product_id = $1 for update`, product)
	began := time.Now()
	results, err := w.Gates.Raise(t.Context(), []redis.RaiseRequest{{Product: product}, {Product: other}})
	require.NoError(t, err)
	require.False(t, results[0].Raised)
	require.True(t, results[1].Raised)
	require.Less(t, time.Since(began), 2*time.Second)
}

// A snapshot holds a connection while its holders are read: heartbeats and
// leases must not need one of the same pool.
func TestSnapshots_LeaveConnectionsToLeases(t *testing.T) {
	w := claimstest.New(t)
	product := w.Product(1)
	w.Must(claimstest.Claim(product, 1, 1))
	small := func() *pgxpool.Pool {
		cfg := w.Pool.Config()
		cfg.MaxConns, cfg.MinConns = 1, 0
		pool, err := pgxpool.NewWithConfig(t.Context(), cfg)
		require.NoError(t, err)
		t.Cleanup(pool.Close)
		return pool
	}
	store := gatestore.NewStore(small(), avsc.Decode).WithLeasePool(small())
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
