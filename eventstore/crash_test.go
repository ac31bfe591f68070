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

// What happens to the bytes of a wire's connections.
const (
	passes       = int32(iota)
	answerLost   // the server gets what is sent; its answer ends the connection
	questionLost // what is sent ends the connection
	silent       // what is sent comes nowhere, and stays so
)

// wire is the network between a store and Postgres.
type wire struct {
	fault  atomic.Int32
	dialed atomic.Pointer[func() error] // if not nil, runs before each dial

	mu    sync.Mutex
	conns []net.Conn
}

// cut closes all connections that were ever made.
func (w *wire) cut() {
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, conn := range w.conns {
		_ = conn.Close()
	}
}

type wireConn struct {
	net.Conn
	wire *wire
}

func (c wireConn) Read(b []byte) (int, error) {
	n, err := c.Conn.Read(b)
	if err == nil && c.wire.fault.CompareAndSwap(answerLost, passes) {
		_ = c.Close()
		return 0, io.EOF
	}
	return n, err
}

func (c wireConn) Write(b []byte) (int, error) {
	if c.wire.fault.CompareAndSwap(questionLost, passes) {
		_ = c.Close()
		return len(b), nil // as a kernel would say
	}
	if c.wire.fault.Load() == silent {
		return len(b), nil
	}
	return c.Conn.Write(b)
}

// pool gives a pool over the wire.
func (w *wire) pool(t *testing.T, url string) *pgxpool.Pool {
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
		return wireConn{conn, w}, nil
	}
	// pgx asks over a connection of its own that a query without an answer be
	// cancelled, and nobody answers that either.
	t.Cleanup(w.cut)
	pool, err := pgxpool.NewWithConfig(context.Background(), config)
	require.NoError(t, err)
	t.Cleanup(pool.Close)
	return pool
}

// between runs its func between an append's two round trips.
type between struct{}

func (between) Check(*pgx.Batch, []any, []error) {}
func (between) Apply(_ *pgx.Batch, _ time.Time, items []Applied) {
	for _, item := range items {
		item.Data.(func())()
	}
}

// once gives an item for between that runs do the first time only.
func once(do func()) Guarded {
	var first sync.Once
	return Guarded{Guard: between{}, Data: func() { first.Do(do) }}
}

type faulty struct {
	*wire
	*Store
	plain   *pgxpool.Pool // past the wire
	batches *atomic.Int32
}

func openFaulty(t *testing.T) faulty {
	t.Helper()
	f := faulty{wire: &wire{}, batches: &atomic.Int32{}}
	database := dbtest.Both(t)
	f.plain = database.Pool
	f.Store = open(t, f.wire.pool(t, database.URL), Options{Observe: func(Batch) { f.batches.Add(1) }})
	// The next batch's statements are known to the connection: its second round
	// trip is one question and one answer.
	_, err := f.Append(t.Context(), appendTo(uuid.New(), None, 1))
	require.NoError(t, err)
	f.batches.Store(0)
	return f
}

func TestCommitWhoseAnswerIsLostIsFoundToBeThere(t *testing.T) {
	t.Parallel()
	f := openFaulty(t)
	a := appendTo(uuid.New(), None, 2)
	a.Guards = []Guarded{once(func() { f.fault.Store(answerLost) })}
	result, err := f.Append(t.Context(), a)
	require.NoError(t, err)
	require.Equal(t, []int64{2, 3}, result.Positions)
	require.EqualValues(t, 1, f.batches.Load(), "found, not done again")
	require.Len(t, wholeLog(t, f.plain), 3)
	again, err := f.Append(t.Context(), a)
	require.NoError(t, err)
	result.Repeated = true
	require.Equal(t, result, again)
}

func TestCommitThatWasLostIsDoneAgain(t *testing.T) {
	t.Parallel()
	f := openFaulty(t)
	a := appendTo(uuid.New(), None, 2)
	a.Guards = []Guarded{once(func() { f.fault.Store(questionLost) })}
	result, err := f.Append(t.Context(), a)
	require.NoError(t, err)
	require.False(t, result.Repeated)
	require.EqualValues(t, 2, f.batches.Load())
	require.Len(t, wholeLog(t, f.plain), 3)
}

