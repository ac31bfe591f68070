package worker

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/prometheus/client_golang/prometheus/testutil"
	"github.com/stretchr/testify/require"

	"github.com/dopaminestore/dopamine/command/claims"
	"github.com/dopaminestore/dopamine/command/deadlines"
	"github.com/dopaminestore/dopamine/command/payments"
	"github.com/dopaminestore/dopamine/db"
	"github.com/dopaminestore/dopamine/domain"
	"github.com/dopaminestore/dopamine/eventstore"
	"github.com/dopaminestore/dopamine/tools/dbtest"
	"github.com/dopaminestore/dopamine/tools/storetest"
	"github.com/dopaminestore/dopamine/tools/testkit"
)

// If no slot can be ended, nothing has a lateness: the alert depends on the age of what is due.
func TestExpiry_MeasuresWhatCannotBeEnded(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	product := w.product(1)
	closed := storetest.Open(t, w.Pool)
	require.NoError(t, closed.Close(t.Context()))
	broken, _ := w.work(func(c *Config) { c.Store = closed }) // all its appends fail
	w.acquire(product, life{ttl: 100 * time.Millisecond})
	overdue := func() float64 { return testutil.ToFloat64(broken.metrics.overdue.WithLabelValues(sweepExpiry)) }
	testkit.EventuallyTrue(t, 20*time.Second, "an overdue slot", func() bool { return overdue() > 1 })
	require.Zero(t, testutil.ToFloat64(broken.metrics.swept.WithLabelValues(sweepExpiry)))
	w.work()
	testkit.EventuallyTrue(t, 20*time.Second, "none overdue", func() bool { return overdue() == 0 })
}

func TestExpiry_FreesUnitsAtDeadline(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	product := w.product(10)
	w.work()
	for i := range 10 {
		w.acquire(product, life{ttl: time.Second + time.Duration(i)*50*time.Millisecond})
	}
	_, err := w.grant(product)
	require.Error(t, err, "sold out")

	w.awaitCount(10*time.Second, product, "SlotExpired", 10)
	w.awaitGate(time.Second, product, 10, 0, 0)
	late := w.lateness(product)
	require.GreaterOrEqual(t, late[0], time.Duration(0), "none before its deadline")
	require.Less(t, late[len(late)-1], time.Second)
	for _, s := range w.slots(product) {
		require.Equal(t, domain.AutoExpired, s.ReclaimStatus)
	}
	w.acquire(product, life{ttl: time.Hour})

	seen := map[string]bool{}
	for _, e := range w.events(product) {
		if e.Event.EventType() == "SlotExpired" {
			require.Equal(t, domain.ActorSystem, e.Actor)
			require.Len(t, e.TraceID(), 32)
			seen[e.TraceID()] = true
		}
	}
	require.Len(t, seen, 10, "each has its own trace")
}

func TestWarning_OnceAndInTime(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	product := w.product(3)
	w.work()
	warned := w.acquire(product, life{ttl: 1500 * time.Millisecond, warning: time.Second})
	short := w.acquire(product, life{ttl: time.Second, warning: time.Second})
	paid := w.acquire(product, life{ttl: 1500 * time.Millisecond, warning: 500 * time.Millisecond})
	require.NoError(t, w.Append(product, paid.SlotID, claims.Complete{Product: product, SlotID: paid.SlotID}.GuardItem(),
		domain.PaymentInitiated{UserID: paid.Buyer, PaymentID: uuid.New(), Price: storetest.KRW(t, 1000), Method: domain.Card},
		domain.PaymentCompleted{UserID: paid.Buyer, PaymentID: uuid.New(), Price: storetest.KRW(t, 1000), Method: domain.Card}))

	w.awaitCount(10*time.Second, product, "SlotExpired", 2)
	slots := w.slots(product)
	require.True(t, slots[warned.SlotID].Warned)
	require.False(t, slots[short.SlotID].Warned, "it does not live longer than the warning time")
	require.False(t, slots[paid.SlotID].Warned)
	require.Equal(t, domain.CompletedSlot, slots[paid.SlotID].Status)
	require.Equal(t, 1, w.count(product, "SlotExpiringSoon"))
	for _, e := range w.events(product) {
		if e.Event.EventType() == "SlotExpiringSoon" {
			s := slots[e.StreamID]
			from, _ := s.WarnAt()
			require.False(t, e.RecordedAt.Before(from))
			require.Less(t, e.RecordedAt.Sub(from), 500*time.Millisecond)
		}
	}
}

