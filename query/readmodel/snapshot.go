package readmodel

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
	Products      = "products"
	PurchaseSlots = "purchase_slots"
	Purchases     = "purchases"
	AuditLog      = "slot_audit_log"
)

var allProjections = []string{Products, PurchaseSlots, Purchases, AuditLog}

const (
	// Timeout bounds one read, including the wait for a connection.
	Timeout = 2 * time.Second
	// maxSwaps is how many times a read is repeated because generations were swapped during it. Two
	// swaps in a row are very unlikely.
	maxSwaps = 5
)

// Generations has the live generation of each projection.
type Generations map[string]int

// Table returns the name of the projection's table, for use in SQL.
func (g Generations) Table(projection string) string {
	return fmt.Sprintf("%s_g%d", projection, g[projection])
}

// ProductNames returns the table of product names that belongs to purchase_slots.
func (g Generations) ProductNames() string {
	return fmt.Sprintf("%s_names_g%d", PurchaseSlots, g[PurchaseSlots])
}

// Refunds returns the table of refunds that belongs to purchases.
func (g Generations) Refunds() string { return fmt.Sprintf("refunds_g%d", g[Purchases]) }

// Snapshot describes a read.
type Snapshot struct {
	Projections []string                      // whose tables it reads
	Min         []consistency.ProductPosition // the positions that it must include
	Timeout     time.Duration                 // of each attempt; 0: the constant Timeout
	// Queue adds its statements, whose callbacks see rows of one snapshot. It may be called several
	// times, and must discard previous results each time.
	Queue func(b *pgx.Batch, g Generations)
}

// Reader reads the projections. Create it with New.
type Reader struct {
	pool  *pgxpool.Pool
	write *pgxpool.Pool               // nil if the write side cannot be read
	topic string                      // the topic of the checkpoints
	live  atomic.Pointer[Generations] // last known; nil: must be read
	wait  *positionWaiter
	heads *relayHeads
}

// New returns a reader of the projections in pool, built from the topic. write is the event store's
// database, nil if it cannot be read.
func New(pool, write *pgxpool.Pool, topic string) *Reader {
	return &Reader{pool: pool, write: write, topic: topic, wait: newPositionWaiter(pool, topic), heads: &relayHeads{pool: write}}
}

// Pool returns the projections' database, for reads that need no snapshot.
func (r *Reader) Pool() *pgxpool.Pool { return r.pool }

// Topic returns the topic that the projections are built from.
func (r *Reader) Topic() string { return r.topic }

var errSwapped = errors.New("generations were swapped")

// Read reads one snapshot. Its error can be sent as the response.
func (r *Reader) Read(ctx context.Context, s Snapshot) error {
	if s.Timeout == 0 {
		s.Timeout = Timeout
	}
	deadline := time.Now().Add(waitLimit)
	for delay := behindPause; ; delay = max(0, min(2*delay, time.Until(deadline))) {
		if len(s.Min) > 0 {
			if err := r.wait.until(ctx, deadline, s.Projections, s.Min); err != nil {
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

func (r *Reader) once(ctx context.Context, s Snapshot) error {
	ctx, cancel := context.WithTimeout(ctx, s.Timeout)
	defer cancel()
	var err error
	for range maxSwaps {
		live := r.live.Load()
		if live == nil {
			if live, err = r.readGenerations(ctx); err != nil {
				return DatabaseError("read the live generations", err)
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
	return DatabaseError("read a snapshot", err)
}

// readGenerations reads which generations are live and remembers them.
func (r *Reader) readGenerations(ctx context.Context) (*Generations, error) {
	rows, err := r.pool.Query(ctx, `SELECT projection, generation FROM projection_generations WHERE state = 'live'`)
	if err != nil {
		return nil, err
	}
	g := Generations{}
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
func (r *Reader) send(ctx context.Context, s Snapshot, g Generations) error {
	b := &pgx.Batch{}
	b.Queue(`BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY`)
	// Postgres cancels statements whose client no longer waits.
	b.Queue(`
SELECT projection, generation, set_config('statement_timeout', $2, true)
FROM projection_generations WHERE state = 'live' AND projection = ANY($1)`, s.Projections, strconv.FormatInt(s.Timeout.Milliseconds(), 10)).
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
			if err == nil && same != len(s.Projections) {
				err = errSwapped
			}
			return err
		})
	if len(s.Min) > 0 {
		queueReached(b, r.topic, s.Projections, s.Min)
	}
	s.Queue(b, g)
	b.Queue(`COMMIT`)
	return r.pool.SendBatch(ctx, b).Close()
}

// behindPause is the pause before a snapshot that was behind is read again. It doubles each time.
const behindPause = 100 * time.Millisecond
