package command

import (
	"container/list"
	"context"
	"sync"
	"time"
)

const (
	// standstill is for how long nobody may have been let in before those who
	// wait are turned away. Refusals give their places back within milliseconds,
	// so a crowd of any size moves on; one that stands still waits for Postgres.
	// Shorter would mistake a small machine for a standstill: ten thousand who
	// click at once keep two cores busy for half a second before the first one
	// hears its answer.
	standstill = time.Second
	// admissionWait is how long a request waits at most while the crowd moves.
	admissionWait = 5 * time.Second
	// admissionCrowd is how many may wait.
	admissionCrowd = 1 << 14
	// ownShare of the append queue is left to all other commands.
	ownShare = 8
)

// admission lets as many acquire requests in as the append queue has places; the
// others wait, first come, first served, for as long as that makes sense. It is
// what turns ten thousand requests at the same instant into a queue instead of
// refusals.
type admission struct {
	mu      sync.Mutex
	free    int
	waiting list.List // of chan struct{}, closed when its owner is let in
	moved   uint64    // how many of those who waited were let in
}

func newAdmission(queue int) *admission {
	return &admission{free: max(1, queue-queue/ownShare)}
}

// enter reports whether the request is in; leave must follow then.
func (a *admission) enter(ctx context.Context) bool {
	a.mu.Lock()
	if a.free > 0 {
		a.free--
		a.mu.Unlock()
		return true
	}
	if a.waiting.Len() >= admissionCrowd {
		a.mu.Unlock()
		return false
	}
	in := make(chan struct{})
	place, seen := a.waiting.PushBack(in), a.moved
	a.mu.Unlock()

	patience := time.NewTimer(standstill)
	defer patience.Stop()
	for start := time.Now(); ; patience.Reset(standstill) {
		select {
		case <-in:
			return true
		case <-ctx.Done():
			return !a.giveUp(place, in)
		case <-patience.C:
		}
		a.mu.Lock()
		stands := a.moved == seen
		seen = a.moved
		a.mu.Unlock()
		if stands || time.Since(start) > admissionWait {
			return !a.giveUp(place, in)
		}
	}
}

// giveUp takes a request out of those who wait; false where it was let in just now.
func (a *admission) giveUp(place *list.Element, in chan struct{}) bool {
	a.mu.Lock()
	defer a.mu.Unlock()
	select {
	case <-in:
		return false
	default:
		a.waiting.Remove(place)
		return true
	}
}

// leave lets the next one in.
func (a *admission) leave() {
	a.mu.Lock()
	defer a.mu.Unlock()
	next := a.waiting.Front()
	if next == nil {
		a.free++
		return
	}
	a.waiting.Remove(next)
	a.moved++
	close(next.Value.(chan struct{}))
}
