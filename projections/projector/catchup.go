package projector

import (
	"context"
	"errors"
	"fmt"
	"math"

	"github.com/google/uuid"

	"github.com/dopaminestore/dopamine/internal/guard"
	"github.com/dopaminestore/dopamine/internal/kafka"
	"github.com/dopaminestore/dopamine/internal/sleep"
	"github.com/dopaminestore/dopamine/projections"
)

// errSwapped ends the session: the others may have records of a history that `dopamine recover` left.
var errSwapped = fmt.Errorf("a replay has swapped generations: %w", errMoved)

// caughtUp is the result of a detached projection's attempt to reach the attached ones.
type caughtUp struct {
	o   *assignment
	err error // nil if it has reached the checkpoints that they had when it began
}

// attached returns the assignments that the records of the topic are applied to.
func (s *session) attached() []*assignment {
	out := make([]*assignment, 0, len(s.assignments))
	for _, o := range s.assignments {
		if !o.detached {
			out = append(out, o)
		}
	}
	return out
}

// reached returns, for each partition, a checkpoint that a detached projection may take over once it
// has applied every event up to its position.
func (s *session) reached() map[int32]checkpoint {
	highest := map[int32]checkpoint{}
	for _, o := range s.attached() {
		for partition, c := range o.checkpoints {
			h := highest[partition]
			h.offset = max(h.offset, c.offset)
			if c.position > h.position {
				h.position, h.eventID = c.position, c.eventID
			}
			highest[partition] = h
		}
	}
	return highest
}

// detachable reports whether an error concerns the writing of one read model, so that the others
// can continue without it.
func detachable(err error) bool {
	part := failedPart(err)
	return (part == partReadModels || part == partSlow) && !errors.Is(err, errMoved) &&
		!errors.As(err, new(*BlockedError)) && !errors.As(err, new(*projections.RefusedError))
}

// detach lets the other projections of the session continue without o, which failed with err. o
// catches up from the event store in the background. detach returns err if there is no other
// projection, or if err concerns more than o.
func (r *Runner) detach(ctx context.Context, s *session, o *assignment, err error) error {
	err = fmt.Errorf("%s: %w", o.projection.Name(), err)
	if ctx.Err() != nil || !detachable(err) || len(s.attached()) == 1 {
		return err
	}
	r.metrics.failed(err)
	r.log.Warn("read model cannot be written, the others continue without it", "projection", o.projection.Name(), "error", err)
	o.detached = true
	r.startCatchUp(ctx, s, o)
	return nil
}

// farBehind is the number of transactions by which a projection may be behind the others at the
// begin of a session without being detached.
const farBehind = 4

// detachFarBehind detaches the projections that are far behind others at the begin of a session.
// Otherwise the others would wait while these apply what they have already.
func (r *Runner) detachFarBehind(ctx context.Context, s *session) error {
	head, err := r.published(ctx)
	if err != nil {
		return err
	}
	highest := s.reached()
	for _, o := range s.assignments {
		o.learnQuiet(head)
		if behind := o.behind(highest); behind > int64(farBehind*r.cfg.MaxBatch) && len(s.attached()) > 1 {
			r.log.Info("read model is far behind others, which continue without it", "projection", o.projection.Name(), "positions", behind)
			o.detached = true
		}
	}
	return nil
}

// published reads how far the store and the relay are. Its result is empty without Config.Published.
func (r *Runner) published(ctx context.Context) (head projections.Head, err error) {
	if r.cfg.Published == nil {
		return head, nil
	}
	ctx, cancel := context.WithTimeout(ctx, r.cfg.ReadTimeout)
	defer cancel()
	if head, err = r.cfg.Published(ctx); err != nil {
		return head, failedIn(partEventStore, fmt.Errorf("read from the event store how far the relay is: %w", err))
	}
	return head, nil
}

// learnQuiet notes how far the relay is for the partitions of which it has published nothing that o
// has not applied.
func (o *assignment) learnQuiet(head projections.Head) {
	if len(head.Last) != int(o.partitions) {
		return // the relay does not use this topic yet
	}
	if o.quiet == nil {
		o.quiet = map[int32]int64{}
	}
	for partition, c := range o.checkpoints {
		if c.position >= head.Last[partition] {
			o.quiet[partition] = max(o.quiet[partition], head.Published)
		}
	}
}

// applied returns a position up to which every event of the partition is applied.
func (o *assignment) applied(partition int32) int64 {
	return max(o.checkpoints[partition].position, o.quiet[partition])
}

// behind returns the number of positions, of any partition, between o and the targets.
func (o *assignment) behind(targets map[int32]checkpoint) (positions int64) {
	for partition := range o.checkpoints {
		positions = max(positions, targets[partition].position-o.applied(partition))
	}
	return positions
}

// startCatchUp lets a detached projection reach the checkpoints that the attached ones have now. The
// result goes to s.caughtUp.
func (r *Runner) startCatchUp(ctx context.Context, s *session, o *assignment) {
	targets := s.reached()
	guard.Go(&r.catchingUp, r.log, "catch up "+o.projection.Name(), func() {
		err := r.catchUpRetrying(ctx, o, targets)
		if err == nil && o.requested {
			err = r.serveDetached(ctx, o)
		}
		s.caughtUp <- caughtUp{o, err}
	})
}

