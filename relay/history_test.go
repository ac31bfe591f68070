package relay

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/ThreeDotsLabs/watermill/message"
	"github.com/google/uuid"
	"github.com/prometheus/client_golang/prometheus/testutil"
	"github.com/stretchr/testify/require"
	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/dopaminestore/dopamine/internal/kafka"
	"github.com/dopaminestore/dopamine/tools/dbtest"
	"github.com/dopaminestore/dopamine/tools/testkit"
)

// awaitBlocked waits until the relay is blocked, and returns the reason.
func (s *source) awaitBlocked(r *Relay) (reason string) {
	s.t.Helper()
	testkit.EventuallyTrue(s.t, 60*time.Second, "a blocked relay", func() bool {
		reason = r.Blocked()
		return reason != ""
	})
	return reason
}

func TestRelay_BlocksOnRestoredStore(t *testing.T) {
	t.Parallel()
	for name, while := range map[string]string{"while it runs": "", "before it starts": "stopped"} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s, brokers, topic := newSource(t), testkit.FakeKafka(t), testkit.Topic(t)
			products := []uuid.UUID{uuid.New(), uuid.New(), uuid.New()}
			r := s.relay(brokers, topic, 10)
			stop := s.run(r)
			s.warn(4, products...)
			s.awaitPlace(4)
			restore := dbtest.Snapshot(t, s.url)
			s.warn(3, products...) // lost
			s.awaitPlace(7)
			if while != "" {
				stop()
				r = s.relay(brokers, topic, 10)
			}
			restore()
			s.warn(5, products[1:]...) // positions 5 to 9 again
			if while != "" {
				s.run(r)
			}
			require.Contains(t, s.awaitBlocked(r), "dopamine recover")
			place, err := ReadCheckpoint(context.Background(), s.pool)
			require.NoError(t, err)
			require.EqualValues(t, 4, place.Position, "nothing more was published")
			blockage, err := ReadBlockage(context.Background(), s.pool)
			require.NoError(t, err)
			require.NotNil(t, blockage)
			require.Equal(t, r.Blocked(), blockage.Reason)
			require.EqualValues(t, 1, testutil.ToFloat64(r.metrics.blocked))
		})
	}
}

// Another program that writes to the topic in transactions leaves markers at the end of partitions.
// They neither stop a relay nor hide from it what the topic has and the store does not.
func TestRelay_ReadsPastTransactionMarkers(t *testing.T) {
	t.Parallel()
	s, brokers, topic := newSource(t), testkit.FakeKafka(t), testkit.Topic(t)
	product := uuid.New()
	stop := s.run(s.relay(brokers, topic, 10))
	s.warn(2, product)
	s.awaitPlace(2)
	restore := dbtest.Snapshot(t, s.url)
	s.warn(2, product)
	s.awaitPlace(4)
	stop()
	testkit.CommitRecords(t, brokers, &kgo.Record{Topic: topic, Partition: kafka.Partition(product, 12), Value: []byte("of another program")})
	stop = s.run(s.relay(brokers, topic, 10))
	s.warn(1, product)
	s.awaitPlace(5)
	stop()
	testkit.CommitRecords(t, brokers, &kgo.Record{Topic: topic, Partition: kafka.Partition(product, 12), Value: []byte("of another program")})
	restore()
	r := s.relay(brokers, topic, 10)
	s.run(r)
	require.Contains(t, s.awaitBlocked(r), "dopamine recover")
}

func TestRelay_StandbyIsNotBlockedOnceAnotherLeads(t *testing.T) {
	t.Parallel()
	s, brokers, topic := newSource(t), testkit.FakeKafka(t), testkit.Topic(t)
	s.run(s.relay(brokers, topic, 10))
	s.warn(1, uuid.New())
	s.awaitPlace(1)
	standby := s.relay(brokers, topic, 10)
	standby.block(t.Context(), "of its last term")
	s.run(standby)
	require.NotEmpty(t, standby.Blocked())
	dbtest.Exec(t, s.pool, `DELETE FROM relay_blocked`) // as a relay does that begins to lead
	testkit.EventuallyEqual(t, 60*time.Second, "a standby that is not blocked", "", standby.Blocked)
	require.Zero(t, testutil.ToFloat64(standby.metrics.blocked))
}

