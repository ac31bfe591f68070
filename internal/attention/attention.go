// Package attention lists the money that waits for an operator (contract 4.5). It
// reads the ledger of payments in the write side's database, for the query API and
// the command line as well as for the worker's gauge.
package attention

import (
	"context"
	"fmt"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/dopaminestore/dopamine/domain"
)

// Item is one item of a payment that waits for an operator.
type Item struct {
	PaymentID uuid.UUID
	RefundID  *uuid.UUID // ours; nil unless it is about a refund
	Cause     domain.AttentionCause
	Code      string    // of the failure or the contradiction; "" for none
	Since     time.Time // UTC
	N         int       // tells items of one payment and moment apart
}

// Key is an item's place in the list, the oldest first.
type Key struct {
	Since   time.Time
	Payment uuid.UUID
	N       int
}

// Key returns the item's place in the list.
func (a Item) Key() Key { return Key{a.Since, a.PaymentID, a.N} }

// itemsSQL: what the events of payments say, and what only time makes.
// The first comes from a table of what waits alone. Refunds are stuck after a
// day, which few are; those of disputed payments wait for the dispute. A payment
// whose outcome is unknown is queried no more.
const itemsSQL = `
select payment_id, refund_id, cause, code, since, n from (
    select payment_id, refund_id, cause, code, since, n from payment_attention
    union all
    select r.payment_id, r.refund_id, 'REFUND_STUCK', r.status, r.due_at, 1000 + row_number() over (partition by r.payment_id order by r.refund_id)::int
    from payment_refunds r join payments p using (payment_id)
    where r.status in ('DUE', 'PENDING') and r.due_at < (select clock_timestamp()) - interval '24 hours' and r.ask_at is not null
    union all
    select payment_id, null, 'OUTCOME_UNKNOWN', 'FAILED', initiated_at, 2000
    from payments where unsettled and ask_at is null) as items`

// List lists what waits for an operator behind a key (nil: from the
// start), the oldest first. It reads the write side's database alone.
func List(ctx context.Context, pool *pgxpool.Pool, after *Key, limit int) ([]Item, error) {
	if after == nil {
		after = &Key{Since: time.Time{}.Add(24 * time.Hour), N: -1}
	}
	rows, err := pool.Query(ctx, itemsSQL+`
where (since, payment_id, n) > ($1, $2, $3) order by since, payment_id, n limit $4`, after.Since, after.Payment, after.N, limit)
	if err != nil {
		return nil, fmt.Errorf("list money that waits for an operator: %w", err)
	}
	items, err := pgx.CollectRows(rows, func(row pgx.CollectableRow) (a Item, err error) {
		err = row.Scan(&a.PaymentID, &a.RefundID, &a.Cause, &a.Code, &a.Since, &a.N)
		a.Since = a.Since.UTC()
		return a, err
	})
	if err != nil {
		return nil, fmt.Errorf("list money that waits for an operator: %w", err)
	}
	return items, nil
}

// Count returns how many items wait, by cause; causes without any are
// missing.
func Count(ctx context.Context, pool *pgxpool.Pool) (map[domain.AttentionCause]int, error) {
	rows, err := pool.Query(ctx, `select cause, count(*)::int from (`+itemsSQL+`) as waiting group by cause`)
	if err != nil {
		return nil, fmt.Errorf("count money that waits for an operator: %w", err)
	}
	counts := map[domain.AttentionCause]int{}
	var cause string
	var n int
	if _, err := pgx.ForEachRow(rows, []any{&cause, &n}, func() error { counts[domain.AttentionCause(cause)] = n; return nil }); err != nil {
		return nil, fmt.Errorf("count money that waits for an operator: %w", err)
	}
	return counts, nil
}
