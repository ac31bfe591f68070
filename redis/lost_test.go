package redis_test

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/stretchr/testify/require"

	"github.com/dopaminestore/dopamine/command/claims"
	"github.com/dopaminestore/dopamine/domain"
	"github.com/dopaminestore/dopamine/domain/fairness"
	"github.com/dopaminestore/dopamine/redis"
	"github.com/dopaminestore/dopamine/tools/testkit"
)

// A gate that lost any key is rebuilt before it decides again.
func TestGate_DetectsLostKeys(t *testing.T) {
	for _, key := range []string{"stock", "queue", "holders", "pending", "log", "everything"} {
		t.Run(key, func(t *testing.T) {
			onEach(t, func(t *testing.T, w *world) {
				g, product := w.gate(), w.product(6)
				held, freed := w.granted(g, product), w.granted(g, product)
				require.NoError(t, w.claim(held))
				require.NoError(t, w.claim(freed))
				require.NoError(t, w.expire(freed))
				require.NoError(t, g.Sync(w.ctx, product))
				onItsWay := w.granted(g, product) // of the returned unit
				back := w.granted(g, product)
				require.NoError(t, w.claim(back))
				require.NoError(t, w.expire(back))
				require.NoError(t, g.Sync(w.ctx, product)) // so that the queue has a unit

				if key == "everything" {
					w.flush()
				} else {
					n, err := w.raw.Del(w.ctx, "product:{"+product.String()+"}:"+key).Result()
					require.NoError(t, err)
					require.EqualValues(t, 1, n)
				}
				next := w.granted(g, product)
				require.Greater(t, next.Epoch, held.Epoch)
				require.Greater(t, next.Number, onItsWay.Number)
				require.NotEqual(t, held.Unit, next.Unit)
				require.ErrorIs(t, w.claim(onItsWay), claims.ErrEpoch, "grants of the lost gate are refused")
				require.NoError(t, w.claim(next))
				require.Equal(t, 2, w.agrees(g, product).Held)
				w.folds(slices.DeleteFunc(w.log(g, product), func(l fairness.Line) bool { return l.Epoch == held.Epoch }))
			})
		})
	}
}

func TestRebuild_NeverRepeatsEpoch(t *testing.T) {
	onEach(t, func(t *testing.T, w *world) {
		g, product := w.gate(), w.product(3)
		last := int64(-1)
		for range 5 {
			d := w.granted(g, product)
			require.Greater(t, d.Epoch, last)
			last = d.Epoch
			w.flush()
		}
		_, err := w.pool.Exec(w.ctx, `update product_gates set epoch = epoch - 1 where product_id = $1`, product)
		require.Error(t, err)
	})
}

// After a restart Redis is another instance, whatever was on disk, and a rebuild waits
// for the old instance's lease.
func TestGate_IsLostAfterRedisRestart(t *testing.T) {
	t.Parallel()
	w := newWorld(t, testkit.OwnRedis(t))
	g, product := w.gate(), w.product(2)
	first := w.granted(g, product)
	require.NoError(t, w.claim(first))
	took := time.Now()
	w.redis.Kill9()
	_, err := g.Decide(w.ctx, redis.Request{Product: product, Buyer: uuid.New()})
	require.ErrorIs(t, err, redis.ErrUnavailable)
	require.NoError(t, w.redis.Restart(w.ctx))
	var second redis.Decision
	testkit.Eventually(t, 15*time.Second, "the gate to be rebuilt", func() (err error) {
		second, err = g.Decide(w.ctx, redis.Request{Product: product, Buyer: uuid.New()})
		return err
	})
	require.Equal(t, redis.Granted, second.Outcome)
	require.Greater(t, second.Epoch, first.Epoch)
	require.Greater(t, time.Since(took), redis.LeaseTime-time.Second, "the rebuild waits for the old process's lease")
	require.NoError(t, w.claim(second))
	require.Equal(t, 2, w.agrees(g, product).Held)
}

// heldStore holds snapshots, so that rebuilds keep their turns, and records what is read
// and raised.
type heldStore struct {
	redis.Store
	release chan struct{}
	holds   atomic.Int64
	mu      sync.Mutex
	read    map[uuid.UUID]int
	raised  map[uuid.UUID]int
}