// A restore need not end the relay's sessions.
func TestRelay_PublishesNothingAfterAnEventThatTheStoreLost(t *testing.T) {
	t.Parallel()
	s := newSource(t)
	s.warn(7, uuid.New())
	ids, err := s.reader.IDs(t.Context(), []int64{4})
	require.NoError(t, err)
	r := s.relay(testkit.FakeKafka(t), testkit.Topic(t), 2)
	events, err := r.after(t.Context(), Checkpoint{Position: 4, EventID: ids[4]})
	require.NoError(t, err)
	require.Equal(t, []int64{5, 6}, []int64{events[0].Position, events[1].Position})
	for name, from := range map[string]Checkpoint{
		"assigned again":     {Position: 4, EventID: uuid.New()},
		"not assigned again": {Position: 9, EventID: uuid.New()},
	} {
		events, err := r.after(t.Context(), from)
		var blocked *BlockedError
		require.ErrorAs(t, err, &blocked, name)
		require.Contains(t, blocked.Reason, from.EventID.String(), name)
		require.Empty(t, events, name)
	}
}

// A relay that stopped between a publish and its checkpoint finds records after
// it, which the store has: this is not a restore.
func TestRelay_ContinuesAfterUnsavedCheckpoint(t *testing.T) {
	t.Parallel()
	s, brokers, topic := newSource(t), testkit.FakeKafka(t), testkit.Topic(t)
	products := []uuid.UUID{uuid.New(), uuid.New(), uuid.New()}
	stop := s.run(s.relay(brokers, topic, 10))
	s.warn(150, products...)
	s.awaitPlace(10)
	early, err := ReadCheckpoint(context.Background(), s.pool)
	require.NoError(t, err)
	s.awaitPlace(150)
	stop()
	dbtest.Exec(t, s.pool, `UPDATE relay_place SET position = $1, event_id = $2, last = $3`, early.Position, early.EventID, early.Last)
	r := s.relay(brokers, topic, 10)
	s.run(r)
	s.warn(1, products...)
	s.awaitPlace(151)
	require.Empty(t, r.Blocked())
}

func TestRelay_BlocksOnTopicOfOtherStore(t *testing.T) {
	t.Parallel()
	brokers, topic := testkit.FakeKafka(t), testkit.Topic(t)
	one, two := newSource(t), newSource(t)
	one.warn(1, uuid.New())
	one.run(one.relay(brokers, topic, 10))
	one.awaitPlace(1)
	two.warn(1, uuid.New())
	r := two.relay(brokers, topic, 10)
	two.run(r)
	require.Contains(t, two.awaitBlocked(r), "another event store")
	require.Len(t, flat(consume(t, brokers, topic, 1)), 1, "the two are not mixed")

	own, err := two.reader.Identity(t.Context())
	require.NoError(t, err)
	var foreign *ForeignError
	require.ErrorAs(t, CheckTopic(t.Context(), kafka.Cluster{Brokers: brokers}, topic, own), &foreign)
	own, err = one.reader.Identity(t.Context())
	require.NoError(t, err)
	require.NoError(t, CheckTopic(t.Context(), kafka.Cluster{Brokers: brokers}, topic, own))
	require.NoError(t, CheckTopic(t.Context(), kafka.Cluster{Brokers: brokers}, topic+"-none", own), "a topic that is not there yet")
}

func flat(partitions map[int32][]*kgo.Record) (all []*kgo.Record) {
	for _, records := range partitions {
		all = append(all, records...)
	}
	return all
}

// Kafka acknowledged events and lost them: the checkpoint is ahead of
// the topic.
func TestRelay_RepublishesEventsLostByKafka(t *testing.T) {
	t.Parallel()
	s, brokers, topic := newSource(t), testkit.FakeKafka(t), testkit.Topic(t)
	products := []uuid.UUID{uuid.New(), uuid.New(), uuid.New(), uuid.New()}
	stop := s.run(s.relay(brokers, topic, 10))
	s.warn(8, products...)
	s.awaitPlace(8)
	stop()
	s.warn(6, products...)
	r := s.relay(brokers, topic, 10)
	lost := &partly{}
	r.open = func(int32) (message.Publisher, error) { return lost, nil } // acknowledges, keeps nothing
	stop = s.run(r)
	s.awaitPlace(14)
	stop()
	s.run(s.relay(brokers, topic, 10))
	require.EqualValues(t, 14, requireChain(t, consume(t, brokers, topic, 14)))
}

