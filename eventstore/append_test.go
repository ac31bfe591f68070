package eventstore

import (
	"context"
	"sync"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/stretchr/testify/require"

	"github.com/dopaminestore/dopamine/tools/dbtest"
	"github.com/dopaminestore/dopamine/tools/testkit"
)

func TestAppend_IsReadBack(t *testing.T) {
	t.Parallel()
	pool := dbtest.Write(t)
	s, r := open(t, pool, Options{}), NewReader(pool)
	product, slot := uuid.New(), uuid.New()
	a := Append{Key: product, Streams: []StreamAppend{
		{Stream: product, Expected: None, Events: []NewEvent{event(1)}},
		{Stream: slot, Expected: None, Events: []NewEvent{event(2), event(3)}},
	}}
	a.Streams[1].Events[1].Payload = []byte("{ \"b\":1,\n \"a\" : \"ü\\u0000\", \"a\":2 }") // stored unchanged
	before := time.Now().Truncate(time.Millisecond)
	result, err := s.Append(t.Context(), a)
	require.NoError(t, err)
	require.Equal(t, []int64{1, 2, 3}, result.Positions)
	require.EqualValues(t, 3, result.Position)
	require.False(t, result.RecordedAt.Before(before))

	log := wholeLog(t, pool)
	require.Len(t, log, 3)
	for i, want := range []struct {
		stream  uuid.UUID
		version int
		event   NewEvent
	}{{product, 1, a.Streams[0].Events[0]}, {slot, 1, a.Streams[1].Events[0]}, {slot, 2, a.Streams[1].Events[1]}} {
		require.Equal(t, Recorded{
			Position: int64(i + 1), ID: want.event.ID, Stream: want.stream, Version: want.version, Key: product,
			Type: "Happened", SchemaVersion: 1, Payload: want.event.Payload, Meta: want.event.Meta,
			RecordedAt: result.RecordedAt,
		}, log[i])
	}

	got, err := r.Stream(t.Context(), slot, 1)
	require.NoError(t, err)
	require.Equal(t, log[2:], got)
	got, err = r.ReadPartition(t.Context(), product, 1, 2, 10)
	require.NoError(t, err)
	require.Equal(t, log[1:2], got)
	at, err := r.At(t.Context(), 2)
	require.NoError(t, err)
	require.Equal(t, log[1], at)
	_, err = r.At(t.Context(), 4)
	require.ErrorIs(t, err, ErrNoEvent)
	head, err := r.Head(t.Context())
	require.NoError(t, err)
	require.EqualValues(t, 3, head)
}

func TestAppend_ExpectedVersion(t *testing.T) {
	t.Parallel()
	pool := dbtest.Write(t)
	s := open(t, pool, Options{})
	for _, tt := range []struct {
		name     string
		there    int
		expected Expected
		actual   int // -1: appended
	}{
		{"none, nothing there", 0, None, -1},
		{"none, something there", 2, None, 2},
		{"exact", 2, 2, -1},
		{"exact, behind", 2, 1, 2},
		{"exact, ahead", 2, 3, 2},
		{"exact, nothing there", 0, 1, 0},
		{"any, nothing there", 0, Any, -1},
		{"any, something there", 2, Any, -1},
	} {
		t.Run(tt.name, func(t *testing.T) {
			stream := uuid.New()
			if tt.there > 0 {
				_, err := s.Append(t.Context(), appendTo(stream, None, tt.there))
				require.NoError(t, err)
			}
			_, err := s.Append(t.Context(), appendTo(stream, tt.expected, 1))
			if tt.actual < 0 {
				require.NoError(t, err)
				return
			}
			require.ErrorIs(t, err, ErrConflict)
			var conflict *ConflictError
			require.ErrorAs(t, err, &conflict)
			require.Equal(t, ConflictError{Stream: stream, Expected: tt.expected, Actual: tt.actual}, *conflict)
		})
	}
	wholeLog(t, pool)
}

