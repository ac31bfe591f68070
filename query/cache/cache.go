// Package cache keeps the results of reads that need no token, so that anonymous clients can cause
// only a bounded amount of work.
package cache

import (
	"context"
	"sync"
	"time"

	"golang.org/x/sync/semaphore"
	"golang.org/x/sync/singleflight"

	"github.com/dopaminestore/dopamine/internal/problem"
)

var errOverloaded = problem.New(problem.Overloaded, "too many requests of this kind are in progress; retry later")

// Cache keeps results of reads: requests with the same key share one read, its result is kept for a
// while, and the number of concurrent reads is limited. Create it with New.
type Cache[V any] struct {
	ttl     time.Duration // of a result
	entries int           // maximum number of results
	wait    time.Duration // how long a read waits for the semaphore before it fails with errOverloaded
	timeout time.Duration // of a read
	turns   *semaphore.Weighted

	flight singleflight.Group
	mu     sync.Mutex
	kept   map[string]cached[V]
}

type cached[V any] struct {
	value V
	err   error // an error that is a result, such as not found
	until time.Time
}

// New returns an empty cache that keeps up to entries results for ttl each. turns limits the reads
// that run concurrently, and may be shared with other caches. A read that waits for it longer than
// wait fails with overloaded; timeout bounds each read.
func New[V any](ttl time.Duration, entries int, turns *semaphore.Weighted, wait, timeout time.Duration) *Cache[V] {
	return &Cache[V]{ttl: ttl, entries: entries, wait: wait, timeout: timeout, turns: turns, kept: map[string]cached[V]{}}
}

// Get returns the cached result of the key, or calls read. The read continues if its client
// disconnects, for other requests that share it and for the next one.
func (c *Cache[V]) Get(ctx context.Context, key string, read func(context.Context) (V, error)) (V, error) {
	if v, ok := c.find(key); ok {
		return v.value, v.err
	}
	done := c.flight.DoChan(key, func() (any, error) {
		if v, ok := c.find(key); ok {
			return v.value, v.err
		}
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), c.wait+c.timeout)
		defer cancel()
		if err := Acquire(ctx, c.turns, c.wait); err != nil {
			var none V
			return none, err
		}
		defer c.turns.Release(1)
		began := time.Now() // the age of the result counts from the start of the read
		v, err := read(ctx)
		if err == nil || isResult(err) {
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

// Acquire acquires the semaphore. It returns the problem overloaded if that takes longer than wait.
func Acquire(ctx context.Context, turns *semaphore.Weighted, wait time.Duration) error {
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

// isResult reports whether a repeated read would return the same error.
func isResult(err error) bool {
	p := problem.From(err)
	return p.Status() < 500
}

func (c *Cache[V]) find(key string) (cached[V], bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	v, ok := c.kept[key]
	return v, ok && time.Now().Before(v.until)
}

// keep adds a result. If there are too many, it removes expired ones, and then arbitrary ones if
// necessary.
func (c *Cache[V]) keep(key string, v cached[V]) {
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
