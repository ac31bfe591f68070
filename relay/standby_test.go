package relay

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"testing"
	"time"

	"github.com/ThreeDotsLabs/watermill/message"
	"github.com/google/uuid"
	"github.com/prometheus/client_golang/prometheus/testutil"
	"github.com/stretchr/testify/require"

	"github.com/dopaminestore/dopamine/tools/testkit"
)

// Of several relays one leads and publishes each event once; the others
// publish nothing until it ends: then one of them continues from its checkpoint.
func TestRelay_OneLeadsOthersStandBy(t *testing.T) {
	t.Parallel()
	s, brokers, topic := newSource(t), testkit.Kafka(t), testkit.Topic(t)
	products := []uuid.UUID{uuid.New(), uuid.New(), uuid.New()}
	var relays []*Relay
	var stops []func()
	for range 3 {
		r := s.relay(brokers, topic, 7)
		relays, stops = append(relays, r), append(stops, s.run(r))
	}
	leaders := func() (leading []int) {
		for i, r := range relays {
			if testutil.ToFloat64(r.metrics.leading) == 1 {
				leading = append(leading, i)
			}
		}
		return leading
	}
	published := func() (each []int) {
		for _, r := range relays {
			each = append(each, int(testutil.ToFloat64(r.metrics.published)))
		}
		return each
	}
	const rounds, events = 3, 60
	want := make([]int, len(relays))
	for round := range rounds {
		s.warn(events, products...)
		s.awaitPlace(int64(events * (round + 1)))
		leading := leaders()
		require.Len(t, leading, 1, "round %d", round)
		leader := leading[0]
		want[leader] += events
		require.Eventually(t, func() bool { return slices.Equal(want, published()) }, 10*time.Second, 10*time.Millisecond,
			"published %v, not %v", published(), want)
		stops[leader]()
		if round < rounds-1 {
			testkit.Eventually(t, 30*time.Second, "another that leads", func() error {
				if now := leaders(); len(now) != 1 || now[0] == leader {
					return fmt.Errorf("%v lead", now)
				}
				return nil
			})
		}
	}
	records := 0
	partitions := consume(t, brokers, topic, rounds*events)
	for _, p := range partitions {
		records += len(p)
	}
	require.EqualValues(t, rounds*events, requireChain(t, partitions))
	require.Equal(t, rounds*events, records, "nothing twice where nothing failed")
}

// A leader that alone is cut off from Kafka, while Postgres responds, leaves the lead to a relay that
// is not.
func TestRelay_CutOffFromKafkaLosesTheLead(t *testing.T) {
	t.Parallel()
	for name, fails := range map[string]func(released <-chan struct{}) (message.Publisher, error){
		"connecting fails": func(<-chan struct{}) (message.Publisher, error) { return nil, errors.New("no route to host") },
		"publishing hangs": func(released <-chan struct{}) (message.Publisher, error) { return hungPublisher{released}, nil },
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s, brokers, topic := newSource(t), testkit.FakeKafka(t), testkit.Topic(t)
			s.warn(300, uuid.New())
			tried, released := make(chan struct{}, 100), make(chan struct{})
			t.Cleanup(func() { close(released) })
			cut := s.relay(brokers, topic, 300)
			cut.ackTimeout = 500 * time.Millisecond
			cut.open = func(int32) (message.Publisher, error) {
				select {
				case tried <- struct{}{}:
				default:
				}
				return fails(released)
			}
			s.run(cut)
			<-tried
			testkit.EventuallyEqual(t, 30*time.Second, "the lag", 300.0, func() float64 { return testutil.ToFloat64(cut.metrics.lag) })
			testkit.EventuallyTrue(t, 30*time.Second, "a stalled time", func() bool { return testutil.ToFloat64(cut.metrics.stalled) > 0 })
			require.Less(t, testutil.ToFloat64(cut.metrics.stalled), 300.0, "since the relay began, without a checkpoint")
			healthy := s.relay(brokers, topic, 100)
			s.run(healthy)
			s.awaitPlace(300)
			testkit.EventuallyEqual(t, 10*time.Second, "events that it published", 300.0, func() float64 { return testutil.ToFloat64(healthy.metrics.published) })
			require.LessOrEqual(t, cut.chunk.Load(), int64(75), "if Kafka is slow, a part of the chunk may be acknowledged in time")
			require.EqualValues(t, 300, requireChain(t, consume(t, brokers, topic, 300)))
		})
	}
}

// hungPublisher publishes nothing until it is released.
type hungPublisher struct{ released <-chan struct{} }

func (h hungPublisher) Publish(string, ...*message.Message) error {
	<-h.released
	return errors.New("released")
}

func (h hungPublisher) Close() error { return nil }

func TestRelay_ReducesChunksThatAreNotAcknowledgedInTime(t *testing.T) {
	r := New(Config{Chunk: 1000})
	for _, step := range []struct {
		err  error
		took time.Duration
		want int64
	}{
		{nil, 0, 1000},
		{&kafkaError{errors.New("late")}, r.ackTimeout, 250},
		{&kafkaError{errors.New("late")}, r.ackTimeout, 62},
		{&kafkaError{errors.New("late")}, r.ackTimeout, minChunk},
		{&kafkaError{errors.New("late")}, r.ackTimeout, minChunk},
		{nil, r.ackTimeout / 2, minChunk},
		{nil, time.Second, 2 * minChunk},
		{context.Canceled, time.Second, 2 * minChunk},
	} {
		r.adjustChunk(step.err, step.took)
		require.Equal(t, step.want, r.chunk.Load())
	}
}
