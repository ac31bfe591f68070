package redis_test

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/stretchr/testify/require"

	"github.com/dopaminestore/dopamine/redis"
	faultsproxy "github.com/dopaminestore/dopamine/tools/faults/proxy"
	"github.com/dopaminestore/dopamine/tools/testkit"
)

// requestUntilDone runs n goroutines that send requests to the gate and claim its grants
// until the context ends. It returns the number of durable grants and of failed requests.
func (w *world) requestUntilDone(ctx context.Context, n int, g *redis.Gate, product uuid.UUID) (granted, failed int64) {
	var ok, bad atomic.Int64
	var wg sync.WaitGroup
	for range n {
		wg.Go(func() {
			for ctx.Err() == nil {
				d, err := g.Decide(ctx, redis.Request{Product: product, Buyer: uuid.New()})
				if err == nil && d.Outcome == redis.Granted {
					if err = w.claim(d); err != nil {
						_ = g.Sync(ctx, product)
					}
				}
				switch {
				case ctx.Err() != nil:
				case err == nil:
					ok.Add(1)
				default:
					bad.Add(1)
				}
			}
		})
	}
	wg.Wait()
	return ok.Load(), bad.Load()
}

// longestStall returns the longest time that a query of Postgres and a command of Redis took until
// ctx is done, the wait for the processor included.
func (w *world) longestStall(ctx context.Context) (longest time.Duration) {
	for last := time.Now(); ctx.Err() == nil; last = time.Now() {
		_, err := w.pool.Exec(w.ctx, `select 1`)
		require.NoError(w.t, err)
		require.NoError(w.t, w.raw.Ping(w.ctx).Err())
		longest = max(longest, time.Since(last))
	}
	return longest
}

// A Redis that has lost its gates and refuses writes: no epoch is raised for it, and it
// continues in the first one once it accepts writes again.
func TestRebuild_RaisesNoEpochForRedisThatRefusesWrites(t *testing.T) {
	for name, config := range map[string][2]string{
		"no replicas":   {"min-replicas-to-write", "1"},
		"out of memory": {"maxmemory", "1"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			w := newWorld(t, testkit.OwnRedis(t))
			g, product := w.gate(), w.product(100)
			require.NoError(t, w.claim(w.granted(g, product)))
			w.flush()
			require.NoError(t, w.raw.ConfigSet(w.ctx, config[0], config[1]).Err())
			before := w.row(product)
			ctx, cancel := context.WithTimeout(w.ctx, 2*time.Second)
			defer cancel()
			ok, failed := w.requestUntilDone(ctx, 8, g, product)
			require.Zero(t, ok)
			require.NotZero(t, failed)
			require.Equal(t, before.Epoch, w.row(product).Epoch)
			require.NoError(t, w.raw.ConfigSet(w.ctx, config[0], "0").Err())
			testkit.Eventually(t, 5*time.Second, "the gate to be rebuilt", func() error {
				_, err := g.Decide(w.ctx, redis.Request{Product: product, Buyer: uuid.New()})
				return err
			})
			require.Equal(t, before.Epoch+1, w.row(product).Epoch)
			w.agrees(g, product)
		})
	}
}

// failingStore fails to read claims until it is healed.
type failingStore struct {
	redis.Store
	failing atomic.Bool
	tried   atomic.Int64
}

func (s *failingStore) Snapshot(ctx context.Context, product uuid.UUID, holders func([]redis.Holder) error) (redis.Snapshot, error) {
	if s.failing.Load() {
		s.tried.Add(1)
		return redis.Snapshot{}, errors.New("the claims cannot be read")
	}
	return s.Store.Snapshot(ctx, product, holders)
}

