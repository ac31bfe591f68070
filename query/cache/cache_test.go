package cache

import (
	"context"
	"errors"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"
	"golang.org/x/sync/semaphore"

	"github.com/dopaminestore/dopamine/internal/problem"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

var (
	errNoProduct   = problem.New(problem.ProductNotFound, "there is no product with this id")
	errUnavailable = problem.New(problem.Unavailable, "the data cannot be read at the moment")
)

func TestCache_SharesAndKeeps(t *testing.T) {
	c := New[int](time.Minute, 4, semaphore.NewWeighted(1), time.Second, time.Second)
	var reads atomic.Int64
	release := make(chan struct{})
	read := func(context.Context) (int, error) {
		<-release
		return int(reads.Add(1)), nil
	}
	var clients sync.WaitGroup
	for range 50 {
		clients.Go(func() {
			v, err := c.Get(t.Context(), "k", read)
			require.NoError(t, err)
			require.Equal(t, 1, v)
		})
	}
	close(release)
	clients.Wait()
	v, err := c.Get(t.Context(), "k", read)
	require.NoError(t, err)
	require.Equal(t, 1, v)
	require.EqualValues(t, 1, reads.Load(), "one read for all")

	_, err = c.Get(t.Context(), "none", func(context.Context) (int, error) { return 0, errNoProduct })
	require.ErrorIs(t, err, errNoProduct)
	_, err = c.Get(t.Context(), "none", func(context.Context) (int, error) { return 7, nil })
	require.ErrorIs(t, err, errNoProduct, "not found is a result")
	_, err = c.Get(t.Context(), "away", func(context.Context) (int, error) { return 0, errUnavailable })
	require.ErrorIs(t, err, errUnavailable)
	v, err = c.Get(t.Context(), "away", func(context.Context) (int, error) { return 7, nil })
	require.NoError(t, err)
	require.Equal(t, 7, v, "after an error the read is repeated")
	for i := range 100 {
		_, err := c.Get(t.Context(), string(rune('a'+i)), func(context.Context) (int, error) { return i, nil })
		require.NoError(t, err)
		require.LessOrEqual(t, len(c.kept), 4)
	}
}

// TestCache_Overloaded starts more different reads than may run. Further ones fail after their
// wait, and a client that disconnects ends no read.
func TestCache_Overloaded(t *testing.T) {
	c := New[int](time.Minute, 100, semaphore.NewWeighted(2), 10*time.Millisecond, 5*time.Second)
	began, release := make(chan struct{}, 2), make(chan struct{})
	slow := func(ctx context.Context) (int, error) {
		began <- struct{}{}
		<-release
		return 1, ctx.Err()
	}
	leaving, leave := context.WithCancel(t.Context())
	results := make(chan error, 2)
	for _, key := range []string{"a", "b"} {
		go func() {
			_, err := c.Get(leaving, key, slow)
			results <- err
		}()
	}
	<-began
	<-began
	_, err := c.Get(t.Context(), "c", slow)
	require.ErrorIs(t, err, errOverloaded)
	leave()
	require.ErrorIs(t, <-results, context.Canceled)
	require.ErrorIs(t, <-results, context.Canceled)
	close(release)
	require.Eventually(t, func() bool {
		v, err := c.Get(t.Context(), "a", func(context.Context) (int, error) { return 0, errors.New("read again") })
		return err == nil && v == 1
	}, 5*time.Second, time.Millisecond, "its result is kept")
}