func (r *Runner) retryLater(o *assignment, err error) {
	r.metrics.failed(err)
	r.log.Warn("read model cannot be written, retrying", "projection", o.projection.Name(), "error", err)
}

// catchUpRetrying calls catchUp until it succeeds or fails for a reason that concerns the session.
func (r *Runner) catchUpRetrying(ctx context.Context, o *assignment, targets map[int32]checkpoint) error {
	wait := newBackoff()
	for {
		err := guard.Run(r.log, "catch up "+o.projection.Name(), func() error { return r.catchUp(ctx, o, targets) })
		if err == nil || ctx.Err() != nil || !detachable(err) {
			return err
		}
		r.retryLater(o, err)
		if err := sleep.For(ctx, wait.NextBackOff()); err != nil {
			return err
		}
	}
}

// attach takes a detached projection back, or lets it continue to catch up if the others are more
// than one transaction ahead again or a request for its parked events still fails.
func (r *Runner) attach(ctx context.Context, s *session, done caughtUp) error {
	o := done.o
	if done.err != nil {
		return fmt.Errorf("%s: %w", o.projection.Name(), done.err)
	}
	targets := s.reached()
	if !o.requested && o.behind(targets) <= int64(r.batchLimit(o.projection)) {
		err := r.catchUp(ctx, o, targets)
		if err == nil {
			o.detached = false
			r.log.Info("read model has caught up", "projection", o.projection.Name())
			return nil
		}
		if ctx.Err() != nil || !detachable(err) {
			return fmt.Errorf("%s: %w", o.projection.Name(), err)
		}
	}
	r.startCatchUp(ctx, s, o)
	return nil
}

// catchUp applies the events of all partitions up to the targets' positions, read from the event
// store, and takes over the targets' offsets.
func (r *Runner) catchUp(ctx context.Context, o *assignment, targets map[int32]checkpoint) error {
	// The outcome of the transaction that failed may be unknown.
	generation, now, err := r.readOwn(ctx, o)
	if err != nil {
		return err
	}
	if generation != o.generation {
		return errSwapped
	}
	o.checkpoints = now
	head, err := r.published(ctx)
	if err != nil {
		return err
	}
	o.learnQuiet(head)
	for {
		p, err := r.planCatchUp(ctx, o, targets)
		if err != nil {
			return err
		}
		if len(p.to) == 0 {
			return nil
		}
		swapped, err := r.execute(ctx, o, p)
		if err != nil {
			return err
		}
		if swapped {
			return errSwapped
		}
		r.metrics.gapEvents.WithLabelValues(o.projection.Name()).Add(float64(len(p.items)))
	}
}

// planCatchUp plans the next page of events. Its plan is empty if o has reached the targets.
func (r *Runner) planCatchUp(ctx context.Context, o *assignment, targets map[int32]checkpoint) (plan, error) {
	p := newPlan()
	after, unread := int64(math.MaxInt64), false
	for partition := range o.checkpoints {
		if from := o.applied(partition); from < targets[partition].position {
			after, unread = min(after, from), true
		}
	}
	end := checkpoint{}
	if unread {
		var err error
		if end, err = r.planPage(ctx, o, targets, after, &p); err != nil {
			return plan{}, err
		}
	}
	for partition, c := range o.checkpoints {
		at, target := *c, targets[partition]
		switch {
		case at.position >= target.position:
		case max(o.applied(partition), end.position) >= target.position:
			at.position, at.eventID = target.position, target.eventID
		case at.position < end.position: // every event of the partition up to there is applied or in the plan
			at.position, at.eventID = end.position, end.eventID
		}
		if at.position >= target.position {
			at.offset = max(at.offset, target.offset)
		}
		if at != *c {
			p.from[partition], p.to[partition] = c, &at
		}
	}
	return p, nil
}

// planPage adds to the plan the next events of the store after a position that o has to apply. It
// returns the position and the id of the last event that it looked at.
func (r *Runner) planPage(ctx context.Context, o *assignment, targets map[int32]checkpoint, after int64, p *plan) (end checkpoint, err error) {
	page, err := r.storeEvents(ctx, after, min(gapPage, r.batchLimit(o.projection)))
	if err != nil {
		return end, err
	}
	// Compared after the page was read: if the store has the targets, the page is of their history.
	if err := r.sameHistory(ctx, o, targets); err != nil {
		return end, err
	}
	for _, e := range page {
		partition := kafka.Partition(e.Key, o.partitions)
		c := o.checkpoints[partition]
		if c != nil && e.Position > c.position && e.Position <= targets[partition].position {
			it := fromStore(e, partition)
			if it.newer() {
				if end.position == 0 {
					return end, needsNewer(it)
				}
				return end, nil
			}
			p.items = append(p.items, it)
		}
		end.position, end.eventID = e.Position, &e.ID
	}
	if end.position == 0 {
		return end, failedIn(partEventStore, fmt.Errorf("the event store has no event after position %d, but other read models applied some", after))
	}
	return end, nil
}

// sameHistory checks that the store has the events of the targets and of o's checkpoints: it may have
// been restored to an earlier moment.
func (r *Runner) sameHistory(ctx context.Context, o *assignment, targets map[int32]checkpoint) error {
	known := map[int64]uuid.UUID{}
	for partition, c := range o.checkpoints {
		for _, at := range []checkpoint{*c, targets[partition]} {
			if at.position > 0 {
				known[at.position] = *at.eventID
			}
		}
	}
	return r.requireEvents(ctx, known)
}
