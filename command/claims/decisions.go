package claims

import (
	"context"
	"fmt"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"

	"github.com/dopaminestore/dopamine/domain/fairness"
	"github.com/dopaminestore/dopamine/internal/failpoint"
	"github.com/dopaminestore/dopamine/redis"
)

// decisionsSQL stores lines under their numbers. One that is there already is a
// run that has grown, or the same again: it never shrinks.
const decisionsSQL = `
insert into gate_decisions as d (product_id, epoch, line, type, units, sequence, unit, reason,
                                 from_number, to_number, sold_out, duplicate, not_started, closed)
select $1, * from unnest($2::bigint[], $3::bigint[], $4::text[], $5::bigint[], $6::bigint[], $7::int[], $8::text[],
                         $9::bigint[], $10::bigint[], $11::bigint[], $12::bigint[], $13::bigint[], $14::bigint[])
on conflict (product_id, epoch, line) do update
set to_number = excluded.to_number, sold_out = excluded.sold_out, duplicate = excluded.duplicate,
    not_started = excluded.not_started, closed = excluded.closed
where d.type = 'refused' and excluded.type = 'refused' and excluded.to_number > d.to_number`

const (
	wholeSQL = `
update gate_epochs set whole = true
where product_id = $1 and epoch >= $2 and epoch < $3 and not whole`

	carriedSQL = `
insert into gate_epochs as e (product_id, epoch, carried_at) values ($1, $2, $3)
on conflict (product_id, epoch) do update set carried_at = greatest(e.carried_at, excluded.carried_at)`
)

// Carry implements redis.Store. What is noted as carried is noted in the
// transaction that stores it.
func (s *Store) Carry(ctx context.Context, product uuid.UUID, c redis.Carried) error {
	ctx, cancel := context.WithTimeout(ctx, 2*answerWithin)
	defer cancel()
	b := &pgx.Batch{}
	if len(c.Lines) > 0 {
		b.Queue(decisionsSQL, decisionColumns(product, c.Lines)...)
	}
	switch {
	case c.Closed:
		b.Queue(wholeSQL, product, c.Born, c.Epoch+1)
	case c.Living:
		b.Queue(carriedSQL, product, c.Epoch, c.At)
		if c.Born < c.Epoch {
			b.Queue(wholeSQL, product, c.Born, c.Epoch)
		}
	}
	if b.Len() == 0 {
		return nil
	}
	failpoint.Hit(failpoint.ShipBefore)
	err := pgx.BeginFunc(ctx, s.pool, func(tx pgx.Tx) error { return tx.SendBatch(ctx, b).Close() })
	if err != nil {
		return fmt.Errorf("store %d lines of the decision log of product %s: %w", len(c.Lines), product, err)
	}
	failpoint.Hit(failpoint.ShipAfter)
	return nil
}

func decisionColumns(product uuid.UUID, lines []redis.NumberedLine) []any {
	n := len(lines)
	epochs, numbers, types := make([]int64, n), make([]int64, n), make([]string, n)
	units, sequences, unit, reasons := make([]*int64, n), make([]*int64, n), make([]*int32, n), make([]*string, n)
	from, to := make([]*int64, n), make([]*int64, n)
	soldOut, duplicate, notStarted, closed := make([]*int64, n), make([]*int64, n), make([]*int64, n), make([]*int64, n)
	for i := range lines {
		l := &lines[i]
		epochs[i], numbers[i], types[i] = l.Epoch, l.Number, string(l.Type)
		piece := int32(l.Unit)
		switch l.Type {
		case fairness.Opened:
			units[i] = &l.Units
		case fairness.Granted:
			sequences[i], unit[i] = &l.Sequence, &piece
		case fairness.Returned:
			reason := string(l.Reason)
			unit[i], reasons[i] = &piece, &reason
		case fairness.Refused:
			from[i], to[i] = &l.From, &l.To
			soldOut[i], duplicate[i] = &l.Refused.SoldOut, &l.Refused.Duplicate
			notStarted[i], closed[i] = &l.Refused.NotStarted, &l.Refused.Closed
		}
	}
	return []any{product, epochs, numbers, types, units, sequences, unit, reasons, from, to, soldOut, duplicate, notStarted, closed}
}
