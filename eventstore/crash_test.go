package eventstore

import (
	"context"
	"errors"
	"io"
	"net"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/stretchr/testify/require"

	"github.com/dopaminestore/dopamine/tools/dbtest"
)

// Faults of the connections of a faultyNetwork.
const (
	passes      = int32(iota)
	replyLost   // the server receives the request; its reply breaks the connection
	requestLost // the request breaks the connection
	silent      // requests are dropped from now on
)

// faultyNetwork is the network between a store and Postgres.
type faultyNetwork struct {
	fault  atomic.Int32
	dialed atomic.Pointer[func() error] // if not nil, runs before each dial

	mu    sync.Mutex
	conns []net.Conn
}

// cut closes all connections.
func (w *faultyNetwork) cut() {
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, conn := range w.conns {
		_ = conn.Close()
	}
}

type faultyConn struct {
	net.Conn
	faultyNetwork *faultyNetwork
}

func (c faultyConn) Read(b []byte) (int, error) {
	n, err := c.Conn.Read(b)
	if err == nil && c.faultyNetwork.fault.CompareAndSwap(replyLost, passes) {
		_ = c.Close()
		return 0, io.EOF
	}
	return n, err
}

func (c faultyConn) Write(b []byte) (int, error) {
	if c.faultyNetwork.fault.CompareAndSwap(requestLost, passes) {
		_ = c.Close()
		return len(b), nil // as a kernel would report
	}
	if c.faultyNetwork.fault.Load() == silent {
		return len(b), nil
	}
	return c.Conn.Write(b)
}

// pool returns a pool that uses the network.
func (w *faultyNetwork) pool(t *testing.T, url string) *pgxpool.Pool {
	t.Helper()
	config, err := pgxpool.ParseConfig(url)
	require.NoError(t, err)
	config.ConnConfig.DialFunc = func(ctx context.Context, network, addr string) (net.Conn, error) {
		if before := w.dialed.Load(); before != nil {
			if err := (*before)(); err != nil {
				return nil, err
			}
		}
		conn, err := (&net.Dialer{}).DialContext(ctx, network, addr)
		if err != nil {
			return nil, err
		}
		w.mu.Lock()
		defer w.mu.Unlock()
		w.conns = append(w.conns, conn)
		return faultyConn{conn, w}, nil
	}
	// pgx sends a cancel request over a separate connection for a query without a reply,
	// and that is not answered either.
	t.Cleanup(w.cut)
	pool, err := pgxpool.NewWithConfig(context.Background(), config)
	require.NoError(t, err)
	t.Cleanup(pool.Close)
	return pool
}

// between runs its func between the two round trips of an append.
type between struct{}

func (between) Check(*pgx.Batch, []any, []error) {}
func (between) Apply(_ *pgx.Batch, _ time.Time, items []Applied) {
	for _, item := range items {
		item.Data.(func())()
	}
}

// once returns an item for between that runs do only the first time.
func once(do func()) GuardItem {
	var first sync.Once
	return GuardItem{Guard: between{}, Data: func() { first.Do(do) }}
}

type faulty struct {
	*faultyNetwork
	*Store
	plain   *pgxpool.Pool // bypasses the network
	batches *atomic.Int32
}

func openFaulty(t *testing.T) faulty {
	t.Helper()
	f := faulty{faultyNetwork: &faultyNetwork{}, batches: &atomic.Int32{}}
	database := dbtest.Both(t)
	f.plain = database.Pool
	f.Store = open(t, f.faultyNetwork.pool(t, database.URL), Options{Observe: func(Batch) { f.batches.Add(1) }})
	// The connection has prepared the next batch's statements: its second round
	// trip is one request and one reply.
	_, err := f.Append(t.Context(), appendTo(uuid.New(), None, 1))
	require.NoError(t, err)
	f.batches.Store(0)
	return f
}

func TestCommit_LostReplyIsResolved(t *testing.T) {
	t.Parallel()
	f := openFaulty(t)
	a := appendTo(uuid.New(), None, 2)
	a.Guards = []GuardItem{once(func() { f.fault.Store(replyLost) })}
	result, err := f.Append(t.Context(), a)
	require.NoError(t, err)
	require.Equal(t, []int64{2, 3}, result.Positions)
	require.EqualValues(t, 1, f.batches.Load(), "resolved, not repeated")
	require.Len(t, wholeLog(t, f.plain), 3)
	again, err := f.Append(t.Context(), a)
	require.NoError(t, err)
	result.Repeated = true
	require.Equal(t, result, again)
}

func TestCommit_LostRequestIsRetried(t *testing.T) {
	t.Parallel()
	f := openFaulty(t)
	a := appendTo(uuid.New(), None, 2)
	a.Guards = []GuardItem{once(func() { f.fault.Store(requestLost) })}
	result, err := f.Append(t.Context(), a)
	require.NoError(t, err)
	require.False(t, result.Repeated)
	require.EqualValues(t, 2, f.batches.Load())
	require.Len(t, wholeLog(t, f.plain), 3)
}

