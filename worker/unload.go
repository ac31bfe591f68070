package worker

import (
	"context"
	"time"

	"github.com/dopaminestore/dopamine/internal/sleep"
)

const (
	// unloadInterval is how often gates of ended or cancelled sales are listed.
	unloadInterval = time.Minute
	// unloadAfter is for how long a sale must have ended, unless it was cancelled, and its gate
	// must have received no requests, before the gate is unloaded.
	unloadAfter = 10 * time.Minute
	// maxUnloads is how many gates are unloaded in one interval.
	maxUnloads = 1000
	// unloadTimeout bounds one of them.
	unloadTimeout = 3 * time.Second
)

// unload removes the gates of ended or cancelled sales from Redis once they receive no requests. Several
// workers may do so concurrently; the next request rebuilds the gate.
func (w *Worker) unload(ctx context.Context) error {
	for {
		if sleep.For(ctx, unloadInterval) != nil {
			return nil
		}
		if err := w.unloadIdle(ctx); err != nil || ctx.Err() != nil {
			return err
		}
	}
}

// unloadIdle removes the gates that are due now.
func (w *Worker) unloadIdle(ctx context.Context) error {
	products, err := w.cfg.GateStore.GatesOfEndedSales(ctx, unloadAfter, maxUnloads)
	if err != nil {
		return err
	}
	for _, product := range products {
		unloading, cancel := context.WithTimeout(ctx, unloadTimeout)
		_, err := w.cfg.Gate.Unload(unloading, product)
		cancel()
		if ctx.Err() != nil {
			return nil
		}
		if err != nil {
			w.warn(ctx, "unload failed, retrying", "product", product, "error", err)
		}
	}
	return nil
}