// A rebuild that fails continues in its own epoch, with a growing backoff.
func TestRebuild_ContinuesItsOwnEpoch(t *testing.T) {
	onBoth(t, func(t *testing.T, w *world) {
		store := &failingStore{Store: w.gateStore}
		g, product := w.gateOn(w.url, store), w.product(100)
		require.NoError(t, w.claim(w.granted(g, product)))
		store.failing.Store(true)
		w.flush()
		ctx, cancel := context.WithTimeout(w.ctx, 3*time.Second)
		defer cancel()
		ok, _ := w.requestUntilDone(ctx, 4, g, product)
		require.Zero(t, ok)
		require.EqualValues(t, 1, w.row(product).Epoch)
		require.Greater(t, store.tried.Load(), int64(2))
		require.Less(t, store.tried.Load(), int64(20))
		store.failing.Store(false)
		testkit.Eventually(t, 5*time.Second, "the gate to be rebuilt", func() error {
			_, err := g.Decide(w.ctx, redis.Request{Product: product, Buyer: uuid.New()})
			return err
		})
		require.EqualValues(t, 1, w.row(product).Epoch)
		w.agrees(g, product)
		require.Empty(t, w.keysLike("*:build:*"))
	})
}

// rebuilds records the rebuilds that ended without an error.
type rebuilds struct {
	redis.NoObserver
	first, lost atomic.Int64
}

func (r *rebuilds) Rebuilt(_ time.Duration, first bool, err error) {
	switch {
	case err == nil && first:
		r.first.Add(1)
	case err == nil:
		r.lost.Add(1)
	}
}

// The first gate of a product counts as the first one also if its rebuild did not succeed
// at once.
func TestRebuild_ObservesWhetherItIsTheFirst(t *testing.T) {
	t.Parallel()
	w := newWorld(t, testkit.OwnRedis(t))
	store, seen := &failingStore{Store: w.gateStore}, &rebuilds{}
	g, product := w.gateWith(w.url, store, redis.Options{Observer: seen}), w.product(100)
	store.failing.Store(true)
	_, err := g.Decide(w.ctx, redis.Request{Product: product, Buyer: uuid.New()})
	require.ErrorIs(t, err, redis.ErrUnavailable)
	store.failing.Store(false)
	decides := func() error {
		_, err := g.Decide(w.ctx, redis.Request{Product: product, Buyer: uuid.New()})
		return err
	}
	testkit.Eventually(t, 10*time.Second, "the first gate", decides)
	require.Equal(t, []int64{1, 0}, []int64{seen.first.Load(), seen.lost.Load()})
	w.flush()
	testkit.Eventually(t, 10*time.Second, "the gate to be rebuilt", decides)
	require.Equal(t, []int64{1, 1}, []int64{seen.first.Load(), seen.lost.Load()})
}

// A rebuild that fails repeatedly leaves the product to other nodes.
func TestRebuild_IsTakenOverFromFailingNode(t *testing.T) {
	t.Parallel()
	w := newWorld(t, testkit.OwnRedis(t))
	store := &failingStore{Store: w.gateStore}
	bad, good, product := w.gateOn(w.url, store), w.gate(), w.product(100)
	store.failing.Store(true)
	ctx, cancel := context.WithTimeout(w.ctx, 30*time.Second)
	defer cancel()
	var wg sync.WaitGroup
	wg.Go(func() { w.requestUntilDone(ctx, 2, bad, product) })
	testkit.Eventually(t, 10*time.Second, "the first rebuild to fail", func() error {
		if store.tried.Load() == 0 {
			return errors.New("not yet")
		}
		return nil
	})
	testkit.Eventually(t, 25*time.Second, "the other node to rebuild", func() error {
		_, err := good.Decide(w.ctx, redis.Request{Product: product, Buyer: uuid.New()})
		return err
	})
	cancel()
	wg.Wait()
	require.LessOrEqual(t, w.row(product).Epoch, int64(2))
}

