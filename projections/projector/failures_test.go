package projector_test

import (
	"context"
	"fmt"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/stretchr/testify/require"
	"github.com/twmb/franz-go/pkg/kfake"

	"github.com/dopaminestore/dopamine/domain"
	"github.com/dopaminestore/dopamine/eventstore"
	"github.com/dopaminestore/dopamine/projections"
	"github.com/dopaminestore/dopamine/projections/parking"
	"github.com/dopaminestore/dopamine/projections/projector"
	"github.com/dopaminestore/dopamine/tools/dbtest"
	"github.com/dopaminestore/dopamine/tools/pipelinetest"
	"github.com/dopaminestore/dopamine/tools/testkit"
)

// slowStore is an event store whose reads of events time out. Its identity is still read.
type slowStore struct{ projections.Store }

var errSlow = fmt.Errorf("read: %w", context.DeadlineExceeded)

func (slowStore) ReadAll(context.Context, int64, int) ([]eventstore.Recorded, error) {
	return nil, errSlow
}
func (slowStore) At(context.Context, int64) (eventstore.Recorded, error) {
	return eventstore.Recorded{}, errSlow
}
func (slowStore) Events(context.Context, []int64) ([]eventstore.Recorded, error) { return nil, errSlow }

// slowIDs is an event store that times out when records are compared with it.
type slowIDs struct{ projections.Store }

func (slowIDs) IDs(context.Context, []int64) (map[int64]uuid.UUID, error) { return nil, errSlow }

// failures returns dopamine_projector_failures_total by part.
func failures(t *testing.T, registry *prometheus.Registry) map[string]float64 {
	t.Helper()
	families, err := registry.Gather()
	require.NoError(t, err)
	parts := map[string]float64{}
	for _, f := range families {
		if f.GetName() == "dopamine_projector_failures_total" {
			for _, m := range f.GetMetric() {
				parts[m.GetLabel()[0].GetValue()] = m.GetCounter().GetValue()
			}
		}
	}
	return parts
}

// awaitFailure waits until more failures of a part are counted.
func awaitFailure(t *testing.T, registry *prometheus.Registry, part string, more float64) {
	t.Helper()
	testkit.Eventually(t, 60*time.Second, "a failure of "+part, func() error {
		if counted := failures(t, registry); counted[part] <= more {
			return fmt.Errorf("counted %v", counted)
		}
		return nil
	})
}

// A read of the write database that times out is not a slow read database: its connections are
// reset for that.
func TestFailures_OfTheEventStoreAreNamed(t *testing.T) {
	for name, read := range map[string]func(s *system, f *fakeTopic, owner func(projections.Store) *projector.Owner) error{
		"a record that cannot be decoded": func(s *system, f *fakeTopic, owner func(projections.Store) *projector.Owner) error {
			s.Create(10)
			events := f.eventsAfter(0)
			events[0].value = []byte("broken")
			return owner(slowStore{s.Reader}).Apply(context.Background(), f.produceAll(events))
		},
		"a gap in the topic": func(s *system, f *fakeTopic, owner func(projections.Store) *projector.Owner) error {
			product := s.Create(10)
			s.Acquire(product, 1, 1)
			return owner(slowStore{s.Reader}).Apply(context.Background(), f.produceAll(f.eventsAfter(0)[1:]))
		},
		"a retry of parked events": func(s *system, f *fakeTopic, owner func(projections.Store) *projector.Owner) error {
			product := s.Create(10)
			s.appendRaw(product, product, domain.ProductDetailsChanged{}.EventType(), 1, []byte(`{"name":0}`))
			o := owner(s.Reader)
			require.NoError(s.TB, o.Apply(context.Background(), f.produceAll(f.eventsAfter(0))))
			require.NoError(s.TB, parking.Request(context.Background(), s.Pool, "products", product, parking.Retry, "ann"))
			return owner(slowStore{s.Reader}).ServeRequests(context.Background())
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := newSystem(t, nil)
			err := read(s, newFakeTopic(s, 3), func(store projections.Store) *projector.Owner {
				cfg := s.ProjectorConfig()
				cfg.Store = store
				o, err := projector.NewRunner(cfg).TakeAllPartitions(context.Background(), 3)
				require.NoError(t, err)
				return o
			})
			require.ErrorContains(t, err, "event store")
			require.Equal(t, "event_store", projector.FailedPart(err), "%v", err)
		})
	}
	require.Equal(t, "kafka", projector.FailedPart(projector.ErrTopicChanged))
	require.Equal(t, "read_models_timeout", projector.FailedPart(fmt.Errorf("products: %w", context.DeadlineExceeded)))
}

