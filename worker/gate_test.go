package worker

import (
	"bytes"
	"context"
	"fmt"
	"log/slog"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"
	"github.com/stretchr/testify/require"

	"github.com/dopaminestore/dopamine/command/claims"
	"github.com/dopaminestore/dopamine/command/deadlines"
	"github.com/dopaminestore/dopamine/domain"
	"github.com/dopaminestore/dopamine/redis"
	"github.com/dopaminestore/dopamine/tools/dbtest"
	"github.com/dopaminestore/dopamine/tools/storetest"
	"github.com/dopaminestore/dopamine/tools/testkit"
)

// expire ends a slot like a process that dies before it syncs the gate.
func (w *world) expire(d redis.Decision) {
	w.TB.Helper()
	require.NoError(w.TB, w.Append(d.Product, d.SlotID, claims.Release{Product: d.Product, SlotID: d.SlotID}.GuardItem(),
		domain.SlotExpired{UserID: d.Buyer, Unit: d.Unit, ArrivalSequence: d.Number, ReclaimStatus: domain.AutoExpired, Deadline: time.Now().UTC().Truncate(time.Millisecond)}))
}

func TestWithdraw_GrantThatWasNeverAppended(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	product := w.product(3)
	w.work()
	w.work() // two at once withdraw it once
	w.acquire(product, life{ttl: time.Hour})
	lost, err := w.grant(product)
	require.NoError(t, err)
	granted := time.Now()
	w.awaitGate(5*time.Second, product, 1, 1, 1) // a grant that was appended is held

	w.awaitCount(15*time.Second, product, "GrantWithdrawn", 1)
	require.GreaterOrEqual(t, time.Since(granted), withdrawAfter)
	w.awaitGate(time.Second, product, 2, 1, 0)
	err = w.claim(lost, life{ttl: time.Hour})
	require.ErrorIs(t, err, claims.ErrWithdrawn, "a later append")
	require.Equal(t, 1, w.count(product, "GrantWithdrawn"))
}

// A grant that was claimed, is void or was withdrawn by another worker is not counted.
func TestWithdraw_CountsOnlyWhatWasWithdrawn(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	var log bytes.Buffer
	worker := New(Config{
		Gate: w.gate, GateStore: w.Gates, Deadlines: deadlines.NewStore(w.Pool), Store: storetest.Open(t, w.Pool),
		Registerer: prometheus.NewRegistry(), Logger: slog.New(slog.NewTextHandler(&log, nil)),
	})
	product, changed := w.product(3), w.product(3)
	pending := func(product uuid.UUID) redis.PendingGrant {
		_, err := w.grant(product)
		require.NoError(t, err)
		grants, err := w.gate.Pending(t.Context(), product, 0, redis.MaxNumber, 10)
		require.NoError(t, err)
		return grants[len(grants)-1]
	}
	claimed, err := w.grant(product)
	require.NoError(t, err)
	require.NoError(t, w.claim(claimed, life{ttl: time.Hour}))
	void, lost := pending(changed), pending(product)
	w.Must(claims.Sale{Product: changed, SaleDate: time.Now(), Paused: true})
	for _, grant := range []redis.PendingGrant{
		{Product: product, Buyer: claimed.Buyer, Number: claimed.Number, Unit: claimed.Unit, Rebuild: lost.Rebuild}, void, lost, lost,
	} {
		require.NoError(t, worker.withdraw(t.Context(), grant))
	}
	require.EqualValues(t, 1, testutil.ToFloat64(worker.metrics.settled))
	require.Equal(t, 1, strings.Count(log.String(), "grant withdrawn"))
}

// The age of a pending grant is counted by the worker's own clock: if Redis' clock is stepped back
// after a grant, neither it nor a later one waits until that clock has caught up, and if it is
// stepped forward, none is withdrawn early.
func TestWithdraw_IgnoresTheClockOfRedis(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	worker := New(Config{
		Gate: w.gate, GateStore: w.Gates, Deadlines: deadlines.NewStore(w.Pool), Store: storetest.Open(t, w.Pool), Registerer: prometheus.NewRegistry(),
	})
	ctx, cancel := context.WithCancel(t.Context())
	worker.start(ctx)
	t.Cleanup(func() {
		cancel()
		worker.watcher.wait()
		worker.syncer.wait()
	})
	client := testkit.RedisClient(t, w.redis)
	for name, step := range map[string]time.Duration{"back": -time.Hour, "forward": time.Hour} {
		t.Run(name, func(t *testing.T) {
			product := w.product(3)
			first, err := w.grant(product)
			require.NoError(t, err)
			// Seen from a clock that was stepped, the grant was made that much later or earlier.
			key := "product:{" + product.String() + "}:holders"
			held, err := client.HGet(t.Context(), key, string(first.Buyer[:])).Result()
			require.NoError(t, err)
			fields := strings.SplitN(held, " ", 5)
			since, err := strconv.ParseInt(fields[3], 10, 64)
			require.NoError(t, err)
			require.InDelta(t, time.Now().UnixMilli(), since, float64(time.Minute.Milliseconds()), "the field is the time of the grant")
			fields[3] = strconv.FormatInt(since-step.Milliseconds(), 10)
			require.NoError(t, client.HSet(t.Context(), key, string(first.Buyer[:]), strings.Join(fields, " ")).Err())
			_, err = w.grant(product)
			require.NoError(t, err)

			log, err := w.gate.ReadLog(t.Context(), product)
			require.NoError(t, err)
			require.Equal(t, 2, log.Pending)
			log.Now += step
			g := &watchedGate{product: product}
			g.sights.add(log)
			require.NoError(t, worker.watcher.withdrawOld(t.Context(), g, log))
			require.Zero(t, w.count(product, "GrantWithdrawn"), "the worker has just seen them")

			g.sights.seen[0].at = time.Now().Add(-withdrawAfter)
			require.NoError(t, worker.watcher.withdrawOld(t.Context(), g, log))
			require.Equal(t, 2, w.count(product, "GrantWithdrawn"))
		})
	}
}