// Heartbeats are sent however often the gate could not be rebuilt before, because Redis
// refused writes: no node takes over from one whose rebuild takes long.
func TestRebuild_SendsHeartbeatsAfterEarlierFailures(t *testing.T) {
	t.Parallel()
	w := newWorld(t, testkit.OwnRedis(t))
	store := holding(w.gateStore)
	g, product := w.gateOn(w.url, store), w.product(100)
	require.NoError(t, w.raw.ConfigSet(w.ctx, "min-replicas-to-write", "1").Err())
	testkit.EventuallyTrue(t, 30*time.Second, "four failures", func() bool {
		_, err := g.Decide(w.ctx, redis.Request{Product: product, Buyer: uuid.New()})
		require.Error(t, err)
		return store.rowsRead(product) > 4
	})
	require.NoError(t, w.raw.ConfigSet(w.ctx, "min-replicas-to-write", "0").Err())
	testkit.EventuallyTrue(t, 10*time.Second, "the rebuild to read the claims", func() bool {
		go func() { _ = g.Sync(w.ctx, product) }()
		return store.holds.Load() > 0
	})
	first := w.row(product).Rebuild.Beat
	testkit.EventuallyTrue(t, 10*time.Second, "a heartbeat", func() bool { return w.row(product).Rebuild.Beat != first })
	close(store.release)
	require.NoError(t, g.Sync(w.ctx, product))
	require.Zero(t, w.row(product).Epoch)
}

// leaseHook calls before, once, when a lease is requested for the first time.
type leaseHook struct {
	redis.Store
	once   sync.Once
	before func() error
}

func (s *leaseHook) Leases(ctx context.Context, requests []redis.LeaseRequest) ([]redis.LeaseResult, error) {
	var err error
	s.once.Do(func() { err = s.before() })
	if err != nil {
		return nil, err
	}
	return s.Store.Leases(ctx, requests)
}

// A gate is opened, and before its lease the sale is changed and the node is connected to
// another Redis. The gate that it opens there has another epoch: other nodes may still use
// the first one.
func TestRebuild_NeverOpensOneEpochOnTwoInstances(t *testing.T) {
	t.Parallel()
	w := newWorld(t, testkit.OwnRedis(t))
	other := testkit.OwnRedis(t)
	link, err := faultsproxy.New(strings.TrimSuffix(strings.TrimPrefix(w.url, "redis://"), "/0"))
	require.NoError(t, err)
	t.Cleanup(link.Close)
	product := w.product(100)
	store := &leaseHook{Store: w.gateStore, before: func() error {
		w.pause(product, true)
		w.pause(product, false)
		link.Retarget(strings.TrimSuffix(strings.TrimPrefix(other.URL(), "redis://"), "/0"))
		return nil
	}}
	g := w.gateOn("redis://"+link.Addr()+"/0", store)
	testkit.Eventually(t, 30*time.Second, "a gate on the other Redis", func() error { return g.Sync(w.ctx, product) })
	require.Greater(t, w.row(product).Rebuilt, int64(0), "the first epoch's gate is on the first Redis")
}

// A gate is opened, and loses a key before its first lease: it is replaced by one of
// another epoch, and at once.
func TestRebuild_ReplacesItsOwnGateThatWasLostBeforeItsLease(t *testing.T) {
	t.Parallel()
	w := newWorld(t, testkit.OwnRedis(t))
	product := w.product(100)
	store := &leaseHook{Store: w.gateStore, before: func() error {
		require.EqualValues(t, 1, w.raw.Del(w.ctx, "product:{"+product.String()+"}:log").Val())
		return errors.New("the lease could not be recorded")
	}}
	g := w.gateOn(w.url, store)
	testkit.Eventually(t, 10*time.Second, "a gate", func() error {
		_, err := g.Decide(w.ctx, redis.Request{Product: product, Buyer: uuid.New()})
		return err
	})
	require.EqualValues(t, 1, w.row(product).Rebuilt)
	w.agrees(g, product)
}

// A node dies after it has put its gate in place, before the lease: others use that gate
// without waiting until they may rebuild it.
func TestRebuild_GateOfDeadNodeIsUsed(t *testing.T) {
	t.Parallel()
	w := newWorld(t, testkit.OwnRedis(t))
	product, opened := w.product(100), make(chan struct{})
	slow, seen := holding(w.gateStore), holding(w.gateStore)
	close(seen.release)
	dead := w.gateOn(w.url, &leaseHook{Store: slow, before: func() error {
		close(opened)
		<-w.ctx.Done() // as if the node were dead
		return w.ctx.Err()
	}})
	waiting := w.gateOn(w.url, seen)
	go func() { _ = dead.Sync(w.ctx, product) }()
	testkit.EventuallyTrue(t, 10*time.Second, "the rebuild to read the claims", func() bool { return slow.holds.Load() > 0 })
	synced := make(chan error, 1)
	go func() { synced <- waiting.Sync(w.ctx, product) }()
	testkit.EventuallyTrue(t, 10*time.Second, "the other node to wait", func() bool { return seen.rowsRead(product) > 3 })
	close(slow.release)
	<-opened
	since := time.Now()
	require.NoError(t, <-synced)
	require.Less(t, time.Since(since), redis.RebuildTimeout-time.Second)
	require.Zero(t, w.granted(waiting, product).Epoch)
}

