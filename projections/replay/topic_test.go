package replay_test

import (
	"context"
	"errors"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/dopaminestore/dopamine/eventstore"
	"github.com/dopaminestore/dopamine/internal/kafka"
	"github.com/dopaminestore/dopamine/internal/testkit"
	"github.com/dopaminestore/dopamine/projections"
	"github.com/dopaminestore/dopamine/projections/replay"
	"github.com/dopaminestore/dopamine/relay"
)

// publish runs a relay until all that is recorded is in the topic.
func (s *system) publish(brokers []string) {
	s.t.Helper()
	stop := testkit.Background(s.t, func(ctx context.Context) error {
		waker := eventstore.Listen(ctx, s.pool)
		defer waker.Close()
		return relay.New(relay.Config{Pool: s.pool, Store: s.reader, Waker: waker, Brokers: brokers, Topic: s.topic, Chunk: 7, Logger: s.log}).Run(ctx)
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

func TestAReplayFromKafkaGivesTheSameRows(t *testing.T) {
	t.Parallel()
	s, brokers := newSystem(t), testkit.Kafka(t)
	for seed := range uint64(3) {
		h := s.open(seed)
		h.acquire(60)
		h.live()
	}
	s.publish(brokers)
	// All of it once more: what is published twice has the same positions.
	s.exec(`DELETE FROM relay_place`)
	s.publish(brokers)
	s.projector(brokers)
	s.caughtUp()
	before := s.rows()
	// Beyond what was published the replay goes on in the store.
	h := s.open(7)
	h.acquire(20)

	cfg := s.config()
	cfg.Topic = &replay.Topic{Brokers: brokers, Name: s.topic}
	cfg.Projections = every()
	require.NoError(t, replay.Run(context.Background(), cfg))
	require.EqualValues(t, 4, s.count(`SELECT count(*) FROM projection_replays WHERE source = 'kafka' AND phase = 'swapped' AND events = position`))
	s.publish(brokers)
	s.caughtUp()
	after := s.rows()
	for table, rows := range before {
		require.Subset(t, after[table], rows, table)
	}
	cfg.Topic, cfg.Verify = nil, true
	var found differences
	cfg.OnDifference = found.add
	require.NoError(t, replay.Run(context.Background(), cfg), "the store says the same: %v", found.all)
}

func TestATopicThatLacksEventsIsRefused(t *testing.T) {
	t.Parallel()
	s, brokers := newSystem(t), testkit.Kafka(t)
	s.open(1).acquire(5)
	s.publish(brokers)
	empty := testkit.Topic(t)
	_, err := kafka.EnsureTopic(context.Background(), brokers, empty, kafka.TopicSettings{Partitions: kafka.DefaultPartitions})
	require.NoError(t, err)
	cfg := s.config()
	cfg.Topic = &replay.Topic{Brokers: brokers, Name: empty}
	var refused *projections.RefusedError
	require.ErrorAs(t, replay.Run(context.Background(), cfg), &refused)
	require.Contains(t, refused.Reason, "replay from the store")
	require.Equal(t, 1, s.generation("products"), "the live generation goes on")
}