func TestWatch_ShipsLogAndDropsIdleGate(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	product := w.product(1)
	worker, stop := w.work()
	w.acquire(product, life{ttl: time.Hour})
	for range 5 {
		_, err := w.grant(product)
		require.Error(t, err)
	}
	logged := func(want int) func() error {
		return func() error {
			var refused int
			err := w.Pool.QueryRow(context.Background(), `
				select coalesce(sum(to_number - from_number + 1), 0) from gate_decisions where product_id = $1 and type = 'refused'`,
				product).Scan(&refused)
			if err == nil && refused != want {
				err = fmt.Errorf("%d refusals are stored", refused)
			}
			return err
		}
	}
	testkit.Eventually(t, 2*time.Second, "the open run", logged(5))
	_, err := w.grant(product)
	require.Error(t, err)
	testkit.Eventually(t, 2*time.Second, "the run as it has grown", logged(6))
	require.Contains(t, worker.watcher.list(), product)
	stop()

	// A gate that was idle for long and has no pending grants is not watched by a
	// new worker.
	dbtest.Exec(t, w.Pool, `update product_gates set leased_at = leased_at - interval '1 hour' where product_id = $1`, product)
	worker, _ = w.work()
	other := w.product(1)
	_, err = w.grant(other)
	require.NoError(t, err)
	testkit.Eventually(t, 5*time.Second, "the other product to be watched", func() error {
		if got := worker.watcher.list(); len(got) != 1 || got[0] != other {
			return fmt.Errorf("watched: %v", got)
		}
		return nil
	})
}

func TestSync_CatchesUpWithEventsBeforeStart(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	product := w.product(2)
	first := w.acquire(product, life{ttl: time.Hour})
	w.acquire(product, life{ttl: time.Hour})
	require.NoError(t, w.gate.Sync(t.Context(), product))
	w.expire(first)
	w.awaitGate(time.Second, product, 0, 2, 0)

	_, stop := w.work()
	w.awaitGate(5*time.Second, product, 1, 1, 0)
	_, err := w.grant(product)
	require.NoError(t, err)
	stop()

	// The grant stays pending for longer than its gate is watched.
	for _, ago := range []string{
		`update product_gates set leased_at = leased_at - interval '1 hour' where product_id = $1`,
		`update gate_shipments set covered = covered - interval '1 hour', shipped_at = shipped_at - interval '1 hour' where product_id = $1`,
	} {
		dbtest.Exec(t, w.Pool, ago, product)
	}
	w.work()
	w.awaitCount(15*time.Second, product, "GrantWithdrawn", 1)
	w.awaitGate(time.Second, product, 1, 1, 0)
}

func TestSync_RemovesGateOfDeletedProduct(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	product := w.product(1)
	require.NoError(t, w.gate.Sync(t.Context(), product))
	_, err := w.grant(product)
	require.NoError(t, err)
	require.NoError(t, w.Append(product, product, claims.Delete{Product: product}.GuardItem(), domain.ProductDeleted{}))
	w.work()
	testkit.Eventually(t, 5*time.Second, "the gate to go", func() error {
		s, err := w.gate.State(context.Background(), product)
		if err == nil && s.Exists {
			err = fmt.Errorf("it exists: %+v", s)
		}
		return err
	})
}

func TestSync_ContinuesAfterRedisOutage(t *testing.T) {
	t.Parallel()
	server := testkit.OwnRedis(t)
	w := newWorldOn(t, dbtest.Write(t), server.URL())
	product := w.product(2)
	d := w.acquire(product, life{ttl: time.Hour})
	w.acquire(product, life{ttl: time.Hour})
	w.work()
	w.awaitGate(5*time.Second, product, 0, 2, 0)

	server.Kill9()
	w.expire(d)
	require.NoError(t, server.Restart(t.Context()))
	w.awaitGate(20*time.Second, product, 1, 1, 0)
}

func TestAudit_ReportsGateThatDiffersFromClaims(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	worker, stop := w.work()
	stop() // the test compares directly
	product := w.product(2)
	d := w.acquire(product, life{ttl: time.Hour})
	require.NoError(t, w.gate.Sync(t.Context(), product))
	audit := &auditor{Worker: worker, differing: map[uuid.UUID]bool{}}
	require.NoError(t, audit.compare(t.Context(), product))
	require.Zero(t, testutil.ToFloat64(worker.metrics.differing))

	dbtest.Exec(t, w.Pool, `delete from slot_claims where slot_id = $1`, d.SlotID)
	require.NoError(t, audit.compare(t.Context(), product))
	require.EqualValues(t, 1, testutil.ToFloat64(worker.metrics.differing))
}
