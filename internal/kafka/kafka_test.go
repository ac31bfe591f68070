package kafka

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"sync"
	"testing"
	"time"

	"github.com/IBM/sarama"
	"github.com/ThreeDotsLabs/watermill/message"
	"github.com/google/uuid"
	"github.com/stretchr/testify/require"
	"github.com/twmb/franz-go/pkg/kgo"
	"go.uber.org/goleak"

	"github.com/dopaminestore/dopamine/tools/testkit"
)

func TestMain(m *testing.M) {
	// sarama's metrics have one ticker per process.
	goleak.VerifyTestMain(m, goleak.IgnoreAnyFunction("github.com/rcrowley/go-metrics.(*meterArbiter).tick"))
}

func TestPartition_MatchesKafkasDefaultPartitioner(t *testing.T) {
	theirs := kgo.StickyKeyPartitioner(nil).ForTopic("t")
	for range 1000 {
		key := uuid.New()
		require.EqualValues(t, theirs.Partition(&kgo.Record{Key: []byte(key.String())}, 12), Partition(key, 12), key)
	}
}

func eachKafka(t *testing.T, run func(t *testing.T, cluster Cluster)) {
	t.Run("kfake", func(t *testing.T) { t.Parallel(); run(t, Cluster{Brokers: testkit.FakeKafka(t)}) })
	t.Run("real", func(t *testing.T) { t.Parallel(); run(t, Cluster{Brokers: testkit.Kafka(t)}) })
}

func event(key uuid.UUID, position, previous int64) *message.Message {
	return NewMessage(key, map[string]string{
		HeaderEventID: uuid.NewString(), "event-type": "SlotAcquired", "stream-id": uuid.NewString(), "stream-version": "1",
		"position": strconv.FormatInt(position, 10), HeaderPreviousPosition: strconv.FormatInt(previous, 10),
		"traceparent": "", "correlation-id": "c", "causation-id": "d",
	}, fmt.Appendf(nil, "value %d", position))
}

func TestEnsureTopic_CreatesOnceWithoutRetention(t *testing.T) {
	eachKafka(t, func(t *testing.T, cluster Cluster) {
		topic := testkit.Topic(t)
		_, err := DescribeTopic(t.Context(), cluster, topic)
		require.ErrorIs(t, err, ErrNoTopic)
		made, err := EnsureTopic(t.Context(), cluster, topic, TopicSettings{})
		require.NoError(t, err)
		require.EqualValues(t, 12, made.Partitions)
		require.Zero(t, made.Retention)
		require.NotEmpty(t, made.TopicID)
		require.NotEmpty(t, made.ClusterID)
		again, err := EnsureTopic(t.Context(), cluster, topic, TopicSettings{Partitions: 3, Retention: time.Hour})
		require.NoError(t, err)
		require.Equal(t, made, again, "an existing topic is not changed")
		other, err := EnsureTopic(t.Context(), cluster, testkit.Topic(t), TopicSettings{Partitions: 3, Retention: time.Hour})
		require.NoError(t, err)
		require.NotEqual(t, made.TopicID, other.TopicID)
		require.Equal(t, time.Hour, other.Retention)
		require.EqualValues(t, 3, other.Partitions)
	})
}

// start subscribes with places from begin.
func start(t *testing.T, cluster Cluster, topic, group string, unacked int, begin func(*Session, []int32) map[int32]int64) (*Subscriber, <-chan *message.Message) {
	sub, err := NewSubscriber(SubscriberConfig{Cluster: cluster, Group: group, Unacked: unacked,
		Begin: func(_ context.Context, s *Session, _ string, assigned []Assigned) (map[int32]int64, error) {
			var partitions []int32
			for _, a := range assigned {
				partitions = append(partitions, a.Partition)
			}
			return begin(s, partitions), nil
		}})
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, sub.Close()) })
	out, err := sub.Subscribe(t.Context(), topic)
	require.NoError(t, err)
	return sub, out
}

func next(t *testing.T, out <-chan *message.Message) *message.Message {
	select {
	case m := <-out:
		require.NotNil(t, m, "the subscription ended")
		return m
	case <-time.After(30 * time.Second):
		require.FailNow(t, "no message received")
		return nil
	}
}

