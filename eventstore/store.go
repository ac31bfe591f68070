package eventstore

import (
	"context"
	"fmt"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
)

// Options of a Store; the zero value is valid.
type Options struct {
	// Queue is how many appends may wait or be in progress at once; 0: 4096.
	Queue int
	// MaxBatch is how many events share one transaction at most; 0: 1000. A
	// single append may have more.
	MaxBatch int
	// Pooled is set if the pool's connections go through a pooler in transaction mode:
	// the bounds of an append are then set in each transaction, because a session setting
	// stays with the current server connection.
	Pooled bool
	// Observe, if not nil, is called after each transaction. The
	// writer calls it between two batches, so it must return quickly.
	Observe func(Batch)

	// withoutLock omits the append lock, for the test that shows why it is needed.
	withoutLock bool
}

// Batch describes one transaction, for metrics.
type Batch struct {
	Appends int           // in the batch, including refused ones
	Events  int           // appended
	Took    time.Duration // from its begin to its commit
	Ahead   float64       // seconds by which the time of its events is ahead of Postgres' clock
	Err     error         // why nothing was appended, or why the outcome is not known
}

// Store appends events: one writer puts the waiting appends into one transaction, on its
// own connection. It is created by Open and is safe for concurrent use.
type Store struct {
	pool *pgxpool.Pool
	opts Options

	mu           sync.Mutex
	reservations int     // not yet returned
	waiting      []*item // in the order of their batches
	closing      bool

	wake   chan struct{} // of capacity 1: there is work to do
	done   chan struct{} // the writer has ended
	ctx    context.Context
	cancel context.CancelFunc // ends the work in progress

	conn *pgx.Conn // used by the writer only; nil: none yet

	incarnation atomic.Int64 // as of the newest batch
	replicated  atomic.Bool  // commits wait for synchronous standbys, as of the newest batch
}

// item is an append in progress.
type item struct {
	Append
	events int
	taken  bool // by the writer; guarded by the store's mu
	result chan outcome
}

func newItem(a Append) *item {
	return &item{Append: a, events: a.count(), result: make(chan outcome, 1)}
}

type outcome struct {
	Result
	err      error
	deferred bool // no outcome yet: for the next batch
}

// Open starts a store on the pool's database. It opens its own connection, with
// the pool's configuration but outside the pool, so that appends never wait
// for a reader to release one. The pool must outlive the store.
func Open(ctx context.Context, pool *pgxpool.Pool, opts Options) (*Store, error) {
	if opts.Queue == 0 {
		opts.Queue = 4096
	}
	if opts.MaxBatch == 0 {
		opts.MaxBatch = 1000
	}
	if opts.Queue < 0 || opts.MaxBatch < 0 {
		return nil, fmt.Errorf("eventstore: queue %d, batch %d: must be positive", opts.Queue, opts.MaxBatch)
	}
	conn, err := connectAppender(ctx, pool, opts.Pooled)
	if err != nil {
		return nil, err
	}
	s := &Store{
		pool: pool,
		opts: opts,
		wake: make(chan struct{}, 1),
		done: make(chan struct{}),
		conn: conn,
	}
	var incarnation int64
	var replicated bool
	err = conn.QueryRow(ctx, `
		select (select incarnation from store_incarnations order by incarnation desc limit 1),
		       current_setting('synchronous_standby_names') <> ''`).Scan(&incarnation, &replicated)
	if err != nil {
		s.disconnect()
		return nil, fmt.Errorf("read the store's incarnation: %w", err)
	}
	s.incarnation.Store(incarnation)
	s.replicated.Store(replicated)
	s.ctx, s.cancel = context.WithCancel(context.Background())
	go s.write()
	return s, nil
}

// Close rejects new reservations, waits until every existing reservation is used
// or released, and disconnects. If ctx ends first, it fails the remaining appends and
// returns ctx's error. Close is idempotent.
func (s *Store) Close(ctx context.Context) error {
	s.mu.Lock()
	s.closing = true
	s.mu.Unlock()
	s.wakeWriter()
	select {
	case <-s.done:
		return nil
	case <-ctx.Done():
		s.cancel()
		<-s.done
		return fmt.Errorf("eventstore: close before all was appended: %w", ctx.Err())
	}
}

// Queued returns how many entries of the queue are taken: appends that wait or are in
// progress, and reservations.
func (s *Store) Queued() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.reservations
}

// Incarnation returns the store's incarnation as of the newest append: the one
// to which its positions belong.
func (s *Store) Incarnation() int64 { return s.incarnation.Load() }

