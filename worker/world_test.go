package worker

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"
	"github.com/shopspring/decimal"
	"github.com/stretchr/testify/require"

	"github.com/dopaminestore/dopamine/avsc"
	"github.com/dopaminestore/dopamine/command/claims"
	"github.com/dopaminestore/dopamine/command/deadlines"
	"github.com/dopaminestore/dopamine/command/gatestore"
	"github.com/dopaminestore/dopamine/domain"
	"github.com/dopaminestore/dopamine/eventstore"
	"github.com/dopaminestore/dopamine/internal/presence"
	"github.com/dopaminestore/dopamine/redis"
	"github.com/dopaminestore/dopamine/tools/dbtest"
	"github.com/dopaminestore/dopamine/tools/storetest"
	"github.com/dopaminestore/dopamine/tools/testkit"
)

// world is a database and a Redis, with a store and a gate like those of a
// command API.
type world struct {
	t         testing.TB
	pool      *pgxpool.Pool
	reader    *eventstore.Reader
	claims    *claims.Store
	gateStore *gatestore.Store
	redis     string
	store     *eventstore.Store
	gate      *redis.Gate
}

func newWorld(t testing.TB) *world { return newWorldOn(t, dbtest.Write(t), testkit.Redis(t)) }

func newWorldOn(t testing.TB, pool *pgxpool.Pool, redisURL string) *world {
	w := &world{t: t, pool: pool, redis: redisURL, reader: eventstore.NewReader(pool)}
	w.claims, w.gateStore = claims.NewStore(pool), gatestore.NewStore(pool, avsc.Decode)
	w.store, w.gate = w.open()
	return w
}

// open returns the store and the gate of another process.
func (w *world) open() (*eventstore.Store, *redis.Gate) {
	store := storetest.Open(w.t, w.pool)
	gate, err := redis.Open(context.Background(), strings.Split(w.redis, ","), w.gateStore, redis.Options{})
	require.NoError(w.t, err)
	w.t.Cleanup(func() { require.NoError(w.t, gate.Close()) })
	return store, gate
}

// work runs a worker as a separate process would until stop, or the test's end.
func (w *world) work(change ...func(*Config)) (worker *Worker, stop func()) {
	w.t.Helper()
	store, gate := w.open()
	notifier := eventstore.Listen(context.Background(), w.pool)
	member := presence.Join(context.Background(), w.pool, true, nil)
	<-member.Joined()
	cfg := Config{
		Presence: member,
		Gate:     gate, GateStore: w.gateStore, Deadlines: deadlines.NewStore(w.pool), Store: store, Reader: w.reader, Notifier: notifier, Registerer: prometheus.NewRegistry(),
	}
	for _, f := range change {
		f(&cfg)
	}
	worker = New(cfg)
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- worker.Run(ctx) }()
	stop = sync.OnceFunc(func() {
		cancel()
		require.NoError(w.t, <-ended)
		notifier.Close()
		require.NoError(w.t, member.Close(context.Background()))
	})
	w.t.Cleanup(stop)
	return worker, stop
}

func newEvent(t testing.TB, event domain.Event) eventstore.NewEvent {
	typ, version, payload, err := avsc.Encode(event)
	require.NoError(t, err)
	return eventstore.NewEvent{ID: uuid.New(), Type: typ, SchemaVersion: version, Payload: payload}
}

func (w *world) append(product, stream uuid.UUID, guard eventstore.GuardItem, events ...domain.Event) error {
	s := eventstore.StreamAppend{Stream: stream, Expected: eventstore.Any}
	for _, e := range events {
		s.Events = append(s.Events, newEvent(w.t, e))
	}
	_, err := w.store.Append(context.Background(), eventstore.Append{
		Key: product, Streams: []eventstore.StreamAppend{s}, Guards: []eventstore.GuardItem{guard},
	})
	return err
}

// product creates a product that is on sale.
func (w *world) product(stock int) uuid.UUID {
	w.t.Helper()
	id := uuid.New()
	from := time.Now().Add(-time.Hour).UTC().Truncate(time.Millisecond)
	event := domain.ProductCreated{Name: "n", Description: "d", Price: won(w.t, 1000), Stock: stock, SaleDate: from}
	require.NoError(w.t, w.append(id, id, claims.Create{Product: id, Stock: stock, SaleDate: from}.GuardItem(), event))
	return id
}

func won(t testing.TB, n int64) domain.Money {
	m, err := domain.NewMoney(decimal.NewFromInt(n), "KRW")
	require.NoError(t, err)
	return m
}

// life is how long a slot lives, and how long before its end its owner is warned.
type life struct{ ttl, warning time.Duration }

// grant makes the gate grant a unit to a new buyer, or returns why it did not.
func (w *world) grant(product uuid.UUID) (redis.Decision, error) {
	d, err := w.gate.Decide(context.Background(), redis.Request{Product: product, Buyer: uuid.New()})
	if err == nil && d.Outcome != redis.Granted {
		err = fmt.Errorf("the gate decided %s", d.Outcome)
	}
	return d, err
}

