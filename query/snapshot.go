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

	"github.com/dopaminestore/dopamine/internal/position"
)

// The projections that are read, by the names of their tables.
const (
	products      = "products"
	purchaseSlots = "purchase_slots"
	purchases     = "purchases"
	auditLog      = "slot_audit_log"
)

var allProjections = []string{products, purchaseSlots, purchases, auditLog}

const (
	// readTimeout bounds one read, the wait for a connection included.
	readTimeout = 2 * time.Second
	// exportTimeout bounds one page of an export.
	exportTimeout = 10 * time.Second
	// swaps is how often a read is begun again because generations were swapped
	// under it; two in a row would be a wonder.
	swaps = 5
)

// generations says which generation of each projection is live.
type generations map[string]int

// table is the name of the projection's table, to stand in SQL.
func (g generations) table(projection string) string {
	return fmt.Sprintf("%s_g%d", projection, g[projection])
}

// names is the table of product names that belongs to purchase_slots.
func (g generations) names() string {
	return fmt.Sprintf("%s_names_g%d", purchaseSlots, g[purchaseSlots])
}

// refunds is the table of refunds that belongs to purchases.
func (g generations) refunds() string { return fmt.Sprintf("refunds_g%d", g[purchases]) }

// snapshot is what a read asks for: queue adds its statements, whose callbacks
// see rows of one moment. It may be called again, and then has to forget what
// it has collected.
type snapshot struct {
	of      []string // the projections whose tables it reads
	min     []position.Position
	timeout time.Duration
	queue   func(b *pgx.Batch, g generations)
}

// readModels reads the projections.
type readModels struct {
	pool  *pgxpool.Pool
	topic string                      // whose checkpoints count
	live  atomic.Pointer[generations] // as last seen; nil: to be asked for
	wait  *waiting
	heads *relayHeads

	actions *nextActions // of pending payments
}

// newReadModels reads the projections in pool; write is the event store's database, nil
// if it cannot be read.
func newReadModels(pool, write *pgxpool.Pool, topic string) *readModels {
	return &readModels{pool: pool, topic: topic, wait: newWaiting(pool, topic), heads: &relayHeads{pool: write}, actions: &nextActions{pool: write}}
}

var errSwapped = errors.New("generations were swapped")

// read reads one snapshot that includes what the positions name. The error is
// fit for an answer.
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
		// Something is parked, or held back by another partition, and only the snapshot
		// shows that. What is parked waits for a person, so it is read again few times.
		if err := pause(ctx, delay); err != nil {
			return err
		}
	}
}

func (r *readModels) once(ctx context.Context, s snapshot) error {
	ctx, cancel := context.WithTimeout(ctx, s.timeout)
	defer cancel()
	var err error
	for range swaps {
		live := r.live.Load()
		if live == nil {
			if live, err = r.ask(ctx); err != nil {
				return failed("read the live generations", err)
			}
		}
		err = r.send(ctx, s, *live)
		if err == nil {
			return nil
		}
		if !errors.Is(err, errSwapped) && !gone(err) {
			break
		}
		r.live.CompareAndSwap(live, nil)
	}
	return failed("read a snapshot", err)
}

// ask reads which generations are live and remembers it.
func (r *readModels) ask(ctx context.Context) (*generations, error) {
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

// send reads one snapshot over the tables of g, in one round trip.
func (r *readModels) send(ctx context.Context, s snapshot, g generations) error {
	b := &pgx.Batch{}
	b.Queue(`BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY`)
	// Postgres gives up on what nobody waits for any more.
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

// behindPause is the time before a snapshot that was behind is read again, doubled
// each time.
const behindPause = 100 * time.Millisecond

// pause waits for d or for the end of ctx, whose error it then returns.
func pause(ctx context.Context, d time.Duration) error {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}
