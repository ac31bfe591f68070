package redis

import (
	"context"
	"errors"
	"slices"
	"sync/atomic"
	"time"

	"github.com/google/uuid"

	"github.com/dopaminestore/dopamine/domain"
	"github.com/dopaminestore/dopamine/domain/fairness"
	"github.com/dopaminestore/dopamine/internal/failpoint"
	"github.com/dopaminestore/dopamine/redis/topology"
)

const (
	// maxBatch is how many requests one call decides: few enough that other products
	// of the same Redis wait for less than a millisecond.
	maxBatch = 256
	// maxRunners is how many calls for one product a node has in flight. Redis
	// executes them one after the other; two keep it busy while the node reads
	// a reply.
	maxRunners = 2
	// decideTimeout bounds a request that meets a rebuild: it leaves room for the
	// longest lease.
	decideTimeout = 5 * time.Second
	// rushTimeout is how long all requests of a node may wait for a gate that cannot
	// decide; after that only maxWaiting of them do, and further ones are refused at once.
	rushTimeout = 500 * time.Millisecond
	maxWaiting  = 256
)

// States of a waiter. Only one that was not sent can leave.
const (
	isWaiting = iota
	isSent
	hasLeft
)

// waiter is a request that has not been answered.
type waiter struct {
	buyer   uuid.UUID
	keyHash []byte
	state   atomic.Int32
	done    chan decided
}

type decided struct {
	decision Decision
	err      error
}

func (w *waiter) send() bool  { return w.state.CompareAndSwap(isWaiting, isSent) }
func (w *waiter) leave() bool { return w.state.CompareAndSwap(isWaiting, hasLeft) }

// Decide returns the gate's decision. Requests of a product that arrive while its calls
// are in flight form the next call. If the context ends before the request was sent,
// Decide returns; if it was sent, Decide waits for the answer, because a grant must be
// appended. Errors: ErrUnknownProduct, ErrUnavailable, ErrClosed.
func (g *Gate) Decide(ctx context.Context, r Request) (Decision, error) {
	if g.unknown.has(r.Product) {
		return Decision{}, ErrUnknownProduct
	}
	p := g.product(r.Product)
	w := &waiter{buyer: r.Buyer, keyHash: HashKey(r.Product, r.Buyer, r.Key), done: make(chan decided, 1)}
	p.mu.Lock()
	if err := p.refuses(); err != nil {
		p.mu.Unlock()
		return Decision{}, unavailable("wait for the gate", err)
	}
	p.waiting = append(p.waiting, w)
	p.inside++
	defer p.left()
	run := p.runners < maxRunners
	if run {
		p.runners++
	}
	p.mu.Unlock()
	if run && !g.start(func() { g.run(p) }) {
		p.mu.Lock()
		p.runners--
		p.mu.Unlock()
		return Decision{}, ErrClosed
	}
	select {
	case d := <-w.done:
		return d.decision, d.err
	case <-ctx.Done():
	case <-g.ctx.Done():
	}
	if w.leave() {
		if g.ctx.Err() != nil {
			return Decision{}, ErrClosed
		}
		return Decision{}, unavailable("wait for the gate", ctx.Err())
	}
	d := <-w.done
	return d.decision, d.err
}

func (p *product) left() {
	p.mu.Lock()
	p.inside--
	p.mu.Unlock()
}

// run serves the product's requests until there are none.
func (g *Gate) run(p *product) {
	var batch []*waiter
	for {
		batch = p.take(batch)
		if len(batch) == 0 {
			g.forget(p)
			return
		}
		g.serve(p, batch)
	}
}

// take moves the next requests into batch. The runner ends if batch stays empty.
func (p *product) take(batch []*waiter) []*waiter {
	clear(batch)
	p.mu.Lock()
	defer p.mu.Unlock()
	n := min(len(p.waiting), maxBatch)
	if n == 0 {
		p.runners--
		return nil
	}
	batch = append(batch[:0], p.waiting[:n]...)
	rest := copy(p.waiting, p.waiting[n:])
	clear(p.waiting[rest:])
	p.waiting = p.waiting[:rest]
	return batch
}

// serve answers every request of the batch.
func (g *Gate) serve(p *product, batch []*waiter) {
	ctx, cancel := context.WithTimeout(g.ctx, decideTimeout)
	defer cancel()
	asked := false // one retry after a lost answer
	for {
		// Without its own lease this node would trust no refusal, and the
		// gate would decide every request twice.
		if p.leaseAge() >= LeaseTime {
			if err := g.renew(ctx, p, nil); err != nil {
				p.refuse(batch, unavailable("reconcile the gate", err))
				return
			}
			continue
		}
		if batch = sent(batch); len(batch) == 0 {
			return
		}
		verdict, err := g.runBatch(ctx, p, batch)
		if err == nil && verdict.status == "ok" {
			p.decides(true)
		}
		var lost *topology.LostError
		switch {
		case errors.As(err, &lost) && !asked, errors.Is(err, topology.ErrMoved) && !asked:
			asked = true
			unsend(batch)
			continue
		case err != nil:
			p.refuse(batch, unavailable("decide", err))
			return
		}
		switch verdict.status {
		case "lost":
			unsend(batch)
			p.decides(false)
			err = g.reconcile(ctx, p, goalGate)
		case "lease":
			unsend(batch)
			err = g.renew(ctx, p, &verdict.state)
		default:
			if batch = g.deliver(p, batch, verdict); len(batch) == 0 {
				return
			}
			unsend(batch)
			err = g.renew(ctx, p, &verdict.state)
		}
		if err != nil {
			p.refuse(batch, unavailable("reconcile the gate", err))
			return
		}
	}
}

