package recovery

import (
	"context"
	"errors"
	"strconv"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
	"github.com/stretchr/testify/require"

	"github.com/dopaminestore/dopamine/eventstore"
	"github.com/dopaminestore/dopamine/internal/kafka"
	"github.com/dopaminestore/dopamine/projections"
	"github.com/dopaminestore/dopamine/projections/projector"
	"github.com/dopaminestore/dopamine/relay"
	"github.com/dopaminestore/dopamine/tools/dbtest"
	"github.com/dopaminestore/dopamine/tools/storetest"
	"github.com/dopaminestore/dopamine/tools/testkit"
)

// requireRecovered requires the state after a recovery: read models and topic
// equal the store, and new events are processed.
func (s *shop) requireRecovered(incarnation int64) {
	s.TB.Helper()
	s.AwaitCaughtUp()
	require.Empty(s.TB, s.relay.Blocked())
	require.Zero(s.TB, s.auditedBeyondStore())
	s.acquire(3)
	s.create(2)
	s.AwaitCaughtUp()
	s.requireReadModels()
	c := s.consume()
	require.Equal(s.TB, s.storeIDs(), c.events, "another system that reads the topic")
	require.Equal(s.TB, kafka.DefaultPartitions*int(incarnation-1), c.markers)
	id, err := s.Reader.Identity(context.Background())
	require.NoError(s.TB, err)
	require.Equal(s.TB, incarnation, id.Incarnation)
	_, err = Run(context.Background(), s.config())
	require.ErrorIs(s.TB, err, ErrNotNeeded, "a second time")
}

func TestRecover_AfterRestore(t *testing.T) {
	t.Parallel()
	for name, separate := range map[string]bool{"one database": false, "a read database that did not go back": true} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := newShop(t, separate)
			s.acquire(2)
			shared := s.create(3)
			s.AwaitCaughtUp()
			restore := dbtest.Snapshot(t, s.URL)
			s.acquire(3) // lost
			s.create(2)
			s.AwaitCaughtUp()
			restore()
			s.create(1)
			s.acquire(6) // their positions are assigned again
			s.awaitRelayBlocked()
			if separate {
				require.NotZero(t, s.auditedBeyondStore(), "applied before the restore")
			} else {
				// Its checkpoints were restored too: a projector that starts reads the lost history again.
				s.project()
				testkit.EventuallyTrue(t, 60*time.Second, "a blocked projector", func() bool { return len(s.projector.Health()) > 0 })
				require.Zero(t, s.auditedBeyondStore(), "nothing of the lost history was applied again")
			}

			result, err := Run(t.Context(), s.config())
			require.NoError(t, err)
			require.EqualValues(t, 2, result.Incarnation.Incarnation)
			require.Equal(t, shared, result.SharedPosition)
			require.EqualValues(t, 5, result.Contradictions.Records)
			s.requireRecovered(2)
		})
	}
}

// pausedStore pauses a projector once, after it compared a batch with the store.
type pausedStore struct {
	projections.Store
	armed             atomic.Bool
	paused, continued chan struct{}
}

func (p *pausedStore) IDs(ctx context.Context, positions []int64) (map[int64]uuid.UUID, error) {
	ids, err := p.Store.IDs(ctx, positions)
	if p.armed.CompareAndSwap(true, false) {
		close(p.paused)
		<-p.continued
	}
	return ids, err
}

// A projector that was paused while it held a batch of the lost history does not apply it to the
// read models that were recovered meanwhile: one recovery is enough.
func TestRecover_WhileAProjectorIsPausedWithALostEvent(t *testing.T) {
	t.Parallel()
	s := newShop(t, true)
	store := &pausedStore{Store: s.Reader, paused: make(chan struct{}), continued: make(chan struct{})}
	require.NoError(t, s.stopProjector())
	s.projector, s.stopProjector = s.StartProjector(func(c *projector.Config) { c.Published, c.Store = s.Published, store })
	s.acquire(2)
	s.AwaitCaughtUp()
	restore := dbtest.Snapshot(t, s.URL)
	store.armed.Store(true)
	s.acquire(1) // lost
	resume := sync.OnceFunc(func() { close(store.continued) })
	t.Cleanup(resume)
	select {
	case <-store.paused:
	case <-time.After(time.Minute):
		require.FailNow(t, "the projector was not paused")
	}
	s.AwaitPublished()
	restore()
	s.awaitRelayBlocked()
	_, err := Run(t.Context(), s.config())
	resume()
	require.NoError(t, err)
	testkit.EventuallyEqual(t, 60*time.Second, "a relay that is not blocked", "", s.relay.Blocked)
	s.requireRecovered(2)
}

