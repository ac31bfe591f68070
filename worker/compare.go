package worker

import (
	"context"
	"sync/atomic"
	"time"

	"github.com/google/uuid"
)

// compareEvery is how often the gates that decide are compared with the claims.
const compareEvery = time.Minute

// compare says where a gate counts its units otherwise than the claims do. That
// is an alarm, never a repair: a gate that is wrong shows a fault of ours.
func (w *Worker) compare(ctx context.Context) error {
	tick := time.NewTicker(compareEvery)
	defer tick.Stop()
	for {
		select {
		case <-tick.C:
		case <-ctx.Done():
			return nil
		}
		products, err := w.cfg.Claims.Leased(ctx, compareEvery)
		if err != nil {
			return err
		}
		w.compareAll(ctx, products)
	}
}

func (w *Worker) compareAll(ctx context.Context, products []uuid.UUID) {
	var differing atomic.Int64
	each(products, func(p uuid.UUID) {
		ctx, cancel := context.WithTimeout(ctx, lookWithin)
		defer cancel()
		difference, err := w.cfg.Claims.Compare(ctx, w.cfg.Gate, p)
		if err == nil && difference != "" {
			differing.Add(1)
			w.log.ErrorContext(ctx, "a gate differs from the claims", "product", p, "difference", difference)
		}
	})
	w.metrics.differing.Set(float64(differing.Load()))
}