func TestPublisher_DeliversInOrderWithHeaders(t *testing.T) {
	eachKafka(t, func(t *testing.T, cluster Cluster) {
		topic := testkit.Topic(t)
		_, err := EnsureTopic(t.Context(), cluster, topic, TopicSettings{})
		require.NoError(t, err)
		pub, err := NewPublisher(cluster, 12)
		require.NoError(t, err)
		defer pub.Close() //nolint:errcheck // a test
		keys := []uuid.UUID{uuid.New(), uuid.New(), uuid.New()}
		sent := map[string][]string{}
		var all []*message.Message
		for i := range 300 {
			m := event(keys[i%3], int64(i+1), int64(i))
			sent[keys[i%3].String()] = append(sent[keys[i%3].String()], m.UUID)
			all = append(all, m)
		}
		require.NoError(t, pub.Publish(topic, all...))

		_, out := start(t, cluster, topic, topic, 0, func(_ *Session, ps []int32) map[int32]int64 { return zeros(ps) })
		got := map[string][]string{}
		for range 300 {
			m := next(t, out)
			d := DeliveryOf(m)
			require.Equal(t, Partition(uuid.MustParse(Key(m)), 12), d.Partition)
			require.Len(t, Headers(m), 9, "the nine headers and no other")
			require.Equal(t, "value "+m.Metadata["position"], string(m.Payload))
			got[Key(m)] = append(got[Key(m)], m.UUID)
			m.Ack()
		}
		require.Equal(t, sent, got)
	})
}

func zeros(partitions []int32) map[int32]int64 {
	out := map[int32]int64{}
	for _, p := range partitions {
		out[p] = 0
	}
	return out
}

// publisher creates a topic of one partition and returns a publisher for it.
func publisher(t testing.TB, cluster Cluster, topic string) *Publisher {
	t.Helper()
	_, err := EnsureTopic(t.Context(), cluster, topic, TopicSettings{Partitions: 1})
	require.NoError(t, err)
	pub, err := NewPublisher(cluster, 1)
	require.NoError(t, err)
	t.Cleanup(func() { _ = pub.Close() })
	return pub
}

func TestSubscriber_NackRestartsAtTheMessage(t *testing.T) {
	eachKafka(t, func(t *testing.T, cluster Cluster) {
		topic := testkit.Topic(t)
		pub := publisher(t, cluster, topic)
		key := uuid.New()
		for i := range 10 {
			require.NoError(t, pub.Publish(topic, event(key, int64(i+1), int64(i))))
		}
		var mu sync.Mutex
		place := int64(4)
		_, out := start(t, cluster, topic, topic, 0, func(_ *Session, ps []int32) map[int32]int64 {
			mu.Lock()
			defer mu.Unlock()
			return map[int32]int64{0: place}
		})
		first := next(t, out)
		require.EqualValues(t, 4, DeliveryOf(first).Offset, "a place above the group's is taken")
		mu.Lock()
		place = 2
		mu.Unlock()
		first.Nack()
		m := first
		for m.Context().Err() != nil || DeliveryOf(m).Session == DeliveryOf(first).Session {
			m = next(t, out)
		}
		require.Error(t, first.Context().Err(), "the old session has ended")
		require.EqualValues(t, 2, DeliveryOf(m).Offset, "and so is one below")
	})
}

func TestSubscriber_PausesAPartitionWithTooManyUnacknowledged(t *testing.T) {
	cluster, topic := Cluster{Brokers: testkit.FakeKafka(t)}, testkit.Topic(t)
	pub := publisher(t, cluster, topic)
	var all []*message.Message
	key := uuid.New()
	for i := range 100 {
		all = append(all, event(key, int64(i+1), int64(i)))
	}
	require.NoError(t, pub.Publish(topic, all...))
	_, out := start(t, cluster, topic, topic, 10, func(_ *Session, ps []int32) map[int32]int64 { return zeros(ps) })
	var held []*message.Message
	for range 10 {
		held = append(held, next(t, out))
	}
	// One more may be with the goroutine that waits for acknowledgements.
	for wait := time.After(500 * time.Millisecond); ; {
		select {
		case m := <-out:
			held = append(held, m)
			require.LessOrEqual(t, len(held), 11)
			continue
		case <-wait:
		}
		break
	}
	for _, m := range held {
		m.Ack()
	}
	for range 100 - len(held) {
		next(t, out).Ack()
	}
}

