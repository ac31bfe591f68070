package projector_test

import (
	"context"
	"fmt"
	"slices"
	"testing"
	"time"

	"github.com/ThreeDotsLabs/watermill/message"
	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
	"github.com/stretchr/testify/require"
	"golang.org/x/sync/errgroup"

	"github.com/dopaminestore/dopamine/avsc"
	"github.com/dopaminestore/dopamine/domain"
	"github.com/dopaminestore/dopamine/eventstore"
	"github.com/dopaminestore/dopamine/internal/kafka"
	"github.com/dopaminestore/dopamine/projections/projector"
	"github.com/dopaminestore/dopamine/tools/dbtest"
	"github.com/dopaminestore/dopamine/tools/pipelinetest"
	"github.com/dopaminestore/dopamine/tools/storetest"
	"github.com/dopaminestore/dopamine/tools/testkit"
)

// grants appends n SlotAcquired events of several products and returns them as published.
func (f *fakeTopic) grants(productCount, n int) []published {
	s := f.s
	ids := make([]uuid.UUID, productCount)
	for i := range ids {
		ids[i] = s.Create(1_000_000)
	}
	for i := range n / 500 {
		p := ids[i%productCount]
		a := eventstore.Append{Key: p}
		for j := range 500 {
			number := int64(i*500 + j + 1)
			e := storetest.NewEvent(s.TB, storetest.Acquired(uuid.New(), int(number), number))
			e.Meta.CorrelationID, e.Meta.CausationID, e.Meta.Actor = uuid.NewString(), uuid.NewString(), uuid.NewString()
			a.Streams = append(a.Streams, eventstore.StreamAppend{Stream: domain.SlotID(p, number), Expected: eventstore.None, Events: []eventstore.NewEvent{e}})
		}
		_, err := s.Append(context.Background(), a)
		require.NoError(s.TB, err)
	}
	return f.eventsAfter(0)
}

// BenchmarkProjector applies records as they come from Kafka to all four projections (headers,
// Avro, checkpoints, fold, rows). It alternates with folding and writing the same events from
// memory, in batches of the same size and also with the four projections in parallel, and prints
// the ratio of the medians.
func BenchmarkProjector(b *testing.B) {
	for _, productCount := range []int{1, 100} {
		b.Run(fmt.Sprintf("products=%d", productCount), func(b *testing.B) {
			const events, size = 20_000, 5000
			s := newSystem(b, nil)
			f := newFakeTopic(s, 12)
			records := f.produceAll(f.grants(productCount, events))
			envelopes := make([]domain.Envelope, len(records))
			for i, r := range records {
				h, err := avsc.ParseHeaders(func(n string) string { return r.Message.Metadata[n] })
				require.NoError(b, err)
				envelopes[i], err = avsc.Unmarshal(r.Message.Payload, h)
				require.NoError(b, err)
			}
			var ours, bare []time.Duration
			for b.Loop() {
				s.empty()
				owner := newOwner(b, s, 12)
				began := time.Now()
				for chunk := range slices.Chunk(records, size) {
					require.NoError(b, owner.Apply(b.Context(), chunk))
				}
				ours = append(ours, time.Since(began))
				s.empty()
				began = time.Now()
				for chunk := range slices.Chunk(envelopes, size) {
					s.foldAndWrite(b, chunk)
				}
				bare = append(bare, time.Since(began))
			}
			rate := func(d []time.Duration) float64 { slices.Sort(d); return events / d[len(d)/2].Seconds() }
			b.ReportMetric(rate(ours), "events/s")
			b.ReportMetric(rate(bare), "memory-events/s")
			b.ReportMetric(rate(ours)/rate(bare), "ratio")
			b.ReportMetric(0, "ns/op")
		})
	}
}

func (s *system) empty() {
	dbtest.Exec(s.TB, s.Pool, "TRUNCATE projection_checkpoints, products_g1, purchase_slots_g1, purchase_slots_names_g1, purchases_g1, slot_audit_log_g1")
}

