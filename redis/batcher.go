package redis

import (
	"context"
	"sync"
	"time"

	"github.com/dopaminestore/dopamine/internal/sleep"
)

// batcher joins calls that arrive while one is in flight, or less than interval
// after the last one began, into the next one. A call to an idle batcher
// is made at once.
type batcher[A, R any] struct {
	do       func(ctx context.Context, args []A) ([]R, error) // one result for each argument, in order
	start    func(func()) bool                                // runs a goroutine; false once its owner is closed
	ctx      context.Context                                  // for the calls
	timeout  time.Duration                                    // of one call
	interval time.Duration                                    // least time between the beginnings of two calls
	maxSize  int                                              // arguments of one call

	mu      sync.Mutex
	waiting []*batched[A, R]
	running bool
	last    time.Time // when the last call began
}

type batched[A, R any] struct {
	arg    A
	result R
	err    error
	done   chan struct{}
}

// call returns the result for arg. If ctx ends first, the batched call is still made.
func (b *batcher[A, R]) call(ctx context.Context, arg A) (R, error) {
	c := &batched[A, R]{arg: arg, done: make(chan struct{})}
	b.mu.Lock()
	b.waiting = append(b.waiting, c)
	if !b.running {
		if b.running = b.start(b.run); !b.running {
			b.waiting = nil
			b.mu.Unlock()
			return c.result, ErrClosed
		}
	}
	b.mu.Unlock()
	select {
	case <-c.done:
		return c.result, c.err
	case <-ctx.Done():
		return c.result, ctx.Err()
	}
}

func (b *batcher[A, R]) run() {
	for {
		b.mu.Lock()
		rest := b.interval - time.Since(b.last)
		b.mu.Unlock()
		if rest > 0 {
			_ = sleep.For(b.ctx, rest) // once closed, the calls fail on their own context
		}
		b.mu.Lock()
		n := min(len(b.waiting), b.maxSize)
		if n == 0 {
			b.running = false
			b.mu.Unlock()
			return
		}
		calls := append([]*batched[A, R](nil), b.waiting[:n]...)
		b.waiting = append([]*batched[A, R](nil), b.waiting[n:]...)
		b.last = time.Now()
		b.mu.Unlock()

		args := make([]A, n)
		for i, c := range calls {
			args[i] = c.arg
		}
		ctx, cancel := context.WithTimeout(b.ctx, b.timeout)
		results, err := b.do(ctx, args)
		cancel()
		if err == nil && len(results) != n {
			err = errReply
		}
		for i, c := range calls {
			if c.err = err; err == nil {
				c.result = results[i]
			}
			close(c.done)
		}
	}
}
