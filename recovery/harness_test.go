package recovery

import (
	"context"
	"fmt"
	"log/slog"
	"strconv"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"

	"github.com/dopaminestore/dopamine/domain"
	"github.com/dopaminestore/dopamine/eventstore"
	"github.com/dopaminestore/dopamine/internal/kafka"
	"github.com/dopaminestore/dopamine/projections"
	"github.com/dopaminestore/dopamine/projections/audit"
	"github.com/dopaminestore/dopamine/projections/products"
	"github.com/dopaminestore/dopamine/projections/projector"
	"github.com/dopaminestore/dopamine/projections/purchases"
	"github.com/dopaminestore/dopamine/projections/replay"
	"github.com/dopaminestore/dopamine/projections/slots"
	"github.com/dopaminestore/dopamine/relay"
	"github.com/dopaminestore/dopamine/tools/dbtest"
	"github.com/dopaminestore/dopamine/tools/storetest"
	"github.com/dopaminestore/dopamine/tools/testkit"
)

func TestMain(m *testing.M) {
	// sarama's metrics have one ticker for the whole process.
	goleak.VerifyTestMain(m, goleak.IgnoreAnyFunction("github.com/rcrowley/go-metrics.(*meterArbiter).tick"))
}

func every() []projections.Rebuildable {
	return []projections.Rebuildable{products.New(), slots.New(), purchases.New(), audit.New()}
}

// shop is an event store, its read side and its topic, with a relay and a
// projector that run all the time.
type shop struct {
	t         *testing.T
	url       string // of the write side
	pool      *pgxpool.Pool
	read      *pgxpool.Pool // the same, or another database that is never restored
	store     *eventstore.Store
	reader    *eventstore.Reader
	kafka     kafka.Cluster
	topic     string
	relay     *relay.Relay
	projector *projector.Runner

	stopProjector func() error

	number  int64
	product uuid.UUID
}

func newShop(t *testing.T, separate bool) *shop {
	store := storetest.New(t, poolSize)
	s := &shop{t: t, url: store.URL, pool: store.Pool, read: store.Pool, store: store.Store, reader: store.Reader,
		kafka: kafka.Cluster{Brokers: testkit.FakeKafka(t)}, topic: testkit.Topic(t), product: uuid.New()}
	if separate {
		s.read = storetest.Pool(t, dbtest.ReadDB(t).URL, poolSize)
	}
	log := slog.New(slog.DiscardHandler)
	notifier := eventstore.Listen(context.Background(), s.pool)
	t.Cleanup(notifier.Close)
	s.relay = relay.New(relay.Config{Pool: s.pool, Store: s.reader, Notifier: notifier, Kafka: s.kafka, Topic: s.topic, Logger: log})
	testkit.Background(t, s.relay.Run)
	s.project()
	s.append(s.product, s.product, domain.ProductCreated{Name: "Lamp", Description: "A lamp", Price: storetest.KRW(t, 259000), Stock: 1000,
		SaleDate: time.Now().Add(time.Hour).UTC().Truncate(time.Millisecond)})
	return s
}

// project runs a projector, and ends the previous one.
func (s *shop) project() {
	if s.stopProjector != nil {
		require.NoError(s.t, s.stopProjector())
	}
	var all []projections.Projection
	for _, p := range every() {
		all = append(all, p)
	}
	s.projector = projector.NewRunner(projector.Config{ReadPool: s.read, Store: s.reader, Kafka: s.kafka, Topic: s.topic, Group: s.topic,
		Projections: all, Published: s.published, Logger: slog.New(slog.DiscardHandler)})
	s.stopProjector = testkit.Background(s.t, s.projector.Run)
}

// poolSize is enough connections for a replay.
const poolSize = 30

// append appends one event, also while the database is being replaced.
func (s *shop) append(product, stream uuid.UUID, e domain.Event) (position int64) {
	s.t.Helper()
	a := eventstore.Append{Key: product, Streams: []eventstore.StreamAppend{{
		Stream: stream, Expected: eventstore.Any, Events: []eventstore.NewEvent{storetest.NewEvent(s.t, e)},
	}}}
	testkit.Eventually(s.t, 60*time.Second, "an append", func() error {
		res, err := s.store.Append(context.Background(), a)
		position = res.Position
		return err
	})
	return position
}

// acquire appends n grants and returns the last one's position.
func (s *shop) acquire(n int) (position int64) {
	for range n {
		s.number++
		position = s.append(s.product, domain.SlotID(s.product, s.number),
			domain.SlotAcquired{UserID: uuid.New(), Unit: int(s.number), ArrivalSequence: s.number, TTLMillis: 1800000, WarningMillis: 300000})
	}
	return position
}

// create appends n other products, which are in other partitions.
func (s *shop) create(n int) (position int64) {
	for range n {
		product := uuid.New()
		position = s.append(product, product, domain.ProductCreated{Name: "Shoe", Description: "A shoe", Price: storetest.KRW(s.t, 259000), Stock: 10,
			SaleDate: time.Now().Add(time.Hour).UTC().Truncate(time.Millisecond)})
	}
	return position
}

func (s *shop) published(ctx context.Context) (projections.Head, error) {
	c, err := relay.ReadCheckpoint(ctx, s.pool)
	head, headErr := s.reader.Head(ctx)
	if err != nil {
		return projections.Head{Position: head}, headErr
	}
	return projections.Head{Position: head, Published: c.Position, Last: c.Last, TopicID: c.TopicID, Topic: s.topic}, headErr
}

