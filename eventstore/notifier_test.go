package eventstore

import (
	"context"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/stretchr/testify/require"

	"github.com/dopaminestore/dopamine/tools/dbtest"
	"github.com/dopaminestore/dopamine/tools/testkit"
)

// awaitListener waits until the notifier listens, and returns its backend.
func awaitListener(t *testing.T, s *Store) (pid int) {
	t.Helper()
	testkit.Eventually(t, 5*time.Second, "the listener", func() error {
		return s.pool.QueryRow(context.Background(), `select pid from pg_stat_activity
			where datname = current_database() and query like 'listen%' and state = 'idle'`).Scan(&pid)
	})
	return pid
}

func TestNotifier_ReconnectsAfterBrokenConnection(t *testing.T) {
	t.Parallel()
	pool := dbtest.Write(t)
	s := open(t, pool, Options{})
	w := Listen(t.Context(), pool)
	defer w.Close()
	pid := awaitListener(t, s)
	wakes := func(after int64) {
		t.Helper()
		result, err := s.Append(t.Context(), appendTo(uuid.New(), None, 2))
		require.NoError(t, err)
		require.Equal(t, after+2, result.Position)
		begun := time.Now()
		for range 3 { // a notification of an earlier append may arrive first
			require.NoError(t, w.Wait(t.Context(), after))
			w.mu.Lock()
			last := w.last
			w.mu.Unlock()
			if last > after {
				require.Less(t, time.Since(begun), pollInterval/2, "by NOTIFY, not by polling")
				return
			}
		}
		require.Fail(t, "no notification")
	}
	wakes(0)
	wakes(2)

	dbtest.Exec(t, pool, "select pg_terminate_backend($1)", pid)
	testkit.EventuallyTrue(t, 5*time.Second, "another backend", func() bool { return awaitListener(t, s) != pid })
	wakes(4)
}

func TestNotifier_PollsWithoutListener(t *testing.T) {
	t.Parallel()
	w := Listen(t.Context(), dbtest.Write(t))
	w.Close()
	w.Close()
	begun := time.Now()
	require.NoError(t, w.Wait(t.Context(), 10))
	require.InDelta(t, pollInterval.Seconds(), time.Since(begun).Seconds(), 0.9)
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	require.ErrorIs(t, w.Wait(ctx, 10), context.Canceled)
}
