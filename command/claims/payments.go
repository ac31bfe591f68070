package claims

import (
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"

	"github.com/dopaminestore/dopamine/eventstore"
	"github.com/dopaminestore/dopamine/internal/pgbinary"
)

// checkPaymentsSQL returns for each slot whether it is active, whether its
// deadline has passed by the clock that decides its expiry, and whether its
// sale was cancelled.
const checkPaymentsSQL = `
select i.n, c.slot_id is not null, coalesce(c.deadline <= ` + eventstore.NowSQL + `, false), coalesce(g.cancelled, false)
from unnest($1::uuid[]) with ordinality as i(slot, n)
left join lateral (select slot_id, deadline, product_id from slot_claims
                   where slot_id = i.slot and status = 'ACTIVE' limit 1) c on true
left join lateral (select cancelled from product_gates where product_id = c.product_id limit 1) g on true`

func checkPayments(b *pgx.Batch, items []any, which picked, refused []error) {
	if len(which) == 0 {
		return
	}
	slots := make([]uuid.UUID, 0, len(which))
	for _, i := range which {
		slots = append(slots, items[i].(PaymentBegun).SlotID)
	}
	b.Queue(checkPaymentsSQL, pgbinary.Raw(slots)).Query(func(rows pgx.Rows) error {
		for rows.Next() {
			var n int
			var active, late, cancelled bool
			if err := rows.Scan(&n, &active, &late, &cancelled); err != nil {
				return err
			}
			switch {
			case !active:
				refused[which[n-1]] = ErrNotActive
			case late:
				refused[which[n-1]] = ErrPastDeadline
			case cancelled:
				refused[which[n-1]] = ErrSaleCancelled
			}
		}
		return rows.Err()
	})
}

const (
	dueSQL = `
update slot_claims c set due_at = c.deadline + i.wait
from unnest($1::uuid[], $2::interval[]) as i(slot, wait)
where c.slot_id = i.slot and c.status = 'ACTIVE'`

	warnedSQL = `update slot_claims set warn_at = null where slot_id = any($1)`
)

func applyDue(b *pgx.Batch, slots []uuid.UUID, waits []time.Duration) {
	if len(slots) > 0 {
		b.Queue(dueSQL, pgbinary.Raw(slots), waits)
	}
}

func applyWarned(b *pgx.Batch, slots []uuid.UUID) {
	if len(slots) > 0 {
		b.Queue(warnedSQL, pgbinary.Raw(slots))
	}
}