func holding(store redis.Store) *heldStore {
	return &heldStore{Store: store, release: make(chan struct{}), read: map[uuid.UUID]int{}, raised: map[uuid.UUID]int{}}
}

func (s *heldStore) rowsRead(product uuid.UUID) int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.read[product]
}

func (s *heldStore) Snapshot(ctx context.Context, p uuid.UUID, holders func([]redis.Holder) error) (redis.Snapshot, error) {
	s.holds.Add(1)
	select {
	case <-s.release:
	case <-ctx.Done():
		return redis.Snapshot{}, ctx.Err()
	}
	return s.Store.Snapshot(ctx, p, holders)
}

func (s *heldStore) Rows(ctx context.Context, products []uuid.UUID) ([]*redis.GateRow, error) {
	s.mu.Lock()
	for _, p := range products {
		s.read[p]++
	}
	s.mu.Unlock()
	return s.Store.Rows(ctx, products)
}

func (s *heldStore) Raise(ctx context.Context, requests []redis.RaiseRequest) ([]redis.RaiseResult, error) {
	s.mu.Lock()
	for _, r := range requests {
		s.raised[r.Product]++
	}
	s.mu.Unlock()
	return s.Store.Raise(ctx, requests)
}

// If many gates are lost at once, a gate that another node has rebuilt meanwhile takes
// no raise, which would block every append, when its turn comes.
func TestRebuild_RaisesNothingForAGateRebuiltMeanwhile(t *testing.T) {
	t.Parallel()
	w := newWorld(t, testkit.OwnRedis(t))
	store := holding(w.gateStore)
	slow, quick := w.gateOn(w.url, store), w.gate()
	const turns = 8
	for range turns {
		product := w.product(1)
		go func() { _ = slow.Sync(w.ctx, product) }()
	}
	testkit.Eventually(t, 10*time.Second, "all turns to be taken", func() error {
		if n := store.holds.Load(); n < turns {
			return fmt.Errorf("%d", n)
		}
		return nil
	})
	last := w.product(1)
	done := make(chan error, 1)
	go func() { done <- slow.Sync(w.ctx, last) }()
	testkit.EventuallyTrue(t, 10*time.Second, "the last product's row to be read", func() bool { return store.rowsRead(last) > 0 })
	require.NoError(t, quick.Sync(w.ctx, last))
	close(store.release)
	require.NoError(t, <-done)
	require.Zero(t, store.raised[last])
	require.EqualValues(t, 0, w.row(last).Epoch, "the first epoch")
}

// While the old process is paused, a new gate opens on another. When the old one
// resumes, its answers are not trusted, and the two never decide at the same time.
func TestLease_TwoProcessesNeverDecideTogether(t *testing.T) {
	t.Parallel()
	w := newWorld(t, testkit.OwnRedis(t))
	other := testkit.OwnRedis(t)
	store := &awayStore{Store: w.gateStore}
	a, b, product := w.gateOn(w.url, store), w.gateOn(other.URL(), w.gateStore), w.product(1)
	require.NoError(t, w.claim(w.granted(a, product)))

	var lastA, firstB atomic.Int64 // times of trusted answers
	ctx, cancel := context.WithCancel(w.ctx)
	defer cancel()
	done := make(chan struct{})
	go func() { // keeps sending requests to the old process
		defer close(done)
		for ctx.Err() == nil {
			if _, err := a.Decide(ctx, redis.Request{Product: product, Buyer: uuid.New()}); err == nil && firstB.Load() == 0 {
				lastA.Store(time.Now().UnixNano())
			}
		}
	}()
	testkit.Eventually(t, 10*time.Second, "refusals by the old one", func() error {
		if lastA.Load() == 0 {
			return errors.New("none yet")
		}
		return nil
	})
	// A loses Postgres, and continues while its lease runs. B finds no gate on its
	// process, raises, and waits until that lease has run out.
	store.away.Store(true)
	cutOff := time.Now()
	testkit.Eventually(t, 15*time.Second, "the new gate to open", func() error { return b.Sync(w.ctx, product) })
	firstB.Store(time.Now().UnixNano())
	d := w.decide(b, product, uuid.New(), "")
	require.Equal(t, redis.SoldOut, d.Outcome)
	require.GreaterOrEqual(t, time.Since(cutOff), redis.LeaseTime)
	require.Greater(t, lastA.Load(), cutOff.UnixNano(), "until then the old gate decides")
	cancel()
	<-done
	require.Less(t, lastA.Load(), firstB.Load())
	// A's gate is of an older epoch: it has no lease and cannot get one.
	state, err := a.State(w.ctx, product)
	require.NoError(t, err)
	require.Less(t, state.Epoch, d.Epoch)
	require.Zero(t, state.LeaseLeft)
}

