package worker

import (
	"context"
	"errors"
	"math/rand/v2"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/google/uuid"
	"golang.org/x/sync/errgroup"

	"github.com/dopaminestore/dopamine/avsc"
	"github.com/dopaminestore/dopamine/command/claims"
	"github.com/dopaminestore/dopamine/domain"
	"github.com/dopaminestore/dopamine/eventstore"
	"github.com/dopaminestore/dopamine/internal/guard"
)

const (
	// sweepMost is how many slots one look finds at most.
	sweepMost = 20_000
	// chunkSize is how many slots are read and appended together. What is
	// appended together shares a batch.
	chunkSize = 128
	// chunksAtOnce of all sweeps: while some are appended others are read. They
	// stay below the places in the append queue that the command API leaves to
	// others, where they share a process.
	chunksAtOnce = 3
	// sweepEvery is how long a sweep that knows of nothing due waits at most:
	// slots are begun, and their ends moved, by others.
	sweepEvery = 250 * time.Millisecond
	// sweepPause is how long a sweep waits at least: what comes due meanwhile is
	// appended together.
	sweepPause = 5 * time.Millisecond
	// sweepAgain is how long it waits where something was due and others did it,
	// or where it cannot be done now.
	sweepAgain = 25 * time.Millisecond
	// putOffFor is for how long a slot is left alone that could not be swept.
	putOffFor = 30 * time.Second
	// appendWithin bounds the reading and appending of a chunk.
	appendWithin = 10 * time.Second
	// shares is into how many parts a sweep divides what it finds. Workers begin
	// with any of them and go round, so that those side by side meet late; where
	// they do, one append conflicts alone, and who meets another too often begins
	// anew elsewhere.
	shares = 16
)

// sweep is one thing that is done to slots when they are due.
type sweep struct {
	name  string
	find  func(ctx context.Context, limit int) ([]claims.Due, error)
	until func(ctx context.Context) (time.Duration, bool, error) // the next is due
	// decide gives what happens to a slot at a moment; nothing where it is not
	// due after all.
	decide func(s domain.Slot, at time.Time) []domain.Event
	guard  func(s domain.Slot) eventstore.Guarded
	// frees: its product's gate has to be told.
	frees bool
}

// sweeper appends what is due to many slots at a time. It takes no row lock: the
// expected version decides where two want the same slot.
type sweeper struct {
	*Worker
	putOff *putOff
	chunks chan struct{} // one for each chunk under way
}

func newSweeper(w *Worker) *sweeper {
	return &sweeper{Worker: w, putOff: newPutOff(), chunks: make(chan struct{}, chunksAtOnce)}
}

// keepSweeping does what is due as soon as it is.
func (s *sweeper) keepSweeping(ctx context.Context, sw sweep) error {
	for {
		found, changed, err := s.sweepOnce(ctx, sw)
		if err != nil {
			return err
		}
		if changed > 0 {
			continue
		}
		wait := sweepAgain
		if found == 0 {
			next, any, err := sw.until(ctx)
			if err != nil {
				return err
			}
			wait = sweepEvery
			if any {
				wait = min(max(next, sweepPause), sweepEvery)
			}
		}
		if err := pause(ctx, wait); err != nil {
			return err
		}
	}
}

// sweepOnce does what is due now: found says how many slots that may be, those
// that are left alone among them, changed to how many something happened.
func (s *sweeper) sweepOnce(ctx context.Context, sw sweep) (found, changed int, err error) {
	due, err := sw.find(ctx, sweepMost)
	if err != nil {
		return 0, 0, err
	}
	found = len(due) // with those that are left alone: the next to come due is behind them
	due = s.putOff.without(due)
	if len(due) == 0 {
		return found, 0, nil
	}
	// After they were found, so that they are due by it too.
	at, err := s.cfg.Claims.StoreClock(ctx)
	if err != nil {
		return 0, 0, err
	}
	inTurn(due, rand.N(shares))
	var n atomic.Int64
	var crowded atomic.Bool
	group, groupCtx := errgroup.WithContext(ctx)
	for chunk := range slices.Chunk(due, chunkSize) {
		if !s.enter(groupCtx) {
			break
		}
		if crowded.Load() {
			<-s.chunks
			break
		}
		group.Go(func() error {
			defer func() { <-s.chunks }()
			ctx, cancel := context.WithTimeout(groupCtx, appendWithin)
			defer cancel()
			changed, conflicts, err := s.sweepChunk(ctx, sw, chunk, at)
			n.Add(int64(changed))
			if 2*conflicts > len(chunk) {
				crowded.Store(true)
			}
			return err
		})
	}
	err = group.Wait()
	return found, int(n.Load()), errors.Join(err, ctx.Err())
}

