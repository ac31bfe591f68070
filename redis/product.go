package redis

import (
	"sync"
	"sync/atomic"
	"time"

	"github.com/google/uuid"
)

// product is what a node keeps of a product: requests that wait, its own lease,
// who tends the gate.
type product struct {
	id   uuid.UUID
	keys []string

	mu      sync.Mutex
	waiting []*waiter
	runners int

	leaseMu  sync.Mutex
	leased   leased
	renewing *flight

	tendMu  sync.Mutex
	next    *flight // the next tending, for those who come now
	tending bool

	// wrong is the highest epoch whose gate was found wrong although it answers.
	wrong atomic.Int64
	// failed is the epoch of a rebuild of ours that failed. It belongs to who tends,
	// and to who has the lock while nobody does.
	failed int64
}

// leased is this node's last renewal for an epoch on a process. since was taken
// before the statement was sent to Postgres.
type leased struct {
	epoch int64
	stamp string
	since time.Time
}

// flight is something that runs once for all who wait for it.
type flight struct {
	done chan struct{}
	err  error
}

func newFlight() *flight { return &flight{done: make(chan struct{})} }

func (f *flight) land(err error) {
	f.err = err
	close(f.done)
}

// product gives what the node keeps of a product, from now on at the latest.
func (g *Gate) product(id uuid.UUID) *product {
	if p, ok := g.products.Load(id); ok {
		return p.(*product)
	}
	p := &product{id: id, keys: gateKeys(id), failed: NoEpoch}
	p.wrong.Store(NoEpoch - 1)
	kept, _ := g.products.LoadOrStore(id, p)
	return kept.(*product)
}

// forget drops what the node keeps of a product where that is nothing: it never
// took its lease and builds nothing for it. There may be no such product, as with
// random ids while Postgres, which could say so, is away. Whoever holds it still
// may go on with it.
func (g *Gate) forget(p *product) {
	p.leaseMu.Lock()
	leased := !p.leased.since.IsZero()
	p.leaseMu.Unlock()
	p.tendMu.Lock()
	defer p.tendMu.Unlock()
	if !leased && !p.tending && p.failed == NoEpoch {
		g.products.CompareAndDelete(p.id, p)
	}
}

const (
	// unknownFor is how long a node remembers that there is no such product.
	unknownFor = time.Second
	// unknownMost bounds what a stream of random ids can make a node remember.
	unknownMost = 1 << 16
)

// unknown remembers products that do not exist.
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
	if len(u.until) >= unknownMost {
		for id, until := range u.until {
			if now.After(until) {
				delete(u.until, id)
			}
		}
	}
	if u.until == nil || len(u.until) >= unknownMost {
		u.until = make(map[uuid.UUID]time.Time)
	}
	u.until[id] = now.Add(unknownFor)
}

func (u *unknown) forget(id uuid.UUID) {
	u.mu.Lock()
	delete(u.until, id)
	u.mu.Unlock()
}
