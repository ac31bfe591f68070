// Package attention lists the payments that need an operator's decision (contract 4.5). It reads
// the ledger of payments in the write side's database, for the query API, the command line and the
// worker's gauge.
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

// Item is one reason why a payment needs an operator.
type Item struct {
	PaymentID uuid.UUID
	RefundID  *uuid.UUID // the system's own id; nil unless it is about a refund
	Cause     domain.AttentionCause
	Code      string    // of the failure or the contradiction; "" for none
	Since     time.Time // UTC
	N         int       // its domain.Attention.Number; negative if it arises with time
}

// Key is an item's key in the list, oldest first. No two items have the same, and an item keeps its
// own when others are resolved, so that a walk through pages skips none.
type Key struct {
	Since   time.Time
	Payment uuid.UUID
	N       int
	Refund  uuid.UUID // zero unless the item is about a refund
}

// Key returns the item's key in the list.
func (a Item) Key() Key {
	k := Key{Since: a.Since, Payment: a.PaymentID, N: a.N}
	if a.RefundID != nil {
		k.Refund = *a.RefundID
	}
	return k
}

// StuckAfter is how long a refund may have no final answer before it waits for an operator. It is
// still tried meanwhile.
const StuckAfter = 24 * time.Hour

// itemsSQL selects causes recorded by events of payments, and causes that arise with time. The
// former come from a table that has open items only. A refund is stuck after StuckAfter, which is
// rare; refunds of disputed payments wait for the dispute. A payment with an unknown outcome is no
// longer queried.
var itemsSQL = fmt.Sprintf(`
select payment_id, refund_id, cause, code, since, n from (
    select payment_id, refund_id, cause, code, since, n from payment_attention
    union all
    select r.payment_id, r.refund_id, 'REFUND_STUCK', r.status, r.due_at, -2
    from payment_refunds r join payments p using (payment_id)
    where r.status in ('DUE', 'PENDING') and r.due_at < (select clock_timestamp()) - interval '%d seconds' and r.ask_at is not null
    union all
    select payment_id, null, 'OUTCOME_UNKNOWN', 'FAILED', initiated_at, -1
    from payments where unsettled and ask_at is null) as items`, int(StuckAfter.Seconds()))

// List returns the items after a key (nil: from the start), oldest first. It reads only the write
// side's database.
func List(ctx context.Context, pool *pgxpool.Pool, after *Key, limit int) ([]Item, error) {
	if after == nil {
		after = &Key{Since: time.Time{}.Add(24 * time.Hour)}
	}
	rows, err := pool.Query(ctx, itemsSQL+`
where (since, payment_id, n, coalesce(refund_id, '00000000-0000-0000-0000-000000000000')) > ($1, $2, $3, $4)
order by since, payment_id, n, coalesce(refund_id, '00000000-0000-0000-0000-000000000000') limit $5`,
		after.Since, after.Payment, after.N, after.Refund, limit)
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

// Count returns the number of items by cause. Causes without items are omitted.
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
