package query

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"sync/atomic"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/dopaminestore/dopamine/internal/consistency"
	"github.com/dopaminestore/dopamine/internal/sleep"
)

// The projections, by the names of their tables.
const (
	products      = "products"
	purchaseSlots = "purchase_slots"
	purchases     = "purchases"
	auditLog      = "slot_audit_log"
)

var allProjections = []string{products, purchaseSlots, purchases, auditLog}

const (
	// readTimeout bounds one read, including the wait for a connection.
	readTimeout = 2 * time.Second
	// maxSwaps is how many times a read is repeated because generations were swapped during it. Two
	// swaps in a row are very unlikely.
	maxSwaps = 5
)

// generations has the live generation of each projection.
type generations map[string]int

// table returns the name of the projection's table, for use in SQL.
func (g generations) table(projection string) string {
	return fmt.Sprintf("%s_g%d", projection, g[projection])
}

// names returns the table of product names that belongs to purchase_slots.
func (g generations) names() string {
	return fmt.Sprintf("%s_names_g%d", purchaseSlots, g[purchaseSlots])
}

// refunds returns the table of refunds that belongs to purchases.
func (g generations) refunds() string { return fmt.Sprintf("refunds_g%d", g[purchases]) }

// snapshot describes a read. queue adds its statements, whose callbacks see rows of one snapshot.
// It may be called several times, and must discard previous results each time.
type snapshot struct {
	of      []string // the projections whose tables it reads
	min     []consistency.ProductPosition
	timeout time.Duration
	queue   func(b *pgx.Batch, g generations)
}

// readModels reads the projections.
type readModels struct {
	pool  *pgxpool.Pool
	topic string                      // the topic of the checkpoints
	live  atomic.Pointer[generations] // last known; nil: must be read
	wait  *positionWaiter
	heads *relayHeads

	actions *nextActions // of pending payments
}

// newReadModels reads the projections in pool. write is the event store's database, nil if it
// cannot be read.
func newReadModels(pool, write *pgxpool.Pool, topic string) *readModels {
	return &readModels{pool: pool, topic: topic, wait: newPositionWaiter(pool, topic), heads: &relayHeads{pool: write}, actions: &nextActions{pool: write}}
}

var errSwapped = errors.New("generations were swapped")

// read reads one snapshot that includes the given positions. Its error can be sent as the response.
func (r *readModels) read(ctx context.Context, s snapshot) error {
	if s.timeout == 0 {
		s.timeout = readTimeout
	}
	deadline := time.Now().Add(waitLimit)
	for delay := behindPause; ; delay = max(0, min(2*delay, time.Until(deadline))) {
		if len(s.min) > 0 {
			if err := r.wait.until(ctx, deadline, s.of, s.min); err != nil {
				return err
			}
		}
		err := r.once(ctx, s)
		if !errors.Is(err, errBehind) || !time.Now().Before(deadline) {
			return err
		}
		// An event is parked, or entries are held back because of another partition, and only the
		// snapshot shows that. A parked event waits for an operator, so the read is repeated only a
		// few times.
		if err := sleep.For(ctx, delay); err != nil {
			return err
		}
	}
}

func (r *readModels) once(ctx context.Context, s snapshot) error {
	ctx, cancel := context.WithTimeout(ctx, s.timeout)
	defer cancel()
	var err error
	for range maxSwaps {
		live := r.live.Load()
		if live == nil {
			if live, err = r.readGenerations(ctx); err != nil {
				return dbError("read the live generations", err)
			}
		}
		err = r.send(ctx, s, *live)
		if err == nil {
			return nil
		}
		if !errors.Is(err, errSwapped) && !isMissingTable(err) {
			break
		}
		r.live.CompareAndSwap(live, nil)
	}
	return dbError("read a snapshot", err)
}

// readGenerations reads which generations are live and remembers them.
func (r *readModels) readGenerations(ctx context.Context) (*generations, error) {
	rows, err := r.pool.Query(ctx, `SELECT projection, generation FROM projection_generations WHERE state = 'live'`)
	if err != nil {
		return nil, err
	}
	g := generations{}
	var projection string
	var generation int
	if _, err := pgx.ForEachRow(rows, []any{&projection, &generation}, func() error {
		g[projection] = generation
		return nil
	}); err != nil {
		return nil, err
	}
	for _, p := range allProjections {
		if g[p] == 0 {
			return nil, fmt.Errorf("projection %s has no live generation", p)
		}
	}
	r.live.Store(&g)
	return &g, nil
}

// send reads one snapshot of the tables of g, in one round trip.
func (r *readModels) send(ctx context.Context, s snapshot, g generations) error {
	b := &pgx.Batch{}
	b.Queue(`BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY`)
	// Postgres cancels statements whose client no longer waits.
	b.Queue(`
SELECT projection, generation, set_config('statement_timeout', $2, true)
FROM projection_generations WHERE state = 'live' AND projection = ANY($1)`, s.of, strconv.FormatInt(s.timeout.Milliseconds(), 10)).
		Query(func(rows pgx.Rows) error {
			same := 0
			var projection string
			var generation int
			_, err := pgx.ForEachRow(rows, []any{&projection, &generation, nil}, func() error {
				if g[projection] == generation {
					same++
				}
				return nil
			})
			if err == nil && same != len(s.of) {
				err = errSwapped
			}
			return err
		})
	if len(s.min) > 0 {
		queueReached(b, r.topic, s.of, s.min)
	}
	s.queue(b, g)
	b.Queue(`COMMIT`)
	return r.pool.SendBatch(ctx, b).Close()
}

// behindPause is the pause before a snapshot that was behind is read again. It doubles each time.
const behindPause = 100 * time.Millisecond