// While a lost batch is being resolved, another node appends one of its
// appends: that one exists, and the rest of the batch does not.
func TestCommit_RepeatOfOtherNodeIsNotTakenForBatch(t *testing.T) {
	t.Parallel()
	f := openFaulty(t)
	other := open(t, f.plain, Options{})
	one, two := appendTo(uuid.New(), None, 1), appendTo(uuid.New(), None, 1)
	var elsewhere Result
	var elsewhereErr error
	two.Guards = []GuardItem{once(func() {
		var first sync.Once
		dialed := func() error {
			first.Do(func() { elsewhere, elsewhereErr = other.Append(context.Background(), one) })
			return nil
		}
		f.dialed.Store(&dialed)
		f.fault.Store(requestLost)
	})}
	results := make([]Result, 3)
	errs := make([]error, 3)
	var all sync.WaitGroup
	blocked(t, f.Store, 3, func() {
		send := func(i int, a Append) { all.Go(func() { results[i], errs[i] = f.Append(context.Background(), a) }) }
		send(2, appendTo(uuid.New(), None, 1)) // the writer waits while the two are queued
		waitsForLock(t, f.plain, 1)
		send(0, one)
		send(1, two)
	})
	all.Wait()
	require.NoError(t, errors.Join(errs...))
	require.NoError(t, elsewhereErr)
	require.False(t, elsewhere.Repeated, "the batch was lost with both")
	require.Equal(t, elsewhere.Positions, results[0].Positions)
	require.False(t, results[1].Repeated)
	require.Len(t, wholeLog(t, f.plain), 4)
	require.EqualValues(t, 3, f.batches.Load(), "the separate one, and the batch of two twice")
}

func TestCommit_UnknownOutcomeIsReportedAndResolvedLater(t *testing.T) {
	t.Parallel()
	f := openFaulty(t)
	away := func() error { return errors.New("no route to host") }
	a := appendTo(uuid.New(), None, 1)
	a.Guards = []GuardItem{once(func() {
		f.dialed.Store(&away)
		f.fault.Store(replyLost)
	})}
	begun := time.Now()
	_, err := f.Append(t.Context(), a)
	var unavailable *UnavailableError
	require.ErrorAs(t, err, &unavailable)
	require.True(t, unavailable.Sent)
	require.Less(t, time.Since(begun), resolveTimeout+roundTripTimeout)

	begun = time.Now()
	_, err = f.Append(t.Context(), appendTo(uuid.New(), None, 1))
	require.ErrorAs(t, err, &unavailable)
	require.False(t, unavailable.Sent)
	require.ErrorContains(t, err, "no route to host")
	require.Less(t, time.Since(begun), connectTimeout)

	f.dialed.Store(nil)
	result, err := f.Append(t.Context(), a)
	require.NoError(t, err, "it recovers")
	require.True(t, result.Repeated)
	require.Len(t, wholeLog(t, f.plain), 2)
}

func TestAppend_TimesOutIfPostgresHangs(t *testing.T) {
	t.Parallel()
	f := openFaulty(t)
	f.fault.Store(silent)
	for _, within := range []time.Duration{roundTripTimeout, connectTimeout} { // on the old connection, on a new one
		begun := time.Now()
		_, err := f.Append(t.Context(), appendTo(uuid.New(), None, 1))
		var unavailable *UnavailableError
		require.ErrorAs(t, err, &unavailable)
		require.False(t, unavailable.Sent)
		require.Less(t, time.Since(begun), within+time.Second)
	}
	f.fault.Store(passes)
	_, err := f.Append(t.Context(), appendTo(uuid.New(), None, 1))
	require.NoError(t, err)
	require.Len(t, wholeLog(t, f.plain), 2)
}

func TestCommit_OfGuardsOnlyStaysUnknown(t *testing.T) {
	t.Parallel()
	f := openFaulty(t)
	_, err := f.Append(t.Context(), Append{Guards: []GuardItem{once(func() { f.fault.Store(replyLost) })}})
	var unavailable *UnavailableError
	require.ErrorAs(t, err, &unavailable)
	require.True(t, unavailable.Sent, "there is no event to look up")
}

func TestAppend_ReplacesConnectionThatDiedIdle(t *testing.T) {
	t.Parallel()
	pool := dbtest.Write(t)
	s := open(t, pool, Options{})
	for n := range 3 {
		_, err := s.Append(t.Context(), appendTo(uuid.New(), None, 1))
		require.NoError(t, err)
		require.Len(t, wholeLog(t, pool), n+1)
		dbtest.Exec(t, pool, `select pg_terminate_backend(pid, 1000) from pg_stat_activity
			where datname = current_database() and pid <> pg_backend_pid()`)
	}
}
