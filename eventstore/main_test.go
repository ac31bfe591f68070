package eventstore

import (
	"context"
	"fmt"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// open starts a store and closes it at the end of the test.
func open(tb testing.TB, pool *pgxpool.Pool, opts Options) *Store {
	tb.Helper()
	s, err := Open(context.Background(), pool, opts)
	require.NoError(tb, err)
	tb.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
		defer cancel()
		require.NoError(tb, s.Close(ctx))
	})
	return s
}

// newPool returns another pool on the same database, closed at the end of the test.
func newPool(tb testing.TB, url string) *pgxpool.Pool {
	tb.Helper()
	pool, err := pgxpool.New(context.Background(), url)
	require.NoError(tb, err)
	tb.Cleanup(pool.Close)
	return pool
}

// event returns an event with number n.
func event(n int) NewEvent {
	return NewEvent{
		ID:            uuid.New(),
		Type:          "Happened",
		SchemaVersion: 1,
		Payload:       fmt.Appendf(nil, `{"n": %d}`, n),
		Meta:          Meta{Traceparent: "00-1-2-01", CorrelationID: "corr", CausationID: "cause", Actor: "system"},
	}
}

// appendTo returns an append of n events to one stream.
func appendTo(stream uuid.UUID, expected Expected, n int) Append {
	a := Append{Key: stream, Streams: []StreamAppend{{Stream: stream, Expected: expected}}}
	for i := range n {
		a.Streams[0].Events = append(a.Streams[0].Events, event(i))
	}
	return a
}

// wholeLog reads all events and requires the invariants of the log: no gap, no
// missing version, no decreasing time, each event once.
func wholeLog(tb testing.TB, pool *pgxpool.Pool) []Recorded {
	tb.Helper()
	var log []Recorded
	for {
		page, err := NewReader(pool).ReadAll(context.Background(), int64(len(log)), 1000)
		require.NoError(tb, err)
		log = append(log, page...)
		if len(page) < 1000 {
			break
		}
	}
	requireInOrder(tb, log)
	return log
}

func requireInOrder(tb testing.TB, log []Recorded) {
	tb.Helper()
	versions, ids := map[uuid.UUID]int{}, map[uuid.UUID]bool{}
	var last time.Time
	for i, e := range log {
		versions[e.Stream]++
		require.EqualValues(tb, i+1, e.Position, "no gap")
		require.Equal(tb, versions[e.Stream], e.Version, "versions of a stream in order")
		require.False(tb, ids[e.ID], "an event once")
		require.False(tb, e.RecordedAt.Before(last), "time does not decrease")
		require.Zero(tb, e.RecordedAt.Nanosecond()%int(time.Millisecond), "whole milliseconds")
		ids[e.ID], last = true, e.RecordedAt
	}
}
