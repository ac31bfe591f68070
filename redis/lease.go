package redis

import (
	"context"
	"errors"
	"time"

	"github.com/dopaminestore/dopamine/internal/failpoint"
)

const (
	// renewEvery is how old a lease may be before it is renewed while in use.
	renewEvery = time.Second
	// leaseWithin bounds a lease's statement: a lease that took longer would
	// hardly let anybody decide.
	leaseWithin = 2 * time.Second
)

// errStale says that the gate's epoch is not the product's any more, or the gate
// was lost on the way to a lease.
var errStale = errors.New("redis: the gate is not the product's gate any more")

// believes says whether this node may believe a refusal of that epoch on that
// process, and sees to it that the lease is renewed in good time.
func (g *Gate) believes(p *product, epoch int64, stamp string) bool {
	p.leaseMu.Lock()
	l := p.leased
	age := time.Since(l.since)
	soon := age > renewEvery && p.renewing == nil
	p.leaseMu.Unlock()
	if soon {
		g.renewal(p)
	}
	return l.epoch == epoch && l.stamp == stamp && age < LeaseTime
}

// leaseAge is how long ago this node last took a lease.
func (p *product) leaseAge() time.Duration {
	p.leaseMu.Lock()
	defer p.leaseMu.Unlock()
	return time.Since(p.leased.since)
}

// renew takes a lease, and puts the gate right where it has no right to one.
func (g *Gate) renew(ctx context.Context, p *product) error {
	f := g.renewal(p)
	if f == nil {
		return ErrClosed
	}
	select {
	case <-f.done:
	case <-ctx.Done():
		return ctx.Err()
	}
	if errors.Is(f.err, errStale) {
		return g.tend(ctx, p)
	}
	return f.err
}

// renewal is the renewal under way, or a new one; nil once the gate is closed.
func (g *Gate) renewal(p *product) *flight {
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
		err := g.lease(ctx, p)
		g.observer.Renewed(time.Since(began), err)
		p.leaseMu.Lock()
		p.renewing = nil
		p.leaseMu.Unlock()
		f.land(err)
	})
	if !started {
		return nil
	}
	p.renewing = f
	return f
}

// lease reads the gate's time t, then sets leased_at in Postgres where the epoch
// is still this gate's, then lets the gate decide until t + LeaseTime. So the
// lease in the gate never outlives leased_at + LeaseTime, whatever is delayed,
// and no two clocks are compared.
func (g *Gate) lease(ctx context.Context, p *product) error {
	state, stamp, err := g.look(ctx, p.keys)
	if err != nil {
		return err
	}
	if !state.Alive {
		return errStale
	}
	since := time.Now()
	asking, cancel := context.WithTimeout(ctx, leaseWithin)
	defer cancel()
	ours, err := g.store.Lease(asking, p.id, state.Epoch, stamp)
	if err != nil {
		return err
	}
	if !ours {
		return errStale
	}
	failpoint.Hit(failpoint.GateLeaseBefore)
	reply, on, err := g.call(ctx, leaseScript, p.keys, state.Epoch, state.now+LeaseTime.Milliseconds())
	failpoint.Hit(failpoint.GateLeaseAfter)
	if err != nil {
		return err
	}
	if reply != int64(1) || on != stamp {
		return errStale
	}
	p.leaseMu.Lock()
	p.leased = leased{epoch: state.Epoch, stamp: stamp, since: since}
	p.leaseMu.Unlock()
	return nil
}
