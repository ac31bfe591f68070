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
	"github.com/dopaminestore/dopamine/command/deadlines"
	"github.com/dopaminestore/dopamine/domain"
	"github.com/dopaminestore/dopamine/eventstore"
	"github.com/dopaminestore/dopamine/internal/guard"
	"github.com/dopaminestore/dopamine/internal/sleep"
)

const (
	// maxSwept is how many slots one query finds at most.
	maxSwept = 20_000
	// chunkSize is how many slots are read and appended together. Concurrent appends
	// share a batch.
	chunkSize = 128
	// chunkConcurrency is the limit of all sweeps: while some chunks are appended others are
	// read. It stays below the queue entries that the command API leaves to
	// others, if they share a process.
	chunkConcurrency = 3
	// sweepInterval is the longest wait of a sweep that knows of no due slot:
	// other processes create slots and move deadlines.
	sweepInterval = 250 * time.Millisecond
	// sweepPause is the shortest wait of a sweep: slots that become due meanwhile are
	// appended together.
	sweepPause = 5 * time.Millisecond
	// sweepRetryInterval is the wait if due slots were handled by other workers,
	// or cannot be handled now.
	sweepRetryInterval = 25 * time.Millisecond
	// deferFor is for how long a slot is skipped after a failure.
	deferFor = 30 * time.Second
	// appendTimeout bounds the reading and appending of a chunk.
	appendTimeout = 10 * time.Second
	// shares is the number of parts into which a sweep divides what it finds. Workers begin
	// with a random part and continue in a cycle, so that concurrent workers meet late; if
	// they do, only the slower append conflicts, and a worker with many conflicts begins
	// at another part.
	shares = 16
)

// Names of what is done with due slots, in metrics and traces.
const (
	sweepExpiry         = "ExpireSlot"
	sweepWarning        = "WarnOwner"
	sweepPaymentTimeout = "TimeOutPayment"
)

// sweep is an action on slots that are due.
type sweep struct {
	name  string
	find  func(ctx context.Context, limit int) ([]deadlines.Slot, error)
	until func(ctx context.Context) (time.Duration, bool, error) // until the next slot is due
	// decide returns the events of a slot at a time, or nothing if it is not
	// due after all.
	decide func(s domain.Slot, at time.Time) []domain.Event
	guard  func(s domain.Slot) eventstore.GuardItem
	// frees reports whether its product's gate must be synced.
	frees bool
}

// expirer appends the due events of many slots at a time. It takes no row lock: the
// expected version decides if two workers handle the same slot.
type expirer struct {
	*Worker
	deferred *deferred
	chunks   chan struct{} // one for each chunk in progress
}

func newExpirer(w *Worker) *expirer {
	return &expirer{Worker: w, deferred: newDeferred(), chunks: make(chan struct{}, chunkConcurrency)}
}

// keepSweeping sweeps whenever a slot is due.
func (s *expirer) keepSweeping(ctx context.Context, sw sweep) error {
	for {
		found, changed, err := s.sweepOnce(ctx, sw)
		if err != nil {
			return err
		}
		if changed > 0 {
			continue
		}
		wait := sweepRetryInterval
		if found == 0 {
			next, any, err := sw.until(ctx)
			if err != nil {
				return err
			}
			wait = sweepInterval
			if any {
				wait = min(max(next, sweepPause), sweepInterval)
			}
		}
		if err := sleep.For(ctx, wait); err != nil {
			return err
		}
	}
}

// sweepOnce handles the slots that are due now. found counts them, including skipped
// ones; changed counts those that got an event.
func (s *expirer) sweepOnce(ctx context.Context, sw sweep) (found, changed int, err error) {
	due, err := sw.find(ctx, maxSwept)
	if err != nil {
		return 0, 0, err
	}
	found = len(due) // including skipped slots: the next one to become due comes after them
	due = s.deferred.without(due)
	if len(due) == 0 {
		return found, 0, nil
	}
	// Read after the query, so that the slots are due by this time too.
	at, err := s.cfg.Reader.Clock(ctx)
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
			ctx, cancel := context.WithTimeout(groupCtx, appendTimeout)
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

// enter acquires a permit for a chunk, and holds none if ctx has ended: then both
// cases may be ready, and a permit that is never released would be missing for all sweeps.
func (s *expirer) enter(ctx context.Context) bool {
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

// inTurn orders slots by share, beginning with one of them; within a share those due longest
// stay first.
func inTurn(due []deadlines.Slot, first int) {
	turn := func(d deadlines.Slot) int { return (int(d.SlotID[15])%shares - first + shares) % shares }
	slices.SortStableFunc(due, func(a, b deadlines.Slot) int { return turn(a) - turn(b) })
}

func (s *expirer) sweepChunk(ctx context.Context, sw sweep, chunk []deadlines.Slot, at time.Time) (changed, conflicts int, err error) {
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
			s.skip(ctx, sw, due, errUnreadable)
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
				lost.Add(1) // if it is still due, the next sweep finds it
				s.metrics.conflicts.WithLabelValues(sw.name).Inc()
			case unavailable(err), ctx.Err() != nil:
				fatal[i] = err
			default:
				s.skip(ctx, sw, due, err)
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

func (s *expirer) append(ctx context.Context, sw sweep, slot domain.Slot, events []domain.Event) (eventstore.Result, error) {
	ctx, span := begin(ctx, sw.name)
	defer span.End()
	encoded, err := encode(ctx, events...)
	if err != nil {
		return eventstore.Result{}, err
	}
	return retryingAppender{s.cfg.Store}.Append(ctx, eventstore.Append{
		Key:     slot.ProductID,
		Streams: []eventstore.StreamAppend{{Stream: slot.ID, Expected: eventstore.Expected(slot.Version), Events: encoded}},
		Guards:  []eventstore.GuardItem{sw.guard(slot)},
	})
}

var errUnreadable = errors.New("worker: invalid event in the slot's stream")

// slots reads the slots in one round trip. A slot whose events cannot be decoded is
// omitted.
func (s *expirer) slots(ctx context.Context, chunk []deadlines.Slot) (map[uuid.UUID]domain.Slot, error) {
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
			s.warn(ctx, "event not decoded", "position", r.Position, "error", err)
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

// skip skips a slot for a while after a failure.
func (s *expirer) skip(ctx context.Context, sw sweep, due deadlines.Slot, err error) {
	s.metrics.failures.WithLabelValues(sw.name).Inc()
	s.warn(ctx, "due slot not handled, skipping it for a while", "sweep", sw.name, "slot", due.SlotID, "error", err)
	s.deferred.add(due.SlotID, deferFor)
}

func unavailable(err error) bool {
	var away *eventstore.UnavailableError
	return errors.As(err, &away) || errors.Is(err, eventstore.ErrClosed)
}

// first returns the first non-nil error.
func first(errs []error) error {
	i := slices.IndexFunc(errs, func(err error) bool { return err != nil })
	if i < 0 {
		return nil
	}
	return errs[i]
}
