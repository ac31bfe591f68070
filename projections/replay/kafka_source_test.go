package replay_test

import (
	"context"
	"errors"
	"slices"
	"testing"
	"time"

	"github.com/ThreeDotsLabs/watermill/message"
	"github.com/google/uuid"
	"github.com/stretchr/testify/require"

	"github.com/dopaminestore/dopamine/eventstore"
	"github.com/dopaminestore/dopamine/internal/kafka"
	"github.com/dopaminestore/dopamine/projections"
	"github.com/dopaminestore/dopamine/projections/replay"
	"github.com/dopaminestore/dopamine/relay"
	"github.com/dopaminestore/dopamine/tools/testkit"
)

// publish runs a relay until every recorded event is in the topic.
func (s *system) publish(brokers []string) {
	s.t.Helper()
	stop := testkit.Background(s.t, func(ctx context.Context) error {
		notifier := eventstore.Listen(ctx, s.pool)
		defer notifier.Close()
		return relay.New(relay.Config{Pool: s.pool, Store: s.reader, Notifier: notifier, Kafka: kafka.Cluster{Brokers: brokers}, Topic: s.topic, Chunk: 7, Logger: s.log}).Run(ctx)
	})
	testkit.Eventually(s.t, 30*time.Second, "the relay", func() error {
		head, err := s.published(context.Background())
		if err == nil && head.Published < head.Position {
			err = errors.New("not there yet")
		}
		return err
	})
	require.NoError(s.t, stop())
}

// replay --from-kafka (contract 6).
func TestReplay_FromKafkaBuildsTheSameRows(t *testing.T) {
	t.Parallel()
	s, brokers := newSystem(t), testkit.Kafka(t)
	for seed := range uint64(3) {
		h := s.open(seed)
		h.acquire(60)
		h.endSlots()
	}
	s.publish(brokers)
	// Everything is published once more: duplicates have the same positions.
	s.exec(`DELETE FROM relay_place`)
	s.publish(brokers)
	s.projector(brokers)
	s.awaitCaughtUp()
	before := s.rows()
	// After the last published event the replay continues with the store.
	h := s.open(7)
	h.acquire(20)

	cfg := s.config()
	cfg.Topic = &replay.Topic{Kafka: kafka.Cluster{Brokers: brokers}, Name: s.topic}
	cfg.Projections = every()
	require.NoError(t, replay.Run(context.Background(), cfg))
	require.EqualValues(t, 4, s.count(`SELECT count(*) FROM projection_replays WHERE source = 'kafka' AND phase = 'swapped' AND events = position`))
	s.publish(brokers)
	s.awaitCaughtUp()
	after := s.rows()
	for table, rows := range before {
		require.Subset(t, after[table], rows, table)
	}
	cfg.Topic, cfg.Verify = nil, true
	var found differences
	cfg.OnDifference = found.add
	require.NoError(t, replay.Run(context.Background(), cfg), "the rows equal those of a replay from the store: %v", found.all)
}

// republish copies the system's topic into another one, with each partition changed.
func (s *system) republish(brokers []string, change func([]*message.Message) []*message.Message) (topic string) {
	s.t.Helper()
	topic = testkit.Topic(s.t)
	_, err := kafka.EnsureTopic(context.Background(), kafka.Cluster{Brokers: brokers}, topic, kafka.TopicSettings{Partitions: kafka.DefaultPartitions})
	require.NoError(s.t, err)
	pub, err := kafka.NewPublisher(kafka.Cluster{Brokers: brokers}, kafka.DefaultPartitions)
	require.NoError(s.t, err)
	defer pub.Close() //nolint:errcheck // a test
	err = kafka.ReadTopic(context.Background(), kafka.Cluster{Brokers: brokers}, s.topic, func(_ context.Context, _ int32, records func(func(kafka.Record) bool)) error {
		var all []*message.Message
		records(func(r kafka.Record) bool {
			headers := map[string]string{}
			for _, name := range []string{"event-id", "event-type", "stream-id", "stream-version", "position", "previous-position", "store",
				"traceparent", "correlation-id", "causation-id"} {
				headers[name] = r.Header(name)
			}
			all = append(all, kafka.NewMessage(uuid.MustParse(r.Key), headers, r.Value))
			return true
		})
		if all = change(all); len(all) == 0 {
			return nil
		}
		return pub.Publish(topic, all...)
	})
	require.NoError(s.t, err)
	return topic
}