// Each step may be the last one of a run that is killed: the next run continues.
func TestRecover_ContinuesAfterKill(t *testing.T) {
	t.Parallel()
	for _, step := range []string{"begun", "published", "marked", "rebuilt"} {
		t.Run(step, func(t *testing.T) {
			t.Parallel()
			s := newShop(t, false)
			shared := s.acquire(2)
			s.AwaitCaughtUp()
			restore := dbtest.Snapshot(t, s.URL)
			s.acquire(2)
			s.AwaitCaughtUp()
			restore()
			s.acquire(3)
			s.awaitRelayBlocked()

			killed := errors.New("killed")
			cfg := s.config()
			cfg.after = func(at string) error {
				if at == step {
					return killed
				}
				return nil
			}
			_, err := Run(t.Context(), cfg)
			require.ErrorIs(t, err, killed)
			result, err := Run(t.Context(), s.config())
			require.NoError(t, err)
			require.True(t, result.Resumed)
			require.EqualValues(t, 2, result.Incarnation.Incarnation)
			require.Equal(t, shared, result.SharedPosition)
			s.AwaitCaughtUp()
			require.Zero(t, s.auditedBeyondStore())
			require.Equal(t, s.storeIDs(), s.consume().events)
		})
	}
}

// Gates of the lost history gave out numbers, and stored lines, that the store does not know.
func TestRecover_RaisesEpochsAndSuspectsLogs(t *testing.T) {
	t.Parallel()
	s := newShop(t, false)
	ctx, day := context.Background(), "2026-11-01T10:00:00Z"
	dbtest.Exec(t, s.Pool, `
		INSERT INTO product_gates (product_id, units, sale_date, epoch, rebuilt) VALUES ($1, 10, $2, 3, 2)`, s.product, day)
	dbtest.Exec(t, s.Pool, `
		INSERT INTO gate_epochs (product_id, epoch, ended_at) SELECT $1, n, CASE n WHEN 2 THEN clock_timestamp() ELSE $2::timestamptz END FROM generate_series(0, 2) n`, s.product, day)
	s.AwaitCaughtUp()
	forced := s.config()
	forced.Force = true
	_, err := Run(ctx, forced)
	require.NoError(t, err)

	var epoch, rebuilt int64
	require.NoError(t, s.Pool.QueryRow(ctx, `SELECT epoch, rebuilt FROM product_gates`).Scan(&epoch, &rebuilt))
	require.EqualValues(t, 3+lostEpochs, epoch)
	require.EqualValues(t, 2, rebuilt, "living gates open it in place")
	suspect := func() (epochs []int64) {
		rows, err := s.Pool.Query(ctx, `SELECT epoch FROM gate_epochs_complete WHERE NOT complete ORDER BY 1`)
		require.NoError(t, err)
		epochs, err = pgx.CollectRows(rows, pgx.RowTo[int64])
		require.NoError(t, err)
		return epochs
	}
	require.Equal(t, []int64{2, 3}, suspect())
	dbtest.Exec(t, s.Pool, `INSERT INTO gate_shipments (product_id, epoch, whole) SELECT $1, n, true FROM generate_series(2, 3) n`, s.product)
	require.Empty(t, suspect(), "their gate shipped them to the end")
}

// Another session has locked a product's row: recover waits for it, and appends go on.
func TestRecover_WaitsForLockedRowWithoutTheAppendLock(t *testing.T) {
	t.Parallel()
	s := newShop(t, false)
	dbtest.Exec(t, s.Pool, `
		INSERT INTO product_gates (product_id, units, sale_date, epoch, rebuilt) VALUES ($1, 10, '2026-11-01T10:00:00Z', 3, 2)`, s.product)
	s.AwaitCaughtUp()
	other, err := s.Pool.Begin(t.Context())
	require.NoError(t, err)
	t.Cleanup(func() { _ = other.Rollback(context.Background()) })
	dbtest.Exec(t, other, `SELECT FROM product_gates FOR UPDATE`)

	recovered := make(chan error, 1)
	go func() {
		forced := s.config()
		forced.Force = true
		_, err := Run(context.Background(), forced)
		recovered <- err
	}()
	testkit.Eventually(t, 30*time.Second, "recover to wait for the row", func() error {
		var waiting bool
		err := s.Pool.QueryRow(t.Context(), `
			SELECT EXISTS (SELECT FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock' AND query ILIKE '%product_gates%')`).Scan(&waiting)
		if err == nil && !waiting {
			err = errors.New("nothing waits")
		}
		return err
	})
	for range 3 {
		stream := eventstore.StreamAppend{Stream: uuid.New(), Expected: eventstore.Any, Events: []eventstore.NewEvent{storetest.NewEvent(t, storetest.Lamp(t, 10))}}
		_, err := s.Append(t.Context(), eventstore.Append{Key: stream.Stream, Streams: []eventstore.StreamAppend{stream}})
		require.NoError(t, err, "appends time out only while the append lock is held")
	}
	require.NoError(t, other.Rollback(t.Context()))
	require.NoError(t, <-recovered)
}

