package payments

import (
	"context"
	"fmt"
	"sync"

	"github.com/dopaminestore/dopamine/internal/guard"
)

// asksAtOnce is how many calls of the gateway may be under way in the
// background. Each waits for the network most of the time.
const asksAtOnce = 256

// asks is what is being asked of the gateway in the background, bounded.
type asks struct {
	places chan struct{}
	stop   context.Context // ends when it is given up
	giveUp context.CancelFunc

	mu     sync.Mutex
	closed bool
	under  sync.WaitGroup
}

func newAsks() *asks {
	a := &asks{places: make(chan struct{}, asksAtOnce)}
	a.stop, a.giveUp = context.WithCancel(context.Background())
	return a
}

// try runs f in the background with ctx, which ends early where f is given up;
// false where there is no place for it.
func (a *asks) try(ctx context.Context, f func(context.Context)) bool {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.closed {
		return false
	}
	select {
	case a.places <- struct{}{}:
	default:
		return false
	}
	a.under.Go(func() {
		defer guard.Log("call the payment gateway")
		defer func() { <-a.places }()
		ctx, cancel := context.WithCancel(ctx)
		defer cancel()
		defer context.AfterFunc(a.stop, cancel)()
		f(ctx)
	})
	return true
}

// close takes no more, waits for what is under way, and gives it up when ctx
// ends.
func (a *asks) close(ctx context.Context) error {
	a.mu.Lock()
	a.closed = true
	a.mu.Unlock()
	ended := make(chan struct{})
	go func() {
		defer guard.Log("await calls of the payment gateway")
		a.under.Wait()
		close(ended)
	}()
	select {
	case <-ended:
		return nil
	case <-ctx.Done():
	}
	a.giveUp()
	<-ended
	return fmt.Errorf("the gateway was still being asked: %w", ctx.Err())
}
