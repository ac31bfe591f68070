package kafka

import (
	"context"
	"crypto/rand"
	"sync/atomic"
	"testing"
	"time"

	"github.com/ThreeDotsLabs/watermill/message"
	"github.com/google/uuid"
	"github.com/stretchr/testify/require"
	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/dopaminestore/dopamine/tools/devservices"
	"github.com/dopaminestore/dopamine/tools/testkit"
)

func TestReadTopic_SurvivesABrokerRestart(t *testing.T) {
	t.Parallel()
	broker, err := devservices.StartFakeKafka(t.Context(), devservices.KafkaOptions{Dir: t.TempDir()})
	require.NoError(t, err)
	t.Cleanup(func() { _ = broker.Stop(context.Background()) })
	topic := testkit.Topic(t)
	_, err = EnsureTopic(t.Context(), Cluster{Brokers: broker.Brokers()}, topic, TopicSettings{Partitions: 1})
	require.NoError(t, err)
	pub, err := NewPublisher(Cluster{Brokers: broker.Brokers()}, 1)
	require.NoError(t, err)
	const all, size = 12_000, 1 << 10 // far more than one fetch returns
	key := uuid.New()
	var batch []*message.Message
	for i := range all {
		m := event(key, int64(i+1), int64(i))
		m.Payload = make([]byte, size)
		_, _ = rand.Read(m.Payload) // not to be compressed
		if batch = append(batch, m); len(batch) == 1000 {
			require.NoError(t, pub.Publish(topic, batch...))
			batch = nil
		}
	}
	require.NoError(t, pub.Close())

	var read atomic.Int64
	restarted := make(chan error, 1)
	restart := func() { // when no more records arrive
		tick := time.NewTicker(300 * time.Millisecond)
		defer tick.Stop()
		for before := int64(0); ; before = read.Load() {
			<-tick.C
			if before == read.Load() {
				break
			}
		}
		restarted <- broker.Restart(context.Background())
	}
	err = ReadTopic(t.Context(), Cluster{Brokers: broker.Brokers()}, topic, func(_ context.Context, _ int32, records func(func(Record) bool)) error {
		records(func(r Record) bool {
			if read.Load() == 0 {
				broker.Kill9()
				go restart()
			}
			require.Equal(t, read.Load(), r.Offset)
			read.Add(1)
			return true
		})
		return nil
	})
	require.NoError(t, <-restarted)
	require.NoError(t, err)
	require.EqualValues(t, all, read.Load())
}

// Another program may write to the topic in transactions. The marker that ends one has an offset
// and is no record.
func TestRead_EndsAtTransactionMarker(t *testing.T) {
	t.Parallel()
	cluster, topic := Cluster{Brokers: testkit.Kafka(t)}, testkit.Topic(t)
	_, err := EnsureTopic(t.Context(), cluster, topic, TopicSettings{Partitions: 1})
	require.NoError(t, err)
	pub, err := NewPublisher(cluster, 1)
	require.NoError(t, err)
	require.NoError(t, pub.Publish(topic, event(uuid.New(), 1, 0)))
	require.NoError(t, pub.Close())
	testkit.CommitRecords(t, cluster.Brokers, &kgo.Record{Topic: topic, Value: []byte("of another program")})

	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	var offsets []int64
	err = ReadTopic(ctx, cluster, topic, func(_ context.Context, _ int32, records func(func(Record) bool)) error {
		records(func(r Record) bool { offsets = append(offsets, r.Offset); return true })
		return nil
	})
	require.NoError(t, err)
	require.Equal(t, []int64{0, 1}, offsets)
	for n, want := range []Tail{{Begin: 3, Newest: 3}, {Begin: 2, Newest: 3}, {Begin: 1, Newest: 3}} {
		tails, err := ReadTails(ctx, cluster, topic, int64(n))
		require.NoError(t, err)
		require.Len(t, tails[0].Records, max(0, n-1), "of the last %d", n)
		want.Records = tails[0].Records
		require.Equal(t, want, tails[0])
	}
}
