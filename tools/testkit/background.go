package testkit

import (
	"context"
	"testing"
	"time"
)

// Background runs f until the test ends or the returned stop is called, which returns f's result
// and is idempotent. The test fails if f does not return after its context has ended.
func Background(tb testing.TB, f func(ctx context.Context) error) (stop func() error) {
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- f(ctx) }()
	stopped := false
	var err error
	stop = func() error {
		cancel()
		if !stopped {
			stopped = true
			select {
			case err = <-done:
			case <-time.After(30 * time.Second):
				tb.Error("it did not stop")
			}
		}
		return err
	}
	tb.Cleanup(func() { _ = stop() })
	return stop
}
