package command

import (
	"context"
	"sync/atomic"
	"time"

	"golang.org/x/sync/semaphore"
)

const (
	// admissionWait is how long an acquire request waits for its turn. Refusals
	// give their places back within a millisecond or so, so a crowd far larger
	// than the append queue passes in less; what waits longer waits for Postgres.
	admissionWait = time.Second
	// admissionCrowd is how many may wait. With more, the wait would be in vain
	// for the last of them.
	admissionCrowd = 1 << 14
	// ownShare of the append queue is left to all other commands.
	ownShare = 8
)

// admission lets as many acquire requests in as the append queue has places, in
// the order in which they come; the others wait a little. It is what turns ten
// thousand connections at the same instant into a queue instead of refusals.
type admission struct {
	places  *semaphore.Weighted
	waiting atomic.Int64
}

func newAdmission(queue int) *admission {
	return &admission{places: semaphore.NewWeighted(int64(max(1, queue-queue/ownShare)))}
}

// enter reports whether the request is in; leave must follow then.
func (a *admission) enter(ctx context.Context) bool {
	if a.places.TryAcquire(1) {
		return true
	}
	defer a.waiting.Add(-1)
	if a.waiting.Add(1) > admissionCrowd {
		return false
	}
	ctx, cancel := context.WithTimeout(ctx, admissionWait)
	defer cancel()
	return a.places.Acquire(ctx, 1) == nil
}

func (a *admission) leave() { a.places.Release(1) }
