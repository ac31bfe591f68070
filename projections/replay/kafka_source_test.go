package replay_test

import (
	"context"
	"slices"
	"testing"

	"github.com/ThreeDotsLabs/watermill/message"
	"github.com/google/uuid"
	"github.com/stretchr/testify/require"

	"github.com/dopaminestore/dopamine/internal/kafka"
	"github.com/dopaminestore/dopamine/projections"
	"github.com/dopaminestore/dopamine/projections/replay"
	"github.com/dopaminestore/dopamine/relay"
	"github.com/dopaminestore/dopamine/tools/pipelinetest"
	"github.com/dopaminestore/dopamine/tools/storetest"
	"github.com/dopaminestore/dopamine/tools/testkit"
)

// publish runs a relay until every recorded event is in the topic.
func (s *system) publish() {
	s.TB.Helper()
	_, stop := s.StartRelay(func(c *relay.Config) { c.Chunk = 7 })
	s.AwaitPublished()
	require.NoError(s.TB, stop())
}

// replay --from-kafka (contract 6).
func TestReplay_FromKafkaBuildsTheSameRows(t *testing.T) {
	t.Parallel()
	s := newSystem(t, testkit.Kafka(t))
	for seed := range uint64(3) {
		h := s.open(seed)
		h.acquire(60)
		h.endSlots()
	}
	s.publish()
	// Everything is published once more: duplicates have the same positions.
	s.Exec(`DELETE FROM relay_place`)
	s.publish()
	s.StartProjector()
	s.AwaitCaughtUp()
	before := s.LiveRows()
	// After the last published event the replay continues with the store.
	h := s.open(7)
	h.acquire(20)

	cfg := s.config()
	cfg.Topic = &replay.Topic{Kafka: s.Kafka, Name: s.Topic}
	cfg.Projections = pipelinetest.Rebuildable()
	require.NoError(t, replay.Run(context.Background(), cfg))
	require.EqualValues(t, 4, s.Count(`SELECT count(*) FROM projection_replays WHERE source = 'kafka' AND phase = 'swapped' AND events = position`))
	s.publish()
	s.AwaitCaughtUp()
	after := s.LiveRows()
	for table, rows := range before {
		require.Subset(t, after[table], rows, table)
	}
	s.verify() // against a replay from the store
}

