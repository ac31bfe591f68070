package redis_test

import (
	"context"
	"errors"
	"fmt"
	"os"
	"strconv"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/stretchr/testify/require"

	"github.com/dopaminestore/dopamine/avsc"
	"github.com/dopaminestore/dopamine/command/gatestore"
	"github.com/dopaminestore/dopamine/internal/sleep"
	"github.com/dopaminestore/dopamine/redis"
	"github.com/dopaminestore/dopamine/tools/testkit"
)

// countingStore counts the statements that it sends.
type countingStore struct {
	redis.Store
	leases, raises, rows atomic.Int64
}

func (s *countingStore) Leases(ctx context.Context, r []redis.LeaseRequest) ([]redis.LeaseResult, error) {
	s.leases.Add(1)
	return s.Store.Leases(ctx, r)
}

func (s *countingStore) Raise(ctx context.Context, r []redis.RaiseRequest) ([]redis.RaiseResult, error) {
	s.raises.Add(1)
	return s.Store.Raise(ctx, r)
}

func (s *countingStore) Rows(ctx context.Context, p []uuid.UUID) ([]*redis.GateRow, error) {
	s.rows.Add(1)
	return s.Store.Rows(ctx, p)
}

// node opens a gate with its own pools, as a separate process does.
func (w *world) node(t testing.TB) (*redis.Gate, *countingStore) {
	pool := func(most int32) *pgxpool.Pool {
		cfg := w.pool.Config()
		cfg.MinConns, cfg.MaxConns = 1, most
		p, err := pgxpool.NewWithConfig(w.ctx, cfg)
		require.NoError(t, err)
		t.Cleanup(p.Close)
		return p
	}
	store := &countingStore{Store: gatestore.NewStore(pool(8), avsc.Decode).WithLeasePool(pool(3))}
	return w.gateOn(w.url, store), store
}

// size returns a number from the environment, or otherwise.
func size(name string, otherwise int) int {
	if n, err := strconv.Atoi(os.Getenv(name)); err == nil {
		return n
	}
	return otherwise
}

// BenchmarkRecovery flushes Redis while 4 nodes serve 1,000 products. It measures the time
// until every product decides again, the failed requests, and the epochs used.
func BenchmarkRecovery(b *testing.B) {
	n := size("DOPAMINE_BENCH_PRODUCTS", 1000)
	w := newWorld(b, testkit.OwnRedis(b))
	gates := make([]*redis.Gate, 4)
	for i := range gates {
		gates[i], _ = w.node(b)
	}
	products := make([]uuid.UUID, n)
	for i := range products {
		products[i] = w.product(5)
	}
	ctx, stop := context.WithCancel(w.ctx)
	var wg sync.WaitGroup
	defer func() { stop(); wg.Wait() }()
	var flushed, asked, failed atomic.Int64
	back := make([]atomic.Int64, n)
	for i := range products {
		for j, g := range gates {
			wg.Go(func() {
				next := time.NewTimer(time.Duration((i*7+j*131)%1000) * time.Millisecond)
				defer next.Stop()
				for {
					select {
					case <-ctx.Done():
						return
					case <-next.C:
					}
					next.Reset(time.Second)
					began := time.Now().UnixNano()
					_, err := g.Decide(ctx, redis.Request{Product: products[i], Buyer: uuid.New()})
					if at := flushed.Load(); at != 0 && began > at && ctx.Err() == nil {
						asked.Add(1)
						if err != nil {
							failed.Add(1)
						} else {
							back[i].CompareAndSwap(0, time.Now().UnixNano())
						}
					}
				}
			})
		}
	}
	leased := func() error {
		var k int
		err := w.pool.QueryRow(w.ctx, `select count(*) from product_gates where leased_at > clock_timestamp() - interval '3 s'`).Scan(&k)
		if err == nil && k < n {
			err = fmt.Errorf("%d of %d", k, n)
		}
		return err
	}
	testkit.Eventually(b, 3*time.Minute, "all products to be in use", leased)
	var before, after []int64
	epochs := func() (all []int64) {
		rows, err := w.pool.Query(w.ctx, `select epoch from product_gates order by product_id`)
		require.NoError(b, err)
		defer rows.Close()
		for rows.Next() {
			var epoch int64
			require.NoError(b, rows.Scan(&epoch))
			all = append(all, epoch)
		}
		return all
	}
	for b.Loop() {
		for i := range back {
			back[i].Store(0)
		}
		before = epochs()
		asked.Store(0)
		failed.Store(0)
		w.flush()
		flushed.Store(time.Now().UnixNano())
		testkit.Eventually(b, 3*time.Minute, "every product to decide again", func() error {
			for i := range back {
				if back[i].Load() == 0 {
					return errors.New("not yet")
				}
			}
			return nil
		})
		after = epochs()
	}
	var last, most int64
	for i := range back {
		last, most = max(last, back[i].Load()-flushed.Load()), max(most, after[i]-before[i])
	}
	b.ReportMetric(time.Duration(last).Seconds(), "s-last")
	b.ReportMetric(float64(most), "epochs-most")
	b.ReportMetric(float64(failed.Load()), "failed")
	b.ReportMetric(float64(asked.Load()), "requests")
}

// BenchmarkLeases lets 20 nodes use many products at the same time, and counts the
// lease statements of all of them.
func BenchmarkLeases(b *testing.B) {
	n, nodes := size("DOPAMINE_BENCH_PRODUCTS", 500), 20
	w := newWorld(b, testkit.OwnRedis(b))
	gates, stores := make([]*redis.Gate, nodes), make([]*countingStore, nodes)
	for i := range gates {
		gates[i], stores[i] = w.node(b)
	}
	products := make([]uuid.UUID, n)
	for i := range products {
		products[i] = w.product(1)
		w.granted(gates[i%nodes], products[i])
	}
	statements := func() (sum int64) {
		for _, s := range stores {
			sum += s.leases.Load()
		}
		return sum
	}
	ctx, stop := context.WithCancel(w.ctx)
	var wg sync.WaitGroup
	for i, g := range gates {
		wg.Go(func() {
			for k := i; ctx.Err() == nil; k++ {
				_, _ = g.Decide(ctx, redis.Request{Product: products[k%n], Buyer: uuid.New()})
			}
		})
	}
	var perSecond float64
	for b.Loop() {
		before, began := statements(), time.Now()
		require.NoError(b, sleep.For(ctx, 5*time.Second))
		perSecond = float64(statements()-before) / time.Since(began).Seconds()
	}
	stop()
	wg.Wait()
	b.ReportMetric(perSecond, "statements/s")
	b.ReportMetric(float64(n*nodes), "product-nodes") // for comparison: one statement each per second
}