// A restore to a moment before an earlier recovery: the store has lost that
// incarnation, and must not assign its number again.
func TestRecover_NeverRepeatsIncarnation(t *testing.T) {
	t.Parallel()
	s := newShop(t, false)
	shared := s.acquire(2)
	s.AwaitCaughtUp()
	first, second := dbtest.Snapshot(t, s.URL), dbtest.Snapshot(t, s.URL)
	s.acquire(4)
	s.AwaitCaughtUp()
	first()
	s.acquire(2)
	s.awaitRelayBlocked()
	result, err := Run(t.Context(), s.config())
	require.NoError(t, err)
	require.EqualValues(t, 2, result.Incarnation.Incarnation)
	s.AwaitCaughtUp()
	s.acquire(1)
	s.AwaitCaughtUp()

	second()
	s.acquire(1)
	s.awaitRelayBlocked()
	result, err = Run(t.Context(), s.config())
	require.NoError(t, err)
	require.EqualValues(t, 3, result.Incarnation.Incarnation)
	require.Equal(t, shared, result.SharedPosition)
	s.requireRecovered(3)
}

func TestRecover_RefusesIfNotNeeded(t *testing.T) {
	t.Parallel()
	s := newShop(t, false)
	s.acquire(3)
	s.AwaitCaughtUp()
	_, err := Run(t.Context(), s.config())
	require.ErrorIs(t, err, ErrNotNeeded)
	s.acquire(1)
	s.AwaitCaughtUp() // it continues

	cfg := s.config()
	cfg.Force = true
	result, err := Run(t.Context(), cfg)
	require.NoError(t, err)
	require.EqualValues(t, 2, result.Incarnation.Incarnation)
	s.requireRecovered(2)
}

// A relay of an older version that did not detect a restore has mixed both histories: the events
// after the last shared position are published again.
func TestRecover_AfterMixedHistories(t *testing.T) {
	t.Parallel()
	s := newShop(t, false)
	shared := s.acquire(2)
	s.AwaitCaughtUp()
	topic, err := kafka.DescribeTopic(t.Context(), s.Kafka, s.Topic)
	require.NoError(t, err)
	publisher, err := kafka.NewPublisher(s.Kafka, topic.Partitions)
	require.NoError(t, err)
	for position := shared + 1; position <= shared+3; position++ { // of a history that the store lost
		m := kafka.NewMessage(s.product, map[string]string{
			"event-id": uuid.NewString(), "event-type": "SlotExpiringSoon", "stream-id": uuid.NewString(), "stream-version": "1",
			"position": strconv.FormatInt(position, 10), "previous-position": strconv.FormatInt(position-1, 10),
		}, nil)
		require.NoError(t, publisher.Publish(s.Topic, m))
	}
	require.NoError(t, publisher.Close())
	s.acquire(5) // published by the running relay
	s.AwaitCaughtUp()
	result, err := Run(t.Context(), s.config())
	require.NoError(t, err)
	require.Equal(t, shared, result.SharedPosition)
	s.AwaitCaughtUp()
	require.Zero(t, s.auditedBeyondStore())
}

func TestRecover_RefusesTopicOfOtherStore(t *testing.T) {
	t.Parallel()
	one, two := newShop(t, false), newShop(t, false)
	one.AwaitCaughtUp()
	cfg := two.config()
	cfg.Kafka, cfg.Topic = one.Kafka, one.Topic
	_, err := Run(t.Context(), cfg)
	var foreign *relay.ForeignError
	require.ErrorAs(t, err, &foreign)
	id, err := two.Reader.Identity(t.Context())
	require.NoError(t, err)
	require.EqualValues(t, 1, id.Incarnation, "nothing was begun")
}
