package redis

import (
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"github.com/google/uuid"
)

// product is a node's state of one product: waiting requests, its own lease, and
// the reconciliation of the gate.
type product struct {
	id   uuid.UUID
	keys []string

	mu        sync.Mutex
	waiting   []*waiter
	runners   int
	inside    int       // requests that were not answered yet, including those of calls in flight
	undecided time.Time // since when the gate cannot decide, zero if it can

	leaseMu  sync.Mutex
	leased   leased
	renewing *flight

	reconcileMu sync.Mutex
	next        *flight // the next reconciliation, for callers that arrive now
	goals       goals   // of all of them
	reconciling bool

	// wrong is the highest epoch whose gate was found wrong although it responds.
	wrong atomic.Int64
	// pause is until when reconciliation is not retried, and why.
	pause atomic.Pointer[backoff]

	// rebuilding is since when the gate is being rebuilt, or waited for, in ns since
	// 1970; 0 if it is not.
	rebuilding atomic.Int64

	// The following fields belong to the goroutine that reconciles.

	attempt  attempt
	contest  contest
	failures int // failed reconciliations in a row
}

// leased is this node's last lease for an epoch on an instance. since was taken before
// the statement was sent to Postgres.
type leased struct {
	epoch    int64
	instance string
	since    time.Time
}

// attempt is this node's last unfinished rebuild. It is continued in its epoch,
// on the same instance.
type attempt struct {
	epoch    int64 // NoEpoch for none
	id       uuid.UUID
	instance string
	token    string    // the key without which that attempt can no longer open its gate
	opensAt  time.Time // by then the old lease has run out
	failures int       // attempts in this epoch
}

// contest is what a node has observed of another's rebuild, or of leases on another instance.
type contest struct {
	rebuild, lease standstill
	lost           int   // how often in a row the gate was rebuilt elsewhere while this node used it
	lostTo         int64 // the epoch to which it was lost last
	lostAt         time.Time
	warned         time.Time
}

// standstill measures, on this node's own clock, for how long a value has not changed.
type standstill struct {
	value   string
	since   time.Time // when the value was first observed
	changes int       // how often it was observed to change
}

func (s *standstill) observe(value string, now time.Time) time.Duration {
	if s.since.IsZero() || s.value != value {
		if !s.since.IsZero() {
			s.changes++
		}
		s.value, s.since = value, now
	}
	return now.Sub(s.since)
}

// backoff is an error that is returned without another attempt until a time.
type backoff struct {
	until time.Time
	err   error
}

// refuses returns an error if the gate cannot decide for a while and the next request
// should not wait for it. The caller holds mu.
func (p *product) refuses() error {
	if p.undecided.IsZero() {
		return nil
	}
	if err := p.paused(); err != nil {
		return fmt.Errorf("%w: %w", ErrRebuilding, err)
	}
	if p.inside >= maxWaiting && time.Since(p.undecided) > rushTimeout {
		return fmt.Errorf("%w: %d requests wait for it", ErrRebuilding, p.inside)
	}
	return nil
}

// decides records whether the gate can decide.
func (p *product) decides(yes bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	switch {
	case yes:
		p.undecided = time.Time{}
	case p.undecided.IsZero():
		p.undecided = time.Now()
	}
}

// paused returns the error of the last failure if it is too early for another attempt.
func (p *product) paused() error {
	if pause := p.pause.Load(); pause != nil && time.Now().Before(pause.until) {
		return pause.err
	}
	return nil
}

// flight is an operation that runs once for all callers that wait for it.
type flight struct {
	done chan struct{}
	err  error
}

func newFlight() *flight { return &flight{done: make(chan struct{})} }

func (f *flight) land(err error) {
	f.err = err
	close(f.done)
}

// product returns the node's state of a product, and creates it if necessary.
func (g *Gate) product(id uuid.UUID) *product {
	if p, ok := g.products.Load(id); ok {
		return p.(*product)
	}
	p := &product{id: id, keys: g.keys(id), attempt: attempt{epoch: NoEpoch}, contest: contest{lostTo: NoEpoch}}
	p.wrong.Store(NoEpoch - 1)
	kept, _ := g.products.LoadOrStore(id, p)
	return kept.(*product)
}

// forget drops the node's state of a product if it is empty: the node never took a
// lease and builds nothing for it. There may be no such product, as with random ids
// while Postgres is unavailable. Callers that still hold the state may continue to use it.
func (g *Gate) forget(p *product) {
	p.leaseMu.Lock()
	leased := !p.leased.since.IsZero()
	p.leaseMu.Unlock()
	p.reconcileMu.Lock()
	defer p.reconcileMu.Unlock()
	if !leased && !p.reconciling && p.attempt.epoch == NoEpoch && p.paused() == nil && p.contest.rebuild.since.IsZero() {
		g.products.CompareAndDelete(p.id, p)
	}
}

const (
	// unknownFor is how long a node caches that there is no such product.
	unknownFor = time.Second
	// maxUnknown bounds the memory that a stream of random ids can take.
	maxUnknown = 1 << 16
)

// unknown caches the ids of products that do not exist.
type unknown struct {
	mu    sync.RWMutex
	until map[uuid.UUID]time.Time
}

func (u *unknown) has(id uuid.UUID) bool {
	u.mu.RLock()
	until, ok := u.until[id]
	u.mu.RUnlock()
	return ok && time.Now().Before(until)
}

func (u *unknown) add(id uuid.UUID) {
	u.mu.Lock()
	defer u.mu.Unlock()
	now := time.Now()
	if len(u.until) >= maxUnknown {
		for id, until := range u.until {
			if now.After(until) {
				delete(u.until, id)
			}
		}
	}
	if u.until == nil || len(u.until) >= maxUnknown {
		u.until = make(map[uuid.UUID]time.Time)
	}
	u.until[id] = now.Add(unknownFor)
}

func (u *unknown) forget(id uuid.UUID) {
	u.mu.Lock()
	delete(u.until, id)
	u.mu.Unlock()
}
