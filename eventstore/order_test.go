package eventstore

import (
	"context"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/stretchr/testify/require"

	"github.com/dopaminestore/dopamine/tools/dbtest"
)

// rush lets 16 stores, each with its own pool, append for a while, with a
// reader on the log's tail. It returns the events that the reader saw, how many were
// appended, and the first error of an append.
func rush(t *testing.T, writing time.Duration, opts Options) (seen []Recorded, appended int64, failed error) {
	t.Helper()
	database := dbtest.Both(t)
	ctx, cancel := context.WithTimeout(context.Background(), writing)
	defer cancel()
	var count atomic.Int64
	var failure atomic.Pointer[error]
	var writers sync.WaitGroup
	shared := uuid.New() // all append to it, as to a product's stream
	for range 16 {
		s := open(t, newPool(t, database.URL), opts)
		for range 4 {
			writers.Go(func() {
				own, version := uuid.New(), Expected(0)
				for ctx.Err() == nil && failure.Load() == nil {
					a := appendTo(own, version, 1)
					a.Streams = append(a.Streams, StreamAppend{Stream: shared, Expected: Any, Events: []NewEvent{event(0)}})
					if _, err := s.Append(context.Background(), a); err != nil {
						failure.CompareAndSwap(nil, &err)
						return
					}
					version++
					count.Add(2)
				}
			})
		}
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		writers.Wait()
	}()
	r := NewReader(database.Pool)
	notifier := Listen(context.Background(), database.Pool)
	defer notifier.Close()
	for last := int64(0); ; {
		var ended bool
		select {
		case <-done:
			ended = true
		default:
		}
		page, err := r.ReadAll(context.Background(), last, 1000)
		require.NoError(t, err)
		seen = append(seen, page...)
		if len(page) > 0 {
			last = page[len(page)-1].Position
			continue
		}
		if ended {
			break
		}
		require.NoError(t, notifier.Wait(context.Background(), last))
	}
	if err := failure.Load(); err != nil {
		failed = *err
	}
	return seen, count.Load(), failed
}

func TestReader_TailSeesEveryEventInOrder(t *testing.T) {
	t.Parallel()
	seen, appended, err := rush(t, 2*time.Second, Options{})
	require.NoError(t, err)
	require.Greater(t, appended, int64(1000), "there was traffic")
	require.Len(t, seen, int(appended))
	requireInOrder(t, seen)
}

// Without the append lock, the test above would fail: two batches
// read the same head, and the primary key turns what would be a gap for
// a reader into a failed append.
func TestAppend_CollidesWithoutLock(t *testing.T) {
	t.Parallel()
	for range 5 {
		_, _, err := rush(t, 2*time.Second, Options{withoutLock: true})
		if err != nil {
			require.ErrorContains(t, err, "duplicate key value violates unique constraint")
			return
		}
	}
	require.Fail(t, "16 writers without the lock and no collision")
}
