package worker

import (
	"context"
	"fmt"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/stretchr/testify/require"

	"github.com/dopaminestore/dopamine/avsc"
	"github.com/dopaminestore/dopamine/command/claims"
	"github.com/dopaminestore/dopamine/command/gatestore"
	"github.com/dopaminestore/dopamine/domain"
	"github.com/dopaminestore/dopamine/internal/presence"
	"github.com/dopaminestore/dopamine/redis"
	"github.com/dopaminestore/dopamine/tools/dbtest"
	"github.com/dopaminestore/dopamine/tools/devservices"
	"github.com/dopaminestore/dopamine/tools/testkit"
)

// report returns what the fairness report contains: whether the log is complete, and the
// number of grants.
func (w *world) report(product uuid.UUID) (complete bool, granted int) {
	w.TB.Helper()
	require.NoError(w.TB, w.Pool.QueryRow(context.Background(), `
		select (select coalesce(bool_and(complete), true) from gate_epochs_complete where product_id = $1),
		       (select count(*) from gate_decisions where product_id = $1 and type = 'granted')`, product).Scan(&complete, &granted))
	return complete, granted
}

// awaitCovered waits until everything that the gate was allowed to decide is stored.
func (w *world) awaitCovered(product uuid.UUID) {
	w.TB.Helper()
	testkit.EventuallyTrue(w.TB, 10*time.Second, "the log to be stored to its end", func() bool {
		return dbtest.One[bool](w.TB, w.Pool, `
			select exists (select from product_gates g join gate_shipments s on s.product_id = g.product_id and s.epoch = g.lease_epoch
			               where g.product_id = $1 and (s.covered >= g.leased_at and s.covered_beat >= g.lease_beat or s.whole))`, product)
	})
}

// Redis loses decisions made after the last shipment: the log lacks them, and
// is reported as incomplete.
func TestComplete_FalseIfDecisionsMayBeMissing(t *testing.T) {
	t.Parallel()
	for name, lose := range map[string]func(t *testing.T, w *world, own *devservices.Redis){
		"flushed": func(t *testing.T, w *world, _ *devservices.Redis) {
			require.NoError(t, testkit.RedisClient(t, w.redis).FlushAll(t.Context()).Err())
		},
		"restarted empty or old": func(t *testing.T, _ *world, own *devservices.Redis) {
			own.Kill9()
			require.NoError(t, own.Restart(t.Context()))
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			own := testkit.OwnRedis(t)
			w := newWorldOn(t, dbtest.Write(t), own.URL())
			product := w.product(10)
			w.work()
			for range 2 {
				w.acquire(product, life{ttl: time.Hour})
			}
			testkit.Eventually(t, 5*time.Second, "the first grants to be stored", func() error {
				if complete, granted := w.report(product); granted != 2 || !complete {
					return fmt.Errorf("%d, complete %v", granted, complete)
				}
				return nil
			})
			for range 6 {
				w.acquire(product, life{ttl: time.Hour})
			}
			lose(t, w, own)
			testkit.Eventually(t, 20*time.Second, "the gate to grant again", func() error {
				d, err := w.grant(product)
				if err != nil {
					return err
				}
				return w.claim(d, life{ttl: time.Hour})
			})
			w.awaitCovered(product)
			complete, granted := w.report(product)
			// Those six may have been stored just before the loss: then nothing is missing,
			// and the report must be complete with all of them, or incomplete.
			require.False(t, complete && granted < 9, "%d grants stored, complete %v", granted, complete)
		})
	}
}

// Ordinary operation leaves a complete log: pause and
// resume, more stock, a rebuild of an existing gate, and a Redis that is
// flushed when everything is stored.
func TestComplete_TrueAfterOrderlyChanges(t *testing.T) {
	t.Parallel()
	own := testkit.OwnRedis(t)
	w := newWorldOn(t, dbtest.Write(t), own.URL())
	product := w.product(10)
	w.work()
	require.NoError(t, w.gate.Sync(t.Context(), product))
	acquired := 0
	acquire := func() { w.acquire(product, life{ttl: time.Hour}); acquired++ }
	awaitComplete := func(what string) {
		t.Helper()
		testkit.Eventually(t, 10*time.Second, "a complete log after "+what, func() error {
			if complete, granted := w.report(product); granted != acquired || !complete {
				return fmt.Errorf("%d grants of %d, complete %v", granted, acquired, complete)
			}
			return nil
		})
	}
	acquire()
	for _, paused := range []bool{true, false} {
		var event domain.Event = domain.ProductSaleResumed{}
		if paused {
			event = domain.ProductSalePaused{}
		}
		require.NoError(t, w.Append(product, product, claims.Sale{Product: product, SaleDate: time.Now().Add(-time.Hour), Paused: paused}.GuardItem(), event))
		require.NoError(t, w.gate.Sync(t.Context(), product))
	}
	acquire()
	awaitComplete("pause and resume")

	require.NoError(t, w.Append(product, product, claims.Stock{Product: product, Total: 12}.GuardItem(),
		domain.ProductStockIncreased{Increase: 2, TotalStock: 12}))
	require.NoError(t, w.gate.Sync(t.Context(), product))
	acquire()
	awaitComplete("more stock")

	state, err := w.gate.State(t.Context(), product)
	require.NoError(t, err)
	require.NoError(t, w.gate.Rebuild(t.Context(), product, state.Epoch))
	acquire()
	awaitComplete("a rebuild")

	w.awaitCovered(product)
	require.NoError(t, testkit.RedisClient(t, w.redis).FlushAll(t.Context()).Err())
	acquire()
	awaitComplete("a loss of what was stored")
}