// Two nodes see two masters, both of which accept writes: the one in use stays in use,
// and the other node reports why it does not sell. When the first is no longer used, the
// other takes over.
func TestViews_OnlyOneOfTwoMastersIsUsed(t *testing.T) {
	// Not parallel: a node that is starved for 1.5 s loses its product to the other one.
	w := newWorld(t, testkit.OwnRedis(t))
	other := testkit.OwnRedis(t)
	a, b := w.gate(), w.gateOn(other.URL(), w.gateStore)
	var product uuid.UUID
	var granted [2]int64
	for range 8 { // until the machine starved no node
		product = w.product(1_000_000)
		require.NoError(t, w.claim(w.granted(a, product)))
		ctx, cancel := context.WithTimeout(w.ctx, 6*time.Second)
		var wg sync.WaitGroup
		for i, g := range []*redis.Gate{a, b} {
			wg.Go(func() { granted[i], _ = w.requestUntilDone(ctx, 2, g, product) })
		}
		stall := w.longestStall(ctx)
		wg.Wait()
		cancel()
		if w.row(product).Epoch == 0 {
			break
		}
		require.Greater(t, stall, 200*time.Millisecond, "a used gate was rebuilt elsewhere although no node was starved")
		t.Logf("repeated: the machine did nothing for %s", stall)
	}
	require.NotZero(t, granted[0])
	require.Zero(t, granted[1])
	require.Zero(t, w.row(product).Epoch)
	_, err := b.Decide(w.ctx, redis.Request{Product: product, Buyer: uuid.New()})
	require.ErrorIs(t, err, redis.ErrOtherRedis)
	require.ErrorIs(t, err, redis.ErrUnavailable)
	require.Equal(t, []string{"another Redis is in use for these products: " + product.String()}, b.Reasons(w.ctx))
	require.Empty(t, a.Reasons(w.ctx))
	testkit.Eventually(t, 15*time.Second, "the other master to be used", func() error {
		_, err := b.Decide(w.ctx, redis.Request{Product: product, Buyer: uuid.New()})
		return err
	})
	require.EqualValues(t, 1, w.row(product).Epoch)
	w.agrees(b, product)
}

// Whatever Postgres' clock shows, a rebuild on another instance opens three seconds after
// its raise, by the clock of the node that rebuilds.
func TestRebuild_WaitsForOldLeaseByItsOwnClock(t *testing.T) {
	for name, skew := range map[string]string{"clock set back": "1 h", "clock set forward": "-10 s"} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			w := newWorld(t, testkit.OwnRedis(t))
			g, product := w.gate(), w.product(2)
			require.NoError(t, w.claim(w.granted(g, product)))
			_, err := w.pool.Exec(w.ctx, `update product_gates set leased_at = leased_at + $2::interval where product_id = $1`, product, skew)
			require.NoError(t, err)
			other := w.gateOn(testkit.OwnRedis(t).URL(), w.gateStore)
			began := time.Now()
			testkit.Eventually(t, 15*time.Second, "the gate to be rebuilt", func() error {
				return other.Sync(w.ctx, product)
			})
			took := time.Since(began)
			require.GreaterOrEqual(t, took, redis.LeaseTime)
			require.Less(t, took, 10*time.Second)
			// A lease that lies in the future after the clock was set back is still renewed.
			_, err = w.pool.Exec(w.ctx, `update product_gates set leased_at = leased_at + $2::interval where product_id = $1`, product, skew)
			require.NoError(t, err)
			require.NoError(t, w.claim(w.granted(other, product)))
			ctx, cancel := context.WithTimeout(w.ctx, 5*time.Second)
			defer cancel()
			_, failed := w.requestUntilDone(ctx, 1, other, product)
			require.Zero(t, failed)
		})
	}
}