// An event of a newer version is left to a relay of that version.
func TestRelay_LeavesNewerEventsToNewerRelay(t *testing.T) {
	t.Parallel()
	for name, event := range map[string]struct {
		typ     string
		version int
	}{"type": {"SlotTransferred", 1}, "schema version": {"SlotExpiringSoon", 99}} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s, brokers, topic := newSource(t), testkit.FakeKafka(t), testkit.Topic(t)
			product := uuid.New()
			s.warn(2, product)
			s.raw(1, event.typ, event.version, []byte(`{"channel":"push"}`), product)
			s.warn(1, product)
			r := s.relay(brokers, topic, 10)
			s.run(r)
			require.Contains(t, s.awaitBlocked(r), "newer version")
			s.awaitPlace(2)
			for _, rec := range consume(t, brokers, topic, 2)[kafka.Partition(product, 12)] {
				require.NotEmpty(t, rec.Value, "position %s", header(rec, "position"))
			}
			lead, err := s.relay(brokers, topic, 10).elect(t.Context())
			require.NoError(t, err, "the lead is free for another")
			lead.resign(t.Context())
		})
	}
}

// slowRegistry assigns ids, each after a delay.
type slowRegistry struct {
	wait  time.Duration
	down  atomic.Bool
	mu    sync.Mutex
	asked map[string]int // by subject
}

func (g *slowRegistry) Register(ctx context.Context, subject, _ string) (int, error) {
	select {
	case <-time.After(g.wait):
	case <-ctx.Done():
		return 0, ctx.Err()
	}
	if g.down.Load() {
		return 0, errors.New("the registry is away")
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	g.asked[subject]++
	return len(g.asked), nil
}

func TestRelay_KeepsLeadWhileRegistryIsSlow(t *testing.T) {
	t.Parallel()
	s, brokers, topic := newSource(t), testkit.FakeKafka(t), testkit.Topic(t)
	s.warn(3, uuid.New())
	registry := &slowRegistry{wait: 1500 * time.Millisecond, asked: map[string]int{}}
	r := s.relay(brokers, topic, 10)
	r.silence = 2 * time.Second
	r.cfg.Registry = registry
	s.run(r)
	s.awaitPlace(3)
	registry.mu.Lock()
	for subject, times := range registry.asked {
		require.Equal(t, 1, times, "%s was registered in one term", subject)
	}
	registry.mu.Unlock()

	// A new term no longer needs the registry.
	registry.down.Store(true)
	s.depose()
	s.warn(1, uuid.New())
	s.awaitPlace(4)
}

func TestRelay_LagRisesWhileKafkaIsDown(t *testing.T) {
	t.Parallel()
	s, brokers := newSource(t), testkit.FakeKafka(t)
	r := s.relay(brokers, testkit.Topic(t), 100)
	var away atomic.Bool
	pub := &partly{fail: func(int) (int, error) {
		if away.Load() {
			return 0, errors.New("Kafka is away")
		}
		return 0, nil
	}}
	r.open = func(int32) (message.Publisher, error) { return pub, nil }
	r.maxStall = time.Second
	s.run(r)
	s.warn(10, uuid.New())
	s.awaitPlace(10)
	testkit.EventuallyEqual(t, 10*time.Second, "no reason", nil, r.Health)
	away.Store(true)
	s.warn(15, uuid.New())
	testkit.Eventually(t, 30*time.Second, "a lag of 15", func() error {
		lag, stalled := testutil.ToFloat64(r.metrics.lag), testutil.ToFloat64(r.metrics.stalled)
		if lag != 15 || stalled < 2 {
			return fmt.Errorf("lag %v, stalled for %v", lag, stalled)
		}
		return nil
	})
	require.Len(t, r.Health(), 1)
	require.Contains(t, r.Health()[0], "no progress")
	away.Store(false)
	testkit.Eventually(t, 30*time.Second, "no lag", func() error {
		if lag, stalled := testutil.ToFloat64(r.metrics.lag), testutil.ToFloat64(r.metrics.stalled); lag != 0 || stalled != 0 {
			return fmt.Errorf("lag %v, stalled for %v", lag, stalled)
		}
		return nil
	})
	testkit.EventuallyEqual(t, 10*time.Second, "no reason", nil, r.Health)
}

// A relay that is stopped while it connects to Kafka ends cleanly and in time.
func TestRelay_StopsWhileConnecting(t *testing.T) {
	t.Parallel()
	s, brokers := newSource(t), testkit.FakeKafka(t)
	r := s.relay(brokers, testkit.Topic(t), 100)
	connecting, release := make(chan struct{}), make(chan struct{})
	r.open = func(int32) (message.Publisher, error) {
		close(connecting)
		<-release
		return &partly{}, nil
	}
	t.Cleanup(func() { close(release) })
	stop := s.run(r)
	s.warn(1, uuid.New())
	<-connecting
	began := time.Now()
	stop()
	require.Less(t, time.Since(began), shutdownTimeout+2*time.Second)
}
