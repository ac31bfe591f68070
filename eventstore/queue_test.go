package eventstore

import (
	"context"
	"fmt"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/stretchr/testify/require"

	"github.com/dopaminestore/dopamine/tools/dbtest"
	"github.com/dopaminestore/dopamine/tools/testkit"
)

// waitsForLock returns when n sessions of the database wait for the append lock.
func waitsForLock(t *testing.T, pool *pgxpool.Pool, n int) {
	t.Helper()
	testkit.Eventually(t, 2*time.Second, "sessions to wait for the append lock", func() error {
		var waiting int
		err := pool.QueryRow(context.Background(), `
			select count(*) from pg_locks where locktype = 'advisory' and not granted
			and database = (select oid from pg_database where datname = current_database())`).Scan(&waiting)
		if err == nil && waiting < n {
			err = fmt.Errorf("%d wait", waiting)
		}
		return err
	})
}

// holdLock takes the append lock, and releases it when the returned function is called.
func holdLock(t *testing.T, pool *pgxpool.Pool) (release func()) {
	t.Helper()
	tx, err := pool.Begin(context.Background())
	require.NoError(t, err)
	dbtest.Exec(t, tx, lockSQL)
	return func() { require.NoError(t, tx.Rollback(context.Background())) }
}

func TestReserve_FullQueue(t *testing.T) {
	t.Parallel()
	pool := dbtest.Write(t)
	s := open(t, pool, Options{Queue: 3})
	release := holdLock(t, pool)
	results := make(chan error, 2)
	for range 2 {
		go func() {
			_, err := s.Append(context.Background(), appendTo(uuid.New(), None, 1))
			results <- err
		}()
	}
	waitsForLock(t, pool, 1)
	testkit.EventuallyEqual(t, time.Second, "two entries to be reserved", 2, s.Queued)
	place, err := s.Reserve()
	require.NoError(t, err)
	_, err = s.Append(t.Context(), appendTo(uuid.New(), None, 1))
	require.ErrorIs(t, err, ErrOverloaded)
	_, err = s.Reserve()
	require.ErrorIs(t, err, ErrOverloaded)

	place.Release()
	place.Release()
	_, err = place.Append(t.Context(), appendTo(uuid.New(), None, 1))
	require.Error(t, err, "the reservation was released")
	place, err = s.Reserve()
	require.NoError(t, err)
	release()
	_, err = place.Append(t.Context(), appendTo(uuid.New(), None, 1))
	require.NoError(t, err)
	place.Release()
	require.NoError(t, <-results)
	require.NoError(t, <-results)
	require.Zero(t, s.Queued())
	require.Len(t, wholeLog(t, pool), 3)
}

func TestAppend_CanceledBeforeBatch(t *testing.T) {
	t.Parallel()
	pool := dbtest.Write(t)
	s := open(t, pool, Options{})
	release := holdLock(t, pool)
	first := make(chan error, 1)
	ctx, cancel := context.WithCancel(t.Context())
	go func() { // in its batch already: Append waits although its ctx ends
		_, err := s.Append(ctx, appendTo(uuid.New(), None, 1))
		first <- err
	}()
	waitsForLock(t, pool, 1)
	short, done := context.WithTimeout(t.Context(), 20*time.Millisecond)
	defer done()
	_, err := s.Append(short, appendTo(uuid.New(), None, 1))
	var unavailable *UnavailableError
	require.ErrorAs(t, err, &unavailable)
	require.False(t, unavailable.Sent)
	require.ErrorIs(t, err, context.DeadlineExceeded)
	cancel()
	release()
	require.NoError(t, <-first)
	require.Zero(t, s.Queued())
	require.Len(t, wholeLog(t, pool), 1)
}

func TestClose_FinishesAcceptedAppends(t *testing.T) {
	t.Parallel()
	pool := dbtest.Write(t)
	s, err := Open(t.Context(), pool, Options{})
	require.NoError(t, err)
	place, err := s.Reserve()
	require.NoError(t, err)
	closed := make(chan error, 1)
	go func() { closed <- s.Close(context.Background()) }()
	testkit.Eventually(t, time.Second, "the store to refuse", func() error {
		place, err := s.Reserve()
		if err == nil {
			place.Release()
			return fmt.Errorf("reserved")
		}
		require.ErrorIs(t, err, ErrClosed)
		return nil
	})
	_, err = place.Append(t.Context(), appendTo(uuid.New(), None, 1))
	require.NoError(t, err, "a reservation stays valid until it is used")
	require.NoError(t, <-closed)
	require.NoError(t, s.Close(t.Context()))
	require.Len(t, wholeLog(t, pool), 1)
}

func TestClose_TimeoutFailsRemainingAppends(t *testing.T) {
	t.Parallel()
	pool := dbtest.Write(t)
	s, err := Open(t.Context(), pool, Options{})
	require.NoError(t, err)
	release := holdLock(t, pool)
	defer release()
	result := make(chan error, 1)
	go func() {
		_, err := s.Append(context.Background(), appendTo(uuid.New(), None, 1))
		result <- err
	}()
	waitsForLock(t, pool, 1)
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	require.ErrorIs(t, s.Close(ctx), context.Canceled)
	var unavailable *UnavailableError
	require.ErrorAs(t, <-result, &unavailable)
	require.False(t, unavailable.Sent)
}

// Another session holds the lock: the append times out, and the next one succeeds.
func TestAppend_TimesOutOnHeldLock(t *testing.T) {
	t.Parallel()
	pool := dbtest.Write(t)
	s := open(t, pool, Options{})
	release := holdLock(t, pool)
	begun := time.Now()
	_, err := s.Append(t.Context(), appendTo(uuid.New(), None, 1))
	var unavailable *UnavailableError
	require.ErrorAs(t, err, &unavailable)
	require.False(t, unavailable.Sent)
	require.Less(t, time.Since(begun), 2*roundTripTimeout)
	release()
	_, err = s.Append(t.Context(), appendTo(uuid.New(), None, 1))
	require.NoError(t, err)
	require.Len(t, wholeLog(t, pool), 1)
}

// A process that stops inside its append loses the lock, so that others are not blocked.
func TestLock_IsTakenFromStoppedAppender(t *testing.T) {
	t.Parallel()
	pool := dbtest.Write(t)
	s := open(t, pool, Options{})
	stopped, err := pool.Acquire(t.Context())
	require.NoError(t, err)
	defer stopped.Release()
	for _, sql := range []string{settingsSQL(false), beginSQL, lockSQL} {
		_, err := stopped.Exec(t.Context(), sql)
		require.NoError(t, err)
	}
	_, err = s.Append(t.Context(), appendTo(uuid.New(), None, 1))
	require.NoError(t, err)
	_, err = stopped.Exec(t.Context(), "select 1")
	require.ErrorContains(t, err, "idle-in-transaction timeout")
}