// The checkpoints are read at the begin of a session, inside Kafka's client.
func TestFailures_AtTheBeginOfASessionAreNotKafkas(t *testing.T) {
	t.Parallel()
	for part, breaks := range map[string]func(s *system, cfg *projector.Config){
		"event_store": func(s *system, cfg *projector.Config) { cfg.Store = slowIDs{s.Reader} },
		"read_models": func(s *system, _ *projector.Config) {
			s.Exec("ALTER TABLE projection_checkpoints RENAME TO away")
		},
	} {
		t.Run(part, func(t *testing.T) {
			t.Parallel()
			s := newSystem(t, testkit.FakeKafka(t))
			s.StartRelay()
			_, stop := s.StartProjector()
			product := s.Create(10)
			_, _, at := s.Acquire(product, 1, 1)
			s.awaitReached(product, at)
			require.NoError(t, stop())
			registry := prometheus.NewRegistry()
			s.StartProjector(func(c *projector.Config) {
				c.Registerer = registry
				breaks(s, c)
			})
			awaitFailure(t, registry, part, 0)
		})
	}
}

// Kafka disappears under a running projector: the consumer retries inside, and nothing else fails.
func TestFailures_OfARunningKafkaAreCounted(t *testing.T) {
	t.Parallel()
	cluster, err := kfake.NewCluster(kfake.NumBrokers(1), kfake.GroupMinSessionTimeout(500*time.Millisecond))
	require.NoError(t, err)
	t.Cleanup(cluster.Close)
	s := newSystem(t, cluster.ListenAddrs())
	_, stopRelay := s.StartRelay()
	registry := prometheus.NewRegistry()
	s.StartProjector(func(c *projector.Config) { c.Registerer = registry })
	product := s.Create(10)
	s.awaitReached(product, 1)
	require.NoError(t, stopRelay())
	before := failures(t, registry)["kafka"]
	cluster.Close()
	awaitFailure(t, registry, "kafka", before)
}

// A projector that catches up after an outage applies events that are minutes old.
func TestMetrics_VisibleSecondsReachMinutes(t *testing.T) {
	t.Parallel()
	s := newSystem(t, nil)
	registry, cfg := prometheus.NewRegistry(), s.ProjectorConfig()
	cfg.Registerer = registry
	owner, err := projector.NewRunner(cfg).TakeAllPartitions(context.Background(), 3)
	require.NoError(t, err)
	s.Create(10)
	f := newFakeTopic(s, 3)
	require.NoError(t, owner.Apply(context.Background(), f.produceAll(f.eventsAfter(0))))
	families, err := registry.Gather()
	require.NoError(t, err)
	var bounds []float64
	for _, family := range families {
		if family.GetName() == "dopamine_projector_visible_seconds" {
			for _, b := range family.GetMetric()[0].GetHistogram().GetBucket() {
				bounds = append(bounds, b.GetUpperBound())
			}
		}
	}
	require.Contains(t, bounds, 5.0, "the threshold of ReadModelsLate")
	require.Contains(t, bounds, 120.0)
	require.Contains(t, bounds, 300.0)
}

// The views are followed between batches.
func TestProjector_FollowsViewsWithADeadline(t *testing.T) {
	t.Parallel()
	s := newSystem(t, nil)
	tx, err := s.Pool.Begin(context.Background())
	require.NoError(t, err)
	defer tx.Rollback(context.Background()) //nolint:errcheck // it ends the lock
	dbtest.Exec(t, tx, "LOCK TABLE projection_generations IN ACCESS EXCLUSIVE MODE")
	cfg := s.ProjectorConfig()
	cfg.ReadTimeout = 300 * time.Millisecond
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	defer cancel()
	projector.NewRunner(cfg).FollowViews(ctx)
	require.NoError(t, ctx.Err(), "it waited for the lock")
}

// One projection whose transactions take too long does not get its batch size back from another.
func TestBatchLimit_IsPerProjection(t *testing.T) {
	t.Parallel()
	all := pipelinetest.Projections()
	r := projector.NewRunner(projector.Config{Projections: all, ReadPool: &pgxpool.Pool{}})
	require.Equal(t, 5000, r.BatchLimit(all[0]))
	for range 3 {
		r.AdjustBatch(all[0], fmt.Errorf("commit: %w", context.DeadlineExceeded), 15*time.Second)
		r.AdjustBatch(all[1], nil, time.Second)
		r.AdjustBatch(all[1], nil, time.Second)
	}
	require.Equal(t, 5000/4/4/4, r.BatchLimit(all[0]))
	require.Equal(t, 5000, r.BatchLimit(all[1]))
	for range 10 {
		r.AdjustBatch(all[0], context.DeadlineExceeded, 15*time.Second)
	}
	require.Equal(t, 50, r.BatchLimit(all[0]))
	r.AdjustBatch(all[0], nil, 5*time.Second)
	require.Equal(t, 50, r.BatchLimit(all[0]), "twice as many would take too long, or almost")
	r.AdjustBatch(all[0], nil, time.Second)
	require.Equal(t, 100, r.BatchLimit(all[0]))
}