func TestReplay_SortsTheTopicIntoTheStoresOrder(t *testing.T) {
	t.Parallel()
	s, brokers := newSystem(t), testkit.Kafka(t)
	s.runLive(brokers)
	for seed := range uint64(3) {
		h := s.open(seed)
		h.acquire(20)
		h.endSlots()
	}
	s.awaitCaughtUp()
	cfg := s.config()
	cfg.Verify = true
	cfg.Topic = &replay.Topic{Kafka: kafka.Cluster{Brokers: brokers}, Name: s.republish(brokers, func(all []*message.Message) []*message.Message {
		var out []*message.Message
		for some := range slices.Chunk(all, 5) {
			slices.Reverse(some) // later ones come first
			out = append(append(out, some...), some[0].Copy(), all[0].Copy())
		}
		return out
	})}
	var found differences
	cfg.OnDifference = found.add
	require.NoError(t, replay.Run(context.Background(), cfg), "%v", found.all)
	require.EqualValues(t, 4, s.count(`SELECT count(*) FROM projection_replays WHERE source = 'kafka' AND phase = 'swapped' AND events = position`))
}

func TestReplay_RefusesATopicThatLacksEvents(t *testing.T) {
	t.Parallel()
	s, brokers := newSystem(t), testkit.Kafka(t)
	s.open(1).acquire(5)
	s.publish(brokers)
	for lacks, change := range map[string]func([]*message.Message) []*message.Message{
		"all":       func([]*message.Message) []*message.Message { return nil },
		"the first": func(all []*message.Message) []*message.Message { return all[min(1, len(all)):] },
		"one in the midst": func(all []*message.Message) []*message.Message {
			return slices.Delete(all, len(all)/2, min(len(all), len(all)/2+1))
		},
		"the last": func(all []*message.Message) []*message.Message { return all[:max(0, len(all)-1)] },
	} {
		cfg := s.config()
		cfg.Topic = &replay.Topic{Kafka: kafka.Cluster{Brokers: brokers}, Name: s.republish(brokers, change)}
		var refused *projections.RefusedError
		require.ErrorAs(t, replay.Run(context.Background(), cfg), &refused, lacks)
		require.Contains(t, refused.Reason, "replay from the store", lacks)
		require.Equal(t, 1, s.generation("products"), "the live generation stays")
	}
}

// A relay that runs during a restore sends an event of the restored store, whose predecessor it
// still takes from the lost history. The recovery publishes it again, with the right predecessor.
func TestReplay_SkipsRecordsThatARecoverySuperseded(t *testing.T) {
	t.Parallel()
	s, brokers := newSystem(t), testkit.Kafka(t)
	s.open(1).acquire(5)
	s.publish(brokers)
	s.projector(brokers)
	s.awaitCaughtUp()
	own, err := s.reader.Identity(t.Context())
	require.NoError(t, err)
	later := own
	later.Incarnation++
	var shared string
	topic := s.republish(brokers, func(all []*message.Message) []*message.Message {
		if len(all) < 6 {
			return all
		}
		shared = all[1].Metadata.Get("position")
		mixed := all[4].Copy()
		mixed.Metadata.Set("previous-position", shared)
		for _, m := range all[2:] {
			m.Metadata.Set("store", later.String())
		}
		return slices.Insert(all, 2, mixed)
	})
	require.NotEmpty(t, shared, "all events are in one partition")
	s.exec(`INSERT INTO store_incarnations (incarnation, shared_position) VALUES (2, ` + shared + `)`)

	cfg := s.config()
	cfg.Verify, cfg.Topic = true, &replay.Topic{Kafka: kafka.Cluster{Brokers: brokers}, Name: topic}
	var found differences
	cfg.OnDifference = found.add
	require.NoError(t, replay.Run(t.Context(), cfg), "%v", found.all)
}