func TestWorker_CatchesUpAfterDowntime(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	over := w.holders(300, func(int) life { return life{ttl: 2 * time.Millisecond, warning: time.Millisecond} })
	// The warning is due, and the deadline is far away.
	near := w.holders(10, func(int) life { return life{ttl: time.Hour, warning: time.Hour - time.Millisecond} })
	w.work()
	w.awaitCount(10*time.Second, over, "SlotExpired", 300)
	w.awaitCount(10*time.Second, near, "SlotExpiringSoon", 10)
	w.awaitGate(5*time.Second, over, 300, 0, 0)
	require.Zero(t, w.count(over, "SlotExpiringSoon"))
	require.Zero(t, w.count(near, "SlotExpired"))
}

func TestWorkers_Concurrent(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	const slots = 3000
	var workers []*Worker
	product := w.holders(slots, func(int) life { return life{ttl: 1500 * time.Millisecond, warning: 1200 * time.Millisecond} })
	for range 3 {
		worker, _ := w.work()
		workers = append(workers, worker)
	}
	w.awaitCount(30*time.Second, product, "SlotExpired", slots)
	require.LessOrEqual(t, w.count(product, "SlotExpiringSoon"), slots)
	for _, s := range w.slots(product) { // the fold would not detect a second end
		require.LessOrEqual(t, s.Version, 3)
	}
	w.awaitGate(5*time.Second, product, slots, 0, 0)
	var swept, conflicts float64
	for _, worker := range workers {
		swept += testutil.ToFloat64(worker.metrics.swept.WithLabelValues("ExpireSlot"))
		conflicts += testutil.ToFloat64(worker.metrics.conflicts.WithLabelValues("ExpireSlot"))
		require.Zero(t, testutil.ToFloat64(worker.metrics.failures.WithLabelValues("ExpireSlot")))
	}
	require.EqualValues(t, slots, swept)
	t.Logf("%v of %d expiries conflicted among three workers", conflicts, slots)
	difference, err := w.Gates.Compare(t.Context(), w.gate, product)
	require.NoError(t, err)
	require.Empty(t, difference)
}

// A slot whose end is decided by another process while the worker handles it.
func TestExpiry_RacesRelease(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	const slots = 200
	product := w.holders(slots, func(int) life { return life{ttl: 700 * time.Millisecond} })
	at := w.slots(product)
	w.work()
	testkit.EventuallyTrue(t, 10*time.Second, "the first expiry", func() bool { return w.count(product, "SlotExpired") != 0 })
	var group sync.WaitGroup
	for id, s := range at {
		group.Go(func() {
			events, err := s.Release(domain.Caller{User: s.UserID, Buyer: true})
			if err != nil {
				t.Error(err)
				return
			}
			_, err = w.Events.Append(context.Background(), eventstore.Append{
				Key: product,
				Streams: []eventstore.StreamAppend{{
					Stream: id, Expected: eventstore.Expected(s.Version), Events: []eventstore.NewEvent{storetest.NewEvent(t, events[0])},
				}},
				Guards: []eventstore.GuardItem{claims.Release{Product: product, SlotID: id}.GuardItem()},
			})
			if err != nil && !errors.Is(err, eventstore.ErrConflict) && !errors.Is(err, claims.ErrNotActive) {
				t.Error(err)
			}
		})
	}
	group.Wait()
	w.awaitCount(10*time.Second, product, "SlotExpired", slots)
	for _, s := range w.slots(product) {
		require.Equal(t, 2, s.Version, "each ends once")
	}
	w.awaitGate(5*time.Second, product, slots, 0, 0)
}

// paying is a service of payments that only records its calls.
type paying struct {
	mu       sync.Mutex
	jobs     []uuid.UUID
	done     map[uuid.UUID]int
	timedOut map[uuid.UUID]int
	fails    int
	purged   int
}

func (p *paying) Due(_ context.Context, step payments.Step, _ int) ([]uuid.UUID, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if step != payments.Post {
		return nil, nil
	}
	return append([]uuid.UUID(nil), p.jobs...), nil
}

func (p *paying) CancelledSlots(context.Context, int) ([]uuid.UUID, error)     { return nil, nil }
func (p *paying) EndCancelled(context.Context, uuid.UUID) (uuid.UUID, error)   { return uuid.Nil, nil }
func (p *paying) CancelledPurchases(context.Context, int) ([]uuid.UUID, error) { return nil, nil }
func (p *paying) RefundCancelled(context.Context, uuid.UUID) error             { return nil }
func (p *paying) Observe(context.Context) error                                { return nil }

