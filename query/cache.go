package query

import (
	"context"
	"sync"
	"time"

	"golang.org/x/sync/semaphore"
	"golang.org/x/sync/singleflight"

	"github.com/dopaminestore/dopamine/internal/problem"
)

var errOverloaded = problem.New(problem.Overloaded, "too many requests of this kind are being answered; retry later")

// cache keeps the results of reads that need no token, so that what strangers can ask
// for costs a bounded amount of work: requests for the same thing share one read, its
// result is kept for a while, and only a few reads run at the same time.
type cache[V any] struct {
	ttl     time.Duration // of a result
	entries int           // kept at most
	wait    time.Duration // how long a read waits for its turn before it is overloaded
	timeout time.Duration // of a read
	turns   *semaphore.Weighted

	flight singleflight.Group
	mu     sync.Mutex
	kept   map[string]cached[V]
}

type cached[V any] struct {
	value V
	err   error // that is an answer, as of what does not exist
	until time.Time
}

func newCache[V any](ttl time.Duration, entries int, turns *semaphore.Weighted, wait, timeout time.Duration) *cache[V] {
	return &cache[V]{ttl: ttl, entries: entries, wait: wait, timeout: timeout, turns: turns, kept: map[string]cached[V]{}}
}

// get returns what is kept under the key, or else what read returns. The read goes on
// without its client, for those that share it, and for the next one.
func (c *cache[V]) get(ctx context.Context, key string, read func(context.Context) (V, error)) (V, error) {
	if v, ok := c.find(key); ok {
		return v.value, v.err
	}
	done := c.flight.DoChan(key, func() (any, error) {
		if v, ok := c.find(key); ok {
			return v.value, v.err
		}
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), c.wait+c.timeout)
		defer cancel()
		if err := take(ctx, c.turns, c.wait); err != nil {
			var none V
			return none, err
		}
		defer c.turns.Release(1)
		began := time.Now() // the result is as old as its read
		v, err := read(ctx)
		if err == nil || isAnswer(err) {
			c.keep(key, cached[V]{v, err, began.Add(c.ttl)})
		}
		return v, err
	})
	select {
	case r := <-done:
		v, _ := r.Val.(V)
		return v, r.Err
	case <-ctx.Done():
		var none V
		return none, ctx.Err()
	}
}

// take waits for a turn; errOverloaded if none is free within the wait.
func take(ctx context.Context, turns *semaphore.Weighted, wait time.Duration) error {
	waiting, cancel := context.WithTimeout(ctx, wait)
	defer cancel()
	if turns.Acquire(waiting, 1) == nil {
		return nil
	}
	if ctx.Err() != nil {
		return ctx.Err()
	}
	return errOverloaded
}

// isAnswer reports whether the error would be the same the next time.
func isAnswer(err error) bool {
	p := problem.From(err)
	return p.Status() < 500
}

func (c *cache[V]) find(key string) (cached[V], bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	v, ok := c.kept[key]
	return v, ok && time.Now().Before(v.until)
}

// keep adds an entry. When there are too many, those that have expired go, and if that
// is not enough any others.
func (c *cache[V]) keep(key string, v cached[V]) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if len(c.kept) >= c.entries {
		now := time.Now()
		for k, old := range c.kept {
			if !now.Before(old.until) {
				delete(c.kept, k)
			}
		}
		for k := range c.kept {
			if len(c.kept) < c.entries*3/4 {
				break
			}
			delete(c.kept, k)
		}
	}
	c.kept[key] = v
}