func TestRebuild_ReplacesWrongGate(t *testing.T) {
	onEach(t, func(t *testing.T, w *world) {
		g, product := w.gate(), w.product(3)
		d := w.granted(g, product)
		require.NoError(t, w.claim(d))
		require.NoError(t, g.Sync(w.ctx, product))
		// The gate loses a slot in a way that the counts do not reveal.
		prefix := "product:{" + product.String() + "}:"
		require.NoError(t, w.raw.HDel(w.ctx, prefix+"holders", string(d.Buyer[:])).Err())
		require.NoError(t, w.raw.HSet(w.ctx, prefix+"stock", "held", 0, "next", 1).Err())
		wrong := w.granted(g, product)
		require.Equal(t, d.Unit, wrong.Unit)
		var taken *claims.UnitTakenError
		require.ErrorAs(t, w.claim(wrong), &taken)
		require.Equal(t, d.SlotID, taken.SlotID)
		require.NoError(t, g.Rebuild(w.ctx, product, wrong.Epoch))
		require.NoError(t, g.Rebuild(w.ctx, product, wrong.Epoch), "once is enough")
		right := w.decide(g, product, wrong.Buyer, "")
		require.Equal(t, wrong.Epoch+1, right.Epoch)
		require.NoError(t, w.claim(right))
		require.Equal(t, 2, w.agrees(g, product).Held)
	})
}

// awayStore is a Postgres that can become unavailable.
type awayStore struct {
	redis.Store
	away   atomic.Bool // calls fail at once
	silent atomic.Bool // calls block
}

func (s *awayStore) Leases(ctx context.Context, requests []redis.LeaseRequest) ([]redis.LeaseResult, error) {
	if s.silent.Load() {
		<-ctx.Done()
		return nil, ctx.Err()
	}
	if s.away.Load() {
		return nil, errors.New("Postgres is unavailable")
	}
	return s.Store.Leases(ctx, requests)
}

func TestLease_NothingIsDecidedAfterPostgresOutage(t *testing.T) {
	onEach(t, func(t *testing.T, w *world) {
		store := &awayStore{Store: w.gateStore}
		g, product := w.gateOn(w.url, store), w.product(1)
		w.granted(g, product)
		store.away.Store(true)
		left := time.Now()
		require.Equal(t, redis.SoldOut, w.decide(g, product, uuid.New(), "").Outcome, "the lease still runs")
		testkit.Eventually(t, 10*time.Second, "the lease to end", func() error {
			d, err := g.Decide(w.ctx, redis.Request{Product: product, Buyer: uuid.New()})
			if err == nil {
				require.Less(t, time.Since(left), redis.LeaseTime+100*time.Millisecond)
				return fmt.Errorf("still %s", d.Outcome)
			}
			require.ErrorIs(t, err, redis.ErrUnavailable)
			return nil
		})
		store.away.Store(false)
		require.Equal(t, redis.SoldOut, w.decide(g, product, uuid.New(), "").Outcome)
		state, err := g.State(w.ctx, product)
		require.NoError(t, err)
		require.Zero(t, state.Epoch, "nothing was lost")
	})
}

// A Postgres that does not answer does not delay requests one after the other: all
// that wait fail together.
func TestDecide_FailsAllWaitingRequestsTogether(t *testing.T) {
	onEach(t, func(t *testing.T, w *world) {
		store := &awayStore{Store: w.gateStore}
		store.silent.Store(true)
		g, product := w.gateOn(w.url, store), w.product(1)
		began := time.Now()
		c := w.crowd(product, 3000, false, g)
		require.Len(t, c.errs, 3000)
		for _, err := range c.errs {
			require.ErrorIs(t, err, redis.ErrUnavailable)
		}
		require.Less(t, time.Since(began), 10*time.Second)
	})
}

