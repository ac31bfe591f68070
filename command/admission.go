package command

import (
	"container/list"
	"context"
	"sync"
	"time"

	"github.com/google/uuid"
)

const (
	// standstillTimeout: if none of a product's waiting requests was
	// admitted for this long, they are refused. Refusals return their entries
	// within milliseconds, so a crowd of any size moves on; one that stands still
	// waits for Postgres. A shorter timeout would fail on a small machine: ten
	// thousand requests at once keep two cores busy for half a second before the
	// first one is answered.
	standstillTimeout = time.Second
	// obstructedTimeout is how long a request waits if its product's gate cannot
	// decide now and the product's waiting room is full.
	obstructedTimeout = 200 * time.Millisecond
	// admissionTimeout is how long a request waits at most while the queue moves.
	admissionTimeout = 5 * time.Second
	// maxCrowd is how many may wait.
	maxCrowd = 1 << 14
	// share: 1/share of the append queue is kept for other commands. Of the rest, 1/share is closed
	// to any single product, and 1/share is all that a product gets while its gate cannot decide.
	share = 8
	// masterShare is the part that all products of one Redis master take together
	// while their gates cannot decide.
	masterShare = 4
)

// verdict is the result of a request for admission.
type verdict int

const (
	admitted   verdict = iota
	overloaded         // more requests than can be admitted
	obstructed         // the product's gate cannot decide now
)

// gateHealth reports the health of gates; *redis.Gate implements it.
type gateHealth interface {
	// Obstructed reports whether the product's gate cannot decide now: it is being
	// rebuilt, or its Redis master does not answer.
	Obstructed(product uuid.UUID) bool
	// Master returns the address of the Redis master that has the product's gate.
	Master(product uuid.UUID) string
}

// admission admits as many acquire requests as the append queue has entries. The
// others wait, first come, first served for each product, and the products take
// turns. It turns ten thousand requests at the same instant into a queue
// instead of refusals.
//
// It is also the bulkhead between products: a product whose gate is being rebuilt,
// or all products on a Redis master that hangs, take only a fraction of the entries,
// however many requests they have.
type admission struct {
	gates gateHealth

	mu       sync.Mutex
	entries  int // in total
	free     int
	crowd    int // waiting requests
	products map[uuid.UUID]*productQueue
	turns    list.List      // of *productQueue that have requests waiting
	stuck    map[string]int // entries of products whose gates could not decide when they were admitted, by master
}

// productQueue contains the admitted and waiting requests of a product.
type productQueue struct {
	product  uuid.UUID
	admitted int
	waiting  list.List // of *ticket
	turn     *list.Element
	moved    uint64 // how many of the waiting requests were admitted
}

// ticket is one request's admission.
type ticket struct {
	admission *admission
	queue     *productQueue
	in        chan struct{} // closed when it is admitted
	element   *list.Element // while it waits
	master    string        // counted in stuck; "": not counted
}

func newAdmission(queue int, gates gateHealth) *admission {
	n := max(1, queue-queue/share)
	return &admission{gates: gates, entries: n, free: n, products: map[uuid.UUID]*productQueue{}, stuck: map[string]int{}}
}

// enter waits until the request is admitted; the caller must then call leave.
func (a *admission) enter(ctx context.Context, product uuid.UUID) (*ticket, verdict) {
	a.mu.Lock()
	q := a.products[product]
	if q == nil {
		q = &productQueue{product: product}
		a.products[product] = q
	}
	t := &ticket{admission: a, queue: q}
	if q.waiting.Len() == 0 && a.admit(t) {
		a.mu.Unlock()
		return t, admitted
	}
	if a.crowd >= maxCrowd {
		a.forget(q)
		a.mu.Unlock()
		return nil, overloaded
	}
	stands := a.gates.Obstructed(product)
	timeout := standstillTimeout
	if stands && q.waiting.Len() >= max(1, a.entries/share) {
		timeout = obstructedTimeout
	}
	t.in = make(chan struct{})
	t.element = q.waiting.PushBack(t)
	a.crowd++
	if q.turn == nil {
		q.turn = a.turns.PushBack(q)
	}
	moved := q.moved
	a.mu.Unlock()

	patience := time.NewTimer(timeout)
	defer patience.Stop()
	for start := time.Now(); ; patience.Reset(standstillTimeout) {
		select {
		case <-t.in:
			return t, admitted
		case <-ctx.Done():
			return t.giveUp(overloaded)
		case <-patience.C:
		}
		a.mu.Lock()
		still := q.moved == moved
		moved = q.moved
		a.mu.Unlock()
		if still || time.Since(start) > admissionTimeout {
			if a.gates.Obstructed(product) {
				return t.giveUp(obstructed)
			}
			return t.giveUp(overloaded)
		}
	}
}

// admit takes an entry for the request if there is one for its product. The caller holds
// the lock.
func (a *admission) admit(t *ticket) bool {
	q := t.queue
	limit, master := a.entries-a.entries/share, ""
	if a.free > 0 && a.gates.Obstructed(q.product) {
		limit, master = max(1, a.entries/share), a.gates.Master(q.product)
		if a.stuck[master] >= max(1, a.entries/masterShare) {
			return false
		}
	}
	if a.free == 0 || q.admitted >= limit {
		return false
	}
	a.free--
	q.admitted++
	if master != "" {
		a.stuck[master]++
		t.master = master
	}
	return true
}

// giveUp ends the wait of a request that has not been admitted just now.
func (t *ticket) giveUp(why verdict) (*ticket, verdict) {
	a := t.admission
	a.mu.Lock()
	defer a.mu.Unlock()
	select {
	case <-t.in:
		return t, admitted
	default:
	}
	a.dequeue(t)
	a.forget(t.queue)
	return nil, why
}

// dequeue removes a request from the waiting ones. The caller holds the lock.
func (a *admission) dequeue(t *ticket) {
	q := t.queue
	q.waiting.Remove(t.element)
	a.crowd--
	if q.waiting.Len() == 0 {
		a.turns.Remove(q.turn)
		q.turn = nil
	}
}

// forget drops the state of a product with no admitted and no waiting requests. The
// caller holds the lock.
func (a *admission) forget(q *productQueue) {
	if q.admitted == 0 && q.waiting.Len() == 0 {
		delete(a.products, q.product)
	}
}

// leave returns the entry to the next waiting request.
func (t *ticket) leave() {
	a := t.admission
	a.mu.Lock()
	defer a.mu.Unlock()
	a.free++
	t.queue.admitted--
	if t.master != "" {
		if a.stuck[t.master]--; a.stuck[t.master] == 0 {
			delete(a.stuck, t.master)
		}
	}
	a.forget(t.queue)
	// The products take turns, until each of them was skipped in a row: it may not take more
	// entries. One admission per product is not enough: after an obstruction a product has
	// more free entries than returned ones.
	for skipped := 0; a.free > 0 && skipped < a.turns.Len(); skipped++ {
		q := a.turns.Front().Value.(*productQueue)
		a.turns.MoveToBack(q.turn)
		next := q.waiting.Front().Value.(*ticket)
		if a.admit(next) {
			a.dequeue(next)
			q.moved++
			close(next.in)
			skipped = -1
		}
	}
}
