package worker

import (
	"context"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/dopaminestore/dopamine/command/deadlines"
	"github.com/dopaminestore/dopamine/eventstore"
)

// A sweep that ends because Postgres is unavailable releases every permit that it took:
// a missing one would reduce the concurrency after the outage, and without any
// all expiry would stop.
func TestExpiry_FailedSweepReleasesItsPermits(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	const slots = 10 * chunkSize
	w.holders(slots, func(int) life { return life{ttl: time.Millisecond} })
	closed, err := eventstore.Open(t.Context(), w.Pool, eventstore.Options{})
	require.NoError(t, err)
	require.NoError(t, closed.Close(t.Context()))
	worker := New(Config{Gate: w.gate, GateStore: w.Gates, Deadlines: deadlines.NewStore(w.Pool), Store: closed, Reader: w.reader})
	working, stop := context.WithCancel(t.Context())
	worker.start(working)
	defer func() { stop(); worker.watcher.wait(); worker.syncer.wait() }()
	for range 20 {
		ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
		_, _, err := worker.expirer.sweepOnce(ctx, worker.ending())
		cancel()
		require.ErrorIs(t, err, eventstore.ErrClosed)
		require.Empty(t, worker.expirer.chunks)
	}
}

// A queue that is smaller than the number of due slots slows expiry down and does not stop it.
func TestExpiry_WaitsForSmallAppendQueue(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	const slots = 300
	product := w.holders(slots, func(int) life { return life{ttl: time.Second} })
	small, err := eventstore.Open(context.Background(), w.Pool, eventstore.Options{Queue: 4})
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, small.Close(context.Background())) })
	w.work(func(c *Config) { c.Store = small })
	w.awaitCount(20*time.Second, product, "SlotExpired", slots)
	late := w.lateness(product)
	require.Less(t, late[len(late)-1], 10*time.Second)
}
