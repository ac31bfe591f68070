package payments

import (
	"context"
	"fmt"
	"strings"
	"time"
	"unicode"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
)

// Waiting is money that waits for a person.
type Waiting struct {
	Payment, Slot, Product, User uuid.UUID
	Amount                       string // decimal: of the refund, or of the payment
	Currency                     string
	Why                          string    // what stands in the way
	Since                        time.Time // UTC
}

const waitingSQL = `
select payment_id, slot_id, product_id, user_id,
       coalesce(refund_amount, amount)::text, coalesce(refund_currency, currency),
       case when refund_refused is not null then 'refund ' || refund_refused
            when unreadable is not null then 'the gateway says that it took ' || unreadable
            else 'the gateway never said what became of it' end,
       coalesce(refund_due_at, initiated_at)
from payments
where (unsettled or refund_refused is not null or unreadable is not null)
  and (refund_refused is not null
       or unreadable is not null and status = 'FAILED' and refund_status is null
       or unsettled and ask_at is null)
order by initiated_at limit $1`

// ListWaiting lists money that waits for a person, the oldest first: refunds
// that the gateway refuses, payments of which nobody knows the end after a week,
// and amounts that are no money. It needs nothing but the write side's database.
func ListWaiting(ctx context.Context, pool *pgxpool.Pool, limit int) ([]Waiting, error) {
	rows, err := pool.Query(ctx, waitingSQL, limit)
	if err != nil {
		return nil, fmt.Errorf("list money that waits for a person: %w", err)
	}
	waiting, err := pgx.CollectRows(rows, func(row pgx.CollectableRow) (w Waiting, err error) {
		err = row.Scan(&w.Payment, &w.Slot, &w.Product, &w.User, &w.Amount, &w.Currency, &w.Why, &w.Since)
		w.Since = w.Since.UTC()
		return w, err
	})
	if err != nil {
		return nil, fmt.Errorf("list money that waits for a person: %w", err)
	}
	return waiting, nil
}

// maxPlain is the longest text of the gateway's that the ledger keeps, in bytes.
const maxPlain = 255

// plain is a text of the gateway's as the ledger can keep it.
func plain(s string) string {
	s = strings.Map(func(r rune) rune {
		if unicode.IsControl(r) {
			return -1
		}
		return r
	}, strings.ToValidUTF8(s, ""))
	return strings.ToValidUTF8(s[:min(len(s), maxPlain)], "")
}