// enter takes a place for a chunk, and holds none where ctx has ended: then both
// may be ready, and a place that nobody gives back is one less for all sweeps.
func (s *sweeper) enter(ctx context.Context) bool {
	select {
	case s.chunks <- struct{}{}:
	case <-ctx.Done():
		return false
	}
	if ctx.Err() != nil {
		<-s.chunks
		return false
	}
	return true
}

// inTurn orders by share, beginning with one of them; within a share the longest
// due stay first.
func inTurn(due []claims.Due, first int) {
	turn := func(d claims.Due) int { return (int(d.SlotID[15])%shares - first + shares) % shares }
	slices.SortStableFunc(due, func(a, b claims.Due) int { return turn(a) - turn(b) })
}

func (s *sweeper) sweepChunk(ctx context.Context, sw sweep, chunk []claims.Due, at time.Time) (changed, conflicts int, err error) {
	slots, err := s.slots(ctx, chunk)
	if err != nil {
		return 0, 0, err
	}
	var done, lost atomic.Int64
	var group sync.WaitGroup
	fatal := make([]error, len(chunk))
	freed := make(map[uuid.UUID]struct{})
	for i, due := range chunk {
		slot, readable := slots[due.SlotID]
		if !readable {
			s.leave(ctx, sw, due, errUnreadable)
			continue
		}
		events := sw.decide(slot, at)
		if len(events) == 0 {
			continue
		}
		freed[slot.ProductID] = struct{}{}
		group.Go(func() {
			defer guard.Log("end slots")
			result, err := s.append(ctx, sw, slot, events)
			switch {
			case err == nil:
				done.Add(1)
				s.metrics.swept.WithLabelValues(sw.name).Inc()
				s.metrics.lateness.WithLabelValues(sw.name).Observe(result.RecordedAt.Sub(due.At).Seconds())
			case errors.Is(err, eventstore.ErrConflict), errors.Is(err, claims.ErrNotActive):
				lost.Add(1) // it is looked at again where it is still due
				s.metrics.conflicts.WithLabelValues(sw.name).Inc()
			case unavailable(err), ctx.Err() != nil:
				fatal[i] = err
			default:
				s.leave(ctx, sw, due, err)
			}
		})
	}
	group.Wait()
	if sw.frees {
		for product := range freed {
			s.syncOwn(product)
		}
	}
	return int(done.Load()), int(lost.Load()), first(fatal)
}

func (s *sweeper) append(ctx context.Context, sw sweep, slot domain.Slot, events []domain.Event) (eventstore.Result, error) {
	ctx, span := begin(ctx, sw.name)
	defer span.End()
	encoded, err := encode(ctx, events...)
	if err != nil {
		return eventstore.Result{}, err
	}
	return waitingAppender{s.cfg.Store}.Append(ctx, eventstore.Append{
		Key:     slot.ProductID,
		Streams: []eventstore.StreamAppend{{Stream: slot.ID, Expected: eventstore.Expected(slot.Version), Events: encoded}},
		Guards:  []eventstore.Guarded{sw.guard(slot)},
	})
}

var errUnreadable = errors.New("worker: the slot's stream cannot be read")

// slots reads the slots in one round trip. One whose events cannot be decoded is
// left out.
func (s *sweeper) slots(ctx context.Context, chunk []claims.Due) (map[uuid.UUID]domain.Slot, error) {
	ids := make([]uuid.UUID, len(chunk))
	for i, d := range chunk {
		ids[i] = d.SlotID
	}
	recorded, err := s.cfg.Reader.Streams(ctx, ids)
	if err != nil {
		return nil, err
	}
	slots := make(map[uuid.UUID]domain.Slot, len(chunk))
	var wrong []uuid.UUID
	for _, r := range recorded {
		e, err := avsc.Decode(r)
		if err != nil {
			s.warn(ctx, "an event cannot be decoded", "position", r.Position, "error", err)
			wrong = append(wrong, r.Stream)
			continue
		}
		slots[r.Stream] = domain.EvolveSlot(slots[r.Stream], e)
	}
	for _, id := range wrong {
		delete(slots, id)
	}
	return slots, nil
}

// leave leaves a slot alone for a while.
func (s *sweeper) leave(ctx context.Context, sw sweep, due claims.Due, err error) {
	s.metrics.failures.WithLabelValues(sw.name).Inc()
	s.warn(ctx, "a slot that is due is left alone for a while", "sweep", sw.name, "slot", due.SlotID, "error", err)
	s.putOff.add(due.SlotID, putOffFor)
}

func unavailable(err error) bool {
	var away *eventstore.UnavailableError
	return errors.As(err, &away) || errors.Is(err, eventstore.ErrClosed)
}

// first gives the first error there is.
func first(errs []error) error {
	i := slices.IndexFunc(errs, func(err error) bool { return err != nil })
	if i < 0 {
		return nil
	}
	return errs[i]
}
