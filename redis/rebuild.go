package redis

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/google/uuid"
	goredis "github.com/redis/go-redis/v9"
	"golang.org/x/sync/semaphore"

	"github.com/dopaminestore/dopamine/internal/failpoint"
	"github.com/dopaminestore/dopamine/internal/guard"
	"github.com/dopaminestore/dopamine/internal/sleep"
	"github.com/dopaminestore/dopamine/redis/topology"
)

const (
	// maxPiece is how many holders or units one command writes.
	maxPiece = 1000
	// buildTTL removes what a rebuild leaves behind if its process dies.
	buildTTL = time.Minute
	// maxBuilds is how many rebuilds of gates on one master a node has in progress: after
	// a restart of Redis every gate is lost, and an epoch is raised only for one that is
	// then built at once.
	maxBuilds = 8
	// maxRowAge is the age at which a product's row is read again before an epoch is raised.
	maxRowAge = 10 * time.Millisecond
	// aliveInterval is the interval of a rebuild's heartbeats.
	aliveInterval = time.Second
	// maxAliveAttempts is for how many failed attempts in its epoch a rebuild sends
	// heartbeats. After that others, who may see a better Redis, take over.
	maxAliveAttempts = 3
	// raiseInterval is the least time between two raises of a node. Each takes those of
	// all waiting products, under one append lock.
	raiseInterval = 10 * time.Millisecond
	maxRaises     = 100
)

// rebuild opens a gate on the instance on which the old one was found lost:
//
//  1. take a turn among the rebuilds on that master;
//  2. write a key there: an epoch is raised only for a Redis that takes writes;
//  3. raise the epoch (compare and swap), so that the old gate's grants are refused, or
//     continue in the epoch of this node's own failed rebuild;
//  4. close the old gate, if it is here, and store its decision log;
//  5. if the last lease was taken for another instance, wait until 3 s after the answer to
//     the raise, on this node's own clock: no lease of the old epoch can have been taken
//     later. Such a rebuild takes its turn only now, so that many can wait at once;
//  6. read claims and head position, from one snapshot that is younger than the raise,
//     and write them under keys of this attempt;
//  7. rename them into place, unless a gate of this epoch or a later one is there.
//
// The lease that follows shows others that it is finished. done is false if that was
// refused, because the sale was changed meanwhile. It returns errOvertaken if the row or
// the gate is no longer what this rebuild began with.
func (g *Gate) rebuild(ctx context.Context, p *product, row *GateRow, state State, foreign bool) (done bool, err error) {
	b := &build{
		gate: g, product: p, found: state, instance: state.on.instance, lessee: row.Lease.Instance,
		keys: newBuildKeys(g.keyPrefix, p.id), epoch: NoEpoch, next: 1,
	}
	if p.attempt.epoch == row.Rebuilt && p.attempt.id == row.RebuiltID {
		b.failures = p.attempt.failures
	}
	defer func() {
		if b.turn != nil {
			b.turn.Release(1)
		}
	}()
	if !b.leasedElsewhere() {
		if err := b.takeTurnFor(ctx, state.on.server.Builds, row); err != nil {
			return false, err
		}
		ctx = topology.ForBuild(ctx)
	}
	failpoint.Hit(failpoint.RebuildProbe)
	if err := b.probe(ctx); err != nil {
		return false, err
	}
	began := time.Now()
	if row, err = b.takeEpoch(ctx, row, foreign); err != nil {
		return false, err
	}
	alive, stop := b.keepAlive(ctx, b.epoch)
	opened, err := b.construct(alive, foreign)
	stop() // any node may lease a gate that is in place
	if err == nil {
		err = g.lease(topology.ForBuild(ctx), p, &opened)
		done = err == nil
		if errors.Is(err, errLeaseRefused) {
			err = nil
		}
	} else if errors.Is(context.Cause(alive), errOvertaken) {
		err = errOvertaken
	}
	// Unless it is done the epoch may have a gate on this instance, now or by a call that
	// arrives late: no other one may get a gate of that epoch from this node.
	p.attempt = attempt{epoch: b.epoch, id: b.id, instance: b.instance, token: b.keys.token, opensAt: b.opensAt, failures: b.failures + 1}
	if done {
		p.attempt = attempt{epoch: NoEpoch}
	}
	if !errors.Is(err, errOvertaken) {
		g.observer.Rebuilt(time.Since(began), row.Lease.Epoch == NoEpoch, err)
	}
	return done, err
}

