package relay

import (
	"fmt"
	"slices"
	"testing"
	"time"

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