// Confirm returns once everything that could be read before the call is as
// durable as an acknowledged append. A visible row need not
// be on a synchronous standby yet: the wait for the standby may have been
// cancelled, or the server restarted. Without such standbys there is nothing to
// wait for. The error is an *UnavailableError, ErrOverloaded or ErrClosed.
func (s *Store) Confirm(ctx context.Context) error {
	if !s.replicated.Load() {
		return nil
	}
	reserved, err := s.Reserve()
	if err != nil {
		return err
	}
	_, err = reserved.append(ctx, newItem(Append{}))
	return err
}

// Append is Reserve followed by Reservation.Append.
func (s *Store) Append(ctx context.Context, a Append) (Result, error) {
	reserved, err := s.Reserve()
	if err != nil {
		return Result{}, err
	}
	return reserved.Append(ctx, a)
}

// Reserve reserves an entry of the queue. It returns ErrOverloaded or ErrClosed at
// once if there is none.
func (s *Store) Reserve() (*Reservation, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closing {
		return nil, ErrClosed
	}
	if s.reservations >= s.opts.Queue {
		return nil, ErrOverloaded
	}
	s.reservations++
	return &Reservation{store: s}, nil
}

// Reservation is a reserved entry of the queue, for one append.
type Reservation struct {
	store *Store
	spent atomic.Bool
}

// Release returns the reservation unused. After Append, or when called again, it does nothing.
func (p *Reservation) Release() {
	if p.spent.CompareAndSwap(false, true) {
		p.store.release()
	}
}

// Append appends and releases the reservation. The error is a *ConflictError,
// ErrIDReused, a guard's refusal, an *UnavailableError, ErrClosed, or
// an error of the append itself (Postgres' error, wrapped).
//
// If ctx ends before the append's batch begins, the append leaves the queue
// (UnavailableError, Sent false); afterwards Append waits for the outcome, which is
// bounded by the store's own timeouts, about 10 s at most.
func (p *Reservation) Append(ctx context.Context, a Append) (Result, error) {
	if err := a.validate(); err != nil {
		p.Release()
		return Result{}, err
	}
	return p.append(ctx, newItem(a))
}

func (p *Reservation) append(ctx context.Context, it *item) (Result, error) {
	if !p.spent.CompareAndSwap(false, true) {
		return Result{}, fmt.Errorf("eventstore: the reservation was used or released before: %w", ErrClosed)
	}
	s := p.store
	defer s.release()
	if !s.enqueue(it) {
		return Result{}, ErrClosed
	}
	select {
	case out := <-it.result:
		return out.Result, out.err
	case <-ctx.Done():
	}
	if s.leave(it) {
		return Result{}, &UnavailableError{Err: fmt.Errorf("waiting for a batch: %w", ctx.Err())}
	}
	out := <-it.result
	return out.Result, out.err
}

func (s *Store) wakeWriter() {
	select {
	case s.wake <- struct{}{}:
	default:
	}
}

func (s *Store) release() {
	s.mu.Lock()
	s.reservations--
	last := s.closing && s.reservations == 0
	s.mu.Unlock()
	if last {
		s.wakeWriter()
	}
}

// enqueue returns false if the writer has ended.
func (s *Store) enqueue(it *item) bool {
	s.mu.Lock()
	if s.ctx.Err() != nil {
		s.mu.Unlock()
		return false
	}
	s.waiting = append(s.waiting, it)
	s.mu.Unlock()
	s.wakeWriter()
	return true
}

// leave removes the item from the queue; false: the writer has it already.
func (s *Store) leave(it *item) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if it.taken {
		return false
	}
	s.waiting = slices.DeleteFunc(s.waiting, func(other *item) bool { return other == it })
	return true
}

// nextBatch returns the appends of the next batch; none, and false, once the store is
// closed and all reservations were returned.
func (s *Store) nextBatch() ([]*item, bool) {
	for {
		s.mu.Lock()
		n, events := 0, 0
		for n < len(s.waiting) {
			events += max(1, s.waiting[n].events)
			if n > 0 && events > s.opts.MaxBatch {
				break
			}
			s.waiting[n].taken = true
			n++
		}
		batch := slices.Clone(s.waiting[:n])
		s.waiting = slices.Delete(s.waiting, 0, n)
		ended := s.closing && s.reservations == 0
		s.mu.Unlock()
		if n > 0 {
			return batch, true
		}
		if ended {
			return nil, false
		}
		select {
		case <-s.wake:
		case <-s.ctx.Done():
			return nil, false
		}
	}
}

// putBack puts appends at the front of the queue.
func (s *Store) putBack(items []*item) {
	if len(items) == 0 {
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, it := range items {
		it.taken = false
	}
	s.waiting = slices.Insert(s.waiting, 0, items...)
}

// failWaiting fails all waiting appends.
func (s *Store) failWaiting(err error) {
	s.mu.Lock()
	waiting := s.waiting
	s.waiting = nil
	for _, it := range waiting {
		it.taken = true
	}
	s.mu.Unlock()
	for _, it := range waiting {
		it.result <- outcome{err: err}
	}
}
