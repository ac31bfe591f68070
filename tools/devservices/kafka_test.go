package devservices

import (
	"testing"

	"github.com/stretchr/testify/require"
	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kgo"
)

func client(t *testing.T, k *Kafka) (*kgo.Client, *kadm.Client) {
	t.Helper()
	c, err := kgo.NewClient(kgo.SeedBrokers(k.Brokers()...), kgo.DefaultProduceTopic("t"))
	require.NoError(t, err)
	t.Cleanup(c.Close)
	return c, kadm.NewClient(c)
}

// records counts what lies in topic t, and names its cluster and its id.
func records(t *testing.T, k *Kafka) (count int64, cluster string, topic kadm.TopicID) {
	t.Helper()
	_, admin := client(t, k)
	ends, err := admin.ListEndOffsets(t.Context(), "t")
	require.NoError(t, err)
	require.NoError(t, ends.Error())
	ends.Each(func(o kadm.ListedOffset) { count += o.Offset })
	meta, err := admin.Metadata(t.Context(), "t")
	require.NoError(t, err)
	return count, meta.Cluster, meta.Topics["t"].ID
}

func TestKafka_KeepsItsDataAcrossEveryEnd(t *testing.T) {
	t.Parallel()
	for name, start := range map[string]func(dir string) (*Kafka, error){
		"apache": func(dir string) (*Kafka, error) { return StartKafka(t.Context(), KafkaOptions{Dir: dir}) },
		"fake":   func(dir string) (*Kafka, error) { return StartFakeKafka(t.Context(), KafkaOptions{Dir: dir}) },
	} {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			k, err := start(dir)
			skipWhereMissing(t, err)
			stopped(t, k)
			c, admin := client(t, k)
			_, err = admin.CreateTopic(t.Context(), 3, 1, nil, "t")
			require.NoError(t, err)
			for range 100 {
				require.NoError(t, c.ProduceSync(t.Context(), kgo.StringRecord("v")).FirstErr())
			}
			count, cluster, topic := records(t, k)
			require.EqualValues(t, 100, count)

			brokers := k.Brokers()
			require.NoError(t, k.Restart(t.Context()), "after kill -9")
			require.Equal(t, brokers, k.Brokers())
			count, sameCluster, sameTopic := records(t, k)
			require.EqualValues(t, 100, count)
			require.Equal(t, cluster, sameCluster)
			require.Equal(t, topic, sameTopic)

			_, err = start(dir)
			require.ErrorIs(t, err, ErrInUse)
			require.NoError(t, k.Stop(t.Context()))
			require.NoError(t, k.Stop(t.Context()), "twice")

			again, err := start(dir)
			require.NoError(t, err)
			stopped(t, again)
			require.NotEqual(t, brokers, again.Brokers())
			count, sameCluster, _ = records(t, again)
			require.EqualValues(t, 100, count)
			require.Equal(t, cluster, sameCluster)
		})
	}
}

func TestFakeKafka_HasItsOwnClusterID(t *testing.T) {
	t.Parallel()
	var clusters []string
	for range 2 {
		k, err := StartFakeKafka(t.Context(), KafkaOptions{})
		require.NoError(t, err)
		stopped(t, k)
		_, admin := client(t, k)
		meta, err := admin.BrokerMetadata(t.Context())
		require.NoError(t, err)
		clusters = append(clusters, meta.Cluster)
	}
	require.NotEqual(t, clusters[0], clusters[1])
}
