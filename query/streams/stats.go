package streams

import (
	"context"
	"log/slog"
	"sync/atomic"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/labstack/echo/v4"
	"golang.org/x/sync/errgroup"
	"golang.org/x/sync/singleflight"

	"github.com/dopaminestore/dopamine/internal/apimodel"
	"github.com/dopaminestore/dopamine/internal/httpapi"
	"github.com/dopaminestore/dopamine/projections"
	"github.com/dopaminestore/dopamine/query/readmodel"
)

const (
	statsEvery = time.Second
	// statsProducts is the maximum number of products in the stats: those whose sale began last.
	statsProducts = 1000
	// statsLead is how long before its sale a product is already counted, though not shown, because
	// the first second of a rush matters most.
	statsLead = 10 * time.Second
	// soldOutShown is how long after the beginning of its sale a sold-out product is still shown,
	// because of its refusals. A product without an end of sale would otherwise be shown forever.
	soldOutShown = time.Hour
)

// statsReport is the data of `event: stats`. Values that only the write side has are null or empty
// if it cannot be read.
type statsReport struct {
	At              apimodel.Time    `json:"at"`
	Products        []productStats   `json:"products"`
	PendingPayments int64            `json:"pendingPayments"`
	RefundsDue      int64            `json:"refundsDue"`
	RelayLag        *int64           `json:"relayLag"`
	ProjectionLag   map[string]int64 `json:"projectionLag"`
}

// productStats is a product whose sale has begun and not ended.
type productStats struct {
	ID                uuid.UUID `json:"id"`
	Name              string    `json:"name"`
	Free              int       `json:"free"`
	TotalStock        int       `json:"totalStock"`
	GrantsPerSecond   *float64  `json:"grantsPerSecond"`
	RefusalsPerSecond *float64  `json:"refusalsPerSecond"`

	shown bool // its sale has begun
}

// statsPublisher reads the state that operators watch, once a second while there are subscribers,
// regardless of their number.
type statsPublisher struct {
	models *readmodel.Reader
	write  *pgxpool.Pool // nil if there is none
	rates  *rates
	log    *slog.Logger

	stats      broadcast
	operations broadcast
	listeners  atomic.Int64
	work       chan struct{}
	gathering  singleflight.Group
}

func newStatsPublisher(models *readmodel.Reader, write *pgxpool.Pool, log *slog.Logger) *statsPublisher {
	return &statsPublisher{models: models, write: write, rates: newRates(write), log: log, work: make(chan struct{}, 1)}
}

// Stats serves GET /v1/stats/stream.
func (p *Publisher) Stats(c echo.Context) error { return p.watch(c, "stats", &p.stats.stats) }

// Operations serves GET /dashboard/stream.
func (p *Publisher) Operations(c echo.Context) error {
	return p.watch(c, "operations", &p.stats.operations)
}

func (p *Publisher) watch(c echo.Context, name string, t *broadcast) error {
	b := p.stats
	if err := b.fresh(c.Request().Context()); err != nil {
		return err
	}
	b.listeners.Add(1)
	select {
	case b.work <- struct{}{}:
	default:
	}
	who, _ := httpapi.IdentityOf(c)
	return p.live(c, name, who.Expires,
		func(s *stream) error { return s.follow(t, 0) }, func() { b.listeners.Add(-1) })
}

// fresh ensures that there is an initial state, less than a second old.
func (b *statsPublisher) fresh(ctx context.Context) error {
	if s := b.stats.now.Load(); s != nil && time.Since(s.at) < statsEvery {
		return nil
	}
	select {
	case r := <-b.gathering.DoChan("", func() (any, error) { return nil, b.gather(context.WithoutCancel(ctx)) }):
		return r.Err
	case <-ctx.Done():
		return ctx.Err()
	}
}

// run gathers once a second while there are subscribers, until ctx ends.
func (b *statsPublisher) run(ctx context.Context) {
	tick := time.NewTicker(statsEvery)
	defer tick.Stop()
	away := false
	for {
		if b.listeners.Load() == 0 {
			select {
			case <-b.work:
				tick.Reset(statsEvery)
			case <-ctx.Done():
				return
			}
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return
		}
		_, err, _ := b.gathering.Do("", func() (any, error) { return nil, b.gather(ctx) })
		if err != nil && !away && ctx.Err() == nil {
			b.log.Warn("stats paused", "error", err)
		}
		away = err != nil
	}
}

