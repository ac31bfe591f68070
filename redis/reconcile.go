package redis

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"slices"
	"strconv"
	"time"

	"github.com/google/uuid"

	"github.com/dopaminestore/dopamine/domain"
	"github.com/dopaminestore/dopamine/domain/fairness"
	"github.com/dopaminestore/dopamine/internal/failpoint"
	"github.com/dopaminestore/dopamine/internal/guard"
	"github.com/dopaminestore/dopamine/internal/sleep"
	"github.com/dopaminestore/dopamine/redis/topology"
)

const (
	// reconcileTimeout bounds one reconciliation. Each of its steps has its own bound;
	// a rebuild of ten million holders, with others before it, fits in.
	reconcileTimeout = 10 * time.Minute
	// shipTimeout bounds storing the lines of an epoch that ended when the next one was opened
	// in place.
	shipTimeout = 30 * time.Second
	// minPoll and maxPoll bound the growing interval at which a node checks whether
	// another's rebuild is finished.
	minPoll, maxPoll = 20 * time.Millisecond, 200 * time.Millisecond
	// rebuildSilence is longer than the interval of a rebuild's heartbeats.
	rebuildSilence = 1500 * time.Millisecond
	// maxEvents is how many events one script applies.
	maxEvents = 1000
	// rowsTimeout and raiseTimeout bound statements, maxRows how many products one reads.
	rowsTimeout, raiseTimeout = 3 * time.Second, 6 * time.Second
	maxRows                   = 500
	// minPause and maxPause bound the growing backoff after a rebuild that failed.
	minPause, maxPause = 50 * time.Millisecond, 2 * time.Second
	// maxWaitingFailures is after how many failures in a row requests no longer wait.
	maxWaitingFailures = 3
	// minContest is for how long a lease on another instance must not have been
	// renewed before a gate is rebuilt on this one. maxContest is how long that grows if
	// the gate is then repeatedly lost to the other one. contestMemory is the time
	// without such a loss after which it is minContest again.
	minContest, maxContest = 1500 * time.Millisecond, 15 * time.Second
	contestMemory          = 2 * time.Minute
	// warnInterval is the least time between two warnings of the same kind for a product.
	warnInterval = time.Minute
)

// errOvertaken: the row or the gate is no longer what a rebuild began with. Another node, or
// an earlier attempt whose answer was lost, was quicker, or the product is gone. Read the row
// again.
var errOvertaken = errors.New("redis: the rebuild was overtaken")

// ErrOtherRedis matches the cause of an UnavailableError for a product whose gate is
// in use on another Redis than the one that this node is connected to.
var ErrOtherRedis = errors.New("another Redis is in use for this product")

// Sync returns once the gate has applied everything that was durable at the call. It
// builds, reopens or removes the gate if necessary. A product whose sale has ended needs
// no gate until a request arrives. Errors: ErrUnknownProduct for a product that is gone,
// ErrUnavailable.
func (g *Gate) Sync(ctx context.Context, product uuid.UUID) error {
	g.unknown.forget(product)
	return unavailable("sync the gate", g.reconcile(ctx, g.product(product), goalSync))
}

// Rebuild replaces the product's gate, which was found wrong in the epoch
// (Decision.Epoch) although it responds: a claim contradicts it. A rebuild in a later
// epoch, even if it is not finished, is sufficient.
func (g *Gate) Rebuild(ctx context.Context, product uuid.UUID, epoch int64) error {
	p := g.product(product)
	p.markWrong(epoch)
	return unavailable("rebuild the gate", g.reconcile(ctx, p, goalGate))
}

func (p *product) markWrong(epoch int64) {
	for {
		wrong := p.wrong.Load()
		if wrong >= epoch || p.wrong.CompareAndSwap(wrong, epoch) {
			return
		}
	}
}

// goals of a reconciliation, as bits.
type goals int

const (
	goalGate goals = 1 << iota // a gate exists afterwards
	goalSync                   // an existing gate has all events applied
)

// reconcile waits for a reconciliation that began after this call. All callers that wait
// share it.
func (g *Gate) reconcile(ctx context.Context, p *product, goal goals) error {
	if err := p.paused(); err != nil {
		return err
	}
	p.reconcileMu.Lock()
	if p.next == nil {
		p.next = newFlight()
	}
	f := p.next
	p.goals |= goal
	if !p.reconciling {
		p.reconciling = g.start(func() { g.reconcileLoop(p) })
		if !p.reconciling {
			p.reconcileMu.Unlock()
			return ErrClosed
		}
	}
	p.reconcileMu.Unlock()
	select {
	case <-f.done:
		return f.err
	case <-ctx.Done():
		return ctx.Err()
	}
}

