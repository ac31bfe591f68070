package purchases

import (
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/dopaminestore/dopamine/projections"
)

func (f *fold) Write(b *pgx.Batch) {
	if len(f.rows) == 0 {
		return
	}
	n := len(f.rows)
	var (
		id, slot, product, user = make(projections.IDs, 0, n), make(projections.IDs, 0, n), make(projections.IDs, 0, n), make(projections.IDs, 0, n)
		gateway, reason, refund = make([]*string, 0, n), make([]*string, 0, n), make([]*string, 0, n)
		status, amount          = make([]string, 0, n), make([]string, 0, n)
		currency, method        = make([]string, 0, n), make([]string, 0, n)
		confirmed               = make([]*time.Time, 0, n)
		created, updated        = make([]time.Time, 0, n), make([]time.Time, 0, n)
		last                    = make([]int64, 0, n)
	)
	for _, r := range f.rows {
		id, slot, product, user = append(id, projections.ID(r.ID)), append(slot, projections.ID(r.SlotID)), append(product, projections.ID(r.ProductID)), append(user, projections.ID(r.UserID))
		gateway, status, amount = append(gateway, r.GatewayPaymentID), append(status, r.Status), append(amount, r.Amount)
		currency, method, confirmed = append(currency, r.Currency), append(method, r.Method), append(confirmed, r.ConfirmedAt)
		reason, refund = append(reason, r.FailureReason), append(refund, r.RefundStatus)
		created, updated, last = append(created, r.CreatedAt), append(updated, r.UpdatedAt), append(last, r.LastPosition)
	}
	b.Queue(fmt.Sprintf(`
		INSERT INTO %s (id, purchase_slot_id, product_id, user_id, payment_id, payment_status, amount, currency, payment_method,
		                confirmation_timestamp, failure_reason, refund_status, created_at, updated_at, last_position)
		SELECT * FROM unnest($1::uuid[], $2::uuid[], $3::uuid[], $4::uuid[], $5::text[], $6::text[], $7::text[]::numeric[], $8::text[], $9::text[],
		                     $10::timestamptz[], $11::text[], $12::text[], $13::timestamptz[], $14::timestamptz[], $15::bigint[])
		ON CONFLICT (id) DO UPDATE SET
			purchase_slot_id = EXCLUDED.purchase_slot_id, payment_id = EXCLUDED.payment_id, payment_status = EXCLUDED.payment_status,
			confirmation_timestamp = EXCLUDED.confirmation_timestamp, failure_reason = EXCLUDED.failure_reason,
			refund_status = EXCLUDED.refund_status, updated_at = EXCLUDED.updated_at, last_position = EXCLUDED.last_position`, f.table),
		id, slot, product, user, gateway, status, amount, currency, method, confirmed, reason, refund, created, updated, last)
}