func TestSubscriber_PassesOffsetsToBegin(t *testing.T) {
	cluster, topic := Cluster{Brokers: testkit.Kafka(t)}, testkit.Topic(t)
	pub := publisher(t, cluster, topic)
	key := uuid.New()
	for i := range 5 {
		require.NoError(t, pub.Publish(topic, event(key, int64(i+1), int64(i))))
	}
	admin, err := sarama.NewClusterAdmin(cluster.Brokers, baseConfig(cluster))
	require.NoError(t, err)
	require.NoError(t, admin.DeleteRecords(topic, map[int32]int64{0: 3}))
	require.NoError(t, admin.Close())
	begun := make(chan Assigned, 1)
	sub, err := NewSubscriber(SubscriberConfig{Cluster: cluster, Group: topic,
		Begin: func(_ context.Context, _ *Session, _ string, assigned []Assigned) (map[int32]int64, error) {
			begun <- assigned[0]
			return map[int32]int64{0: 2}, nil
		}})
	require.NoError(t, err)
	defer sub.Close() //nolint:errcheck // a test
	out, err := sub.Subscribe(t.Context(), topic)
	require.NoError(t, err)
	require.Equal(t, Assigned{0, 3, 5}, <-begun)
	for range out { //nolint:revive // until it is closed
	}
	require.ErrorContains(t, sub.Err(), "cannot start at offset 2: it has 3 to 5")
}

func TestSubscriber_EndsIfBeginFails(t *testing.T) {
	cluster, topic := Cluster{Brokers: testkit.FakeKafka(t)}, testkit.Topic(t)
	_, err := EnsureTopic(t.Context(), cluster, topic, TopicSettings{Partitions: 1})
	require.NoError(t, err)
	away := errors.New("the database is unavailable")
	sub, err := NewSubscriber(SubscriberConfig{Cluster: cluster, Group: topic,
		Begin: func(context.Context, *Session, string, []Assigned) (map[int32]int64, error) { return nil, away }})
	require.NoError(t, err)
	out, err := sub.Subscribe(t.Context(), topic)
	require.NoError(t, err)
	for range out { //nolint:revive // until it is closed
	}
	require.ErrorIs(t, sub.Err(), away)
	require.NoError(t, sub.Close())
	require.NoError(t, sub.Close(), "Close is idempotent")

	// It has left the group: another member gets the partition at once.
	began := time.Now()
	_, other := start(t, cluster, topic, topic, 0, func(_ *Session, ps []int32) map[int32]int64 { return zeros(ps) })
	pub, err := NewPublisher(cluster, 1)
	require.NoError(t, err)
	defer pub.Close() //nolint:errcheck // a test
	require.NoError(t, pub.Publish(topic, event(uuid.New(), 1, 0)))
	next(t, other).Ack()
	require.Less(t, time.Since(began), 6*time.Second, "sooner than the session timeout")
}

// failing fails some messages of a batch and delivers the others, as sarama can.
type failing struct {
	sarama.SyncProducer
	sent []*sarama.ProducerMessage
}

func (f *failing) SendMessages(batch []*sarama.ProducerMessage) error {
	f.sent = append(f.sent, batch[1:]...)
	return sarama.ProducerErrors{{Msg: batch[0], Err: sarama.ErrNotLeaderForPartition}}
}

func TestPublisher_PartialFailureIsAnError(t *testing.T) {
	pub := newPublisher(&failing{}, 12)
	err := pub.Publish("t", event(uuid.New(), 1, 0), event(uuid.New(), 2, 1))
	require.ErrorIs(t, err, sarama.ErrNotLeaderForPartition)
	require.ErrorContains(t, err, "1 of 2")
	require.Error(t, pub.Publish("t", message.NewMessage("x", nil)), "a message without a key")
}
