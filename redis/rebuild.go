package redis

import (
	"context"
	"errors"
	"fmt"
	"time"

	goredis "github.com/redis/go-redis/v9"

	"github.com/dopaminestore/dopamine/internal/failpoint"
)

const (
	// pieceMost is how many holders or units one command carries.
	pieceMost = 1000
	// buildExpires removes what a rebuild left behind when it died.
	buildExpires = time.Minute
	// snapshotsMost is how many snapshots a node reads at a time: each holds a
	// connection to Postgres, and after a restart of Redis every gate is lost.
	snapshotsMost = 4
	// aliveEvery is how often a rebuild says that it is still there.
	aliveEvery = time.Second
)

// errOvertaken says that somebody else raised the epoch meanwhile.
var errOvertaken = errors.New("redis: another rebuild was quicker")

// rebuild raises the epoch found dead and, where nobody was quicker, opens a gate
// of the new one on the lane's process:
//
//  1. raise (compare and swap), so that the old gate's grants are refused;
//  2. close the old gate where it is here; where the lease was last taken for
//     another process, wait until that lease has run out;
//  3. carry off the old log;
//  4. read claims and head position, from one snapshot that is younger than the
//     raise, and write them under keys of their own;
//  5. put them in place, where no gate of this epoch or a later one is.
//
// The lease that follows tells that it is done. stamp is the process on which
// the gate was looked at, found and gate are the epochs of row and gate.
func (g *Gate) rebuild(ctx context.Context, p *product, stamp string, found, gate int64) (err error) {
	raised, ok, err := g.store.Raise(ctx, p.id, found, gate)
	if err != nil {
		return fmt.Errorf("raise the epoch: %w", err)
	}
	if !ok {
		return errOvertaken
	}
	began := time.Now()
	p.failed = NoEpoch
	defer func() {
		if err != nil {
			p.failed = raised.Epoch // nobody needs to wait for it
		}
		g.observer.Rebuilt(time.Since(began), err)
	}()
	b := &build{gate: g, product: p, epoch: raised.Epoch, stamp: stamp, alive: began, next: 1}
	b.holders, b.queue = buildKeys(p.id, raised.Epoch)
	failpoint.Hit(failpoint.RebuildClose)
	err = b.on(ctx, func(ln *lane) error {
		_, err := ln.call(ctx, closeScript, p.keys, raised.Epoch)
		return err
	})
	if err != nil {
		return fmt.Errorf("close the old gate: %w", err)
	}
	opensAt := began
	if raised.Stamp != "" && raised.Stamp != stamp {
		opensAt = time.Now().Add(raised.Wait)
	}
	failpoint.Hit(failpoint.RebuildSalvage)
	if err := g.salvage(ctx, p, raised.Stamp); err != nil {
		return fmt.Errorf("carry off the old gate's log: %w", err)
	}
	failpoint.Hit(failpoint.RebuildSnapshot)
	snapshot, err := b.snapshot(ctx)
	if err != nil {
		return err
	}
	if snapshot.Row.Deleted {
		return errOvertaken // the next look removes what there is
	}
	if err := b.wait(ctx, opensAt); err != nil {
		return err
	}
	failpoint.Hit(failpoint.RebuildOpen)
	if err := b.open(ctx, snapshot); err != nil {
		return err
	}
	failpoint.Hit(failpoint.RebuildOpened)
	if err := g.lease(ctx, p); err != nil && !errors.Is(err, errStale) {
		return err
	}
	return nil
}

// build is a gate under construction.
type build struct {
	gate           *Gate
	product        *product
	epoch          int64
	stamp          string // of the process on which it is built
	holders, queue string // keys
	held, returned int
	next           int // the unit behind the last holder's
	alive          time.Time
}

