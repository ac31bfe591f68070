package redis

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/dopaminestore/dopamine/internal/failpoint"
	"github.com/dopaminestore/dopamine/internal/sleep"
)

const (
	// renewInterval is the age of a node's own lease at which it is renewed while in use.
	renewInterval = time.Second
	// renewBelow is how much of the gate's lease must be left, by the gate's clock, for a
	// node to check only whether the epoch still holds: another node has renewed
	// the lease within about a second. The margin is for the resolution of the gate's clock.
	renewBelow = LeaseTime - renewInterval + 10*time.Millisecond
	// leaseTimeout bounds a lease's statement: a lease that took longer would
	// leave hardly any time to decide.
	leaseTimeout = 2 * time.Second
	// leaseInterval is the least time between two lease statements of a node. Each
	// takes those of all waiting products.
	leaseInterval = 25 * time.Millisecond
	maxLeases     = 1000
)

// errLeaseRefused: the gate's epoch is no longer the product's, or the gate was lost
// before the lease was taken.
var errLeaseRefused = errors.New("redis: lease refused")

// trustsRefusal reports whether this node may trust a refusal of a gate in that state,
// and starts the renewal of an old lease.
func (g *Gate) trustsRefusal(p *product, state State) bool {
	p.leaseMu.Lock()
	l := p.leased
	age := time.Since(l.since)
	soon := age > renewInterval && p.renewing == nil
	p.leaseMu.Unlock()
	if soon {
		known := state // is kept in memory, unlike the state of most decisions
		g.renewal(p, &known)
	}
	return l.epoch == state.Epoch && l.instance == state.on.instance && age < LeaseTime
}

// leaseAge returns how long ago this node last took a lease.
func (p *product) leaseAge() time.Duration {
	p.leaseMu.Lock()
	defer p.leaseMu.Unlock()
	return time.Since(p.leased.since)
}

// renew takes a lease, based on the state if it is not nil, and reconciles the gate if the
// lease is refused.
func (g *Gate) renew(ctx context.Context, p *product, state *State) error {
	f := g.renewal(p, state)
	if f == nil {
		return ErrClosed
	}
	select {
	case <-f.done:
	case <-ctx.Done():
		return ctx.Err()
	}
	if errors.Is(f.err, errLeaseRefused) {
		p.decides(false)
		return g.reconcile(ctx, p, goalGate)
	}
	return f.err
}

// renewal returns the renewal in progress, or a new one based on a state that has just been
// read, nil for none; it returns nil once the gate is closed.
func (g *Gate) renewal(p *product, state *State) *flight {
	p.leaseMu.Lock()
	defer p.leaseMu.Unlock()
	if p.renewing != nil {
		return p.renewing
	}
	f := newFlight()
	started := g.start(func() {
		began := time.Now()
		ctx, cancel := context.WithTimeout(g.ctx, LeaseTime)
		defer cancel()
		err := g.lease(ctx, p, state)
		g.observer.Renewed(time.Since(began), err)
		p.leaseMu.Lock()
		p.renewing = nil
		if errors.Is(err, errLeaseRefused) && !p.leased.since.IsZero() {
			p.leased.since = time.Now().Add(-LeaseTime) // trust nothing more
		}
		p.leaseMu.Unlock()
		f.land(err)
	})
	if !started {
		return nil
	}
	p.renewing = f
	return f
}

// renewalDue reports whether no other node has just renewed the gate's lease. The state may
// be that of a decision whose reply took long: the lease has become shorter since. One that is
// longer than LeaseTime means that the gate's clock was set back.
func (s State) renewalDue() bool {
	return s.LeaseLeft-time.Since(s.on.sent) < renewBelow || s.LeaseLeft > LeaseTime
}

// lease reads the gate's time t, unless a state that was just read has it. Then it renews
// the lease in Postgres if the epoch is still this gate's, and then lets the gate decide
// until t + LeaseTime. So the lease in the gate never outlives the statement by more than
// LeaseTime, whatever is delayed, and no two clocks are compared. A rebuild that raises the
// epoch afterwards opens no gate elsewhere before LeaseTime has passed since its raise, by
// its own clock.
//
// If another node has just renewed the gate's lease, it suffices that the epoch is
// still the product's and the lease this gate's: for this node's own timer, a check is as
// good as a renewal.
func (g *Gate) lease(ctx context.Context, p *product, known *State) error {
	for held := true; ; {
		var state State
		var err error
		if known != nil {
			state, known = *known, nil
		} else if state, err = g.readState(ctx, p.keys); err != nil {
			return err
		}
		if !state.Alive {
			return errLeaseRefused
		}
		renew := !held || state.renewalDue()
		since := time.Now()
		asking, cancel := context.WithTimeout(ctx, leaseTimeout)
		result, err := g.leases.call(asking, LeaseRequest{
			Product: p.id, Epoch: state.Epoch, Instance: state.on.instance, View: state.on.view, Renew: renew, Rebuild: state.rebuild, At: state.at,
		})
		cancel()
		switch {
		case err != nil:
			return fmt.Errorf("lease epoch %d: %w", state.Epoch, err)
		case result == LeaseBusy:
			if err := sleep.For(ctx, minPoll); err != nil {
				return fmt.Errorf("wait for the locked row of epoch %d: %w", state.Epoch, err)
			}
			continue
		case result == LeaseNotHeld:
			held = false
			continue
		case result == LeaseTailLost:
			p.markWrong(state.Epoch)
			return errLeaseRefused
		case result != LeaseGranted:
			return errLeaseRefused
		}
		if renew {
			failpoint.Hit(failpoint.GateLeaseBefore)
			reply, on, err := g.call(ctx, leaseScript, p.keys, state.Epoch, state.now+LeaseTime.Milliseconds(), LeaseTime.Milliseconds())
			failpoint.Hit(failpoint.GateLeaseAfter)
			if err != nil {
				return err
			}
			if reply != int64(1) || on.instance != state.on.instance {
				return errLeaseRefused
			}
		}
		p.leaseMu.Lock()
		p.leased = leased{epoch: state.Epoch, instance: state.on.instance, since: since}
		p.leaseMu.Unlock()
		return nil
	}
}
