package projector_test

import (
	"context"
	"fmt"
	"log/slog"
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
	"github.com/dopaminestore/dopamine/projections/slots"
	"github.com/dopaminestore/dopamine/relay"
	"github.com/dopaminestore/dopamine/tools/storetest"
	"github.com/dopaminestore/dopamine/tools/testkit"
)

func TestMain(m *testing.M) {
	// sarama's metrics have one ticker per process.
	goleak.VerifyTestMain(m, goleak.IgnoreAnyFunction("github.com/rcrowley/go-metrics.(*meterArbiter).tick"))
}

func allProjections() []projections.Projection {
	return []projections.Projection{products.New(), slots.New(), purchases.New(), audit.New()}
}

// system is an event store with a read side, in its own database and with its own topic.
type system struct {
	t       testing.TB
	pool    *pgxpool.Pool
	workers *pgxpool.Pool // of relays and projectors; the same pool unless a test cuts it off
	store   *eventstore.Store
	reader  *eventstore.Reader
	brokers []string
	topic   string
	log     *slog.Logger
}

func newSystem(t testing.TB, brokers []string) *system {
	store := storetest.New(t, 0)
	return &system{t: t, pool: store.Pool, workers: store.Pool, store: store.Store, reader: store.Reader, brokers: brokers,
		topic: testkit.Topic(t), log: storetest.Logger(t)}
}

// append appends one event to a stream and returns its position.
func (s *system) append(product, stream uuid.UUID, e domain.Event) int64 {
	return s.appendEvent(product, stream, storetest.NewEvent(s.t, e))
}

func (s *system) appendRaw(product, stream uuid.UUID, typ string, version int, payload []byte) int64 {
	return s.appendEvent(product, stream, eventstore.NewEvent{ID: uuid.New(), Type: typ, SchemaVersion: version, Payload: payload, Meta: storetest.Meta})
}

func (s *system) appendEvent(product, stream uuid.UUID, e eventstore.NewEvent) int64 {
	res, err := s.store.Append(context.Background(), eventstore.Append{Key: product, Streams: []eventstore.StreamAppend{{
		Stream: stream, Expected: eventstore.Any, Events: []eventstore.NewEvent{e},
	}}})
	require.NoError(s.t, err)
	return res.Position
}

func (s *system) create(stock int) uuid.UUID {
	product := uuid.New()
	s.append(product, product, domain.ProductCreated{Name: "Lamp", Description: "A lamp", Price: storetest.KRW(s.t, 259000), Stock: stock,
		SaleDate: time.Now().Add(time.Hour).UTC().Truncate(time.Millisecond)})
	return product
}

func (s *system) acquire(product uuid.UUID, unit int, number int64) (slot, user uuid.UUID, position int64) {
	slot, user = domain.SlotID(product, number), uuid.New()
	position = s.append(product, slot, domain.SlotAcquired{UserID: user, Unit: unit, ArrivalSequence: number, TTLMillis: 1800000, WarningMillis: 300000})
	return slot, user, position
}

func (s *system) relay() (stop func() error) {
	return testkit.Background(s.t, func(ctx context.Context) error {
		notifier := eventstore.Listen(ctx, s.pool)
		defer notifier.Close()
		return relay.New(relay.Config{Pool: s.workers, Store: s.reader, Notifier: notifier, Kafka: kafka.Cluster{Brokers: s.brokers}, Topic: s.topic, Logger: s.log}).Run(ctx)
	})
}

func (s *system) projector() (stop func() error) {
	return testkit.Background(s.t, projector.NewRunner(s.config()).Run)
}

func (s *system) config() projector.Config {
	return projector.Config{ReadPool: s.workers, Store: s.reader, Kafka: kafka.Cluster{Brokers: s.brokers}, Topic: s.topic, Group: s.topic, Projections: allProjections(), Logger: s.log}
}

func (s *system) names() []string {
	var names []string
	for _, p := range allProjections() {
		names = append(names, p.Name())
	}
	return names
}

// awaitReached waits until the projections (default: all) have reached a position.
func (s *system) awaitReached(product uuid.UUID, position int64, names ...string) {
	s.t.Helper()
	if len(names) == 0 {
		names = s.names()
	}
	testkit.Eventually(s.t, 60*time.Second, fmt.Sprintf("position %d", position), func() error {
		ok, err := projector.Reached(context.Background(), s.pool, names, product, position)
		if err == nil && !ok {
			status, _ := projections.ReadStatus(context.Background(), s.pool, projections.Head{})
			err = fmt.Errorf("not there yet: %+v", status)
		}
		return err
	})
}

// count runs a query for one number.
func (s *system) count(sql string, args ...any) (n int64) {
	s.t.Helper()
	require.NoError(s.t, s.pool.QueryRow(context.Background(), sql, args...).Scan(&n))
	return n
}

// rows returns all rows of the four read models, as text.
func (s *system) rows(generation int) map[string][]string {
	out := map[string][]string{}
	for _, table := range []string{"products", "purchase_slots", "purchase_slots_names", "purchases", "slot_audit_log"} {
		rows, err := s.pool.Query(context.Background(), fmt.Sprintf("SELECT t::text FROM %s t ORDER BY 1", projections.Table(table, generation)))
		require.NoError(s.t, err)
		for rows.Next() {
			var text string
			require.NoError(s.t, rows.Scan(&text))
			out[table] = append(out[table], text)
		}
		require.NoError(s.t, rows.Err())
	}
	return out
}

// ensureTopic creates the system's topic.
func (s *system) ensureTopic(partitions int32) {
	_, err := kafka.EnsureTopic(context.Background(), kafka.Cluster{Brokers: s.brokers}, s.topic, kafka.TopicSettings{Partitions: partitions})
	require.NoError(s.t, err)
}
