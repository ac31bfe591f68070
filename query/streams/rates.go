package streams

import (
	"context"
	"log/slog"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/dopaminestore/dopamine/query/readmodel"
)

// ratesWindow is the time over which decisions are averaged. The worker ships the decision logs to
// Postgres about once a second, so a window of a second would alternate between double rates and
// none.
const ratesWindow = 3 * time.Second

// ratesTimeout bounds the reading of the logs, which are only a part of the stats.
const ratesTimeout = 300 * time.Millisecond

// rates measures how many requests are granted and refused per second, from the ends of the
// decision logs. It reads the new lines and the previous last line, which may have grown. It is
// used by one goroutine at a time.
type rates struct {
	pool  *pgxpool.Pool // nil: the rates are unknown
	known map[uuid.UUID]*logEnd
}

// logEnd is how far a product's decision log was counted, with the recent counts.
type logEnd struct {
	epoch, number int64 // of its last line
	refused       int64 // refusals in that line
	counts        []counted
}

type counted struct {
	at               time.Time // time of the count
	granted, refused int64     // since the previous count
}

func newRates(pool *pgxpool.Pool) *rates { return &rates{pool: pool, known: map[uuid.UUID]*logEnd{}} }

// measure fills in the rates. They remain null if the logs cannot be read.
func (r *rates) measure(ctx context.Context, all []productStats, log *slog.Logger) {
	if r.pool == nil {
		return
	}
	ctx, cancel := context.WithTimeout(ctx, ratesTimeout)
	defer cancel()
	if err := r.count(ctx, all); err != nil {
		log.Debug("the decision logs cannot be read for the stats", "error", err)
		return
	}
	for i := range all {
		if end := r.known[all[i].ID]; end != nil {
			granted, refused := end.perSecond()
			all[i].GrantsPerSecond, all[i].RefusalsPerSecond = &granted, &refused
		}
	}
}

// count reads the decisions made since the last call. If a product is new, or was not counted for a
// while because there were no subscribers or the log could not be read, counting starts now: the
// skipped part may be millions of lines.
func (r *rates) count(ctx context.Context, all []productStats) error {
	now := time.Now()
	var fresh, ids []uuid.UUID
	var epochs, lines []int64
	for _, p := range all {
		end := r.known[p.ID]
		if end == nil || now.Sub(end.counts[len(end.counts)-1].at) > 2*ratesWindow {
			fresh = append(fresh, p.ID)
			continue
		}
		ids, epochs, lines = append(ids, p.ID), append(epochs, end.epoch), append(lines, end.number)
	}
	known := make(map[uuid.UUID]*logEnd, len(all)) // products that are no longer on sale are dropped
	for _, id := range ids {
		known[id] = r.known[id]
	}
	b := &pgx.Batch{}
	b.Queue(`
SELECT p.id, coalesce(d.epoch, 0), coalesce(d.line, 0), coalesce(d.refused, 0)
FROM unnest($1::uuid[]) p(id) LEFT JOIN LATERAL (
    SELECT epoch, line, sold_out + duplicate + not_started + closed AS refused
    FROM gate_decisions WHERE product_id = p.id ORDER BY epoch DESC, line DESC LIMIT 1) d ON true`, fresh).Query(func(rows pgx.Rows) error {
		return readmodel.EachRow(rows, func() error {
			var id uuid.UUID
			end := &logEnd{counts: []counted{{at: now}}}
			err := rows.Scan(&id, &end.epoch, &end.number, &end.refused)
			known[id] = end
			return err
		})
	})
	b.Queue(`
SELECT p.id, d.granted, d.refused, coalesce(last.epoch, 0), coalesce(last.line, 0), coalesce(last.refused, 0)
FROM unnest($1::uuid[], $2::bigint[], $3::bigint[]) p(id, epoch, line) CROSS JOIN LATERAL (
    SELECT count(*) FILTER (WHERE type = 'granted' AND (epoch, line) > (p.epoch, p.line)) AS granted,
           coalesce(sum(sold_out + duplicate + not_started + closed), 0)::bigint AS refused
    FROM gate_decisions WHERE product_id = p.id AND (epoch, line) >= (p.epoch, p.line)) d
LEFT JOIN LATERAL (
    SELECT epoch, line, sold_out + duplicate + not_started + closed AS refused
    FROM gate_decisions WHERE product_id = p.id ORDER BY epoch DESC, line DESC LIMIT 1) last ON true`, ids, epochs, lines).Query(func(rows pgx.Rows) error {
		return readmodel.EachRow(rows, func() error {
			var id uuid.UUID
			var granted, refused, epoch, number, last int64
			if err := rows.Scan(&id, &granted, &refused, &epoch, &number, &last); err != nil {
				return err
			}
			k := known[id]
			before := k.refused
			k.epoch, k.number, k.refused = epoch, number, last
			k.add(counted{now, granted, max(0, refused-before)})
			return nil
		})
	})
	if err := r.pool.SendBatch(ctx, b).Close(); err != nil {
		return err
	}
	r.known = known
	return nil
}

// add keeps what the average needs: the counts within ratesWindow, and the one before as its start.
func (l *logEnd) add(c counted) {
	l.counts = append(l.counts, c)
	for len(l.counts) > 2 && c.at.Sub(l.counts[1].at) >= ratesWindow {
		l.counts = l.counts[1:]
	}
}

func (l *logEnd) perSecond() (granted, refused float64) {
	first, last := l.counts[0], l.counts[len(l.counts)-1]
	seconds := last.at.Sub(first.at).Seconds()
	if seconds <= 0 {
		return 0, 0
	}
	for _, c := range l.counts[1:] {
		granted += float64(c.granted)
		refused += float64(c.refused)
	}
	return tenths(granted / seconds), tenths(refused / seconds)
}

// tenths rounds a rate to one decimal.
func tenths(x float64) float64 { return float64(int64(x*10+0.5)) / 10 }
