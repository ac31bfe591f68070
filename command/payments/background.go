package payments

import (
	"context"
	"fmt"
	"sync"

	"github.com/dopaminestore/dopamine/internal/guard"
)

// maxBackgroundCalls is how many calls of the gateway may be in flight in the
// background. Each waits for the network most of the time.
const maxBackgroundCalls = 256

// background runs calls of the gateway, a bounded number of them.
type background struct {
	slots  chan struct{}
	stop   context.Context // ends when calls are given up
	giveUp context.CancelFunc

	mu     sync.Mutex
	closed bool
	calls  sync.WaitGroup
}

func newBackground() *background {
	b := &background{slots: make(chan struct{}, maxBackgroundCalls)}
	b.stop, b.giveUp = context.WithCancel(context.Background())
	return b
}

// try runs f in the background with ctx, which ends early if f is given up. done
// is closed when f has returned; nil if there is no room for f.
func (b *background) try(ctx context.Context, f func(context.Context)) (done <-chan struct{}) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.closed {
		return nil
	}
	select {
	case b.slots <- struct{}{}:
	default:
		return nil
	}
	ended := make(chan struct{})
	b.calls.Go(func() {
		defer guard.Log("call the payment gateway")
		defer close(ended)
		defer func() { <-b.slots }()
		ctx, cancel := context.WithCancel(ctx)
		defer cancel()
		defer context.AfterFunc(b.stop, cancel)()
		f(ctx)
	})
	return ended
}

// close accepts no more, waits for what is in flight, and gives it up when ctx
// ends.
func (b *background) close(ctx context.Context) error {
	b.mu.Lock()
	b.closed = true
	b.mu.Unlock()
	ended := make(chan struct{})
	go func() {
		defer guard.Log("await calls of the payment gateway")
		b.calls.Wait()
		close(ended)
	}()
	select {
	case <-ended:
		return nil
	case <-ctx.Done():
	}
	b.giveUp()
	<-ended
	return fmt.Errorf("calls of the gateway were in flight: %w", ctx.Err())
}
