package main

import (
	"context"
	"testing"

	"github.com/google/uuid"
	"github.com/stretchr/testify/require"
	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/dopaminestore/dopamine/internal/kafka"
	"github.com/dopaminestore/dopamine/tools/dbtest"
	"github.com/dopaminestore/dopamine/tools/testkit"
)

// A topic that cannot be this installation's is a wrong setting: exit status 2 with a remedy, for
// every process that uses it.
func TestRelayAndProjector_RefuseAnotherTopicAtStartup(t *testing.T) {
	unset(t)
	brokers, topic := testkit.Kafka(t), testkit.Topic(t)
	d := dbtest.Both(t)
	_, err := kafka.EnsureTopic(t.Context(), kafka.Cluster{Brokers: brokers}, topic, kafka.TopicSettings{Partitions: 3})
	require.NoError(t, err)
	args := func(process, partitions string) []string {
		return []string{process, "--database-url", d.URL, "--kafka-brokers", brokers[0], "--kafka-topic", topic, "--kafka-partitions", partitions}
	}
	for _, process := range []string{"relay", "projector"} {
		exit, _, said := bounded(t, args(process, "12")...)
		require.Equal(t, 2, exit, said)
		require.Contains(t, said, "--kafka-partitions (DOPAMINE_KAFKA_PARTITIONS): topic "+topic+" has 3 partitions, --kafka-partitions is 12", process)
	}
	client, err := kgo.NewClient(kgo.SeedBrokers(brokers...))
	require.NoError(t, err)
	t.Cleanup(client.Close)
	other := uuid.NewString() + "/1"
	require.NoError(t, client.ProduceSync(context.Background(), &kgo.Record{Topic: topic, Key: []byte(uuid.NewString()), Value: []byte("x"),
		Headers: []kgo.RecordHeader{{Key: kafka.HeaderStore, Value: []byte(other)}}}).FirstErr())
	for _, process := range []string{"relay", "projector"} {
		exit, _, said := bounded(t, args(process, "3")...)
		require.Equal(t, 2, exit, said)
		for _, part := range []string{"--kafka-topic (DOPAMINE_KAFKA_TOPIC)", "another event store", other, "a separate topic"} {
			require.Contains(t, said, part, process)
		}
	}
	_, err = kadm.NewClient(client).DeleteTopic(context.Background(), topic)
	require.NoError(t, err)
}