// construct puts the gate of the epoch in place.
func (b *build) construct(ctx context.Context, foreign bool) (opened State, err error) {
	g, p := b.gate, b.product
	failpoint.Hit(failpoint.RebuildClose)
	there, err := b.begin(ctx)
	if err != nil {
		return opened, err
	}
	failpoint.Hit(failpoint.RebuildSalvage)
	if there && !foreign { // otherwise its lines would be stored as those of our own epochs
		if err := g.salvage(ctx, p, b.lessee); err != nil {
			return opened, fmt.Errorf("store the old gate's decision log: %w", err)
		}
	}
	if err := b.wait(ctx); err != nil {
		return opened, err
	}
	if b.turn == nil {
		if err := b.takeTurn(ctx, b.found.on.server.Builds); err != nil {
			return opened, err
		}
		ctx = topology.ForBuild(ctx)
	}
	failpoint.Hit(failpoint.RebuildSnapshot)
	snapshot, err := g.store.Snapshot(ctx, p.id, func(holders []Holder) error { return b.piece(ctx, holders) })
	if err != nil {
		return opened, fmt.Errorf("read the claims: %w", err)
	}
	if snapshot.Row.Deleted {
		return opened, errOvertaken // the next pass removes the gate that exists
	}
	failpoint.Hit(failpoint.RebuildOpen)
	if opened, err = b.open(ctx, snapshot); err == nil {
		failpoint.Hit(failpoint.RebuildOpened)
	}
	return opened, err
}

// build is a gate under construction.
type build struct {
	gate           *Gate
	product        *product
	found          State // of the gate that was found lost
	epoch          int64
	id             uuid.UUID // of the rebuild
	failures       int       // failed attempts in this epoch
	instance       string    // on which the gate is built
	lessee         string    // the instance for which the last lease was taken, "" if not known
	keys           buildKeys
	held, returned int
	next           int                 // the unit after the last holder's
	opensAt        time.Time           // by then the old lease has run out
	turn           *semaphore.Weighted // the master's builds, once this is one of them
}

// leasedElsewhere reports whether the last lease was taken for another instance.
func (b *build) leasedElsewhere() bool { return b.lessee != "" && b.lessee != b.instance }

// takeEpoch continues in the epoch of this node's own failed rebuild, or raises the epoch. It
// returns the row with which the rebuild begins.
func (b *build) takeEpoch(ctx context.Context, row *GateRow, foreign bool) (*GateRow, error) {
	g, p, began := b.gate, b.product, time.Now()
	if b.mayContinue(row) {
		// Now that no earlier attempt can open its gate any more, check that none has
		// done so, and decided something, since the row was read.
		row, err := g.rows.call(ctx, p.id)
		if err != nil {
			return nil, err
		}
		if row == nil || row.Deleted || !b.mayContinue(row) {
			return nil, errOvertaken
		}
		b.epoch, b.id = row.Rebuilt, row.RebuiltID
		switch {
		case p.attempt.epoch == row.Rebuilt && p.attempt.id == row.RebuiltID:
			b.opensAt = p.attempt.opensAt
		case b.leasedElsewhere(): // the answer to the raise was lost
			b.opensAt = began.Add(LeaseTime)
		}
		return row, nil
	}
	raised, err := g.raises.call(ctx, RaiseRequest{
		Product: p.id, Found: row.Epoch, Above: max(b.found.Epoch, p.wrong.Load()), Owner: g.id, Foreign: foreign,
	})
	if err != nil {
		return nil, fmt.Errorf("raise the epoch: %w", err)
	}
	if !raised.Raised {
		return nil, errOvertaken
	}
	b.epoch, b.id, b.lessee, b.failures = raised.Epoch, raised.ID, raised.Instance, 0
	if b.leasedElsewhere() {
		b.opensAt = time.Now().Add(LeaseTime)
	}
	g.observer.Raised(raised.Epoch)
	return row, nil
}