// sent marks the requests as sent and removes those whose callers have left.
func sent(batch []*waiter) []*waiter {
	n := 0
	for _, w := range batch {
		if w.send() {
			batch[n] = w
			n++
		}
	}
	return batch[:n]
}

func unsend(batch []*waiter) {
	for _, w := range batch {
		w.state.Store(isWaiting)
	}
}

// refuse answers the batch, and all requests that have arrived meanwhile, with an error.
// If each batch waited for an unavailable Redis or Postgres, the last one would
// wait for all before it.
func (p *product) refuse(batch []*waiter, err error) {
	p.mu.Lock()
	behind := p.waiting
	p.waiting = nil
	p.mu.Unlock()
	for _, w := range slices.Concat(batch, behind) {
		w.done <- decided{err: err}
	}
}

// verdict is the result of one call.
type verdict struct {
	status string // "ok", "lost", "lease"
	state  State  // of the gate, as far as a lease is based on it
	before int64  // the counter before
	begin  int64  // of the sale, ms
	kinds  string // one letter for each request
	*reply
}

// ask makes one call for the batch.
func (g *Gate) runBatch(ctx context.Context, p *product, batch []*waiter) (v verdict, err error) {
	const width = len(uuid.UUID{}) + keyHashLen
	blob := make([]byte, width*len(batch))
	for i, w := range batch {
		copy(blob[i*width:], w.buyer[:])
		copy(blob[i*width+len(w.buyer):], w.keyHash)
	}
	failpoint.Hit(failpoint.DecideBefore)
	err = g.topology.Run(ctx, p.keys[0], func(c *topology.Conn) error {
		sent := time.Now()
		reply, err := c.CallBatch(ctx, decideScript, len(batch), p.keys, blob, g.nodeName())
		if err != nil {
			return err
		}
		r, err := parseReply(reply, 2)
		if err != nil {
			return err
		}
		v = verdict{status: r.text(0), reply: r}
		if v.status != "lost" {
			v.state = r.basis(targetOf(c, sent))
			v.state.Alive = true
		}
		if v.status == "ok" {
			v.before, v.begin, v.kinds = r.number(7), r.number(8), r.text(9)
			if len(v.kinds) != len(batch) {
				r.wrong(9)
			}
		}
		return r.err
	})
	if lost := failpoint.Error(failpoint.DecideAfter); lost != nil && err == nil {
		err = &topology.LostError{Err: lost}
	}
	return v, err
}

// detailsFrom is the index at which the details of the reply begin.
const detailsFrom = 10

// deliver answers the requests and returns those whose refusal cannot be
// trusted: this node's own lease is too old, so Redis' clock may have stood
// still. Grants and repeated answers are delivered whatever the clock shows,
// because the append or the claim verifies them.
func (g *Gate) deliver(p *product, batch []*waiter, v verdict) []*waiter {
	believed := g.trustsRefusal(p, v.state)
	number, detail, n := v.before, detailsFrom, 0
	for i, w := range batch {
		d := Decision{Product: p.id, Buyer: w.buyer, Epoch: v.state.Epoch, KeyHash: w.keyHash}
		kind := v.kinds[i]
		if kind != 'A' && kind != 'K' { // those took no number
			number++
			d.Number = v.state.Epoch*fairness.NumbersPerEpoch + number
		}
		var err error
		switch kind {
		case 'G', 'A':
			d.Outcome = Granted
		case 'K', 'D':
			d.Outcome, d.Repeated = Held, kind == 'K'
		case 'N':
			d.Outcome, d.SaleDate = NotStarted, time.UnixMilli(v.begin).UTC()
		case 'E':
			d.Outcome = Ended
		case 'P':
			d.Outcome = Paused
		case 'S':
			d.Outcome = SoldOut
		default:
			err = unavailable("decide", errReply)
		}
		if d.Outcome == Granted || d.Outcome == Held {
			f := v.fields(detail, 3)
			detail++
			d.Number, d.Unit, d.Deliveries = f[0], int(f[1]), int(f[2])
			d.SlotID = domain.SlotID(p.id, d.Number)
			err = unavailable("decide", v.err)
		}
		if believed || d.Outcome == Granted || d.Repeated || err != nil {
			w.done <- decided{d, err}
			continue
		}
		batch[n] = w
		n++
	}
	return batch[:n]
}
