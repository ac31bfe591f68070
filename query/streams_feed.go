package query

import (
	"context"
	"log/slog"
	"maps"
	"sync"
	"time"

	"github.com/google/uuid"
	"golang.org/x/sync/singleflight"

	"github.com/dopaminestore/dopamine/internal/kafka"
)

const (
	// lookPause lies between two looks of the feed: the time from a row's change to
	// its listeners is half of it on average.
	lookPause = 100 * time.Millisecond
	// restFactor keeps the feed's share of the databases small, however many
	// listen: after a look it rests this many times as long as the look took.
	restFactor = 4
	// awayPause lies between two looks while the read models cannot be read.
	awayPause = time.Second
)

// feed is the one reader behind all streams of products and slots in a process.
// It reads the checkpoints of the live generations, a few rows, ten times a
// second while anybody listens, and looks further only into what a partition
// that moved can have changed: at the products that are followed, and at what
// the audit log says of the buyers who listen.
//
// Partitions move by themselves, so "what is new" is a vector, one position for
// each. A buyer hears of an event when the projections of slots, payments and
// audit have all passed it, so that the state sent with it is at least as new.
type feed struct {
	models  *readModels
	metrics *streamMetrics
	log     *slog.Logger
	first   singleflight.Group // of the products that nobody follows yet

	mu       sync.Mutex
	products map[uuid.UUID]*productTopic
	buyers   map[uuid.UUID]map[*buyerListener]struct{}
	told     vector // what buyers have been told; nil while none listens
	work     chan struct{}
}

func newFeed(models *readModels, metrics *streamMetrics, log *slog.Logger) *feed {
	return &feed{
		models: models, metrics: metrics, log: log, work: make(chan struct{}, 1),
		products: map[uuid.UUID]*productTopic{}, buyers: map[uuid.UUID]map[*buyerListener]struct{}{},
	}
}

// awake tells the reader that there is somebody to read for.
func (f *feed) awake() {
	select {
	case f.work <- struct{}{}:
	default:
	}
}

func (f *feed) listened() bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	return len(f.products)+len(f.buyers) > 0
}

// run reads until ctx ends.
func (f *feed) run(ctx context.Context) {
	var seen marks
	away := false
	for {
		if !f.listened() {
			select {
			case <-f.work:
				continue
			case <-ctx.Done():
				return
			}
		}
		began := time.Now()
		next, err := f.look(ctx, seen)
		took := time.Since(began)
		wait := max(lookPause, restFactor*took)
		switch {
		case ctx.Err() != nil:
			return
		case err != nil:
			wait = awayPause
			if !away {
				f.log.Warn("streams stand still: the read models cannot be read", "error", err)
			}
		default:
			seen = next
			f.metrics.looks.Observe(took.Seconds())
		}
		away = err != nil
		if pause(ctx, wait) != nil {
			return
		}
	}
}

// look tells listeners what has changed since the marks were read.
func (f *feed) look(ctx context.Context, seen marks) (marks, error) {
	now, err := f.models.marks(ctx)
	if err != nil {
		return nil, err
	}
	if err := f.lookAtProducts(ctx, seen, now); err != nil {
		return nil, err
	}
	if err := f.lookAtBuyers(ctx, now.cut(buyerProjections)); err != nil {
		return nil, err
	}
	return now, nil
}

// marks is what the checkpoints of the live generations look like.
type marks map[string]map[int32]mark

type mark struct {
	checkpoint
	generation int
	version    int64 // moves where a parked event is applied after all
}

// moved says whether anything may have changed in the product's partition.
func (m marks) moved(before marks, projection string, product uuid.UUID) bool {
	for _, any := range m[projection] {
		p := kafka.Partition(product, any.partitions)
		return m[projection][p] != before[projection][p]
	}
	return false // nothing was ever applied
}

// cut is the vector that all of these projections have reached.
func (m marks) cut(of []string) vector {
	p := progress{}
	for _, projection := range of {
		for partition, at := range m[projection] {
			p.add(projection, partition, at.checkpoint)
		}
	}
	return p.cut(of)
}

func (r *readModels) marks(ctx context.Context) (marks, error) {
	ctx, cancel := context.WithTimeout(ctx, readTimeout)
	defer cancel()
	rows, err := r.pool.Query(ctx, `
SELECT c.projection, c.partition, c.partitions, c.position, c.generation, c.version
FROM projection_generations g
JOIN projection_checkpoints c USING (projection, generation)
WHERE g.state = 'live' AND c.topic = $1`, kafka.Topic)
	if err != nil {
		return nil, err
	}
	defer rows.Close()
	all := marks{}
	for rows.Next() {
		var projection string
		var partition int32
		var m mark
		if err := rows.Scan(&projection, &partition, &m.partitions, &m.position, &m.generation, &m.version); err != nil {
			return nil, err
		}
		if all[projection] == nil {
			all[projection] = map[int32]mark{}
		}
		all[projection][partition] = m
	}
	return all, rows.Err()
}

// followed is a copy of what is followed at this moment.
func (f *feed) followed() map[uuid.UUID]*productTopic {
	f.mu.Lock()
	defer f.mu.Unlock()
	return maps.Clone(f.products)
}
