package streams

import (
	"context"
	"fmt"
	"hash/fnv"
	"log/slog"
	"maps"
	"slices"
	"sync"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
	"golang.org/x/sync/singleflight"

	"github.com/dopaminestore/dopamine/internal/kafka"
	"github.com/dopaminestore/dopamine/internal/sleep"
	"github.com/dopaminestore/dopamine/query/readmodel"
)

const (
	// pollInterval is the pause between two polls of the feed. On average a change reaches its
	// subscribers after half of it.
	pollInterval = 100 * time.Millisecond
	// restFactor limits the feed's share of the databases, whatever the number of subscribers:
	// after a poll it pauses for this multiple of the poll's duration.
	restFactor = 4
	// unavailableInterval is the pause between two polls while the read models cannot be read.
	unavailableInterval = time.Second
	// refreshInterval is how long a followed row may go without being read. Positions show most
	// changes; this finds the others: a row corrected by hand, or one whose event is missing from
	// the audit.
	refreshInterval = 15 * time.Second
)

// feed is the only reader for all streams of products and slots in a process. While there are
// subscribers, it reads the checkpoints of the live generations (a few rows) ten times a second. If
// a partition has advanced, it reads what that can have changed: the followed products, and the
// subscribed buyers for whom the audit log has new entries.
//
// Partitions advance independently, so what is new is described by a vector with one position per
// partition. But a position does not show whether a row is the one that was sent: a parked event is
// applied after later ones, and a replay may correct a row without changing its position.
// Therefore, if the live generation has changed, or a request for parked events was served,
// everything that is followed is read again and compared by content.
type feed struct {
	models  *readmodel.Reader
	metrics *metrics
	log     *slog.Logger
	first   singleflight.Group // of products that are not followed yet

	mu       sync.Mutex
	products map[uuid.UUID]*productTopic
	buyers   map[uuid.UUID]*buyerTopic
	work     chan struct{}
}

func newFeed(models *readmodel.Reader, metrics *metrics, log *slog.Logger) *feed {
	return &feed{
		models: models, metrics: metrics, log: log, work: make(chan struct{}, 1),
		products: map[uuid.UUID]*productTopic{}, buyers: map[uuid.UUID]*buyerTopic{},
	}
}

// wake notifies the reader that there are subscribers.
func (f *feed) wake() {
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

// run polls until ctx ends.
func (f *feed) run(ctx context.Context) {
	var seen progressSnapshot
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
		next, err := f.poll(ctx, seen)
		took := time.Since(began)
		wait := max(pollInterval, restFactor*took)
		switch {
		case ctx.Err() != nil:
			return
		case err != nil:
			wait = unavailableInterval
			if !away {
				f.log.Warn("streams paused: cannot read the read models", "error", err)
			}
		default:
			seen = next
			f.metrics.polls.Observe(took.Seconds())
		}
		away = err != nil
		if sleep.For(ctx, wait) != nil {
			return
		}
	}
}

// poll publishes what has changed since the given snapshot.
func (f *feed) poll(ctx context.Context, seen progressSnapshot) (progressSnapshot, error) {
	now, err := f.marks(ctx)
	if err != nil {
		return nil, err
	}
	if err := f.pollProducts(ctx, seen, now); err != nil {
		return nil, err
	}
	if err := f.pollBuyers(ctx, seen, now); err != nil {
		return nil, err
	}
	return now, nil
}

// progressSnapshot is the progress of the live generation of each projection.
type progressSnapshot map[string]projectionState

type projectionState struct {
	generation int
	partitions map[int32]mark
}

// size returns the topic's partition count, 0 if no event was ever applied.
func (s projectionState) size() int32 {
	for _, any := range s.partitions {
		return any.partitions
	}
	return 0
}

type mark struct {
	partitions int32 // of the topic
	position   int64 // of the last applied event
	version    int64 // increases when a parked event is applied
}

// moved reports whether the product's partition may have changed.
func (m progressSnapshot) moved(before progressSnapshot, projection string, product uuid.UUID) bool {
	now := m[projection].partitions
	for _, any := range now {
		p := kafka.Partition(product, any.partitions)
		return now[p] != before[projection].partitions[p]
	}
	return false // no event was ever applied
}

// fingerprint is a hash of what may change rows without changing their positions: the live
// generations of the projections, and the requests for parked events that were served.
func (m progressSnapshot) fingerprint(of []string) uint64 {
	h := fnv.New64a()
	for _, projection := range of {
		s := m[projection]
		fmt.Fprint(h, projection, s.generation)
		for _, p := range slices.Sorted(maps.Keys(s.partitions)) {
			if v := s.partitions[p].version; v > 0 { // 0 is the initial version
				fmt.Fprint(h, " ", p, v)
			}
		}
	}
	return h.Sum64()
}

// minPositions returns the lowest position of each partition among the projections. It is empty if
// one of them has not begun or was built from another topic.
func (m progressSnapshot) minPositions(of []string) vector {
	var v vector
	for i, projection := range of {
		partitions := m[projection].size()
		if i == 0 {
			v = make(vector, partitions)
		}
		if int(partitions) != len(v) {
			return vector{}
		}
		for n := range v {
			at := m[projection].partitions[int32(n)].position
			if i == 0 || at < v[n] {
				v[n] = at
			}
		}
	}
	return v
}

const marksSQL = `
SELECT g.projection, g.generation, c.partition, c.partitions, c.position, c.version
FROM projection_generations g
LEFT JOIN projection_checkpoints c ON c.projection = g.projection AND c.generation = g.generation AND c.topic = $1
WHERE g.state = 'live'`

func (f *feed) marks(ctx context.Context) (progressSnapshot, error) {
	ctx, cancel := context.WithTimeout(ctx, readmodel.Timeout)
	defer cancel()
	rows, err := f.models.Pool().Query(ctx, marksSQL, f.models.Topic())
	if err != nil {
		return nil, err
	}
	return collectProgressSnapshot(rows)
}

func collectProgressSnapshot(rows pgx.Rows) (progressSnapshot, error) {
	all := progressSnapshot{}
	var projection string
	var generation int
	var partition, partitions *int32 // null if no event was ever applied
	var position, version *int64
	_, err := pgx.ForEachRow(rows, []any{&projection, &generation, &partition, &partitions, &position, &version}, func() error {
		s, known := all[projection]
		if !known {
			s = projectionState{generation: generation, partitions: map[int32]mark{}}
			all[projection] = s
		}
		if partition != nil {
			s.partitions[*partition] = mark{*partitions, *position, *version}
		}
		return nil
	})
	return all, err
}

// followed returns a copy of the set of followed products.
func (f *feed) followed() map[uuid.UUID]*productTopic {
	f.mu.Lock()
	defer f.mu.Unlock()
	return maps.Clone(f.products)
}
