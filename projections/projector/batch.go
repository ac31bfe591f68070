package projector

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"time"

	"github.com/jackc/pgerrcode"

	"github.com/dopaminestore/dopamine/eventstore"
	"github.com/dopaminestore/dopamine/internal/kafka"
	"github.com/dopaminestore/dopamine/internal/postgres"
	"github.com/dopaminestore/dopamine/internal/sleep"
)

const (
	// batchAttempts is how many times a batch that fails because of its content is tried before it
	// is split by row key. batchBackoff is the pause after the first attempt; it doubles with each
	// further one.
	batchAttempts = 3
	batchBackoff  = 50 * time.Millisecond
	// gapPage is the number of events read from the store at a time to fill a gap.
	gapPage = 5000
	// minBatch is the lower limit of the batch size, which is reduced after transactions that took
	// too long.
	minBatch = 50
)

// errMoved means that a checkpoint in the database differs from the one that this process
// remembers.
var errMoved = errors.New("a checkpoint was moved by another owner of the partition")

// plan is the content of one transaction: items in order, and the checkpoints before and after it.
type plan struct {
	to    map[int32]*checkpoint
	items []item
	from  map[int32]*checkpoint
	// waiting is set if a partition stops early because of an event that only a newer program can
	// apply.
	waiting *BlockedError
}

func newPlan() plan {
	return plan{to: map[int32]*checkpoint{}, from: map[int32]*checkpoint{}}
}

// project applies records to one projection, by partition and in the order of offsets, in as many
// transactions as necessary.
func (r *Runner) project(ctx context.Context, o *assignment, records map[int32][]*record) error {
	next := map[int32]int{}
	for {
		p, err := r.plan(ctx, o, records, next)
		if err != nil {
			return err
		}
		if len(p.to) == 0 {
			if p.waiting != nil {
				return p.waiting
			}
			return nil
		}
		moved, err := r.execute(ctx, o, p)
		if err != nil {
			return err
		}
		if moved {
			if err := r.compareAgain(ctx, o, records); err != nil {
				return err
			}
			clear(next) // records below the new checkpoints are skipped
		}
	}
}

// execute commits a plan. It returns true if a replay has swapped generations; the plan is void
// then.
func (r *Runner) execute(ctx context.Context, o *assignment, p plan) (swapped bool, err error) {
	began := time.Now()
	err = r.commit(ctx, o, p)
	moved, dropped := errors.Is(err, errMoved), postgres.Code(err) == pgerrcode.UndefinedTable // with an old generation, or by mistake
	if moved {
		r.metrics.fenced.WithLabelValues(o.projection.Name()).Inc()
	}
	if moved || dropped {
		swapped, reloadErr := r.reload(ctx, o)
		if reloadErr != nil {
			return false, reloadErr
		}
		if swapped {
			r.log.Info("a replay has swapped generations, continuing with the new one", "projection", o.projection.Name(), "generation", o.generation)
			return true, nil
		}
	}
	if err != nil {
		return false, err
	}
	maps.Copy(o.checkpoints, p.to)
	traceBatch(ctx, o.projection.Name(), p.items, began)
	r.metrics.batch(o.projection.Name(), p.items, time.Since(began))
	return false, nil
}

// plan takes records for one transaction. next is the index of the first record of each partition
// that is still to be applied.
func (r *Runner) plan(ctx context.Context, o *assignment, records map[int32][]*record, next map[int32]int) (plan, error) {
	p := newPlan()
	limit := r.batchLimit(o.projection)
	for _, partition := range slices.Sorted(maps.Keys(records)) {
		if o.checkpoints[partition] == nil {
			return plan{}, fmt.Errorf("partition %d is not this process's", partition)
		}
		at := *o.checkpoints[partition]
		for _, rec := range records[partition][next[partition]:] {
			if len(p.items) >= limit {
				break
			}
			if rec.offset < at.offset {
				next[partition]++
				continue
			}
			switch {
			case rec.skip:
			case rec.item.isEvent() && rec.item.position <= at.position:
				r.metrics.duplicates.WithLabelValues(o.projection.Name()).Inc()
			default:
				whole, err := r.addRecord(ctx, o, &p, &at, rec)
				if err != nil {
					return plan{}, err
				}
				if !whole {
					rec = nil
				}
			}
			if rec == nil {
				break
			}
			at.offset = rec.offset + 1
			next[partition]++
		}
		if at != *o.checkpoints[partition] {
			p.from[partition], p.to[partition] = o.checkpoints[partition], &at
		}
	}
	return p, nil
}