// gather reads and publishes everything once. Calls do not overlap.
func (b *statsPublisher) gather(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, readmodel.Timeout)
	defer cancel()
	var r statsReport
	var o operations
	var head projections.Head
	var known bool
	var both errgroup.Group
	both.Go(func() (err error) {
		r, o.Expiring, err = b.readSide(ctx)
		return err
	})
	both.Go(func() error {
		var err error
		head, known, err = b.head(ctx)
		if err != nil {
			b.log.Debug("the write side cannot be read for the stats", "error", err)
		}
		return nil
	})
	if err := both.Wait(); err != nil {
		return err
	}
	b.rates.measure(ctx, r.Products, b.log)
	r.Products = shown(r.Products)
	all, err := projections.ReadStatus(ctx, b.models.Pool(), head)
	if err != nil {
		return readmodel.DatabaseError("read the projections' progress", err)
	}
	r.ProjectionLag = map[string]int64{}
	if known {
		lag := max(0, head.Position-head.Published)
		r.RelayLag = &lag
		for _, p := range all {
			r.ProjectionLag[p.Projection] = p.Lag
		}
	}
	if err := o.fill(ctx, b.models.Pool(), r.At, all); err != nil {
		return err
	}
	statsEvent, err := encodeEvent("stats", "", r)
	if err != nil {
		return err
	}
	operationsEvent, err := encodeEvent("operations", "", o)
	if err != nil {
		return err
	}
	b.operations.publish(operationsEvent, false) // first: if stats exist, operations exist too
	b.stats.publish(statsEvent, false)
	return nil
}

func shown(all []productStats) []productStats {
	list := make([]productStats, 0, len(all))
	for _, p := range all {
		if p.shown {
			list = append(list, p)
		}
	}
	return list
}

// readSide reads the part of the stats that is in the read models, and what expires next.
func (b *statsPublisher) readSide(ctx context.Context) (statsReport, expiring, error) {
	var r statsReport
	var e expiring
	err := b.models.Read(ctx, readmodel.Snapshot{Projections: []string{readmodel.Products, readmodel.PurchaseSlots, readmodel.Purchases}, Queue: func(q *pgx.Batch, g readmodel.Generations) {
		r = statsReport{}
		q.Queue(`
SELECT id, name, stock, total_stock, sale_date <= now() FROM `+g.Table(readmodel.Products)+`
WHERE sale_date <= now() + $1::interval AND NOT paused AND (sale_end_date IS NULL OR sale_end_date > now())
  AND (stock > 0 OR sale_date > now() - $3::interval)
ORDER BY sale_date DESC, id LIMIT $2`, statsLead, statsProducts, soldOutShown).Query(func(rows pgx.Rows) error {
			return readmodel.EachRow(rows, func() error {
				var p productStats
				err := rows.Scan(&p.ID, &p.Name, &p.Free, &p.TotalStock, &p.shown)
				r.Products = append(r.Products, p)
				return err
			})
		})
		q.Queue(`
SELECT now(), (SELECT count(*) FROM ` + g.Table(readmodel.Purchases) + ` WHERE payment_status = 'PENDING'),
       (SELECT count(*) FROM ` + g.Refunds() + ` WHERE status IN ('DUE', 'PENDING'))`).QueryRow(func(row pgx.Row) error {
			return row.Scan((*time.Time)(&r.At), &r.PendingPayments, &r.RefundsDue)
		})
		e.queue(q, g)
	}})
	return r, e, err
}

// head reads how far the event store and the relay are. It returns false if that is not known.
func (b *statsPublisher) head(ctx context.Context) (projections.Head, bool, error) {
	var h projections.Head
	if b.write == nil {
		return h, false, nil
	}
	// This order within one statement's snapshot ensures that the relay is never ahead of the
	// store.
	err := b.write.QueryRow(ctx, `
SELECT coalesce((SELECT position FROM events ORDER BY position DESC LIMIT 1), 0), coalesce(r.position, 0), coalesce(r.last, '{}')
FROM (SELECT) one LEFT JOIN relay_place r ON true`).Scan(&h.Position, &h.Published, &h.Last)
	return h, err == nil, err
}