// keepAlive sends the heartbeats of an epoch until stop. It cancels the context, with
// errOvertaken as its cause, once the product's rebuild is another one. A heartbeat that
// fails is not repeated before the next.
func (b *build) keepAlive(ctx context.Context, epoch int64) (alive context.Context, stop func()) {
	alive, cancel := context.WithCancelCause(ctx)
	var beats sync.WaitGroup
	beats.Go(func() {
		defer guard.Log("heartbeats of a rebuild")
		for range sleep.After(alive, aliveInterval) {
			if b.failures >= maxAliveAttempts {
				return
			}
			ours, err := b.gate.alive.call(alive, AliveRequest{Product: b.product.id, Epoch: epoch})
			if err == nil && !ours {
				cancel(errOvertaken)
			}
		}
	})
	return alive, func() {
		cancel(nil)
		beats.Wait()
	}
}

// takeTurn waits until fewer than maxBuilds gates of the master are being built, in order
// of arrival.
func (b *build) takeTurn(ctx context.Context, builds *semaphore.Weighted) error {
	if err := builds.Acquire(ctx, 1); err != nil {
		return fmt.Errorf("wait for other rebuilds: %w", context.Cause(ctx))
	}
	b.turn = builds
	return nil
}

// takeTurnFor is takeTurn for a gate that was found lost when the row was read. After a wait
// it reads the row again: if all gates of a Redis are lost, most of those in the queue are
// rebuilt by another node meanwhile, or are being rebuilt.
func (b *build) takeTurnFor(ctx context.Context, builds *semaphore.Weighted, row *GateRow) error {
	queued, waiting, stop := time.Now(), ctx, func() {}
	if b.mayContinue(row) {
		waiting, stop = b.keepAlive(ctx, row.Rebuilt)
	}
	err := b.takeTurn(waiting, builds)
	stop()
	if err != nil || time.Since(queued) < maxRowAge {
		return err
	}
	now, err := b.gate.rows.call(ctx, b.product.id)
	if err == nil && (now == nil || now.Deleted || now.Epoch != row.Epoch || now.Rebuilt != row.Rebuilt || now.unfinished() != row.unfinished() ||
		now.heartbeat() != row.heartbeat() && !b.mayContinue(now)) {
		err = errOvertaken
	}
	return err
}

// mayContinue reports whether the unfinished rebuild is this node's own and may be
// continued here. It must not continue on another instance than the last attempt: that
// attempt's call that puts the gate in place may still arrive there, or has. Nor if
// its gate is here and was lost: an epoch has one gate.
func (b *build) mayContinue(row *GateRow) bool {
	p := b.product
	return row.unfinished() && row.Rebuild.Owner == b.gate.id && row.Rebuilt > p.wrong.Load() &&
		(p.attempt.epoch != row.Rebuilt || p.attempt.instance == b.instance) &&
		!(b.found.Exists && b.found.Epoch >= row.Rebuilt)
}

// probe writes the attempt's token. It outlives neither the attempt nor a flush, and
// without it the attempt cannot put its gate in place: a delayed call does
// nothing once a later attempt has begun, or the Redis was flushed.
func (b *build) probe(ctx context.Context) error {
	err := b.gate.topology.Run(ctx, b.product.keys[0], func(c *topology.Conn) error {
		if c.Instance != b.instance {
			return topology.ErrMoved
		}
		pipe := c.Redis.Pipeline()
		if old := b.product.attempt; old.epoch != NoEpoch && old.instance == b.instance {
			pipe.Del(ctx, old.token)
		}
		pipe.Set(ctx, b.keys.token, 1, buildTTL)
		_, err := pipe.Exec(ctx)
		return c.Checked(err)
	})
	if err != nil && !errors.Is(err, topology.ErrMoved) {
		return fmt.Errorf("no writes accepted by Redis: %w", err)
	}
	return err
}

// begin closes the old gate, and reports whether there is one. It returns errOvertaken if
// there is already one of this epoch.
func (b *build) begin(ctx context.Context) (there bool, err error) {
	var reply any
	err = b.on(ctx, func(c *topology.Conn) (err error) {
		reply, err = c.Call(ctx, closeScript, b.product.keys, b.epoch)
		return err
	})
	if err != nil {
		return false, fmt.Errorf("close the old gate: %w", err)
	}
	if reply == int64(2) {
		return true, errOvertaken // by an earlier attempt whose answer was lost: reconcile again
	}
	return reply == int64(1), nil
}

