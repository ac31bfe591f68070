package redis_test

import (
	"context"
	"errors"
	"sync"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/stretchr/testify/require"

	"github.com/dopaminestore/dopamine/command/claims"
	"github.com/dopaminestore/dopamine/redis"
	"github.com/dopaminestore/dopamine/tools/testkit"
)

// A Redis that hangs delays only the requests that detect it; all others fail at
// once, and it is used again as soon as it responds.
func TestBulkhead_HungMasterFailsAtOnce(t *testing.T) {
	t.Parallel()
	w := newWorld(t, testkit.OwnRedis(t))
	g, product := w.gate(), w.product(100)
	w.granted(g, product)
	require.NoError(t, w.redis.Pause())
	t.Cleanup(func() { _ = w.redis.Resume() })
	var wg sync.WaitGroup
	for range 4 {
		wg.Go(func() {
			for range 2 {
				_, err := g.Decide(w.ctx, redis.Request{Product: product, Buyer: uuid.New()})
				if !errors.Is(err, redis.ErrUnavailable) {
					t.Errorf("decided by a Redis that hangs: %v", err)
				}
			}
		})
	}
	wg.Wait()
	testkit.Eventually(t, 10*time.Second, "requests to fail at once", func() error {
		slowest := time.Duration(0)
		for range 20 {
			began := time.Now()
			_, err := g.Decide(w.ctx, redis.Request{Product: product, Buyer: uuid.New()})
			require.Error(t, err)
			slowest = max(slowest, time.Since(began))
		}
		// One of them may be the one that probes it.
		began := time.Now()
		for range 20 {
			_, _ = g.Decide(w.ctx, redis.Request{Product: product, Buyer: uuid.New()})
		}
		if time.Since(began) > 4*time.Second {
			return errors.New("requests still wait")
		}
		return nil
	})
	require.NoError(t, w.redis.Resume())
	testkit.Eventually(t, 10*time.Second, "the gate to decide again", func() error {
		_, err := g.Decide(w.ctx, redis.Request{Product: product, Buyer: uuid.New()})
		return err
	})
}

// stuckStore blocks reads of claims until it is released.
type stuckStore struct {
	redis.Store
	stuck chan struct{}
}

func (s *stuckStore) Snapshot(ctx context.Context, product uuid.UUID, holders func([]redis.Holder) error) (redis.Snapshot, error) {
	select {
	case <-s.stuck:
	case <-ctx.Done():
		return redis.Snapshot{}, ctx.Err()
	}
	return s.Store.Snapshot(ctx, product, holders)
}

// While a product is being rebuilt some requests wait for it, and the others are refused
// at once, so that they hold no resources that other products need.
func TestBulkhead_ManyRequestsDoNotWaitForARebuild(t *testing.T) {
	onBoth(t, func(t *testing.T, w *world) {
		store := &stuckStore{Store: w.gateStore, stuck: make(chan struct{})}
		g, product := w.gateOn(w.url, store), w.product(1000)
		ctx, cancel := context.WithTimeout(w.ctx, 20*time.Second)
		defer cancel()
		var wg sync.WaitGroup
		release := sync.OnceFunc(func() { close(store.stuck) })
		defer func() { release(); wg.Wait() }()
		for range 300 {
			wg.Go(func() {
				_, err := g.Decide(ctx, redis.Request{Product: product, Buyer: uuid.New()})
				if err != nil && !errors.Is(err, redis.ErrUnavailable) {
					t.Errorf("decide: %v", err)
				}
			})
		}
		testkit.Eventually(t, 4*time.Second, "further requests to be refused", func() error {
			ctx, cancel := context.WithTimeout(w.ctx, 100*time.Millisecond)
			defer cancel()
			_, err := g.Decide(ctx, redis.Request{Product: product, Buyer: uuid.New()})
			require.ErrorIs(t, err, redis.ErrUnavailable)
			if !errors.Is(err, redis.ErrRebuilding) {
				return err
			}
			return nil
		})
		release()
		testkit.Eventually(t, 10*time.Second, "the gate to decide", func() error {
			_, err := g.Decide(w.ctx, redis.Request{Product: product, Buyer: uuid.New()})
			return err
		})
	})
}

// The gate of a sale that has ended is unloaded if it receives no requests, and rebuilt
// by the next request.
func TestUnload_OfEndedSale(t *testing.T) {
	onBoth(t, func(t *testing.T, w *world) {
		g, product := w.gate(), w.product(2)
		held := w.granted(g, product)
		require.NoError(t, w.claim(held))
		require.NoError(t, g.Sync(w.ctx, product))
		unloaded, err := g.Unload(w.ctx, product)
		require.NoError(t, err)
		require.False(t, unloaded, "the sale goes on")

		ended := ms(-time.Minute)
		w.claimed.Must(claims.Sale{Product: product, SaleDate: ms(-time.Hour), SaleEnd: &ended, Units: 2})
		require.NoError(t, g.Sync(w.ctx, product))
		require.Equal(t, redis.Ended, w.decide(g, product, uuid.New(), "").Outcome)
		unloaded, err = g.Unload(w.ctx, product)
		require.NoError(t, err)
		require.False(t, unloaded, "it received a request just now")
		list, err := w.gateStore.GatesOfEndedSales(w.ctx, 10*time.Second, 10)
		require.NoError(t, err)
		require.Empty(t, list)

		_, err = w.pool.Exec(w.ctx, `update product_gates set leased_at = leased_at - interval '1 min' where product_id = $1`, product)
		require.NoError(t, err)
		list, err = w.gateStore.GatesOfEndedSales(w.ctx, 10*time.Second, 10)
		require.NoError(t, err)
		require.Equal(t, []uuid.UUID{product}, list)
		testkit.Eventually(t, 10*time.Second, "the gate to be unloaded", func() error {
			if unloaded, err = g.Unload(w.ctx, product); err == nil && !unloaded {
				err = errors.New("its lease still runs")
			}
			return err
		})
		require.Empty(t, w.keysLike("*"))
		list, err = w.gateStore.GatesOfEndedSales(w.ctx, 10*time.Second, 10)
		require.NoError(t, err)
		require.Empty(t, list)
		lines := w.stored(product)
		require.EqualValues(t, 1, w.folds(lines).Granted, "its log is kept")

		require.NoError(t, w.append(product, held.SlotID, expiry(held), claims.Release{Product: product, SlotID: held.SlotID}.GuardItem()))
		require.NoError(t, g.Sync(w.ctx, product))
		require.Empty(t, w.keysLike("*"), "an event alone does not bring it back")
		d := w.decide(w.gate(), product, uuid.New(), "")
		require.Equal(t, redis.Ended, d.Outcome)
		require.EqualValues(t, 2, d.Epoch)
		w.agrees(g, product)
	})
}
