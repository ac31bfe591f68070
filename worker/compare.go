package worker

import (
	"context"
	"sync/atomic"
	"time"

	"github.com/google/uuid"
)

// compareEvery is how often the gates that decide are compared with the claims.
const compareEvery = time.Minute

// compareWithin bounds one comparison: millions of claims take seconds to count.
const compareWithin = 30 * time.Second

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
		comparing, cancel := context.WithTimeout(ctx, compareWithin)
		defer cancel()
		difference, err := w.cfg.Claims.Compare(comparing, w.cfg.Gate, p)
		switch {
		case ctx.Err() != nil:
		case err != nil:
			w.log.WarnContext(ctx, "a gate could not be compared with the claims", "product", p, "error", err)
		case difference != "":
			differing.Add(1)
			w.log.ErrorContext(ctx, "a gate differs from the claims", "product", p, "difference", difference)
		}
	})
	w.metrics.differing.Set(float64(differing.Load()))
}
