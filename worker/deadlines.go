package worker

import (
	"context"
	"slices"
	"sync"
	"time"

	"github.com/google/uuid"

	"github.com/dopaminestore/dopamine/command/claims"
	"github.com/dopaminestore/dopamine/domain"
	"github.com/dopaminestore/dopamine/eventstore"
	"github.com/dopaminestore/dopamine/internal/guard"
)

// ending expires slots at their deadline. Those that wait for a payment are
// timeOut's.
func (w *Worker) ending() sweep {
	return sweep{
		name: "ExpireSlot", frees: true, until: w.cfg.Claims.UntilEnd,
		find: w.cfg.Claims.Ends,
		decide: func(s domain.Slot, at time.Time) []domain.Event {
			if _, paying := s.Pending(); paying { // begun since it was found
				return nil
			}
			return s.Expire(at, 0)
		},
		guard: func(s domain.Slot) eventstore.Guarded {
			return claims.Release{Product: s.ProductID, SlotID: s.ID}.Guarded()
		},
	}
}

// warning tells owners that their deadline is near. One whose deadline has passed
// while no worker ran is not found any more.
func (w *Worker) warning() sweep {
	return sweep{
		name: "WarnOwner", find: w.cfg.Claims.Warnings, until: w.cfg.Claims.UntilWarning,
		decide: domain.Slot.Warn,
		guard: func(s domain.Slot) eventstore.Guarded {
			return claims.Warned{Product: s.ProductID, SlotID: s.ID}.Guarded()
		},
	}
}

const (
	// timeOutsAtOnce: each may wait for the gateway's last word.
	timeOutsAtOnce = 64
	// timeOutWithin bounds one.
	timeOutWithin = 15 * time.Second
	// timeOutAgain is after how long one that failed is tried again.
	timeOutAgain = time.Second
)

// timeOut ends slots whose payment has not come to an end in time.
func (w *Worker) timeOut(ctx context.Context) error {
	var running sync.WaitGroup
	defer running.Wait()
	busy, places := newPutOff(), make(chan struct{}, timeOutsAtOnce)
	tick := time.NewTicker(sweepEvery)
	defer tick.Stop()
	for {
		due, err := w.cfg.Claims.TimedOut(ctx, sweepMost)
		if err != nil {
			return err
		}
		for _, d := range busy.without(due) {
			select {
			case places <- struct{}{}:
			case <-ctx.Done():
				return ctx.Err()
			}
			busy.add(d.SlotID, timeOutWithin)
			running.Go(func() {
				defer guard.Log("end slots that are due")
				defer func() { <-places }()
				w.timeOutOne(ctx, d)
				busy.add(d.SlotID, timeOutAgain) // found again only where it failed
			})
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

func (w *Worker) timeOutOne(ctx context.Context, due claims.Due) {
	ctx, cancel := context.WithTimeout(ctx, timeOutWithin)
	defer cancel()
	ctx, span := begin(ctx, "TimeOutPayment")
	defer span.End()
	if err := w.cfg.Payments.TimeOut(ctx, due); err != nil {
		if ctx.Err() == nil {
			w.metrics.failures.WithLabelValues("TimeOutPayment").Inc()
			w.warn(ctx, "a slot whose payment timed out could not be ended, trying again", "slot", due.SlotID, "error", err)
		}
		return
	}
	w.metrics.swept.WithLabelValues("TimeOutPayment").Inc()
	w.metrics.lateness.WithLabelValues("TimeOutPayment").Observe(time.Since(due.At).Seconds())
	w.syncOwn(due.Product)
}

// putOff are things that are left alone until some time. Safe for concurrent use.
type putOff struct {
	mu    sync.Mutex
	until map[uuid.UUID]time.Time
}

func newPutOff() *putOff { return &putOff{until: make(map[uuid.UUID]time.Time)} }

func (p *putOff) add(id uuid.UUID, d time.Duration) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.until[id] = time.Now().Add(d)
}

// without gives those of due that are not put off, and forgets all that need not
// be any longer.
func (p *putOff) without(due []claims.Due) []claims.Due {
	p.mu.Lock()
	defer p.mu.Unlock()
	if len(p.until) == 0 {
		return due
	}
	now := time.Now()
	for id, until := range p.until {
		if now.After(until) {
			delete(p.until, id)
		}
	}
	return slices.DeleteFunc(due, func(d claims.Due) bool {
		_, off := p.until[d.SlotID]
		return off
	})
}