func (g *Gate) reconcileLoop(p *product) {
	var err error
	for {
		p.reconcileMu.Lock()
		f, goal := p.next, p.goals
		p.next, p.goals = nil, 0
		p.reconciling = f != nil
		p.reconcileMu.Unlock()
		if f == nil {
			if err != nil {
				g.forget(p)
			}
			return
		}
		if err = p.paused(); err == nil {
			ctx, cancel := context.WithTimeout(g.ctx, reconcileTimeout)
			err = g.reconcileOnce(ctx, p, goal)
			cancel()
		}
		if errors.Is(err, ErrUnknownProduct) {
			g.unknown.add(p.id)
			g.products.CompareAndDelete(p.id, p)
		}
		f.land(err)
	}
}

// reconcileOnce ensures that the product's gate exists, in the product's epoch, and if
// goalSync is set with all events applied. Postgres is read first: a gate that is found lost afterwards is lost
// in that epoch or in an older one, and the raise compares and swaps on it. No
// connection to Redis is held during a call to Postgres.
func (g *Gate) reconcileOnce(ctx context.Context, p *product, goal goals) error {
	defer p.rebuilding.Store(0)
	ahead := false // the gate was ahead of the row, or of another history
	poll := minPoll
	for {
		row, err := g.rows.call(ctx, p.id)
		if err == nil && row == nil {
			err = ErrUnknownProduct
		}
		if err != nil {
			return err
		}
		if row.Deleted {
			if err := g.remove(ctx, p, row, ""); err != nil {
				return err
			}
			return ErrUnknownProduct
		}
		state, err := g.readState(ctx, p.keys)
		if err != nil {
			return err
		}
		if goal&goalGate == 0 && row.Ended && !state.Exists {
			return nil
		}
		// A gate of the last rebuild's epoch or a later one, but made by another rebuild: the
		// store lost the history in which that happened.
		foreign := state.Exists && state.rebuild != uuid.Nil && row.RebuiltID != uuid.Nil && state.Epoch >= row.Rebuilt && state.rebuild != row.RebuiltID
		if foreign && !ahead {
			ahead = true // or rebuilt since the row was read
			continue
		}
		answers := state.Alive && !foreign && row.Rebuilt > p.wrong.Load() // a change of the sale does not correct a wrong gate
		done := false
		switch {
		case answers && state.Epoch == row.Epoch && goal&goalSync == 0:
			done = true
		case answers && state.Epoch == row.Epoch:
			done, err = g.applyEvents(ctx, p, state, nil)
		case answers && state.Epoch >= row.Rebuilt && state.Epoch < row.Epoch:
			// The sale was changed. This gate is the only one of row.Rebuilt or
			// later, so the new epoch opens here or nowhere. Then reconcile once
			// more: events may have been appended meanwhile.
			if done, err = g.applyEvents(ctx, p, state, row); done {
				g.shipInBackground(p)
				done = false
			}
		case state.Epoch > row.Epoch && !ahead:
			ahead = true // raised since the row was read, most likely
		default:
			p.rebuilding.CompareAndSwap(0, time.Now().UnixNano())
			wait, cause := g.mayRebuild(p, row, state)
			switch {
			case cause != nil:
				err = p.pauseFor(cause)
			case wait:
				poll, err = g.awaitRebuild(ctx, p, row, poll)
			default:
				done, err = g.rebuild(ctx, p, row, state, foreign)
				if err != nil && !errors.Is(err, errOvertaken) && !errors.Is(err, topology.ErrMoved) && ctx.Err() == nil {
					if p.failures < maxWaitingFailures && !errors.Is(err, topology.ErrSilent) {
						slog.DebugContext(ctx, "rebuild failed, retrying", "component", "redis", "product", p.id, "error", err)
						err = sleep.For(ctx, p.backoff())
						break
					}
					err = p.pauseFor(err)
				}
			}
		}
		switch {
		case errors.Is(err, ErrTailLost):
			slog.WarnContext(ctx, "event store lost applied events, rebuilding the gate", "component", "redis",
				"product", p.id, "epoch", state.Epoch, "position", state.at.Position)
			p.markWrong(max(state.Epoch, row.Rebuilt))
		case errors.Is(err, errOvertaken), errors.Is(err, topology.ErrMoved):
			err = sleep.For(ctx, minPoll)
		case err == nil && done:
			if !row.unfinished() || row.Rebuilt != p.attempt.epoch {
				p.attempt = attempt{epoch: NoEpoch}
			}
			p.failures = 0
			p.pause.Store(nil)
			return nil
		}
		if err != nil && !errors.Is(err, ErrTailLost) {
			return err
		}
	}
}