func TestAppend_RepeatReturnsFirstResult(t *testing.T) {
	t.Parallel()
	pool := dbtest.Write(t)
	s := open(t, pool, Options{})
	stream := uuid.New()
	a := appendTo(stream, None, 2)
	first, err := s.Append(t.Context(), a)
	require.NoError(t, err)
	_, err = s.Append(t.Context(), appendTo(stream, 2, 1))
	require.NoError(t, err)

	a.Streams[0].Events[0].Meta.Traceparent = "another command"
	again, err := s.Append(t.Context(), a)
	require.NoError(t, err, "although the stream has moved on")
	first.Repeated = true
	require.Equal(t, first, again)

	other := a
	other.Streams = []StreamAppend{{Stream: stream, Expected: Any, Events: []NewEvent{a.Streams[0].Events[0], a.Streams[0].Events[1]}}}
	other.Streams[0].Events[1].Payload = []byte(`{"n": 99}`)
	_, err = s.Append(t.Context(), other)
	require.ErrorIs(t, err, ErrIDReused, "another payload")
	other.Streams[0].Events = []NewEvent{a.Streams[0].Events[0], event(7)}
	_, err = s.Append(t.Context(), other)
	require.ErrorIs(t, err, ErrIDReused, "some of its events only")
	require.Len(t, wholeLog(t, pool), 3)
}

// blocked holds the append lock, runs queue, waits until n appends are queued,
// and releases the lock: the appends of queue are in one batch or two.
func blocked(t *testing.T, s *Store, n int, queue func()) {
	t.Helper()
	tx, err := s.pool.Begin(context.Background())
	require.NoError(t, err)
	dbtest.Exec(t, tx, lockSQL)
	queue()
	testkit.EventuallyTrue(t, 2*time.Second, "the appends to be queued", func() bool { return s.Queued() >= n })
	require.NoError(t, tx.Rollback(context.Background()))
}

func TestAppend_ConcurrentRepeatsAppendOnce(t *testing.T) {
	t.Parallel()
	pool := dbtest.Write(t)
	s := open(t, pool, Options{})
	a := appendTo(uuid.New(), None, 2)
	results := make([]Result, 10)
	var all sync.WaitGroup
	blocked(t, s, len(results), func() {
		for i := range results {
			all.Go(func() {
				var err error
				results[i], err = s.Append(context.Background(), a)
				require.NoError(t, err)
			})
		}
	})
	all.Wait()
	repeats := 0
	for _, result := range results {
		require.Equal(t, []int64{1, 2}, result.Positions)
		if result.Repeated {
			repeats++
		}
	}
	require.Equal(t, len(results)-1, repeats)
	require.Len(t, wholeLog(t, pool), 2)
}

// An invalid append of a batch affects no other one.
func TestAppend_FailsAlone(t *testing.T) {
	t.Parallel()
	pool := dbtest.Write(t)
	var mu sync.Mutex
	var batches []Batch
	s := open(t, pool, Options{Observe: func(b Batch) {
		mu.Lock()
		defer mu.Unlock()
		batches = append(batches, b)
	}})
	taken := uuid.New()
	_, err := s.Append(t.Context(), appendTo(taken, None, 1))
	require.NoError(t, err)

	bad := appendTo(uuid.New(), None, 1)
	bad.Streams[0].Events[0].Payload = []byte(`{"n": `)
	conflicting := appendTo(taken, None, 1)
	const good = 40
	errs := make([]error, good+2)
	var all sync.WaitGroup
	blocked(t, s, len(errs), func() {
		for i := range errs {
			a := appendTo(uuid.New(), None, 1)
			switch i {
			case 20:
				a = bad
			case 30:
				a = conflicting
			}
			all.Go(func() { _, errs[i] = s.Append(context.Background(), a) })
		}
	})
	all.Wait()
	for i, err := range errs {
		switch i {
		case 20:
			require.ErrorContains(t, err, "invalid input syntax for type json")
		case 30:
			require.ErrorIs(t, err, ErrConflict)
		default:
			require.NoError(t, err)
		}
	}
	require.Len(t, wholeLog(t, pool), 1+good)
	mu.Lock()
	defer mu.Unlock()
	largest := 0
	for _, b := range batches {
		largest = max(largest, b.Appends)
	}
	require.Greater(t, largest, 20, "they shared a batch")
}