// foldAndWrite is the engine's work without Kafka, Avro, checkpoints and parking.
func (s *system) foldAndWrite(b *testing.B, events []domain.Envelope) {
	var all errgroup.Group
	for _, p := range pipelinetest.Projections() {
		all.Go(func() error {
			return pgx.BeginFunc(b.Context(), s.Pool, func(tx pgx.Tx) error {
				fold := p.NewFold(1)
				var mine []domain.Envelope
				for _, e := range events {
					if _, ok := p.Key(e); ok {
						mine = append(mine, e)
					}
				}
				batch := &pgx.Batch{}
				fold.Load(batch, mine)
				if err := tx.SendBatch(b.Context(), batch).Close(); err != nil {
					return err
				}
				for _, e := range mine {
					if err := fold.Apply(e); err != nil {
						return err
					}
				}
				batch = &pgx.Batch{}
				fold.Write(batch)
				return tx.SendBatch(b.Context(), batch).Close()
			})
		})
	}
	require.NoError(b, all.Wait())
}

// BenchmarkVisible measures the time from an append to its rows, through relay, Kafka and
// projector, under concurrent appends.
func BenchmarkVisible(b *testing.B) {
	s := newSystem(b, testkit.Kafka(b))
	s.Start()
	product := s.Create(10_000_000)
	_, _, at := s.Acquire(product, 1, 1)
	s.awaitReached(product, at)
	number := int64(1)
	var took []time.Duration
	for b.Loop() {
		number++
		_, _, at := s.Acquire(product, int(number), number)
		began := time.Now()
		for {
			ok, err := projector.Reached(b.Context(), s.Pool, s.names(), product, at)
			require.NoError(b, err)
			if ok {
				break
			}
			time.Sleep(500 * time.Microsecond)
		}
		took = append(took, time.Since(began))
	}
	slices.Sort(took)
	b.ReportMetric(float64(took[len(took)/2].Microseconds())/1000, "p50-ms")
	b.ReportMetric(float64(took[len(took)*99/100].Microseconds())/1000, "p99-ms")
	b.ReportMetric(0, "ns/op")
}

// BenchmarkSubscriber measures the rate at which records can be read from Kafka.
func BenchmarkSubscriber(b *testing.B) {
	const events = 50_000
	s := newSystem(b, testkit.Kafka(b))
	_, err := kafka.EnsureTopic(b.Context(), s.Kafka, s.Topic, kafka.TopicSettings{Partitions: 12})
	require.NoError(b, err)
	f := newFakeTopic(s, 12)
	var all []*message.Message
	for _, d := range f.produceAll(f.grants(100, events)) {
		all = append(all, d.Message)
	}
	pub, err := kafka.NewPublisher(s.Kafka, 12)
	require.NoError(b, err)
	for chunk := range slices.Chunk(all, 5000) {
		require.NoError(b, pub.Publish(s.Topic, chunk...))
	}
	require.NoError(b, pub.Close())
	var took []time.Duration
	for b.Loop() {
		sub, err := kafka.NewSubscriber(kafka.SubscriberConfig{Cluster: s.Kafka, Group: testkit.Topic(b),
			Begin: func(_ context.Context, _ *kafka.Session, _ string, ps []kafka.Assigned) (map[int32]int64, error) {
				out := map[int32]int64{}
				for _, p := range ps {
					out[p.Partition] = 0
				}
				return out, nil
			}})
		require.NoError(b, err)
		out, err := sub.Subscribe(b.Context(), s.Topic)
		require.NoError(b, err)
		(<-out).Ack()
		began := time.Now()
		for range len(all) - 1 {
			(<-out).Ack()
		}
		took = append(took, time.Since(began))
		require.NoError(b, sub.Close())
	}
	slices.Sort(took)
	b.ReportMetric(float64(len(all))/took[len(took)/2].Seconds(), "events/s")
	b.ReportMetric(0, "ns/op")
}
