package worker

import (
	"context"
	"slices"
	"sync"
	"time"

	"github.com/google/uuid"

	"github.com/dopaminestore/dopamine/command/claims"
	"github.com/dopaminestore/dopamine/command/deadlines"
	"github.com/dopaminestore/dopamine/domain"
	"github.com/dopaminestore/dopamine/eventstore"
	"github.com/dopaminestore/dopamine/internal/guard"
	"github.com/dopaminestore/dopamine/internal/sleep"
)

// ending expires slots at their deadline. timeOut handles those with a pending
// payment.
func (w *Worker) ending() sweep {
	return sweep{
		name: sweepExpiry, frees: true, until: w.cfg.Deadlines.UntilExpiry,
		find: w.cfg.Deadlines.DueForExpiry,
		decide: func(s domain.Slot, at time.Time) []domain.Event {
			if _, paying := s.Pending(); paying { // it was started after the query
				return nil
			}
			return s.Expire(at, 0)
		},
		guard: func(s domain.Slot) eventstore.GuardItem {
			return claims.Release{Product: s.ProductID, SlotID: s.ID}.GuardItem()
		},
	}
}

// warning warns owners that their deadline is near. A slot whose deadline passed
// while no worker ran is no longer found.
func (w *Worker) warning() sweep {
	return sweep{
		name: sweepWarning, find: w.cfg.Deadlines.DueForWarning, until: w.cfg.Deadlines.UntilWarning,
		decide: domain.Slot.Warn,
		guard: func(s domain.Slot) eventstore.GuardItem {
			return claims.Warned{Product: s.ProductID, SlotID: s.ID}.GuardItem()
		},
	}
}

const (
	// timeOutConcurrency: each may wait for the gateway's final response.
	timeOutConcurrency = 64
	// timeOutTimeout bounds one of them.
	timeOutTimeout = 15 * time.Second
	// timeOutRetryInterval is after how long a failed one is retried.
	timeOutRetryInterval = time.Second
)

// timeOut ends slots whose payment timed out.
func (w *Worker) timeOut(ctx context.Context) error {
	var running sync.WaitGroup
	defer running.Wait()
	busy, places := newDeferred(), make(chan struct{}, timeOutConcurrency)
	for range sleep.Every(ctx, sweepInterval) {
		due, err := w.cfg.Deadlines.DueForTimeout(ctx, maxSwept)
		if err != nil {
			return err
		}
		for _, d := range busy.without(due) {
			select {
			case places <- struct{}{}:
			case <-ctx.Done():
				return ctx.Err()
			}
			busy.add(d.SlotID, timeOutTimeout)
			running.Go(func() {
				defer guard.Log("end slots that are due")
				defer func() { <-places }()
				w.timeOutOne(ctx, d)
				busy.add(d.SlotID, timeOutRetryInterval) // found again only if it failed
			})
		}
	}
	return ctx.Err()
}

func (w *Worker) timeOutOne(ctx context.Context, due deadlines.Slot) {
	ctx, cancel := context.WithTimeout(ctx, timeOutTimeout)
	defer cancel()
	ctx, span := begin(ctx, sweepPaymentTimeout)
	defer span.End()
	if err := w.cfg.Payments.TimeOut(ctx, due); err != nil {
		if ctx.Err() == nil {
			w.metrics.failures.WithLabelValues(sweepPaymentTimeout).Inc()
			w.warn(ctx, "slot with timed-out payment not ended, retrying", "slot", due.SlotID, "error", err)
		}
		return
	}
	w.metrics.swept.WithLabelValues(sweepPaymentTimeout).Inc()
	w.metrics.lateness.WithLabelValues(sweepPaymentTimeout).Observe(time.Since(due.At).Seconds())
	w.syncOwn(due.Product)
}

// overdueInterval is the interval at which overdue slots are measured.
const overdueInterval = 2 * time.Second

// measureOverdue sets the gauge of the oldest slot that is due and has not ended. It is independent of
// the sweeps: a slot that none of them can end has no lateness. While the slots cannot be read, the
// gauge grows from its last value.
func (w *Worker) measureOverdue(ctx context.Context) error {
	read := time.Now()
	var expiry, timeout time.Duration
	for range sleep.Every(ctx, overdueInterval) {
		began := time.Now()
		if ends, times, err := w.cfg.Deadlines.Overdue(ctx); err == nil {
			expiry, timeout, read = ends, times, time.Now()
		} else if ctx.Err() == nil {
			w.warn(ctx, "overdue slots not read, retrying", "error", err)
		}
		unknown := max(0, began.Sub(read))
		w.metrics.overdue.WithLabelValues(sweepExpiry).Set((expiry + unknown).Seconds())
		w.metrics.overdue.WithLabelValues(sweepPaymentTimeout).Set((timeout + unknown).Seconds())
	}
	return ctx.Err()
}

// deferred contains ids that are skipped until some time. It is safe for concurrent use.
type deferred struct {
	mu    sync.Mutex
	until map[uuid.UUID]time.Time
}

func newDeferred() *deferred { return &deferred{until: make(map[uuid.UUID]time.Time)} }

func (p *deferred) add(id uuid.UUID, d time.Duration) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.until[id] = time.Now().Add(d)
}

// without returns the slots of due that are not skipped, and drops all other
// entries.
func (p *deferred) without(due []deadlines.Slot) []deadlines.Slot {
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
	return slices.DeleteFunc(due, func(d deadlines.Slot) bool {
		_, off := p.until[d.SlotID]
		return off
	})
}