func (p *paying) Do(_ context.Context, _ payments.Step, id uuid.UUID) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.done[id]++
	if p.fails--; p.fails >= 0 {
		return errors.New("the gateway is unavailable")
	}
	p.jobs = nil
	return nil
}

func (p *paying) TimeOut(_ context.Context, due deadlines.Slot) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.timedOut[due.SlotID]++
	return errors.New("again")
}

func (p *paying) Purge(context.Context) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.purged++
	return nil
}

func TestExpiry_LeavesPendingPaymentsToTimeOut(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	product := w.product(1)
	p := &paying{done: map[uuid.UUID]int{}, timedOut: map[uuid.UUID]int{}, fails: 2}
	payment := uuid.New()
	p.jobs = []uuid.UUID{payment}
	w.work(func(c *Config) { c.Payments = p })
	d := w.acquire(product, life{ttl: 400 * time.Millisecond})
	require.NoError(t, w.Append(product, d.SlotID,
		claims.PaymentBegun{Product: product, SlotID: d.SlotID, Timeout: 400 * time.Millisecond}.GuardItem(),
		domain.PaymentInitiated{UserID: d.Buyer, PaymentID: payment, Price: storetest.KRW(t, 1000), Method: domain.Card}))

	testkit.Eventually(t, 10*time.Second, "time-outs, steps and a purge", func() error {
		p.mu.Lock()
		defer p.mu.Unlock()
		if p.timedOut[d.SlotID] < 2 || p.done[payment] != 3 || p.purged != 1 {
			return fmt.Errorf("%+v %+v %d", p.timedOut, p.done, p.purged)
		}
		return nil
	})
	require.Zero(t, w.count(product, "SlotExpired"))
	require.NoError(t, w.Append(product, d.SlotID, claims.PaymentEnded{Product: product, SlotID: d.SlotID}.GuardItem(),
		domain.PaymentFailed{UserID: d.Buyer, PaymentID: payment, Reason: "DECLINED"}))
	w.awaitCount(5*time.Second, product, "SlotExpired", 1)
}

func TestExpiry_ContinuesAfterPostgresOutage(t *testing.T) {
	t.Parallel()
	pg, pool := dbtest.Own(t, db.MigrateWrite)
	w := newWorldOn(t, pool, testkit.Redis(t))
	w.work()
	product := w.product(2)
	w.acquire(product, life{ttl: 300 * time.Millisecond})
	w.acquire(product, life{ttl: 2 * time.Second})
	w.awaitCount(5*time.Second, product, "SlotExpired", 1)

	pg.Kill9()
	require.NoError(t, pg.Restart(t.Context()))
	testkit.EventuallyEqual(t, 20*time.Second, "the second one", 2, func() int {
		return dbtest.One[int](t, pool, `select count(*) from events where type = 'SlotExpired'`)
	})
	w.awaitGate(10*time.Second, product, 2, 0, 0)
}

// Postgres' clock was an hour ahead while an event was recorded. From then on that
// is the store's clock: a slot that can no longer be paid expires at once, too.
func TestExpiry_UsesStoreClock(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	product := w.product(10)
	d := w.acquire(product, life{ttl: 20 * time.Minute, warning: time.Minute})
	dbtest.Exec(t, w.Pool, `
		insert into events (position, id, stream, version, key, type, schema_version, payload, traceparent, correlation_id, causation_id, actor, recorded_at)
		select position + 1, gen_random_uuid(), gen_random_uuid(), 1, key, 'ProductDetailsChanged', schema_version, payload,
		       traceparent, correlation_id, causation_id, actor, date_trunc('milliseconds', clock_timestamp()) + interval '1 hour'
		from events order by position desc limit 1`)
	_, err := w.Events.Append(t.Context(), eventstore.Append{Key: product, Guards: []eventstore.GuardItem{
		claims.PaymentBegun{Product: product, SlotID: d.SlotID, Timeout: time.Minute}.GuardItem()}})
	require.ErrorIs(t, err, claims.ErrPastDeadline)
	w.work()
	testkit.Eventually(t, 5*time.Second, "the slot to expire", func() error {
		_, held, err := w.Claims.BySlot(context.Background(), d.SlotID)
		if err == nil && held {
			err = errors.New("still held")
		}
		return err
	})
	w.awaitCount(5*time.Second, product, "SlotExpired", 1)
}