// A worker that starts ships the tails of all logs, however long ago they grew.
func TestWatch_ShipsTailFromBeforeStart(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	product := w.product(2)
	w.acquire(product, life{ttl: time.Hour})
	dbtest.Exec(t, w.Pool, `update product_gates set leased_at = leased_at - interval '1 hour' where product_id = $1`, product)
	w.work()
	w.awaitCovered(product)
	complete, granted := w.report(product)
	require.Equal(t, 1, granted)
	require.True(t, complete)
}

// A line that this version cannot parse stays where it is, and does not prevent
// withdrawals.
func TestWatch_WithdrawsIfLogCannotBeShipped(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	product := w.product(3)
	_, err := w.grant(product)
	require.NoError(t, err)
	c := testkit.RedisClient(t, w.redis)
	key := "product:{" + product.String() + "}:"
	require.NoError(t, c.RPush(t.Context(), key+"log", "0 3 of another version").Err())
	require.NoError(t, c.HIncrBy(t.Context(), key+"stock", "last", 1).Err())
	w.work()
	w.awaitCount(15*time.Second, product, "GrantWithdrawn", 1)
	w.awaitGate(5*time.Second, product, 3, 0, 0)
}

// An API node is killed in a rush: its grants are withdrawn as soon as its death is
// known, however many there are, and no other node's.
func TestWithdraw_GrantsOfDeadNodeAtOnce(t *testing.T) {
	t.Parallel()
	w := newWorldOn(t, dbtest.Write(t), testkit.OwnRedis(t).URL())
	const grants = 2500
	product := w.product(2 * grants)
	w.work()
	node := func() (*redis.Gate, *presence.Presence) {
		member := presence.Join(t.Context(), w.Pool, false, nil)
		<-member.Joined()
		gate, err := redis.Open(t.Context(), []string{w.redis}, gatestore.NewStore(w.Pool, avsc.Decode), redis.Options{Node: member.ID})
		require.NoError(t, err)
		t.Cleanup(func() { require.NoError(t, gate.Close()) })
		return gate, member
	}
	dies, dead := node()
	lives, alive := node()
	defer func() { require.NoError(t, alive.Close(context.Background())) }()
	shared := uuid.New()
	grant := func(g *redis.Gate, buyer uuid.UUID) {
		d, err := g.Decide(t.Context(), redis.Request{Product: product, Buyer: buyer})
		require.NoError(t, err)
		require.Equal(t, redis.Granted, d.Outcome)
	}
	for range grants {
		grant(dies, uuid.New())
	}
	grant(lives, uuid.New())
	grant(dies, shared) // both may append it
	grant(lives, shared)
	granted := time.Now()
	require.NoError(t, dead.Close(context.Background())) // as for a process that has ended
	w.awaitGate(withdrawAfter, product, 2*grants-2, 0, 2)
	require.Less(t, time.Since(granted), withdrawAfter, "not because of its age")
	w.awaitGate(15*time.Second, product, 2*grants, 0, 0) // the others, because of their age
	require.Equal(t, grants+2, w.count(product, "GrantWithdrawn"))
}

// Workers share the products, and take over from a worker that died.
func TestOwners_TakeOverFromDeadWorker(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	one, _ := w.work()
	two, stop := w.work()
	shared := func(want ...int) func() error {
		return func() error {
			for i, worker := range []*Worker{one, two} {
				if i >= len(want) {
					break
				}
				if workers, _ := worker.cfg.Presence.Workers(); len(workers) != want[i] {
					return fmt.Errorf("worker %d sees %d", i, len(workers))
				}
			}
			return nil
		}
	}
	testkit.Eventually(t, 5*time.Second, "both to see both", shared(2, 2))
	ours := 0
	products := make([]uuid.UUID, 40)
	for i := range products {
		products[i] = w.product(1)
		require.NotEqual(t, one.owners.ours(products[i]), two.owners.ours(products[i]), "a product has one owner")
		if one.owners.ours(products[i]) {
			ours++
		}
	}
	require.Greater(t, ours, 5)
	require.Less(t, ours, 35)
	stop()
	testkit.Eventually(t, 10*time.Second, "the other to be alone", shared(1))
	for _, p := range products {
		require.True(t, one.owners.ours(p))
	}
	d := w.acquire(products[0], life{ttl: time.Hour})
	w.expire(d)
	w.awaitGate(5*time.Second, products[0], 1, 0, 0)
}
