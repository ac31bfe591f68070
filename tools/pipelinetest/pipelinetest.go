// Package pipelinetest provides tests with the way of an event to the read models: an event store,
// relays, a topic, projectors, and the rows. It is the part that the fixtures of projector, replay
// and recovery share.
package pipelinetest

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
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
	"github.com/dopaminestore/dopamine/tools/dbtest"
	"github.com/dopaminestore/dopamine/tools/storetest"
	"github.com/dopaminestore/dopamine/tools/testkit"
)

// Main is the TestMain of packages that use Kafka: it finds goroutines that were left.
func Main(m *testing.M) {
	// sarama's metrics have one ticker per process.
	goleak.VerifyTestMain(m, goleak.IgnoreAnyFunction("github.com/rcrowley/go-metrics.(*meterArbiter).tick"))
}

// Rebuildable returns the four read models.
func Rebuildable() []projections.Rebuildable {
	return []projections.Rebuildable{products.New(), slots.New(), purchases.New(), audit.New()}
}

// Projections returns the four read models as a projector uses them.
func Projections() []projections.Projection {
	var all []projections.Projection
	for _, p := range Rebuildable() {
		all = append(all, p)
	}
	return all
}

// Pipeline is an event store and its read models, in one database, with a separate topic.
type Pipeline struct {
	*storetest.Store
	TB       testing.TB
	ReadPool *pgxpool.Pool // of the rows; the store's pool unless a test replaces it
	Kafka    kafka.Cluster
	Topic    string
	Log      *slog.Logger

	relay     *relay.Relay      // the last one
	projector *projector.Runner // the last one
}

// New returns a Pipeline in which nothing runs yet. maxConns is as in storetest.New.
func New(tb testing.TB, brokers []string, maxConns int32) *Pipeline {
	tb.Helper()
	store := storetest.New(tb, maxConns)
	return &Pipeline{Store: store, TB: tb, ReadPool: store.Pool, Kafka: kafka.Cluster{Brokers: brokers},
		Topic: testkit.Topic(tb), Log: storetest.Logger(tb)}
}

// In returns the pipeline for a subtest.
func (p *Pipeline) In(tb testing.TB) *Pipeline {
	part := *p
	part.TB = tb
	return &part
}

// Record appends events to a stream and returns the last one's position. It retries while the
// database is being replaced.
func (p *Pipeline) Record(product, stream uuid.UUID, events ...domain.Event) (position int64) {
	p.TB.Helper()
	encoded := make([]eventstore.NewEvent, len(events))
	for i, e := range events {
		encoded[i] = storetest.NewEvent(p.TB, e)
	}
	return p.RecordRaw(product, stream, encoded...)
}

// RecordRaw is Record for events that are encoded already.
func (p *Pipeline) RecordRaw(product, stream uuid.UUID, events ...eventstore.NewEvent) (position int64) {
	p.TB.Helper()
	a := eventstore.Append{Key: product, Streams: []eventstore.StreamAppend{{Stream: stream, Expected: eventstore.Any, Events: events}}}
	testkit.Eventually(p.TB, time.Minute, "an append", func() error {
		result, err := p.Append(context.Background(), a)
		position = result.Position
		return err
	})
	return position
}

// Create creates a product.
func (p *Pipeline) Create(stock int) (product uuid.UUID) {
	p.TB.Helper()
	product = uuid.New()
	p.Record(product, product, storetest.Lamp(p.TB, stock))
	return product
}

// Acquire records a slot of a new buyer.
func (p *Pipeline) Acquire(product uuid.UUID, unit int, number int64) (slot, user uuid.UUID, position int64) {
	p.TB.Helper()
	slot, user = domain.SlotID(product, number), uuid.New()
	return slot, user, p.Record(product, slot, storetest.Acquired(user, unit, number))
}

// StartRelay runs a relay until stop, or the test's end.
func (p *Pipeline) StartRelay(change ...func(*relay.Config)) (r *relay.Relay, stop func() error) {
	notifier := eventstore.Listen(context.Background(), p.Pool)
	cfg := relay.Config{Pool: p.Pool, Store: p.Reader, Notifier: notifier, Kafka: p.Kafka, Topic: p.Topic, Logger: p.Log}
	for _, f := range change {
		f(&cfg)
	}
	r = relay.New(cfg)
	p.relay = r
	return r, testkit.Background(p.TB, func(ctx context.Context) error {
		defer notifier.Close()
		return r.Run(ctx)
	})
}

