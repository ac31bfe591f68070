package worker

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/dopaminestore/dopamine/command/claims"
	"github.com/dopaminestore/dopamine/domain"
	"github.com/dopaminestore/dopamine/internal/guard"
	"github.com/dopaminestore/dopamine/redis"
)

const (
	// withdrawAfter is how long a grant may be pending, counted from when a worker
	// first saw that its number was assigned: longer than any append takes that was
	// not abandoned. It leaves time for another worker to take over from one that died
	// and to count again: a grant is withdrawn within 15 s of its creation.
	withdrawAfter = 6 * time.Second
	// withdrawPage is how many grants of a product are withdrawn together.
	withdrawPage = 1000
	// deathsFor is for how long after a death, or the worker's own start, it searches for
	// grants of dead processes.
	deathsFor = 30 * time.Second
	// sightInterval is the least time between two sights.
	sightInterval = 200 * time.Millisecond
)

// sights are the highest numbers that a gate had assigned at the last reads of it,
// by this worker's monotonic clock: a lower bound of the age of a number. Numbers only
// increase, so one sight stands for all numbers below it, and Redis' clock is not used.
type sights struct {
	gate *redis.LogPiece
	seen []sight
}

type sight struct {
	at     time.Time
	number int64
}

// add records a read.
func (s *sights) add(log *redis.LogPiece) {
	if !log.SameGate(s.gate) {
		s.seen = nil
	}
	s.gate = log
	now := time.Now()
	if n := len(s.seen); n > 0 && now.Sub(s.seen[n-1].at) < sightInterval {
		return
	}
	// Keep one sight that is older than withdrawAfter.
	for len(s.seen) > 1 && now.Sub(s.seen[1].at) > withdrawAfter {
		s.seen = s.seen[1:]
	}
	s.seen = append(s.seen, sight{now, log.Last})
}

// olderThan returns the highest number known to have been assigned that long ago, or 0.
func (s *sights) olderThan(age time.Duration) int64 {
	for i := len(s.seen) - 1; i >= 0; i-- {
		if time.Since(s.seen[i].at) >= age {
			return s.seen[i].number
		}
	}
	return 0
}

// withdrawOld withdraws the grants that have been pending for too long, and
// those of dead processes: these can be claimed only by a
// commit that is in progress, and then the withdrawal is refused.
func (x *watcher) withdrawOld(ctx context.Context, g *watchedGate, log *redis.LogPiece) error {
	if log.Pending == 0 {
		return nil
	}
	old := g.sights.olderThan(withdrawAfter)
	upTo := old
	if x.deathsPossible() {
		upTo = log.Last
	}
	for after := int64(0); after < upTo; {
		page, err := x.gate.Pending(ctx, g.product, after, upTo, withdrawPage)
		if err != nil {
			return err
		}
		var gone []redis.PendingGrant
		for _, grant := range page {
			after = grant.Number
			if grant.Number <= old || x.abandoned(grant) {
				gone = append(gone, grant)
			}
		}
		if err := x.withdrawAll(ctx, gone); err != nil {
			return err
		}
		if len(page) < withdrawPage {
			return nil
		}
	}
	return nil
}

// deathsPossible reports whether there may be grants of processes that died.
func (w *Worker) deathsPossible() bool {
	p := w.cfg.Presence
	return p != nil && (time.Since(p.LastDeath()) < deathsFor || time.Since(w.began) < deathsFor)
}

// abandoned reports whether none of the processes that received a grant is alive.
func (w *Worker) abandoned(grant redis.PendingGrant) bool {
	for _, node := range grant.Nodes {
		if !w.cfg.Presence.Dead(node) {
			return false
		}
	}
	return len(grant.Nodes) > 0 && w.cfg.Presence != nil
}

// withdrawAll withdraws grants of one product together: they share a batch.
func (w *Worker) withdrawAll(ctx context.Context, grants []redis.PendingGrant) error {
	if len(grants) == 0 {
		return nil
	}
	errs := make([]error, len(grants))
	var group sync.WaitGroup
	for i, grant := range grants {
		group.Go(func() {
			defer guard.Log("withdraw a grant")
			errs[i] = w.withdraw(ctx, grant)
		})
	}
	group.Wait()
	w.syncer.mark(grants[0].Product)
	return errors.Join(errs...)
}

func (w *Worker) withdraw(ctx context.Context, grant redis.PendingGrant) error {
	ctx, span := begin(ctx, "WithdrawGrant")
	defer span.End()
	withdrawn := domain.GrantWithdrawn{ArrivalSequence: grant.Number, Unit: grant.Unit, SlotID: grant.SlotID()}
	events, err := encode(ctx, withdrawn)
	if err != nil {
		return fmt.Errorf("withdraw number %d: %w", grant.Number, err)
	}
	done, err := claims.WithdrawGrant(ctx, retryingAppender{w.cfg.Store}, grant, events[0])
	if err != nil || !done {
		return err
	}
	w.metrics.settled.Inc()
	w.log.InfoContext(ctx, "grant withdrawn", "product", grant.Product, "number", grant.Number)
	return nil
}