// republish copies the system's topic into another one, with each partition changed.
func (s *system) republish(change func([]*message.Message) []*message.Message) (topic string) {
	s.TB.Helper()
	topic = testkit.Topic(s.TB)
	_, err := kafka.EnsureTopic(context.Background(), s.Kafka, topic, kafka.TopicSettings{Partitions: kafka.DefaultPartitions})
	require.NoError(s.TB, err)
	pub, err := kafka.NewPublisher(s.Kafka, kafka.DefaultPartitions)
	require.NoError(s.TB, err)
	defer pub.Close() //nolint:errcheck // a test
	err = kafka.ReadTopic(context.Background(), s.Kafka, s.Topic, func(_ context.Context, _ int32, records func(func(kafka.Record) bool)) error {
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
	require.NoError(s.TB, err)
	return topic
}

func TestReplay_SortsTheTopicIntoTheStoresOrder(t *testing.T) {
	t.Parallel()
	s := newSystem(t, testkit.Kafka(t))
	s.Start()
	for seed := range uint64(3) {
		h := s.open(seed)
		h.acquire(20)
		h.endSlots()
	}
	s.AwaitCaughtUp()
	topic := s.republish(func(all []*message.Message) []*message.Message {
		var out []*message.Message
		for some := range slices.Chunk(all, 5) {
			slices.Reverse(some) // later ones come first
			out = append(append(out, some...), some[0].Copy(), all[0].Copy())
		}
		return out
	})
	s.verify(func(c *replay.Config) { c.Topic = &replay.Topic{Kafka: s.Kafka, Name: topic} })
	require.EqualValues(t, 4, s.Count(`SELECT count(*) FROM projection_replays WHERE source = 'kafka' AND phase = 'swapped' AND events = position`))
}

func TestReplay_RefusesATopicThatLacksEvents(t *testing.T) {
	t.Parallel()
	s := newSystem(t, testkit.Kafka(t))
	s.open(1).acquire(5)
	s.publish()
	for lacks, change := range map[string]func([]*message.Message) []*message.Message{
		"all":       func([]*message.Message) []*message.Message { return nil },
		"the first": func(all []*message.Message) []*message.Message { return all[min(1, len(all)):] },
		"one in the midst": func(all []*message.Message) []*message.Message {
			return slices.Delete(all, len(all)/2, min(len(all), len(all)/2+1))
		},
		"the last": func(all []*message.Message) []*message.Message { return all[:max(0, len(all)-1)] },
	} {
		cfg := s.config()
		cfg.Topic = &replay.Topic{Kafka: s.Kafka, Name: s.republish(change)}
		var refused *projections.RefusedError
		require.ErrorAs(t, replay.Run(context.Background(), cfg), &refused, lacks)
		require.Contains(t, refused.Reason, "replay from the store", lacks)
		require.Equal(t, 1, s.Generation("products"), "the live generation stays")
	}
}

// A topic that the relay did not publish to may be complete in itself and yet lack the events of other
// partitions.
func TestReplay_RefusesATopicOfAnotherRelay(t *testing.T) {
	t.Parallel()
	s := newSystem(t, testkit.FakeKafka(t))
	product := uuid.New()
	for kafka.Partition(product, kafka.DefaultPartitions) == 0 {
		product = uuid.New()
	}
	s.record(product, streamEvent{product, storetest.Lamp(t, 10)})
	s.publish()
	narrow := testkit.Topic(t) // nothing was published to its only partition, the first
	_, err := kafka.EnsureTopic(t.Context(), s.Kafka, narrow, kafka.TopicSettings{Partitions: 1})
	require.NoError(t, err)
	whole := s.republish(func(all []*message.Message) []*message.Message { return all })
	type published = func(context.Context) (projections.Head, error)
	run := func(topic string, head published) error {
		cfg := s.config()
		cfg.Topic, cfg.Published = &replay.Topic{Kafka: s.Kafka, Name: topic}, head
		return replay.Run(t.Context(), cfg)
	}
	for _, c := range []struct {
		name, topic string
		head        published
	}{
		{"fewer partitions", narrow, s.published}, // without the topic's id
		{"another id", whole, s.Published},
	} {
		t.Run(c.name, func(t *testing.T) {
			var refused *projections.RefusedError
			require.ErrorAs(t, run(c.topic, c.head), &refused)
			require.Contains(t, refused.Reason, "is not the one that the relay has published to")
			require.Equal(t, 1, s.Generation("products"), "the live generation stays")
		})
	}
	require.NoError(t, run(s.Topic, s.Published))
	require.EqualValues(t, 1, s.Count("SELECT count(*) FROM products"))
}

// A relay that runs during a restore sends an event of the restored store, whose predecessor it
// still takes from the lost history. The recovery publishes it again, with the right predecessor.
func TestReplay_SkipsRecordsThatARecoverySuperseded(t *testing.T) {
	t.Parallel()
	s := newSystem(t, testkit.Kafka(t))
	s.open(1).acquire(5)
	s.publish()
	s.StartProjector()
	s.AwaitCaughtUp()
	own, err := s.Reader.Identity(t.Context())
	require.NoError(t, err)
	later := own
	later.Incarnation++
	var shared string
	topic := s.republish(func(all []*message.Message) []*message.Message {
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
	s.Exec(`INSERT INTO store_incarnations (incarnation, shared_position) VALUES (2, ` + shared + `)`)

	s.verify(func(c *replay.Config) { c.Topic = &replay.Topic{Kafka: s.Kafka, Name: topic} })
}