// Redis' clock may stand still, so that a gate's lease never ends. A node that
// could not renew trusts no refusal then.
func TestLease_OnStoppedClockIsNotTrusted(t *testing.T) {
	onEach(t, func(t *testing.T, w *world) {
		store := &awayStore{Store: w.gateStore}
		g, product := w.gateOn(w.url, store), w.product(1)
		w.granted(g, product)
		store.away.Store(true)
		far := time.Now().Add(time.Hour).UnixMilli()
		require.NoError(t, w.raw.HSet(w.ctx, "product:{"+product.String()+"}:stock", "lease", far).Err())
		testkit.Eventually(t, 10*time.Second, "the node to stop believing", func() error {
			d, err := g.Decide(w.ctx, redis.Request{Product: product, Buyer: uuid.New()})
			if err == nil {
				return fmt.Errorf("trusted: %s", d.Outcome)
			}
			require.ErrorIs(t, err, redis.ErrUnavailable)
			return nil
		})
	})
}

// raise raises the product's epoch for a rebuild that is never made.
func (w *world) raise(product uuid.UUID, found int64) redis.RaiseResult {
	raised, err := w.gateStore.Raise(w.ctx, []redis.RaiseRequest{{Product: product, Found: found, Above: redis.NoEpoch, Owner: uuid.New()}})
	require.NoError(w.t, err)
	return raised[0]
}

// A rebuild is left alone while it sends heartbeats, and for five seconds by the clock
// of the node that waits. Postgres' clock does not matter.
func TestRebuild_WaitsForUnfinishedOne(t *testing.T) {
	for name, skew := range map[string]string{"right clock": "0 s", "clock set back": "1 h", "clock set forward": "-1 h"} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			w := newWorld(t, testkit.OwnRedis(t))
			product := w.product(1)
			require.Zero(t, w.raise(product, redis.NoEpoch).Epoch) // and dies
			require.False(t, w.raise(product, redis.NoEpoch).Raised, "compare and swap")
			_, err := w.pool.Exec(w.ctx, `update product_gates set raised_at = raised_at + $2::interval where product_id = $1`, product, skew)
			require.NoError(t, err)
			g, began := w.gate(), time.Now()
			for time.Since(began) < 2*time.Second {
				ctx, cancel := context.WithTimeout(w.ctx, 500*time.Millisecond)
				require.ErrorIs(t, g.Sync(ctx, product), redis.ErrUnavailable)
				cancel()
			}
			alive, err := w.gateStore.Alive(w.ctx, []redis.AliveRequest{{Product: product, Epoch: 0}, {Product: product, Epoch: 7}})
			require.NoError(t, err)
			require.Equal(t, []bool{true, false}, alive)
			signed := time.Now()
			require.NoError(t, g.Sync(w.ctx, product))
			require.Greater(t, time.Since(signed), redis.RebuildTimeout-500*time.Millisecond)
			require.Less(t, time.Since(signed), 2*redis.RebuildTimeout)
			require.EqualValues(t, 1, w.granted(g, product).Epoch)
		})
	}
}

func TestRebuild_ManyHoldersWithGaps(t *testing.T) {
	onEach(t, func(t *testing.T, w *world) {
		const units = 2500
		g, product := w.gate(), w.product(units)
		c := w.crowd(product, units, true, g)
		require.NoError(t, c.err())
		free := 0
		for _, d := range c.granted {
			if d.Unit%3 == 0 {
				require.NoError(t, w.expire(d))
				free++
			}
		}
		require.NoError(t, w.append(product, product, domain.ProductStockIncreased{Increase: 7, TotalStock: units + 7},
			claims.Stock{Product: product, Total: units + 7}.GuardItem()))
		w.flush()
		state := w.agrees(g, product)
		require.Equal(t, free+7, state.Free)
		c = w.crowd(product, free+7+10, true, g)
		require.NoError(t, c.err())
		require.Len(t, c.granted, free+7)
		require.Equal(t, units+7, w.agrees(g, product).Held)
		keys := w.keysLike("*:build:*")
		require.Empty(t, keys)
		ttl, err := w.raw.TTL(w.ctx, "product:{"+product.String()+"}:holders").Result()
		require.NoError(t, err)
		require.Negative(t, ttl, "the keys of a rebuilt gate do not expire")
	})
}
