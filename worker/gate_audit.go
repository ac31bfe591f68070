package worker

import (
	"context"
	"errors"
	"sync"
	"time"

	"github.com/google/uuid"

	"github.com/dopaminestore/dopamine/internal/sleep"
	"github.com/dopaminestore/dopamine/redis"
)

const (
	// auditInterval is how often a gate that decides is compared with the claims.
	auditInterval = time.Minute
	// auditTimeout bounds one comparison: counting millions of claims takes seconds.
	auditTimeout = 30 * time.Second
	// auditConcurrency is how many gates of one Redis master are compared at the same
	// time. Each counts claims in Postgres.
	auditConcurrency = 2
)

// auditor compares gates with the claims. A difference raises an alarm and is never
// repaired automatically: a wrong gate reveals a bug.
type auditor struct {
	*Worker
	mu        sync.Mutex
	differing map[uuid.UUID]bool
}

// audit compares each of this worker's gates that decide, about once a minute.
func (w *Worker) audit(ctx context.Context) error {
	a := &auditor{Worker: w, differing: map[uuid.UUID]bool{}}
	comparing := newSchedule(ctx, auditConcurrency, 0, w.gate.Master, nil, func(ctx context.Context, product uuid.UUID) (time.Duration, bool, error) {
		err := a.compare(ctx, product)
		return -1, errors.Is(err, redis.ErrUnavailable), nil
	})
	defer comparing.wait()
	for range sleep.After(ctx, auditInterval) {
		leases, err := w.cfg.GateStore.RecentLeases(ctx, auditInterval)
		if err != nil {
			return err
		}
		leased := make(map[uuid.UUID]bool, len(leases))
		for i, l := range leases {
			if !w.owners.ours(l.Product) {
				continue
			}
			leased[l.Product] = true
			// Spread over half of the interval: counting costs Postgres.
			comparing.after(l.Product, time.Duration(i)*auditInterval/2/time.Duration(len(leases)))
		}
		a.forget(func(product uuid.UUID) bool { return !leased[product] })
	}
	return nil
}

// compare records whether the counts of the product's gate equal those of the claims.
func (a *auditor) compare(ctx context.Context, product uuid.UUID) error {
	comparing, cancel := context.WithTimeout(ctx, auditTimeout)
	defer cancel()
	difference, err := a.cfg.GateStore.Compare(comparing, a.cfg.Gate, product)
	if err != nil {
		if ctx.Err() == nil && !errors.Is(err, redis.ErrUnknownProduct) {
			a.warn(ctx, "gate comparison failed", "product", product, "error", err)
		}
		return err
	}
	if difference != "" {
		a.log.ErrorContext(ctx, "gate differs from the claims", "product", product, "difference", difference)
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	if difference == "" {
		delete(a.differing, product)
	} else {
		a.differing[product] = true
	}
	a.metrics.differing.Set(float64(len(a.differing)))
	return nil
}

func (a *auditor) forget(gone func(uuid.UUID) bool) {
	a.mu.Lock()
	defer a.mu.Unlock()
	for p := range a.differing {
		if gone(p) {
			delete(a.differing, p)
		}
	}
	a.metrics.differing.Set(float64(len(a.differing)))
}