// on runs do on the instance on which the gate is built, and verifies that it
// was still that instance afterwards.
func (b *build) on(ctx context.Context, do func(*topology.Conn) error) error {
	err := b.gate.topology.Run(ctx, b.product.keys[0], func(c *topology.Conn) error {
		if c.Instance != b.instance {
			return topology.ErrMoved
		}
		if err := do(c); err != nil {
			return err
		}
		if err := c.Identify(ctx); err != nil {
			return err
		}
		if c.Instance != b.instance {
			return topology.ErrMoved
		}
		return nil
	})
	if _, moved := goredis.IsMovedError(err); moved { // one more redirect than Run follows
		return topology.ErrMoved
	}
	return err
}

// wait waits until the old gate's lease has run out.
func (b *build) wait(ctx context.Context) error {
	if err := sleep.For(ctx, time.Until(b.opensAt)); err != nil {
		return fmt.Errorf("wait for the old lease: %w", err)
	}
	return nil
}

// piece writes some holders, by rising unit, and the free units between them.
func (b *build) piece(ctx context.Context, holders []Holder) error {
	failpoint.Hit(failpoint.RebuildPiece)
	err := b.on(ctx, func(c *topology.Conn) error { return c.Checked(b.write(ctx, c.Redis.Pipeline(), holders)) })
	if err != nil {
		return fmt.Errorf("write holders of epoch %d: %w", b.epoch, err)
	}
	return nil
}

func (b *build) write(ctx context.Context, pipe goredis.Pipeliner, holders []Holder) error {
	pairs := make([]any, 0, 2*len(holders))
	var free []any
	push := func() {
		if len(free) > 0 {
			pipe.RPush(ctx, b.keys.queue, free...)
			b.returned += len(free)
			free = nil
		}
	}
	for _, h := range holders {
		for ; b.next < h.Unit; b.next++ {
			if free = append(free, b.next); len(free) < maxPiece {
				continue
			}
			push()
			if pipe.Len() < maxPiece {
				continue
			}
			if _, err := pipe.Exec(ctx); err != nil {
				return err
			}
		}
		b.next = h.Unit + 1
		pairs = append(pairs, string(h.Buyer[:]), fmt.Sprintf("H%d %d 0 0 %s", h.Number, h.Unit, h.KeyHash))
	}
	push()
	pipe.HSet(ctx, b.keys.holders, pairs...)
	b.held += len(holders)
	pipe.Expire(ctx, b.keys.token, buildTTL)
	pipe.Expire(ctx, b.keys.holders, buildTTL)
	pipe.Expire(ctx, b.keys.queue, buildTTL)
	_, err := pipe.Exec(ctx)
	return err
}

// open puts the gate in place, and returns its state as far as a lease is based on it.
func (b *build) open(ctx context.Context, s Snapshot) (opened State, err error) {
	keys := append(append([]string(nil), b.product.keys...), b.keys.holders, b.keys.queue, b.keys.token)
	args := append([]any{b.epoch, s.At.Position, s.Row.Units, b.next, b.held, b.returned}, saleArgs(s.Row)...)
	args = append(args, idArg(s.At.Event), idArg(b.id))
	status := ""
	err = b.on(ctx, func(c *topology.Conn) error {
		sent := time.Now()
		raw, err := c.Call(ctx, openScript, keys, args...)
		if err != nil {
			return err
		}
		r, err := parseReply(raw, 1)
		if err != nil {
			return err
		}
		if status = r.text(0); status == "ok" {
			opened = State{
				Exists: true, Alive: true, Epoch: b.epoch, Position: s.At.Position, at: s.At, rebuild: b.id, now: r.number(1), on: targetOf(c, sent),
			}
		}
		return r.err
	})
	switch {
	case err != nil:
		return opened, fmt.Errorf("open epoch %d: %w", b.epoch, err)
	case status == "older":
		return opened, errOvertaken
	case status != "ok":
		return opened, fmt.Errorf("open epoch %d: some of the written keys are missing", b.epoch)
	}
	return opened, nil
}