// acquire grants and appends.
func (w *world) acquire(product uuid.UUID, l life) redis.Decision {
	w.t.Helper()
	d, err := w.grant(product)
	require.NoError(w.t, err)
	require.NoError(w.t, w.append(product, d.SlotID, l.claim(product, d.SlotID, d.Buyer, d.Number, d.Unit).GuardItem(),
		l.acquired(d.Buyer, d.Number, d.Unit)))
	return d
}

func (l life) acquired(buyer uuid.UUID, number int64, unit int) domain.SlotAcquired {
	return domain.SlotAcquired{
		UserID: buyer, Unit: unit, ArrivalSequence: number, TTLMillis: l.ttl.Milliseconds(), WarningMillis: l.warning.Milliseconds(),
	}
}

func (l life) claim(product, slot, buyer uuid.UUID, number int64, unit int) claims.Claim {
	return claims.Claim{Product: product, SlotID: slot, Number: number, Unit: unit, Buyer: buyer, TTL: l.ttl, Warning: l.warning}
}

// holders assigns every unit of a new product to a buyer at the same instant, and
// builds its gate.
func (w *world) holders(n int, l func(i int) life) uuid.UUID {
	w.t.Helper()
	product := w.product(n)
	raised, err := w.gateStore.Raise(context.Background(), []redis.RaiseRequest{{Product: product, Found: redis.NoEpoch, Above: redis.NoEpoch}})
	require.NoError(w.t, err)
	require.True(w.t, raised[0].Raised)
	// No rebuild is in progress: the gate need not wait for it.
	dbtest.Exec(w.t, w.pool, `update product_gates set lease_epoch = epoch where product_id = $1`, product)
	const piece = 500
	for from := 0; from < n; from += piece {
		a := eventstore.Append{Key: product}
		for i := from; i < min(n, from+piece); i++ {
			buyer, number := uuid.New(), int64(i+1)
			slot := domain.SlotID(product, number)
			a.Streams = append(a.Streams, eventstore.StreamAppend{
				Stream: slot, Expected: eventstore.None, Events: []eventstore.NewEvent{newEvent(w.t, l(i).acquired(buyer, number, i+1))},
			})
			a.Guards = append(a.Guards, l(i).claim(product, slot, buyer, number, i+1).GuardItem())
		}
		_, err := w.store.Append(context.Background(), a)
		require.NoError(w.t, err)
	}
	require.NoError(w.t, w.gate.Sync(context.Background(), product))
	return product
}

// slots folds the product's slots, and returns when events of a type were recorded.
func (w *world) slots(product uuid.UUID) map[uuid.UUID]domain.Slot {
	w.t.Helper()
	slots := make(map[uuid.UUID]domain.Slot)
	for _, e := range w.events(product) {
		if e.StreamID != product {
			slots[e.StreamID] = domain.EvolveSlot(slots[e.StreamID], e)
		}
	}
	return slots
}

func (w *world) events(product uuid.UUID) []domain.Envelope {
	w.t.Helper()
	recorded, err := w.reader.ReadPartition(context.Background(), product, 0, 1<<60, 1<<20)
	require.NoError(w.t, err)
	events := make([]domain.Envelope, len(recorded))
	for i, r := range recorded {
		events[i], err = avsc.Decode(r)
		require.NoError(w.t, err)
	}
	return events
}

// count returns how many of the product's events have the type.
func (w *world) count(product uuid.UUID, typ string) (n int) {
	w.t.Helper()
	require.NoError(w.t, w.pool.QueryRow(context.Background(),
		`select count(*) from events where key = $1 and type = $2`, product, typ).Scan(&n))
	return n
}

// awaitCount waits until as many of the product's events have the type.
func (w *world) awaitCount(within time.Duration, product uuid.UUID, typ string, want int) {
	w.t.Helper()
	testkit.EventuallyEqual(w.t, within, fmt.Sprintf("%d %s", want, typ), want, func() int { return w.count(product, typ) })
}

// awaitGate waits until the product's gate counts so many free, held and pending.
func (w *world) awaitGate(within time.Duration, product uuid.UUID, free, held, pending int) {
	w.t.Helper()
	testkit.Eventually(w.t, within, fmt.Sprintf("%d free, %d held, %d pending", free, held, pending), func() error {
		s, err := w.gate.State(context.Background(), product)
		if err != nil {
			return err
		}
		if !s.Alive || s.Free != free || s.Held != held || s.Pending != pending {
			return fmt.Errorf("the gate has %+v", s)
		}
		return nil
	})
}

// percentile returns the value at a share of sorted durations.
func percentile(sorted []time.Duration, share float64) time.Duration {
	if len(sorted) == 0 {
		return 0
	}
	return sorted[min(len(sorted)-1, int(share*float64(len(sorted))))]
}

// lateness returns how long after its deadline each slot of the product ended,
// sorted.
func (w *world) lateness(product uuid.UUID) []time.Duration {
	w.t.Helper()
	var late []time.Duration
	for _, s := range w.slots(product) {
		require.Equal(w.t, domain.ExpiredSlot, s.Status)
		late = append(late, s.EndedAt.Sub(s.Deadline))
	}
	slices.Sort(late)
	return late
}

func gauge(t testing.TB, g prometheus.Gauge) float64 {
	t.Helper()
	return testutil.ToFloat64(g)
}