// Redis' clock is set back while a gate is in use: the gate continues, and its lease is renewed.
func TestLease_IsRenewedAfterClockWasSetBack(t *testing.T) {
	onBoth(t, func(t *testing.T, w *world) {
		g, product := w.gate(), w.product(1)
		w.granted(g, product)
		far := time.Now().Add(time.Hour).UnixMilli()
		key := "product:{" + product.String() + "}:stock"
		require.NoError(t, w.raw.HSet(w.ctx, key, "lease", far).Err())
		beat := w.row(product).Lease.Beat
		testkit.Eventually(t, 5*time.Second, "the lease to be renewed", func() error {
			require.Equal(t, redis.SoldOut, w.decide(g, product, uuid.New(), "").Outcome)
			lease, err := w.raw.HGet(w.ctx, key, "lease").Int64()
			require.NoError(t, err)
			if lease == far || w.row(product).Lease.Beat == beat {
				return fmt.Errorf("still %d", lease)
			}
			return nil
		})
	})
}

// loseTail removes the events after the position and their effects on the claims, like a
// failover to a standby that had not received them.
func (w *world) loseTail(beyond int64) {
	for _, sql := range []string{
		`alter table events disable trigger all`, `alter table slot_numbers disable trigger all`,
		`delete from slot_numbers n using slot_claims c where c.position > $1 and n.product_id = c.product_id and n.number = c.number`,
		`delete from slot_claims where position > $1`,
		`delete from events where position > $1`,
		`alter table events enable always trigger events_append_only`, `alter table slot_numbers enable trigger all`,
	} {
		args := []any{beyond}
		if sql[:5] == "alter" {
			args = nil
		}
		_, err := w.pool.Exec(w.ctx, sql, args...)
		require.NoError(w.t, err, sql)
	}
}

// The store comes back without its last events: the gate that has applied them is
// rebuilt without an operator, whether or not others were appended instead.
func TestSync_RebuildsGateAfterStoreLostItsTail(t *testing.T) {
	for _, appended := range []bool{false, true} {
		t.Run(fmt.Sprintf("others in their place: %t", appended), func(t *testing.T) {
			onBoth(t, func(t *testing.T, w *world) {
				g, product := w.gate(), w.product(2)
				kept := w.granted(g, product)
				require.NoError(t, w.claim(kept))
				lost := w.granted(g, product)
				require.NoError(t, w.claim(lost))
				require.NoError(t, g.Sync(w.ctx, product))
				require.Equal(t, redis.SoldOut, w.decide(g, product, uuid.New(), "").Outcome)
				w.loseTail(2)
				if appended {
					require.NoError(t, w.expire(kept))
				}
				testkit.Eventually(t, 10*time.Second, "the lost unit to be on sale", func() error {
					if d := w.decide(g, product, uuid.New(), ""); d.Outcome != redis.Granted {
						return fmt.Errorf("still %s", d.Outcome)
					} else {
						return w.claim(d)
					}
				})
				require.Greater(t, w.row(product).Epoch, kept.Epoch)
				w.agrees(g, product)
			})
		})
	}
}

// Opening in place frees the pending grants in pieces, so that no call takes long.
func TestSync_OpensInPlaceWithManyPendingInPieces(t *testing.T) {
	onBoth(t, func(t *testing.T, w *world) {
		const units = 3000
		g, product := w.gate(), w.product(units)
		c := w.crowd(product, units, false, g)
		require.NoError(t, c.err())
		require.Len(t, c.granted, units)
		w.pause(product, true)
		w.pause(product, false)
		require.NoError(t, g.Sync(w.ctx, product))
		state := w.agrees(g, product)
		require.Equal(t, units, state.Free)
		require.EqualValues(t, 2, state.Epoch)
		c = w.crowd(product, units+1, true, g)
		require.NoError(t, c.err())
		require.Len(t, c.granted, units)
		w.agrees(g, product)
		w.folds(w.log(g, product))
	})
}