// shipInBackground ships the last lines of the epoch that ended when the next one was opened in
// place, so that they are not taken for lost. Requests need only a lease, and do not wait for it.
func (g *Gate) shipInBackground(p *product) {
	g.start(func() {
		defer guard.Log("ship the log of an epoch that ended")
		ctx, cancel := context.WithTimeout(g.ctx, shipTimeout)
		defer cancel()
		_ = g.Ship(ctx, p.id) // otherwise the worker does
	})
}

// pauseFor makes the error the answer, without another attempt, for a time that grows
// with each failure in a row. It has jitter, so that the nodes do not retry together.
func (p *product) pauseFor(err error) error {
	p.pause.Store(&backoff{until: time.Now().Add(p.backoff()), err: err})
	return err
}

func (p *product) backoff() time.Duration {
	d := min(maxPause, minPause<<min(p.failures, 10))
	p.failures++
	return d/2 + rand.N(d/2)
}

// mayRebuild reports whether this node may rebuild the gate, which it found lost, now:
// wait if it should check again soon, cause if it should not retry for a while. Safety
// does not depend on it: any node may raise the epoch at any time.
func (g *Gate) mayRebuild(p *product, row *GateRow, state State) (wait bool, cause error) {
	now, c := time.Now(), &p.contest
	still := c.rebuild.observe(row.heartbeat(), now)
	renewed := c.lease.observe(row.Lease.Instance+" "+strconv.FormatInt(row.Lease.Epoch, 10)+" "+row.Lease.Beat, now)
	if row.unfinished() && row.Rebuilt > p.wrong.Load() {
		if row.Rebuild.Owner == g.id {
			return false, nil // this node's own, which failed
		}
		return still < RebuildTimeout, nil
	}
	on, from := state.on, row.Lease
	switch {
	case from.Instance == "" || from.Instance == on.instance:
		return false, nil // it was lost on this instance
	case on.view > from.View && from.View > 0:
		return false, nil // a later failover
	case on.server.Superseded(from.Instance):
		return false, nil // it restarted, or was promoted, under the same address
	case from.Idle && c.lease.changes == 0:
		return false, nil
	}
	// The last lease is another instance's, and nothing shows which of the two is right.
	// While that one is in use this one is not.
	p.leaseMu.Lock()
	used := p.leased.instance == on.instance
	p.leaseMu.Unlock()
	if used && c.lostTo != row.Rebuilt {
		if now.Sub(c.lostAt) > contestMemory {
			c.lost = 0
		}
		c.lost, c.lostTo, c.lostAt = c.lost+1, row.Rebuilt, now
	}
	if renewed >= min(maxContest, minContest<<min(max(0, c.lost-1), 10)) {
		return false, nil
	}
	if c.lease.changes == 0 && c.lost < 2 {
		return true, nil // no renewal observed yet
	}
	g.otherRedis.add(p.id)
	if now.Sub(c.warned) > warnInterval {
		c.warned = now
		slog.Warn("product's gate is in use on another Redis", "component", "redis", "product", p.id,
			"instance", on.instance, "other_instance", from.Instance)
	}
	return true, fmt.Errorf("%w: instance %s has the lease, this node is connected to %s", ErrOtherRedis, from.Instance, on.instance)
}

// awaitRebuild waits until the unfinished rebuild of another node has ended, or has been
// silent for so long that it may have died after it put its gate in place: then a lease is all
// that is missing. If the row is not of a rebuild it waits for poll only. It returns the next poll.
func (g *Gate) awaitRebuild(ctx context.Context, p *product, row *GateRow, poll time.Duration) (time.Duration, error) {
	for {
		if err := sleep.For(ctx, poll); err != nil {
			return poll, fmt.Errorf("wait for the rebuild of epoch %d: %w", row.Rebuilt, err)
		}
		poll = min(2*poll, maxPoll)
		if !row.unfinished() || row.Rebuilt <= p.wrong.Load() {
			return poll, nil
		}
		now, err := g.rows.call(ctx, p.id)
		if err != nil || now == nil || now.Deleted || now.Epoch != row.Epoch || !now.unfinished() ||
			p.contest.rebuild.observe(now.heartbeat(), time.Now()) >= rebuildSilence {
			return poll, err
		}
	}
}

