package worker

import (
	"context"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/dopaminestore/dopamine/eventstore"
)

// A sweep that ends because Postgres is away gives back every place that it took:
// one that it kept would be missing after the outage, and with the last one all
// expiry would stand still.
func TestASweepThatFailsKeepsNoPlace(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	const slots = 10 * chunkSize
	w.holders(slots, func(int) life { return life{ttl: time.Millisecond} })
	closed, err := eventstore.Open(t.Context(), w.pool, eventstore.Options{})
	require.NoError(t, err)
	require.NoError(t, closed.Close(t.Context()))
	worker := New(Config{Gate: w.gate, Claims: w.claims, Store: closed, Reader: w.reader})
	working, stop := context.WithCancel(t.Context())
	worker.start(working)
	defer func() { stop(); worker.watcher.wait(); worker.syncer.wait() }()
	for range 20 {
		ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
		_, _, err := worker.sweeper.sweepOnce(ctx, worker.ending())
		cancel()
		require.ErrorIs(t, err, eventstore.ErrClosed)
		require.Empty(t, worker.sweeper.chunks)
	}
}

// A queue that is smaller than what is due slows expiry down and stops it not.
func TestASmallAppendQueueIsWaitedFor(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	const slots = 300
	product := w.holders(slots, func(int) life { return life{ttl: time.Second} })
	small, err := eventstore.Open(context.Background(), w.pool, eventstore.Options{Queue: 4})
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, small.Close(context.Background())) })
	w.work(func(c *Config) { c.Store = small })
	w.awaitCount(20*time.Second, product, "SlotExpired", slots)
	late := w.lateness(product)
	require.Less(t, late[len(late)-1], 10*time.Second)
}