// awaitReadModels waits until relay and read models have processed the whole store.
func (s *shop) awaitReadModels() {
	s.t.Helper()
	testkit.Eventually(s.t, 90*time.Second, "the read models", func() error {
		head, err := s.published(context.Background())
		if err != nil {
			return err
		}
		if head.Published < head.Position {
			return fmt.Errorf("published %d of %d; relay %q", head.Published, head.Position, s.relay.Blocked())
		}
		all, err := projections.ReadStatus(context.Background(), s.read, head)
		for _, p := range all {
			if p.Lag > 0 || p.Position == 0 {
				return fmt.Errorf("%s: position %d, %d behind; projector %q", p.Projection, p.Position, p.Lag, s.projector.Health())
			}
		}
		return err
	})
}

func (s *shop) awaitRelayBlocked() {
	s.t.Helper()
	s.await("a blocked relay", func() bool { return s.relay.Blocked() != "" })
}

func (s *shop) awaitProjectorBlocked() {
	s.t.Helper()
	s.await("a blocked projector", func() bool { return len(s.projector.Health()) > 0 })
}

func (s *shop) await(what string, there func() bool) {
	s.t.Helper()
	testkit.EventuallyTrue(s.t, 60*time.Second, what, func() bool { return there() })
}

func (s *shop) config() Config {
	return Config{WritePool: s.pool, ReadPool: s.read, Kafka: s.kafka, Topic: s.topic, Projections: every(), Logger: slog.New(slog.DiscardHandler)}
}

// storeIDs returns the store's events by position.
func (s *shop) storeIDs() map[int64]uuid.UUID {
	s.t.Helper()
	ids := map[int64]uuid.UUID{}
	all, err := s.reader.ReadAll(context.Background(), 0, 100_000)
	require.NoError(s.t, err)
	for _, e := range all {
		ids[e.Position] = e.ID
	}
	return ids
}

// requireReadModels requires that the read models equal the store: a replay that
// compares finds no difference, and the audit has each event once.
func (s *shop) requireReadModels() {
	s.t.Helper()
	var differences []replay.Difference
	testkit.Eventually(s.t, 60*time.Second, "a comparison", func() error {
		differences = nil
		return replay.Run(context.Background(), replay.Config{ReadPool: s.read, Store: s.reader, Published: s.published, Projections: every(), Verify: true,
			OnDifference: func(d replay.Difference) { differences = append(differences, d) }, Logger: slog.New(slog.DiscardHandler)})
	})
	require.Empty(s.t, differences)
	testkit.Eventually(s.t, 60*time.Second, "a comparison with a replay from the topic", func() error {
		differences = nil
		return replay.Run(context.Background(), replay.Config{ReadPool: s.read, Store: s.reader, Published: s.published, Projections: every(), Verify: true,
			Topic:        &replay.Topic{Kafka: s.kafka, Name: s.topic},
			OnDifference: func(d replay.Difference) { differences = append(differences, d) }, Logger: slog.New(slog.DiscardHandler)})
	})
	require.Empty(s.t, differences)
}

// auditedBeyondStore returns audit rows of events that the store does not have.
func (s *shop) auditedBeyondStore() (ghosts int) {
	s.t.Helper()
	ids := s.storeIDs()
	rows, err := s.read.Query(context.Background(), "SELECT position, event_id FROM slot_audit_log")
	require.NoError(s.t, err)
	defer rows.Close()
	for rows.Next() {
		var position int64
		var id uuid.UUID
		require.NoError(s.t, rows.Scan(&position, (*[16]byte)(&id)))
		if ids[position] != id {
			ghosts++
		}
	}
	require.NoError(s.t, rows.Err())
	return ghosts
}

// consumer is another system that reads the topic from its beginning and follows
// the rules of the marker. It keeps its view of the store.
type consumer struct {
	t       *testing.T
	current eventstore.Identity
	events  map[int64]uuid.UUID
	markers int
}

// consume reads the topic to its current end.
func (s *shop) consume() *consumer {
	s.t.Helper()
	c := &consumer{t: s.t, events: map[int64]uuid.UUID{}}
	perPartition := map[int32][]kafka.Record{}
	tails, err := kafka.ReadTails(context.Background(), s.kafka, s.topic, 1<<40)
	require.NoError(s.t, err)
	for p, tail := range tails {
		perPartition[p] = tail.Records
	}
	for _, records := range perPartition {
		one := &consumer{t: s.t, events: map[int64]uuid.UUID{}}
		for _, rec := range records {
			one.take(rec)
		}
		c.markers += one.markers
		for position, id := range one.events {
			c.events[position] = id
		}
	}
	return c
}

func (c *consumer) take(rec kafka.Record) {
	named, err := eventstore.ParseIdentity(rec.Header("store"))
	require.NoError(c.t, err)
	position, err := strconv.ParseInt(rec.Header("position"), 10, 64)
	require.NoError(c.t, err)
	switch {
	case named.Incarnation < c.current.Incarnation:
		return
	case rec.Header("event-type") == "IncarnationBegan":
		c.markers++
		require.Empty(c.t, rec.Value)
		c.current = named
		for p := range c.events {
			if p > position {
				delete(c.events, p)
			}
		}
		return
	}
	c.current = named
	if _, known := c.events[position]; !known { // published twice
		c.events[position] = uuid.MustParse(rec.Header("event-id"))
	}
}
