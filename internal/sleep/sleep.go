// Package sleep waits with a context.
package sleep

import (
	"context"
	"time"
)

// For waits for d. It returns ctx's error if ctx ends first.
func For(ctx context.Context, d time.Duration) error {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// Every yields at once and then every d, until ctx ends. Ticks that the loop misses are dropped.
func Every(ctx context.Context, d time.Duration) func(yield func() bool) { return ticks(ctx, d, true) }

// After is like Every, but yields for the first time after d.
func After(ctx context.Context, d time.Duration) func(yield func() bool) { return ticks(ctx, d, false) }

func ticks(ctx context.Context, d time.Duration, now bool) func(yield func() bool) {
	return func(yield func() bool) {
		tick := time.NewTicker(d)
		defer tick.Stop()
		for pause := !now; ; pause = false {
			if !pause && !yield() {
				return
			}
			select {
			case <-tick.C:
			case <-ctx.Done():
				return
			}
		}
	}
}
