package decisionlog

import (
	"context"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"

	"github.com/dopaminestore/dopamine/query/readmodel"
)

// lastLinesSQL finds the last line of each epoch with one lookup in the primary key for each,
// however many lines there are.
const lastLinesSQL = `
WITH RECURSIVE last AS (
    (SELECT epoch, line, to_number FROM gate_decisions WHERE product_id = $1 ORDER BY epoch DESC, line DESC LIMIT 1)
    UNION ALL
    SELECT d.epoch, d.line, d.to_number FROM last, LATERAL (
        SELECT epoch, line, to_number FROM gate_decisions
        WHERE product_id = $1 AND epoch < last.epoch ORDER BY epoch DESC, line DESC LIMIT 1) d
)
SELECT epoch, line, coalesce(to_number, 0) FROM last ORDER BY epoch`

// logState reads the extent of a product's log. It returns ErrNoProduct if the product never
// existed.
func (d *Reader) logState(ctx context.Context, product uuid.UUID) (logState, error) {
	if d.pool == nil {
		return logState{}, readmodel.ErrNoWrites
	}
	ctx, cancel := context.WithTimeout(ctx, readmodel.Timeout)
	defer cancel()
	var s logState
	b := &pgx.Batch{}
	b.Queue(`
SELECT NOT EXISTS (SELECT FROM gate_epochs_complete e WHERE e.product_id = g.product_id AND NOT e.complete)
FROM product_gates g WHERE g.product_id = $1`, product).QueryRow(func(row pgx.Row) error {
		return readmodel.NotFound(row.Scan(&s.complete), readmodel.ErrNoProduct)
	})
	b.Queue(lastLinesSQL, product).Query(func(rows pgx.Rows) error {
		var l lastLine
		_, err := pgx.ForEachRow(rows, []any{&l.epoch, &l.number, &l.to}, func() error {
			s.last = append(s.last, l)
			return nil
		})
		return err
	})
	return s, readmodel.DatabaseError("read the extent of a decision log", d.pool.SendBatch(ctx, b).Close())
}

// lines reads up to limit lines after `after`, up to and including end, in order.
func (d *Reader) lines(ctx context.Context, product uuid.UUID, after, end linePlace, limit int) ([]storedLine, error) {
	ctx, cancel := context.WithTimeout(ctx, readmodel.Timeout)
	defer cancel()
	rows, err := d.pool.Query(ctx, `
SELECT epoch, line, type, coalesce(units, 0), coalesce(sequence, 0), coalesce(unit, 0), coalesce(reason, ''),
       coalesce(from_number, 0), coalesce(to_number, 0),
       coalesce(sold_out, 0), coalesce(duplicate, 0), coalesce(not_started, 0), coalesce(closed, 0)
FROM gate_decisions
WHERE product_id = $1 AND (epoch, line) > ($2, $3) AND (epoch, line) <= ($4, $5)
ORDER BY epoch, line LIMIT $6`, product, after.epoch, after.number, end.epoch, end.number, limit)
	if err != nil {
		return nil, readmodel.DatabaseError("read a decision log", err)
	}
	page, err := pgx.CollectRows(rows, func(row pgx.CollectableRow) (storedLine, error) {
		var l storedLine
		err := row.Scan(&l.epoch, &l.number, &l.Type, &l.Units, &l.Sequence, &l.Unit, &l.Reason, &l.From, &l.To,
			&l.Refused.SoldOut, &l.Refused.Duplicate, &l.Refused.NotStarted, &l.Refused.Closed)
		l.Epoch = l.epoch
		return l, err
	})
	return page, readmodel.DatabaseError("read a decision log", err)
}
