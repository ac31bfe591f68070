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
	"github.com/stretchr/testify/require"

	"github.com/dopaminestore/dopamine/avsc"
	"github.com/dopaminestore/dopamine/command/claims"
	"github.com/dopaminestore/dopamine/command/deadlines"
	"github.com/dopaminestore/dopamine/domain"
	"github.com/dopaminestore/dopamine/eventstore"
	"github.com/dopaminestore/dopamine/internal/presence"
	"github.com/dopaminestore/dopamine/redis"
	"github.com/dopaminestore/dopamine/tools/claimstest"
	"github.com/dopaminestore/dopamine/tools/dbtest"
	"github.com/dopaminestore/dopamine/tools/storetest"
	"github.com/dopaminestore/dopamine/tools/testkit"
)

// world is a database and a Redis, with a store and a gate like those of a
// command API.
type world struct {
	*claimstest.World
	reader *eventstore.Reader
	redis  string
	gate   *redis.Gate
}

func newWorld(t testing.TB) *world { return newWorldOn(t, dbtest.Write(t), testkit.Redis(t)) }

func newWorldOn(t testing.TB, pool *pgxpool.Pool, redisURL string) *world {
	w := &world{World: claimstest.NewOn(t, pool), redis: redisURL, reader: eventstore.NewReader(pool)}
	w.gate = w.openGate()
	return w
}

// openGate returns the gate of another process.
func (w *world) openGate() *redis.Gate {
	gate, err := redis.Open(context.Background(), strings.Split(w.redis, ","), w.Gates, redis.Options{})
	require.NoError(w.TB, err)
	w.TB.Cleanup(func() { require.NoError(w.TB, gate.Close()) })
	return gate
}

// work runs a worker as a separate process would until stop, or the test's end.
func (w *world) work(change ...func(*Config)) (worker *Worker, stop func()) {
	w.TB.Helper()
	notifier := eventstore.Listen(context.Background(), w.Pool)
	member := presence.Join(context.Background(), w.Pool, true, nil)
	<-member.Joined()
	cfg := Config{
		Presence: member, Gate: w.openGate(), GateStore: w.Gates, Deadlines: deadlines.NewStore(w.Pool), Store: storetest.Open(w.TB, w.Pool),
		Reader: w.reader, Notifier: notifier, Registerer: prometheus.NewRegistry(),
	}
	for _, f := range change {
		f(&cfg)
	}
	worker = New(cfg)
	end := testkit.Background(w.TB, worker.Run)
	stop = sync.OnceFunc(func() {
		require.NoError(w.TB, end())
		notifier.Close()
		require.NoError(w.TB, member.Close(context.Background()))
	})
	w.TB.Cleanup(stop)
	return worker, stop
}

// product creates a product that is on sale.
func (w *world) product(stock int) uuid.UUID {
	w.TB.Helper()
	id := uuid.New()
	w.Create(id, stock, time.Now().Add(-time.Hour).UTC().Truncate(time.Millisecond))
	return id
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
	w.TB.Helper()
	d, err := w.grant(product)
	require.NoError(w.TB, err)
	require.NoError(w.TB, w.claim(d, l))
	return d
}

// claim makes a grant durable.
func (w *world) claim(d redis.Decision, l life) error {
	return w.Append(d.Product, d.SlotID, l.claim(d.Product, d.SlotID, d.Buyer, d.Number, d.Unit).GuardItem(), l.acquired(d.Buyer, d.Number, d.Unit))
}

func (l life) acquired(buyer uuid.UUID, number int64, unit int) domain.SlotAcquired {
	return domain.SlotAcquired{
		UserID: buyer, Unit: unit, ArrivalSequence: number, TTLMillis: l.ttl.Milliseconds(), WarningMillis: l.warning.Milliseconds(),
	}
}

func (l life) claim(product, slot, buyer uuid.UUID, number int64, unit int) claims.Claim {
	return claims.Claim{Product: product, SlotID: slot, Number: number, Unit: unit, Buyer: buyer, TTL: l.ttl, Warning: l.warning}
}

// raise begins the first epoch of a new product's gate, although its claims are written past it.
func (w *world) raise(product uuid.UUID) {
	w.TB.Helper()
	require.True(w.TB, w.Raise(product, redis.NoEpoch, redis.NoEpoch).Raised)
	// No rebuild is in progress: the gate need not wait for it.
	dbtest.Exec(w.TB, w.Pool, `update product_gates set lease_epoch = epoch where product_id = $1`, product)
}

// holders assigns every unit of a new product to a buyer at the same instant, and
// builds its gate.
func (w *world) holders(n int, l func(i int) life) uuid.UUID {
	w.TB.Helper()
	product := w.product(n)
	w.raise(product)
	const piece = 500
	for from := 0; from < n; from += piece {
		a := eventstore.Append{Key: product}
		for i := from; i < min(n, from+piece); i++ {
			buyer, number := uuid.New(), int64(i+1)
			slot := domain.SlotID(product, number)
			a.Streams = append(a.Streams, eventstore.StreamAppend{
				Stream: slot, Expected: eventstore.None, Events: []eventstore.NewEvent{storetest.NewEvent(w.TB, l(i).acquired(buyer, number, i+1))},
			})
			a.Guards = append(a.Guards, l(i).claim(product, slot, buyer, number, i+1).GuardItem())
		}
		_, err := w.Events.Append(context.Background(), a)
		require.NoError(w.TB, err)
	}
	require.NoError(w.TB, w.gate.Sync(context.Background(), product))
	return product
}

// slots folds the product's slots, and returns when events of a type were recorded.
func (w *world) slots(product uuid.UUID) map[uuid.UUID]domain.Slot {
	w.TB.Helper()
	slots := make(map[uuid.UUID]domain.Slot)
	for _, e := range w.events(product) {
		if e.StreamID != product {
			slots[e.StreamID] = domain.EvolveSlot(slots[e.StreamID], e)
		}
	}
	return slots
}

func (w *world) events(product uuid.UUID) []domain.Envelope {
	w.TB.Helper()
	recorded, err := w.reader.ReadPartition(context.Background(), product, 0, 1<<60, 1<<20)
	require.NoError(w.TB, err)
	events := make([]domain.Envelope, len(recorded))
	for i, r := range recorded {
		events[i], err = avsc.Decode(r)
		require.NoError(w.TB, err)
	}
	return events
}

// count returns how many of the product's events have the type.
func (w *world) count(product uuid.UUID, typ string) int {
	w.TB.Helper()
	return dbtest.One[int](w.TB, w.Pool, `select count(*) from events where key = $1 and type = $2`, product, typ)
}

// awaitCount waits until as many of the product's events have the type.
func (w *world) awaitCount(within time.Duration, product uuid.UUID, typ string, want int) {
	w.TB.Helper()
	testkit.EventuallyEqual(w.TB, within, fmt.Sprintf("%d %s", want, typ), want, func() int { return w.count(product, typ) })
}

// awaitGate waits until the product's gate counts so many free, held and pending.
func (w *world) awaitGate(within time.Duration, product uuid.UUID, free, held, pending int) {
	w.TB.Helper()
	testkit.Eventually(w.TB, within, fmt.Sprintf("%d free, %d held, %d pending", free, held, pending), func() error {
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
	w.TB.Helper()
	var late []time.Duration
	for _, s := range w.slots(product) {
		require.Equal(w.TB, domain.ExpiredSlot, s.Status)
		late = append(late, s.EndedAt.Sub(s.Deadline))
	}
	slices.Sort(late)
	return late
}
