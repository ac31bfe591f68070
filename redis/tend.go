package redis

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"time"

	"github.com/google/uuid"

	"github.com/dopaminestore/dopamine/domain"
	"github.com/dopaminestore/dopamine/internal/failpoint"
)

const (
	// tendWithin bounds one tending. Each of its steps is bounded by itself; a
	// rebuild of ten million holders, with others before it, fits in.
	tendWithin = 10 * time.Minute
	// pollEvery is how often a node looks whether somebody else's rebuild is done.
	pollEvery = 20 * time.Millisecond
	// feedMost is how many events one script applies.
	feedMost = 1000
)

// Feed tells the gate what happened to the product, and returns when it knows
// everything that was durable at the call. It builds, reopens or removes the
// gate where it must. ErrUnknownProduct for one that is gone, ErrUnavailable.
func (g *Gate) Feed(ctx context.Context, product uuid.UUID) error {
	g.unknown.forget(product)
	return unavailable("feed the gate", g.tend(ctx, g.product(product)))
}

// Rebuild replaces the product's gate, which was found wrong in the epoch
// (Decision.Epoch) although it answers: it refused to know what a claim says.
// Where a gate was rebuilt in a later epoch already, or is being, that is enough.
func (g *Gate) Rebuild(ctx context.Context, product uuid.UUID, epoch int64) error {
	p := g.product(product)
	for {
		wrong := p.wrong.Load()
		if wrong >= epoch || p.wrong.CompareAndSwap(wrong, epoch) {
			return unavailable("rebuild the gate", g.tend(ctx, p))
		}
	}
}

// tend waits for a tending that began after this call.
func (g *Gate) tend(ctx context.Context, p *product) error {
	p.tendMu.Lock()
	if p.next == nil {
		p.next = newFlight()
	}
	f := p.next
	if !p.tending {
		p.tending = g.start(func() { g.keepTending(p) })
		if !p.tending {
			p.tendMu.Unlock()
			return ErrClosed
		}
	}
	p.tendMu.Unlock()
	select {
	case <-f.done:
		return f.err
	case <-ctx.Done():
		return ctx.Err()
	}
}

func (g *Gate) keepTending(p *product) {
	var err error
	for {
		p.tendMu.Lock()
		f := p.next
		p.next = nil
		p.tending = f != nil
		p.tendMu.Unlock()
		if f == nil {
			if err != nil {
				g.forget(p)
			}
			return
		}
		ctx, cancel := context.WithTimeout(g.ctx, tendWithin)
		err = g.putRight(ctx, p)
		cancel()
		if errors.Is(err, ErrUnknownProduct) {
			g.unknown.add(p.id)
			g.products.CompareAndDelete(p.id, p)
		}
		f.land(err)
	}
}

// putRight makes the product's gate be there, of the product's epoch, and told
// everything. Postgres is read first: a gate that is found dead afterwards is
// dead in that epoch or in an older one, and the raise compares and swaps on it.
// No connection to Redis is held while Postgres is asked.
func (g *Gate) putRight(ctx context.Context, p *product) error {
	ahead := false // the gate was seen ahead of the row
	for {
		row, err := g.store.Row(ctx, p.id)
		if err != nil {
			return err
		}
		if row.Deleted {
			if err := g.remove(ctx, p, row); err != nil {
				return err
			}
			return ErrUnknownProduct
		}
		state, stamp, err := g.look(ctx, p.keys)
		if err != nil {
			return err
		}
		wrong := p.wrong.Load()
		answers := state.Alive && row.Rebuilt > wrong // a change of the sale does not put a wrong gate right
		done := false
		switch {
		case answers && state.Epoch == row.Epoch:
			done, err = g.feed(ctx, p, state, nil)
		case answers && state.Epoch >= row.Rebuilt && state.Epoch < row.Epoch:
			// The sale was changed. This gate is the only one of row.Rebuilt or
			// later, so the new epoch opens here or nowhere. Then once more: events
			// may have come meanwhile.
			if done, err = g.feed(ctx, p, state, &row); done {
				// The old epoch's last lines now, so that nobody takes them for lost.
				_ = g.Ship(ctx, p.id)
				done = false
			}
		case state.Epoch > row.Epoch && !ahead:
			ahead = true // raised since the row was read, most likely
		case row.Rebuilding && row.Rebuilt > wrong && row.Rebuilt != p.failed:
			if err = pause(ctx, pollEvery); err != nil {
				err = fmt.Errorf("wait for the rebuild of epoch %d: %w", row.Rebuilt, err)
			}
		default:
			err = g.rebuild(ctx, p, stamp, row.Epoch, state.Epoch)
		}
		if done || (err != nil && !errors.Is(err, errOvertaken) && !errors.Is(err, errMoved)) {
			return err
		}
	}
}

// feed hands over the events beyond the gate's position. The script applies them
// only where the position is still the one read. With a row, the last piece
// opens the row's epoch in place: the row was read before the events, so no
// grant of the gate's own epoch can be appended behind them. false: the gate was
// lost, or somebody else fed it.
func (g *Gate) feed(ctx context.Context, p *product, state State, reopen *Row) (bool, error) {
	for position := state.Position; ; {
		events, err := g.store.Events(ctx, p.id, position, feedMost)
		if err != nil {
			return false, err
		}
		last := len(events) < feedMost
		if len(events) == 0 && reopen == nil {
			return true, nil
		}
		to := position
		if n := len(events); n > 0 {
			to = events[n-1].Position
		}
		args := append(make([]any, 0, 8+5*len(events)), state.Epoch, position, to)
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
		reply, _, err := g.call(ctx, feedScript, p.keys, args...)
		failpoint.Hit(failpoint.SyncAfter)
		if err != nil || reply != "ok" {
			return false, err
		}
		if last {
			return true, nil
		}
		position = to
	}
}

// appendEvent puts an event as feed.lua reads it. Others only move the position.
func appendEvent(args []any, event domain.Event) []any {
	switch e := event.(type) {
	case domain.SlotAcquired:
		return append(args, "A", e.ArrivalSequence, e.Unit, string(e.UserID[:]), e.KeyHash)
	case domain.SlotExpired:
		return append(args, "E", e.ArrivalSequence, string(e.UserID[:]), string(e.ReclaimStatus))
	case domain.GrantWithdrawn:
		return append(args, "W", e.ArrivalSequence)
	case domain.ProductStockIncreased:
		return append(args, "S", e.TotalStock)
	}
	return args
}

// saleArgs are begin, end (ms since 1970, 0 for none) and pause of a sale.
func saleArgs(row Row) []any {
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

// remove ends the gate of a product that is gone; its log is kept.
func (g *Gate) remove(ctx context.Context, p *product, row Row) error {
	_, stamp, err := g.call(ctx, closeScript, p.keys, row.Epoch+1)
	if err != nil {
		return err
	}
	if err := g.salvage(ctx, p, stamp); err != nil {
		return err
	}
	_, _, err = g.call(ctx, dropScript, p.keys, row.Epoch)
	return err
}

func pause(ctx context.Context, d time.Duration) error {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}
