package relay

import (
	"context"
	"slices"
	"testing"
	"time"

	"github.com/IBM/sarama"
	"github.com/google/uuid"
	"github.com/stretchr/testify/require"

	"github.com/dopaminestore/dopamine/avsc"
	"github.com/dopaminestore/dopamine/domain"
	"github.com/dopaminestore/dopamine/eventstore"
	"github.com/dopaminestore/dopamine/internal/kafka"
	"github.com/dopaminestore/dopamine/tools/dbtest"
	"github.com/dopaminestore/dopamine/tools/testkit"
)

// BenchmarkRelay publishes events from the store to Kafka, alternating with raw
// sarama batches of 5,000 of the same records, encoded before. It prints the
// ratio of the medians of the rounds.
func BenchmarkRelay(b *testing.B) {
	const events = 40_000
	s, brokers := newSource(b), testkit.Kafka(b)
	s.grants(events)
	topic := testkit.Topic(b)
	info, err := kafka.EnsureTopic(b.Context(), kafka.Cluster{Brokers: brokers}, topic, kafka.TopicSettings{})
	require.NoError(b, err)
	r := s.relay(brokers, topic, 0)
	r.cfg.Notifier = eventstore.Listen(b.Context(), s.pool)
	b.Cleanup(r.cfg.Notifier.(*eventstore.Notifier).Close)
	raw := rawProducer(b, brokers)
	records := s.records(b, r, info.Partitions, events)
	var published, bare []time.Duration
	for b.Loop() {
		published = append(published, s.publishAll(b, r, info, events))
		began := time.Now()
		for chunk := range slices.Chunk(records, 5000) {
			require.NoError(b, raw.SendMessages(chunk))
		}
		bare = append(bare, time.Since(began))
	}
	rate := func(d []time.Duration) float64 { slices.Sort(d); return events / d[len(d)/2].Seconds() }
	b.ReportMetric(rate(published), "events/s")
	b.ReportMetric(rate(bare), "raw-events/s")
	b.ReportMetric(rate(published)/rate(bare), "ratio")
	b.ReportMetric(0, "ns/op")
}

// grants appends n SlotAcquired of a hundred products.
func (s *source) grants(n int) {
	products := make([]uuid.UUID, 100)
	for i := range products {
		products[i] = uuid.New()
	}
	typ, version, payload, err := avsc.Encode(domain.SlotAcquired{UserID: uuid.New(), Unit: 1, ArrivalSequence: 12345, TTLMillis: 1800000, WarningMillis: 300000})
	require.NoError(s.t, err)
	for i := range n / 500 {
		a := eventstore.Append{Key: products[i%len(products)]}
		for range 500 {
			a.Streams = append(a.Streams, eventstore.StreamAppend{Stream: uuid.New(), Expected: eventstore.None, Events: []eventstore.NewEvent{{
				ID: uuid.New(), Type: typ, SchemaVersion: version, Payload: payload, Meta: eventstore.Meta{
					Traceparent: "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01", CorrelationID: uuid.NewString(), CausationID: uuid.NewString(), Actor: uuid.NewString()}}}})
		}
		_, err := s.store.Append(context.Background(), a)
		require.NoError(s.t, err)
	}
}

// publishAll returns how long a relay that already leads takes for the whole store.
func (s *source) publishAll(b *testing.B, r *Relay, info kafka.TopicInfo, events int64) time.Duration {
	dbtest.Exec(b, s.pool, "DELETE FROM relay_place")
	conn, err := r.elect(b.Context())
	require.NoError(b, err)
	defer conn.resign(context.Background()) //nolint:errcheck // a test
	ctx, cancel := context.WithCancel(b.Context())
	done := make(chan error, 1)
	began := time.Now()
	go func() {
		done <- r.publishChunks(ctx, conn, Checkpoint{ClusterID: info.ClusterID, TopicID: info.TopicID, Last: make([]int64, info.Partitions)})
	}()
	s.awaitPlace(events)
	took := time.Since(began)
	cancel()
	<-done
	return took
}

// rawProducer has the settings of the relay's producer, and nothing else.
func rawProducer(b *testing.B, brokers []string) sarama.SyncProducer {
	c := sarama.NewConfig()
	c.Version = sarama.V4_0_0_0
	c.Producer.RequiredAcks, c.Producer.Idempotent, c.Net.MaxOpenRequests = sarama.WaitForAll, true, 1
	c.Producer.Compression, c.Producer.Return.Successes = sarama.CompressionLZ4, true
	c.Producer.Partitioner = sarama.NewManualPartitioner
	p, err := sarama.NewSyncProducer(brokers, c)
	require.NoError(b, err)
	b.Cleanup(func() { _ = p.Close() })
	return p
}

// records returns the relay's own records in sarama's form.
func (s *source) records(b *testing.B, r *Relay, partitions int32, n int) []*sarama.ProducerMessage {
	events, err := s.reader.ReadAll(b.Context(), 0, n)
	require.NoError(b, err)
	c := r.encode(Checkpoint{Last: make([]int64, partitions)}, events)
	topic := testkit.Topic(b)
	_, err = kafka.EnsureTopic(b.Context(), r.cfg.Kafka, topic, kafka.TopicSettings{})
	require.NoError(b, err)
	out := make([]*sarama.ProducerMessage, len(c.messages))
	for i, m := range c.messages {
		out[i] = &sarama.ProducerMessage{Topic: topic, Key: sarama.StringEncoder(events[i].Key.String()), Value: sarama.ByteEncoder(m.Payload), Partition: kafka.Partition(events[i].Key, partitions)}
		for k, v := range kafka.Headers(m) {
			out[i].Headers = append(out[i].Headers, sarama.RecordHeader{Key: []byte(k), Value: []byte(v)})
		}
	}
	return out
}