// applyEvents applies the events beyond the gate's position. The script applies them only
// if the position is still the one read. With a row, the last piece opens the row's epoch
// in place: the row was read before the events, so no grant of the gate's own epoch can
// be appended after them. It returns false if the gate was lost, or if another process
// applied events to it, and errOvertaken if the row must be read again.
func (g *Gate) applyEvents(ctx context.Context, p *product, state State, reopen *GateRow) (bool, error) {
	for at := state.at; ; {
		events, err := g.store.Events(ctx, p.id, at, maxEvents)
		if err != nil {
			return false, err
		}
		last := len(events) < maxEvents
		if len(events) == 0 && reopen == nil {
			return true, nil
		}
		if reopen == nil && slices.ContainsFunc(events, decreasesStock) {
			return false, errOvertaken // the row was read before the epoch that the decrease began
		}
		to := at
		if n := len(events); n > 0 {
			to = events[n-1].At
		}
		args := append(make([]any, 0, 10+5*len(events)), state.Epoch, at.Position, to.Position, idArg(to.Event))
		if last && reopen != nil {
			args = append(args, reopen.Epoch)
			args = append(args, saleArgs(*reopen)...)
		} else {
			args = append(args, "", "", "", "")
		}
		for _, e := range events {
			args = appendEvent(args, e.Event)
		}
		failpoint.Hit(failpoint.SyncBefore)
		reply, _, err := g.call(ctx, syncScript, p.keys, args...)
		failpoint.Hit(failpoint.SyncAfter)
		for err == nil && reply == "more" { // of the pending grants that opening in place frees
			args = append(args[:1], to.Position, to.Position, idArg(to.Event), reopen.Epoch)
			args = append(args, saleArgs(*reopen)...)
			reply, _, err = g.call(ctx, syncScript, p.keys, args...)
		}
		if err != nil || reply != "ok" {
			return false, err
		}
		if last {
			return true, nil
		}
		at = to
	}
}

// decreasesStock reports whether an event lowers the units. The decision log has no line for that:
// the epoch that the change begins opens what remains.
func decreasesStock(e GateEvent) bool {
	_, is := e.Event.(domain.ProductStockDecreased)
	return is
}

// idArg returns an id as a script argument, "" if it is not known.
func idArg(id uuid.UUID) string {
	if id == uuid.Nil {
		return ""
	}
	return string(id[:])
}

// appendEvent encodes an event for sync.lua. Events that do not concern the gate only move the position.
func appendEvent(args []any, event domain.Event) []any {
	switch e := event.(type) {
	case domain.SlotAcquired:
		return append(args, "A", e.ArrivalSequence, e.Unit, string(e.UserID[:]), e.KeyHash)
	case domain.SlotExpired:
		return append(args, "E", e.ArrivalSequence, string(e.UserID[:]), string(e.ReclaimStatus))
	case domain.SlotReturned:
		return append(args, "E", e.ArrivalSequence, string(e.UserID[:]), string(fairness.Refunded))
	case domain.ProductStockDecreased:
		return append(args, "D", e.TotalStock)
	case domain.GrantWithdrawn:
		return append(args, "W", e.ArrivalSequence)
	case domain.ProductStockIncreased:
		return append(args, "S", e.TotalStock)
	}
	return args
}

// saleArgs returns begin, end (ms since 1970, 0 for none) and pause of a sale.
func saleArgs(row GateRow) []any {
	end := "0"
	if row.SaleEnd != nil {
		end = strconv.FormatInt(row.SaleEnd.UnixMilli(), 10)
	}
	paused := "0"
	if row.Paused {
		paused = "1"
	}
	return []any{row.SaleDate.UnixMilli(), end, paused}
}

// remove deletes the gate of a product that is gone or unloaded, after its log was stored. With
// an instance it returns topology.ErrMoved if the gate was not closed on that one.
func (g *Gate) remove(ctx context.Context, p *product, row *GateRow, instance string) error {
	_, on, err := g.call(ctx, closeScript, p.keys, row.Epoch+1)
	if err != nil {
		return err
	}
	if instance != "" && on.instance != instance {
		return topology.ErrMoved
	}
	if err := g.salvage(ctx, p, on.instance); err != nil {
		return err
	}
	_, _, err = g.call(ctx, dropScript, p.keys, row.Epoch)
	return err
}