// on does something on the process on which the gate is built, and makes sure
// that it was still that process afterwards.
func (b *build) on(ctx context.Context, do func(*lane) error) error {
	err := b.gate.nodes.run(ctx, b.product.keys[0], func(ln *lane) error {
		if ln.stamp != b.stamp {
			return errMoved
		}
		if err := do(ln); err != nil {
			return err
		}
		if err := ln.look(ctx); err != nil {
			return err
		}
		if ln.stamp != b.stamp {
			return errMoved
		}
		return nil
	})
	if _, moved := goredis.IsMovedError(err); moved { // once more than run follows
		return errMoved
	}
	return err
}

// snapshot reads the claims and writes them down, when it is its turn.
func (b *build) snapshot(ctx context.Context) (Snapshot, error) {
	for turn := false; !turn; {
		select {
		case b.gate.snapshots <- struct{}{}:
			turn = true
		case <-time.After(aliveEvery):
			if err := b.sign(ctx); err != nil {
				return Snapshot{}, err
			}
		case <-ctx.Done():
			return Snapshot{}, fmt.Errorf("wait for other rebuilds: %w", ctx.Err())
		}
	}
	defer func() { <-b.gate.snapshots }()
	snapshot, err := b.gate.store.Snapshot(ctx, b.product.id, func(holders []Holder) error { return b.piece(ctx, holders) })
	if err != nil {
		return Snapshot{}, fmt.Errorf("read the claims: %w", err)
	}
	return snapshot, nil
}

// wait waits until the old gate's lease has run out.
func (b *build) wait(ctx context.Context, until time.Time) error {
	for left := time.Until(until); left > 0; left = time.Until(until) {
		if err := pause(ctx, min(left, aliveEvery)); err != nil {
			return fmt.Errorf("wait for the old lease: %w", err)
		}
		if err := b.sign(ctx); err != nil {
			return err
		}
	}
	return nil
}

// sign tells the others, now and then, that this rebuild is alive.
func (b *build) sign(ctx context.Context) error {
	if time.Since(b.alive) < aliveEvery {
		return nil
	}
	ours, err := b.gate.store.Alive(ctx, b.product.id, b.epoch)
	if err != nil {
		return fmt.Errorf("say that the rebuild is alive: %w", err)
	}
	if !ours {
		return errOvertaken
	}
	b.alive = time.Now()
	return nil
}

// piece writes some holders, by rising unit, and the free units between them.
func (b *build) piece(ctx context.Context, holders []Holder) error {
	if err := b.sign(ctx); err != nil {
		return err
	}
	failpoint.Hit(failpoint.RebuildPiece)
	err := b.on(ctx, func(ln *lane) error { return b.write(ctx, ln.conn.Pipeline(), holders) })
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
			pipe.RPush(ctx, b.queue, free...)
			b.returned += len(free)
			free = nil
		}
	}
	for _, h := range holders {
		for ; b.next < h.Unit; b.next++ {
			if free = append(free, b.next); len(free) < pieceMost {
				continue
			}
			push()
			if pipe.Len() < pieceMost {
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
	pipe.HSet(ctx, b.holders, pairs...)
	b.held += len(holders)
	pipe.Expire(ctx, b.holders, buildExpires)
	pipe.Expire(ctx, b.queue, buildExpires)
	_, err := pipe.Exec(ctx)
	return err
}

// open puts the gate in place.
func (b *build) open(ctx context.Context, s Snapshot) error {
	keys := append(append([]string(nil), b.product.keys...), b.holders, b.queue)
	args := append([]any{b.epoch, s.Position, s.Row.Units, b.next, b.held, b.returned}, saleArgs(s.Row)...)
	var reply any
	err := b.on(ctx, func(ln *lane) (err error) {
		reply, err = ln.call(ctx, openScript, keys, args...)
		return err
	})
	switch {
	case err != nil:
		return fmt.Errorf("open epoch %d: %w", b.epoch, err)
	case reply == "older":
		return errOvertaken
	case reply != "ok":
		return fmt.Errorf("open epoch %d: what was written is not all there", b.epoch)
	}
	return nil
}
