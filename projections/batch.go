package projections

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"time"

	"github.com/dopaminestore/dopamine/eventstore"
	"github.com/dopaminestore/dopamine/internal/kafka"
)

const (
	// tries is how often a batch that fails for what is in it is tried before it
	// is taken apart; tryAgainAfter, doubled each time, lies between.
	tries         = 3
	tryAgainAfter = 50 * time.Millisecond
	// gapPage is how many events of the store are read at a time to fill a gap.
	gapPage = 5000
)

// errMoved says that a checkpoint is not what this process remembers.
var errMoved = errors.New("a checkpoint was moved by another owner of the partition")

// plan is one transaction: items in order, and the places once it is done.
type plan struct {
	to    map[int32]*place
	items []item
	from  map[int32]*place
}

// project applies records, by partition and in the order of offsets, to one
// projection, in as many transactions as it takes.
func (r *Runner) project(ctx context.Context, o *owned, records map[int32][]*record) error {
	next := map[int32]int{}
	for {
		p, err := r.plan(ctx, o, records, next)
		if err != nil {
			return err
		}
		if len(p.to) == 0 {
			return nil
		}
		began := time.Now()
		err = r.commit(ctx, o, p)
		if errors.Is(err, errMoved) {
			r.metrics.fenced.WithLabelValues(o.projection.Name()).Inc()
			swapped, adoptErr := r.adopt(ctx, o)
			if adoptErr != nil {
				return adoptErr
			}
			if swapped {
				r.log.Info("a replay has swapped generations, going on with the new one", "projection", o.projection.Name(), "generation", o.generation)
				clear(next) // what lies below the new places is skipped
				continue
			}
		}
		if err != nil {
			return err
		}
		maps.Copy(o.places, p.to)
		traceBatch(ctx, o.projection.Name(), p.items, began)
		r.metrics.batch(o.projection.Name(), p.items, time.Since(began))
	}
}

// plan takes from records, of which next says how many are done with, up to a
// transaction's worth.
func (r *Runner) plan(ctx context.Context, o *owned, records map[int32][]*record, next map[int32]int) (plan, error) {
	p := plan{to: map[int32]*place{}, from: map[int32]*place{}}
	for _, partition := range slices.Sorted(maps.Keys(records)) {
		if o.places[partition] == nil {
			return plan{}, fmt.Errorf("partition %d is not this process's", partition)
		}
		at := *o.places[partition]
		for _, rec := range records[partition][next[partition]:] {
			if len(p.items) >= r.cfg.MaxBatch {
				break
			}
			if rec.offset < at.offset {
				next[partition]++
				continue
			}
			it := rec.item
			if !it.stray() && it.position > at.position {
				if rec.previous > at.position {
					missing, whole, err := r.between(ctx, o.partitions, partition, at.position, it.position)
					if err != nil {
						return plan{}, err
					}
					r.log.Warn("a gap in the topic was filled from the event store", "projection", o.projection.Name(),
						"partition", partition, "offset", rec.offset, "after", at.position, "before", it.position, "events", len(missing))
					r.metrics.gapEvents.WithLabelValues(o.projection.Name()).Add(float64(len(missing)))
					for _, m := range missing {
						p.items = append(p.items, m)
						at.position, at.eventID = m.position, &m.eventID
					}
					if !whole {
						break
					}
				}
				p.items = append(p.items, it)
				at.position, at.eventID = it.position, &it.eventID
			} else if it.stray() {
				p.items = append(p.items, it)
			} else {
				r.metrics.duplicates.WithLabelValues(o.projection.Name()).Inc()
			}
			at.offset = rec.offset + 1
			next[partition]++
		}
		if at != *o.places[partition] {
			p.from[partition], p.to[partition] = o.places[partition], &at
		}
	}
	return p, nil
}

// between reads the events of a partition with after < position < before from
// the store, some at least where there are any; whole says whether it is all.
func (r *Runner) between(ctx context.Context, partitions, partition int32, after, before int64) (missing []item, whole bool, err error) {
	for {
		var page []eventstore.Recorded
		if page, err = r.cfg.Store.All(ctx, after, gapPage); err != nil {
			return nil, false, fmt.Errorf("read events after %d from the store: %w", after, err)
		}
		for _, e := range page {
			if e.Position >= before {
				return missing, true, nil
			}
			after = e.Position
			if kafka.Partition(e.Key, partitions) == partition {
				missing = append(missing, fromStore(e, partition))
			}
		}
		if len(page) == 0 {
			return missing, true, nil
		}
		if len(missing) > 0 {
			return missing, after == before-1, nil
		}
	}
}

// commit applies a plan. What fails for what is in it is tried again, then
// taken apart; errMoved and the database's own errors are returned.
func (r *Runner) commit(ctx context.Context, o *owned, p plan) error {
	pause := tryAgainAfter
	for try := 1; ; try++ {
		err := r.transact(ctx, o, p, false)
		if err == nil || !isContent(err) {
			return err
		}
		r.log.Warn("a batch cannot be applied", "projection", o.projection.Name(), "events", len(p.items), "try", try, "error", err)
		if try == tries {
			return r.transact(ctx, o, p, true)
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(pause):
			pause *= 2
		}
	}
}