func TestAppend_SeveralStreamsAreAtomic(t *testing.T) {
	t.Parallel()
	pool := dbtest.Write(t)
	s := open(t, pool, Options{})
	one, two := uuid.New(), uuid.New()
	_, err := s.Append(t.Context(), appendTo(two, None, 1))
	require.NoError(t, err)
	a := appendTo(one, None, 1)
	a.Streams = append(a.Streams, StreamAppend{Stream: two, Expected: None, Events: []NewEvent{event(1)}})
	_, err = s.Append(t.Context(), a)
	require.ErrorIs(t, err, ErrConflict)
	_, err = s.Append(t.Context(), appendTo(one, None, 1))
	require.NoError(t, err, "nothing was appended to the first stream")
	wholeLog(t, pool)
}

func TestAppend_RejectsInvalid(t *testing.T) {
	t.Parallel()
	s := open(t, dbtest.Write(t), Options{})
	twice := appendTo(uuid.New(), Any, 2)
	twice.Streams[0].Events[1].ID = twice.Streams[0].Events[0].ID
	nameless := appendTo(uuid.New(), Any, 1)
	nameless.Streams[0].Events[0].Type = ""
	for name, a := range map[string]Append{
		"nothing":             {Key: uuid.New()},
		"no event":            appendTo(uuid.New(), Any, 0),
		"version -2":          appendTo(uuid.New(), -2, 1),
		"an id twice":         twice,
		"without a type":      nameless,
		"an event without id": {Streams: []StreamAppend{{Events: []NewEvent{{Type: "X"}}}}},
	} {
		_, err := s.Append(t.Context(), a)
		require.Error(t, err, name)
		require.Zero(t, s.Queued(), name)
	}
}

func TestLog_IsAppendOnly(t *testing.T) {
	t.Parallel()
	pool := dbtest.Write(t)
	s := open(t, pool, Options{})
	_, err := s.Append(t.Context(), appendTo(uuid.New(), None, 1))
	require.NoError(t, err)
	for _, sql := range []string{
		"update events set payload = '{}'",
		"update events set payload = '{}' where false",
		"delete from events",
		"truncate events",
		"truncate events cascade",
		"set session_replication_role = replica; delete from events",
		"update store_identity set id = gen_random_uuid()",
		"delete from store_identity",
	} {
		_, err := pool.Exec(t.Context(), sql)
		require.ErrorContains(t, err, "append only", sql)
	}
	require.Len(t, wholeLog(t, pool), 1)
}

func TestIdentity(t *testing.T) {
	t.Parallel()
	one, two := NewReader(dbtest.Write(t)), NewReader(dbtest.Write(t))
	first, err := one.Identity(t.Context())
	require.NoError(t, err)
	again, err := one.Identity(t.Context())
	require.NoError(t, err)
	other, err := two.Identity(t.Context())
	require.NoError(t, err)
	require.Equal(t, first, again)
	require.NotEqual(t, first.Store, other.Store)
	require.EqualValues(t, 1, first.Incarnation, "the first history of a store")

	parsed, err := ParseIdentity(first.String())
	require.NoError(t, err)
	require.Equal(t, first, parsed)
	for _, text := range []string{"", first.Store.String(), first.Store.String() + "/", first.Store.String() + "/0", first.Store.String() + "/x", "x/1"} {
		_, err := ParseIdentity(text)
		require.Error(t, err, text)
	}
}

func TestRecordedAt_NeverDecreases(t *testing.T) {
	t.Parallel()
	pool := dbtest.Write(t)
	// As if the clock had been ahead when the last event was appended.
	future := time.Now().Add(time.Hour).UTC().Truncate(time.Millisecond)
	dbtest.Exec(t, pool, `insert into events values
		(1, gen_random_uuid(), gen_random_uuid(), 1, gen_random_uuid(), 'X', 1, '{}', '', '', '', '', $1)`, future)
	s := open(t, pool, Options{})
	result, err := s.Append(t.Context(), appendTo(uuid.New(), None, 1))
	require.NoError(t, err)
	require.Equal(t, future, result.RecordedAt)
	wholeLog(t, pool)
}
