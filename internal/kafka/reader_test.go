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
