package query

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
	// againAfter is how long what is listened to goes without being read. The
	// places say what has changed; this finds what they do not say, a row that
	// was mended by hand, or one whose event is missing from the audit.
	againAfter = 15 * time.Second
)

// feed is the one reader behind all streams of products and slots in a process.
// It reads the checkpoints of the live generations, a few rows, ten times a
// second while anybody listens, and looks further only into what a partition
// that moved can have changed: at the products that are followed, and at the
// buyers who listen and of whom the audit log says something new.
//
// Partitions move by themselves, so "what is new" is a vector, one position for
// each. But a place alone does not tell whether a row is the one that was shown:
// an event that had been set aside is applied behind what came after it, and a
// replay may mend a row at the place that it had. So where the live generation
// is another one, or an order for parked events was carried out, all that is
// listened to is read again and compared by what it says.
type feed struct {
	models  *readModels
	metrics *streamMetrics
	log     *slog.Logger
	first   singleflight.Group // of the products that nobody follows yet

	mu       sync.Mutex
	products map[uuid.UUID]*productTopic
	buyers   map[uuid.UUID]*buyerTopic
	work     chan struct{}
}

func newFeed(models *readModels, metrics *streamMetrics, log *slog.Logger) *feed {
	return &feed{
		models: models, metrics: metrics, log: log, work: make(chan struct{}, 1),
		products: map[uuid.UUID]*productTopic{}, buyers: map[uuid.UUID]*buyerTopic{},
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
	if err := f.lookAtBuyers(ctx, seen, now); err != nil {
		return nil, err
	}
	return now, nil
}

// marks is where the live generation of each projection stands.
type marks map[string]standing

type standing struct {
	generation int
	partitions map[int32]mark
}

type mark struct {
	checkpoint
	version int64 // moves where a parked event is applied after all
}

// moved says whether anything may have changed in the product's partition.
func (m marks) moved(before marks, projection string, product uuid.UUID) bool {
	now := m[projection].partitions
	for _, any := range now {
		p := kafka.Partition(product, any.partitions)
		return now[p] != before[projection].partitions[p]
	}
	return false // nothing was ever applied
}

// account sums up what may change rows whatever their places say: which
// generations of the projections are live, and the orders that were carried out.
func (m marks) account(of []string) uint64 {
	h := fnv.New64a()
	for _, projection := range of {
		s := m[projection]
		fmt.Fprint(h, projection, s.generation)
		for _, p := range slices.Sorted(maps.Keys(s.partitions)) {
			if v := s.partitions[p].version; v > 0 { // 0 is what a partition begins with
				fmt.Fprint(h, " ", p, v)
			}
		}
	}
	return h.Sum64()
}

// cut is the vector that all of these projections have reached.
func (m marks) cut(of []string) vector {
	p := progress{}
	for _, projection := range of {
		for partition, at := range m[projection].partitions {
			p.add(projection, partition, at.checkpoint)
		}
	}
	return p.cut(of)
}

const marksSQL = `
SELECT g.projection, g.generation, c.partition, c.partitions, c.position, c.version
FROM projection_generations g
LEFT JOIN projection_checkpoints c ON c.projection = g.projection AND c.generation = g.generation AND c.topic = $1
WHERE g.state = 'live'`

func (r *readModels) marks(ctx context.Context) (marks, error) {
	ctx, cancel := context.WithTimeout(ctx, readTimeout)
	defer cancel()
	rows, err := r.pool.Query(ctx, marksSQL, r.topic)
	if err != nil {
		return nil, err
	}
	return collectMarks(rows)
}

func collectMarks(rows pgx.Rows) (marks, error) {
	all := marks{}
	var projection string
	var generation int
	var partition, partitions *int32 // null where nothing was ever applied
	var position, version *int64
	_, err := pgx.ForEachRow(rows, []any{&projection, &generation, &partition, &partitions, &position, &version}, func() error {
		s, known := all[projection]
		if !known {
			s = standing{generation: generation, partitions: map[int32]mark{}}
			all[projection] = s
		}
		if partition != nil {
			s.partitions[*partition] = mark{checkpoint{partitions: *partitions, position: *position}, *version}
		}
		return nil
	})
	return all, err
}

// followed is a copy of what is followed at this moment.
func (f *feed) followed() map[uuid.UUID]*productTopic {
	f.mu.Lock()
	defer f.mu.Unlock()
	return maps.Clone(f.products)
}