// ProjectorConfig returns the configuration of a projector of all read models.
func (p *Pipeline) ProjectorConfig() projector.Config {
	return projector.Config{ReadPool: p.ReadPool, Store: p.Reader, Kafka: p.Kafka, Topic: p.Topic, Group: p.Topic, Projections: Projections(), Logger: p.Log}
}

// StartProjector runs a projector until stop, or the test's end.
func (p *Pipeline) StartProjector(change ...func(*projector.Config)) (r *projector.Runner, stop func() error) {
	cfg := p.ProjectorConfig()
	for _, f := range change {
		f(&cfg)
	}
	r = projector.NewRunner(cfg)
	p.projector = r
	return r, testkit.Background(p.TB, r.Run)
}

// Start runs a relay and a projector until stop, or the test's end. The test fails if either does.
func (p *Pipeline) Start() (stop func()) {
	p.TB.Helper()
	_, stopRelay := p.StartRelay()
	_, stopProjector := p.StartProjector()
	return func() {
		p.TB.Helper()
		if err := errors.Join(stopRelay(), stopProjector()); err != nil {
			p.TB.Fatal(err)
		}
	}
}

// Published returns how far the store is, and its relay.
func (p *Pipeline) Published(ctx context.Context) (projections.Head, error) {
	c, err := relay.ReadCheckpoint(ctx, p.Pool)
	if err != nil && !errors.Is(err, pgx.ErrNoRows) { // no rows: no relay has run yet
		return projections.Head{}, err
	}
	head, err := p.Reader.Head(ctx)
	return projections.Head{Position: head, Published: c.Position, Last: c.Last, TopicID: c.TopicID, Topic: p.Topic}, err
}

// AwaitPublished waits until the relay has published everything that is in the store now.
func (p *Pipeline) AwaitPublished() {
	p.TB.Helper()
	testkit.Eventually(p.TB, time.Minute, "the relay", func() error {
		h, err := p.Published(context.Background())
		if err == nil && h.Published < h.Position {
			err = fmt.Errorf("published %d of %d; blocked: %q", h.Published, h.Position, p.relay.Blocked())
		}
		return err
	})
}

// AwaitCaughtUp waits until relay and live read models have processed everything that is in the
// store now.
func (p *Pipeline) AwaitCaughtUp() {
	p.TB.Helper()
	testkit.Eventually(p.TB, 90*time.Second, "the read models", func() error {
		head, err := p.Published(context.Background())
		if err != nil {
			return err
		}
		if head.Published < head.Position {
			return fmt.Errorf("published %d of %d; relay %q", head.Published, head.Position, p.relay.Blocked())
		}
		all, err := projections.ReadStatus(context.Background(), p.ReadPool, head)
		for _, m := range all {
			if m.Lag > 0 || m.Position == 0 {
				return fmt.Errorf("%s: position %d, %d behind, %d parked; projector %q", m.Projection, m.Position, m.Lag, m.Parked, p.projector.Health())
			}
		}
		return err
	})
}

// Exec executes a statement on the read side.
func (p *Pipeline) Exec(sql string, args ...any) {
	p.TB.Helper()
	dbtest.Exec(p.TB, p.ReadPool, sql, args...)
}

// Count returns the number that a query of the read side returns.
func (p *Pipeline) Count(sql string, args ...any) int64 {
	p.TB.Helper()
	return dbtest.One[int64](p.TB, p.ReadPool, sql, args...)
}

// Generation returns the number of a projection's live generation.
func (p *Pipeline) Generation(projection string) int {
	p.TB.Helper()
	return dbtest.One[int](p.TB, p.ReadPool, "SELECT generation FROM projection_generations WHERE projection = $1 AND state = 'live'", projection)
}

// Rows returns all rows of one generation of the read models as text, by table.
func (p *Pipeline) Rows(generation int) map[string][]string {
	p.TB.Helper()
	return p.rows(func(string) int { return generation })
}

// LiveRows returns all rows of the live generations as text, by table.
func (p *Pipeline) LiveRows() map[string][]string {
	p.TB.Helper()
	return p.rows(p.Generation)
}

func (p *Pipeline) rows(generation func(projection string) int) map[string][]string {
	p.TB.Helper()
	rows := map[string][]string{}
	for _, projection := range Rebuildable() {
		for _, table := range projection.Tables() {
			rows[table.Base] = dbtest.All[string](p.TB, p.ReadPool,
				fmt.Sprintf("SELECT t::text FROM %s t ORDER BY 1", projections.Table(table.Base, generation(projection.Name()))))
		}
	}
	return rows
}
