package recovery

import (
	"context"
	"strconv"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/stretchr/testify/require"

	"github.com/dopaminestore/dopamine/eventstore"
	"github.com/dopaminestore/dopamine/internal/kafka"
	"github.com/dopaminestore/dopamine/projections/projector"
	"github.com/dopaminestore/dopamine/projections/replay"
	"github.com/dopaminestore/dopamine/relay"
	"github.com/dopaminestore/dopamine/tools/dbtest"
	"github.com/dopaminestore/dopamine/tools/pipelinetest"
	"github.com/dopaminestore/dopamine/tools/storetest"
	"github.com/dopaminestore/dopamine/tools/testkit"
)

func TestMain(m *testing.M) { pipelinetest.Main(m) }

// shop is an event store with its read models and a product. A relay and a projector run all the
// time.
type shop struct {
	*pipelinetest.Pipeline
	relay         *relay.Relay
	projector     *projector.Runner
	stopProjector func() error

	number  int64
	product uuid.UUID
}

// newShop returns a shop. separate puts the read models into another database, which is never
// restored.
func newShop(t *testing.T, separate bool) *shop {
	s := &shop{Pipeline: pipelinetest.New(t, testkit.FakeKafka(t), poolSize)}
	if separate {
		s.ReadPool = storetest.Pool(t, dbtest.ReadDB(t).URL, poolSize)
	}
	s.relay, _ = s.StartRelay()
	s.project()
	s.product = s.Create(1000)
	return s
}

// project runs a projector, and ends the previous one.
func (s *shop) project() {
	if s.stopProjector != nil {
		require.NoError(s.TB, s.stopProjector())
	}
	s.projector, s.stopProjector = s.StartProjector(func(c *projector.Config) { c.Published = s.Published })
}

// poolSize is enough connections for a replay.
const poolSize = 30

// acquire appends n grants and returns the last one's position.
func (s *shop) acquire(n int) (position int64) {
	for range n {
		s.number++
		_, _, position = s.Acquire(s.product, int(s.number), s.number)
	}
	return position
}

// create appends n other products, which are in other partitions, and returns the last one's position.
func (s *shop) create(n int) (position int64) {
	for range n {
		product := uuid.New()
		position = s.Record(product, product, storetest.Lamp(s.TB, 10))
	}
	return position
}

func (s *shop) awaitRelayBlocked() {
	s.TB.Helper()
	testkit.EventuallyTrue(s.TB, 60*time.Second, "a blocked relay", func() bool { return s.relay.Blocked() != "" })
}

func (s *shop) config() Config {
	return Config{WritePool: s.Pool, ReadPool: s.ReadPool, Kafka: s.Kafka, Topic: s.Topic, Projections: pipelinetest.Rebuildable(), Logger: s.Log}
}

// storeIDs returns the store's events by position.
func (s *shop) storeIDs() map[int64]uuid.UUID {
	s.TB.Helper()
	ids := map[int64]uuid.UUID{}
	all, err := s.Reader.ReadAll(context.Background(), 0, 100_000)
	require.NoError(s.TB, err)
	for _, e := range all {
		ids[e.Position] = e.ID
	}
	return ids
}

// requireReadModels requires that the read models equal the store: a replay that
// compares finds no difference, and the audit has each event once.
func (s *shop) requireReadModels() {
	s.TB.Helper()
	for _, source := range []*replay.Topic{nil, {Kafka: s.Kafka, Name: s.Topic}} {
		var differences []replay.Difference
		testkit.Eventually(s.TB, 60*time.Second, "a comparison", func() error {
			differences = nil
			return replay.Run(context.Background(), replay.Config{ReadPool: s.ReadPool, Store: s.Reader, Published: s.Published,
				Projections: pipelinetest.Rebuildable(), Verify: true, Topic: source,
				OnDifference: func(d replay.Difference) { differences = append(differences, d) }, Logger: s.Log})
		})
		require.Empty(s.TB, differences, "from the topic: %v", source != nil)
	}
}

// auditedBeyondStore returns audit rows of events that the store does not have.
func (s *shop) auditedBeyondStore() (ghosts int) {
	s.TB.Helper()
	ids := s.storeIDs()
	rows, err := s.ReadPool.Query(context.Background(), "SELECT position, event_id FROM slot_audit_log")
	require.NoError(s.TB, err)
	defer rows.Close()
	for rows.Next() {
		var position int64
		var id uuid.UUID
		require.NoError(s.TB, rows.Scan(&position, (*[16]byte)(&id)))
		if ids[position] != id {
			ghosts++
		}
	}
	require.NoError(s.TB, rows.Err())
	return ghosts
}

// consumer is another system that reads the topic from its beginning and follows
// the rules of the marker. It keeps its view of the store.
type consumer struct {
	t       testing.TB
	current eventstore.Identity
	events  map[int64]uuid.UUID
	markers int
}

// consume reads the topic to its current end.
func (s *shop) consume() *consumer {
	s.TB.Helper()
	c := &consumer{t: s.TB, events: map[int64]uuid.UUID{}}
	perPartition := map[int32][]kafka.Record{}
	tails, err := kafka.ReadTails(context.Background(), s.Kafka, s.Topic, 1<<40)
	require.NoError(s.TB, err)
	for p, tail := range tails {
		perPartition[p] = tail.Records
	}
	for _, records := range perPartition {
		one := &consumer{t: s.TB, events: map[int64]uuid.UUID{}}
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