// While a lost batch is being looked for, another node appends one of its
// appends: that one is there, and the rest of the batch is not.
func TestSomebodyElsesRepeatIsNotTakenForTheBatch(t *testing.T) {
	t.Parallel()
	f := openFaulty(t)
	other := open(t, f.plain, Options{})
	one, two := appendTo(uuid.New(), None, 1), appendTo(uuid.New(), None, 1)
	var elsewhere Result
	var elsewhereErr error
	two.Guards = []Guarded{once(func() {
		var first sync.Once
		dialed := func() error {
			first.Do(func() { elsewhere, elsewhereErr = other.Append(context.Background(), one) })
			return nil
		}
		f.dialed.Store(&dialed)
		f.fault.Store(questionLost)
	})}
	results := make([]Result, 3)
	errs := make([]error, 3)
	var all sync.WaitGroup
	blocked(t, f.Store, 3, func() {
		send := func(i int, a Append) { all.Go(func() { results[i], errs[i] = f.Append(context.Background(), a) }) }
		send(2, appendTo(uuid.New(), None, 1)) // has the writer wait, while the two come together
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
	require.EqualValues(t, 3, f.batches.Load(), "one of its own, and the two's twice")
}

func TestOutcomeThatCannotBeFoundOutIsSaidAndFoundLater(t *testing.T) {
	t.Parallel()
	f := openFaulty(t)
	away := func() error { return errors.New("no route to host") }
	a := appendTo(uuid.New(), None, 1)
	a.Guards = []Guarded{once(func() {
		f.dialed.Store(&away)
		f.fault.Store(answerLost)
	})}
	begun := time.Now()
	_, err := f.Append(t.Context(), a)
	var unavailable *UnavailableError
	require.ErrorAs(t, err, &unavailable)
	require.True(t, unavailable.Sent)
	require.Less(t, time.Since(begun), resolveWithin+tripWithin)

	begun = time.Now()
	_, err = f.Append(t.Context(), appendTo(uuid.New(), None, 1))
	require.ErrorAs(t, err, &unavailable)
	require.False(t, unavailable.Sent)
	require.ErrorContains(t, err, "no route to host")
	require.Less(t, time.Since(begun), connectWithin)

	f.dialed.Store(nil)
	result, err := f.Append(t.Context(), a)
	require.NoError(t, err, "it recovers by itself")
	require.True(t, result.Repeated)
	require.Len(t, wholeLog(t, f.plain), 2)
}

func TestSilentPostgresIsNotWaitedForForLong(t *testing.T) {
	t.Parallel()
	f := openFaulty(t)
	f.fault.Store(silent)
	for _, within := range []time.Duration{tripWithin, connectWithin} { // on the old connection, on a new one
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

func TestGuardsAloneLeaveTheOutcomeOpen(t *testing.T) {
	t.Parallel()
	f := openFaulty(t)
	_, err := f.Append(t.Context(), Append{Guards: []Guarded{once(func() { f.fault.Store(answerLost) })}})
	var unavailable *UnavailableError
	require.ErrorAs(t, err, &unavailable)
	require.True(t, unavailable.Sent, "no event would tell")
}

func TestConnectionThatDiedIdleIsNotNoticed(t *testing.T) {
	t.Parallel()
	pool := dbtest.Write(t)
	s := open(t, pool, Options{})
	for n := range 3 {
		_, err := s.Append(t.Context(), appendTo(uuid.New(), None, 1))
		require.NoError(t, err)
		require.Len(t, wholeLog(t, pool), n+1)
		_, err = pool.Exec(t.Context(), `select pg_terminate_backend(pid, 1000) from pg_stat_activity
			where datname = current_database() and pid <> pg_backend_pid()`)
		require.NoError(t, err)
	}
}
