package purchases

import (
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/dopaminestore/dopamine/internal/pgbinary"
)

func (f *fold) Write(b *pgx.Batch) {
	f.writeRefunds(b)
	f.writeRows(b)
}

// optional returns nil for an empty text.
func optional(s string) *string {
	if s == "" {
		return nil
	}
	return &s
}

// optionalTime returns nil for the zero time.
func optionalTime(t time.Time) *time.Time {
	if t.IsZero() {
		return nil
	}
	return &t
}

func (f *fold) writeRows(b *pgx.Batch) {
	if len(f.rows) == 0 {
		return
	}
	n := len(f.rows)
	var (
		id, slot, product, user = make(pgbinary.IDs, 0, n), make(pgbinary.IDs, 0, n), make(pgbinary.IDs, 0, n), make(pgbinary.IDs, 0, n)
		gateway, reason, refund = make([]*string, 0, n), make([]*string, 0, n), make([]*string, 0, n)
		status, amount          = make([]string, 0, n), make([]string, 0, n)
		currency, method        = make([]string, 0, n), make([]string, 0, n)
		confirmed               = make([]*time.Time, 0, n)
		created, updated        = make([]time.Time, 0, n), make([]time.Time, 0, n)
		last                    = make([]int64, 0, n)
		refunded                = make([]string, 0, n)
		disputed, reversed      = make([]bool, 0, n), make([]bool, 0, n)
		kept                    = make([]*string, 0, n)
	)
	for _, r := range f.rows {
		id, slot, product, user = append(id, pgbinary.ID(r.ID)), append(slot, pgbinary.ID(r.SlotID)), append(product, pgbinary.ID(r.ProductID)), append(user, pgbinary.ID(r.UserID))
		gateway, status, amount = append(gateway, optional(r.GatewayID)), append(status, string(r.Status)), append(amount, r.Price.Amount().String())
		currency, method, confirmed = append(currency, r.Price.Currency()), append(method, string(r.Method)), append(confirmed, optionalTime(r.ConfirmedAt))
		reason, refund = append(reason, optional(r.FailureReason)), append(refund, optional(string(r.RefundStatus())))
		created, updated, last = append(created, r.CreatedAt), append(updated, r.UpdatedAt), append(last, r.LastPosition)
		back, _ := r.RefundedAmount()
		refunded = append(refunded, back.Amount().String())
		disputed, reversed = append(disputed, r.Disputed()), append(reversed, r.Reversed)
		kept = append(kept, r.keptText())
	}
	b.Queue(fmt.Sprintf(`
		INSERT INTO %s (id, purchase_slot_id, product_id, user_id, payment_id, payment_status, amount, currency, payment_method,
		                confirmation_timestamp, failure_reason, refund_status, created_at, updated_at, last_position,
		                refunded_amount, disputed, reversed, money)
		SELECT * FROM unnest($1::uuid[], $2::uuid[], $3::uuid[], $4::uuid[], $5::text[], $6::text[], $7::text[]::numeric[], $8::text[], $9::text[],
		                     $10::timestamptz[], $11::text[], $12::text[], $13::timestamptz[], $14::timestamptz[], $15::bigint[],
		                     $16::text[]::numeric[], $17::bool[], $18::bool[], $19::text[]::jsonb[])
		ON CONFLICT (id) DO UPDATE SET
			purchase_slot_id = EXCLUDED.purchase_slot_id, payment_id = EXCLUDED.payment_id, payment_status = EXCLUDED.payment_status,
			confirmation_timestamp = EXCLUDED.confirmation_timestamp, failure_reason = EXCLUDED.failure_reason,
			refund_status = EXCLUDED.refund_status, updated_at = EXCLUDED.updated_at, last_position = EXCLUDED.last_position,
			refunded_amount = EXCLUDED.refunded_amount, disputed = EXCLUDED.disputed, reversed = EXCLUDED.reversed, money = EXCLUDED.money`, f.table),
		id, slot, product, user, gateway, status, amount, currency, method, confirmed, reason, refund, created, updated, last,
		refunded, disputed, reversed, kept)
}

func (f *fold) writeRefunds(b *pgx.Batch) {
	if len(f.refunds) == 0 {
		return
	}
	n := len(f.refunds)
	var (
		id, payment      = make(pgbinary.IDs, 0, n), make(pgbinary.IDs, 0, n)
		amount, currency = make([]string, 0, n), make([]string, 0, n)
		cause, status    = make([]string, 0, n), make([]string, 0, n)
		unit             = make([]bool, 0, n)
		reason           = make([]string, 0, n)
		failure          = make([]*string, 0, n)
		created, updated = make([]time.Time, 0, n), make([]time.Time, 0, n)
		last             = make([]int64, 0, n)
	)
	for _, r := range f.refunds {
		id, payment = append(id, pgbinary.ID(r.ID)), append(payment, pgbinary.ID(r.payment))
		amount, currency = append(amount, r.Amount.Amount().String()), append(currency, r.Amount.Currency())
		cause, status, unit = append(cause, string(r.Cause)), append(status, string(r.Status)), append(unit, r.ReturnUnit)
		reason, failure = append(reason, r.Reason), append(failure, optional(r.FailureReason))
		created, updated, last = append(created, r.CreatedAt), append(updated, r.UpdatedAt), append(last, r.last)
	}
	b.Queue(fmt.Sprintf(`
		INSERT INTO %s (id, payment_id, amount, currency, cause, status, return_unit, reason, failure_reason, created_at, updated_at, last_position)
		SELECT * FROM unnest($1::uuid[], $2::uuid[], $3::text[]::numeric[], $4::text[], $5::text[], $6::text[], $7::bool[], $8::text[], $9::text[],
		                     $10::timestamptz[], $11::timestamptz[], $12::bigint[])
		ON CONFLICT (id) DO UPDATE SET
			status = EXCLUDED.status, failure_reason = EXCLUDED.failure_reason, updated_at = EXCLUDED.updated_at, last_position = EXCLUDED.last_position`,
		f.refundsTable), id, payment, amount, currency, cause, status, unit, reason, failure, created, updated, last)
}

// keptText returns the column money as text, nil if there is none.
func (r *Row) keptText() *string {
	kept, err := r.money()
	if err != nil { // cannot fail for a struct of texts, numbers and times
		panic(err)
	}
	if kept == nil {
		return nil
	}
	text := string(kept)
	return &text
}