// addRecord adds a record to the plan, and before it the events that the topic lacks. It returns false
// if the record itself cannot be added yet: if the gap has more events than were read, or if an
// event needs a newer program.
func (r *Runner) addRecord(ctx context.Context, o *assignment, p *plan, at *checkpoint, rec *record) (bool, error) {
	// A record may have been below the checkpoints when the batch was decoded, and above those of a
	// generation that has been swapped in since.
	if err := r.decode(ctx, rec); err != nil {
		return false, err
	}
	it := rec.item
	if it.isEvent() && rec.previous > at.position {
		missing, whole, err := r.readGap(ctx, o, rec.partition, at.position, it.position)
		if err != nil {
			return false, err
		}
		r.log.Warn("gap in the topic filled from the event store", "projection", o.projection.Name(),
			"partition", rec.partition, "offset", rec.offset, "after", at.position, "before", it.position, "events", len(missing))
		r.metrics.gapEvents.WithLabelValues(o.projection.Name()).Add(float64(len(missing)))
		if !p.add(at, missing) || !whole {
			return false, nil
		}
	}
	if !it.isEvent() {
		p.items = append(p.items, it)
		return true, nil
	}
	return p.add(at, []item{it}), nil
}

// add appends events and advances the checkpoint. It stops and returns false at the first event
// that only a newer program can apply.
func (p *plan) add(at *checkpoint, items []item) bool {
	for _, it := range items {
		if it.newer() {
			p.waiting = needsNewer(it)
			return false
		}
		p.items = append(p.items, it)
		at.position, at.eventID = it.position, &it.eventID
	}
	return true
}

// needsNewer returns the reason to wait at an event that only a newer program can apply.
func needsNewer(it item) *BlockedError {
	return &BlockedError{byRecord: true, partition: it.partition, newer: &newerEvent{it.partition, it.position},
		Reason: fmt.Sprintf("event %d (%s) was recorded by a newer version: %v. A projector of that version applies it; this one waits", it.position, it.eventType, it.err)}
}

// readGap reads the events of a partition with after < position < before from the store, at most as
// many as a transaction of o may have. It returns at least one if there is any; whole reports whether
// it returned all of them.
func (r *Runner) readGap(ctx context.Context, o *assignment, partition int32, after, before int64) (missing []item, whole bool, err error) {
	limit := r.batchLimit(o.projection)
	for {
		page, err := r.storeEvents(ctx, after, gapPage)
		if err != nil {
			return nil, false, err
		}
		for _, e := range page {
			if e.Position >= before {
				return missing, true, nil
			}
			if kafka.Partition(e.Key, o.partitions) == partition {
				if len(missing) == limit {
					return missing, false, nil
				}
				missing = append(missing, fromStore(e, partition))
			}
			after = e.Position
		}
		if len(page) == 0 {
			return missing, true, nil
		}
		if len(missing) > 0 {
			return missing, after == before-1, nil
		}
	}
}

// storeEvents reads events after a position from the store.
func (r *Runner) storeEvents(ctx context.Context, after int64, limit int) ([]eventstore.Recorded, error) {
	ctx, cancel := context.WithTimeout(ctx, r.cfg.ReadTimeout)
	defer cancel()
	page, err := r.cfg.Store.ReadAll(ctx, after, limit)
	if err != nil {
		return nil, failedIn(partEventStore, fmt.Errorf("read events after %d from the event store: %w", after, err))
	}
	return page, nil
}

// commit applies a plan. If it fails because of its content, commit retries it and then splits it
// by row key. errMoved and errors of the database itself are returned.
func (r *Runner) commit(ctx context.Context, o *assignment, p plan) error {
	pause := batchBackoff
	for attempt := 1; ; attempt++ {
		err := r.transact(ctx, o, p, false)
		if err == nil || !isContent(err) {
			return err
		}
		r.log.Warn("batch cannot be applied", "projection", o.projection.Name(), "events", len(p.items), "attempt", attempt, "error", err)
		if attempt == batchAttempts {
			return r.transact(ctx, o, p, true)
		}
		if err := sleep.For(ctx, pause); err != nil {
			return err
		}
		pause *= 2
	}
}
