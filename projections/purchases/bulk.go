package purchases

import (
	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"

	"github.com/dopaminestore/dopamine/domain"
	"github.com/dopaminestore/dopamine/internal/pgbinary"
	"github.com/dopaminestore/dopamine/projections"
)

var _ projections.Rebuildable = Projection{}

// Tables implements projections.Rebuildable.
func (Projection) Tables() []projections.KeyedTable {
	return []projections.KeyedTable{{Base: "purchases", Key: "id"}, {Base: "refunds", Key: "id", Upserted: true}}
}

// NewBulk implements projections.Rebuildable.
func (p Projection) NewBulk(generation, maxRows int) projections.Bulk {
	b := &bulk{window: projections.NewWindow[*Row](maxRows), maxRows: maxRows}
	b.fold = newFold(generation)
	b.fold.rows = b.window.Young
	return b
}

type bulk struct {
	fold    *fold
	window  *projections.Window[*Row]
	maxRows int
}

func (b *bulk) Needs(events []domain.Envelope) []domain.Envelope {
	return b.window.Needs(Projection{}.Key, creates, events)
}

func creates(e domain.Event) bool {
	_, yes := e.(domain.PaymentInitiated)
	return yes
}

func (b *bulk) Load(batch *pgx.Batch, needed []domain.Envelope) { b.fold.Load(batch, needed) }

func (b *bulk) Loaded() { b.window.Loaded() }

func (b *bulk) Apply(e domain.Envelope) error {
	if key, ok := (Projection{}).Key(e); ok {
		b.window.Touch(key)
	}
	return b.fold.Apply(e)
}

var columns = []string{"id", "purchase_slot_id", "product_id", "user_id", "payment_id", "payment_status", "amount", "currency", "payment_method",
	"confirmation_timestamp", "failure_reason", "refund_status", "created_at", "updated_at", "last_position",
	"refunded_amount", "disputed", "reversed", "money"}

func writeRow(w *pgbinary.Row, r *Row) {
	w.ID(r.ID)
	w.ID(r.SlotID)
	w.ID(r.ProductID)
	w.ID(r.UserID)
	pgbinary.Optional(w, optional(r.GatewayID), (*pgbinary.Row).Text)
	w.Text(string(r.Status))
	w.Decimal(r.Price.Amount().String())
	w.Text(r.Price.Currency())
	w.Text(string(r.Method))
	pgbinary.Optional(w, optionalTime(r.ConfirmedAt), (*pgbinary.Row).Time)
	pgbinary.Optional(w, optional(r.FailureReason), (*pgbinary.Row).Text)
	pgbinary.Optional(w, optional(string(r.RefundStatus())), (*pgbinary.Row).Text)
	w.Time(r.CreatedAt)
	w.Time(r.UpdatedAt)
	w.Long(r.LastPosition)
	back, _ := r.RefundedAmount()
	w.Decimal(back.Amount().String())
	w.Bool(r.Disputed())
	w.Bool(r.Reversed)
	pgbinary.Optional(w, r.keptText(), func(w *pgbinary.Row, text string) { w.JSON([]byte(text)) })
}

func (b *bulk) Spill(all bool) (s projections.Spill) {
	if len(b.fold.refunds) >= b.maxRows || all {
		s.Upserts = append(s.Upserts, &fold{refundsTable: b.fold.refundsTable, refunds: b.fold.refunds})
		b.fold.refunds = map[uuid.UUID]refundRow{}
	}
	turned, fresh, stored := b.window.Turn(all)
	if !turned {
		return s
	}
	b.fold.rows = b.window.Young
	s.Copies = []pgbinary.Copy{pgbinary.CopyRows(b.fold.table, columns, fresh, writeRow)}
	s.Upserts = append(s.Upserts, &fold{table: b.fold.table, rows: stored})
	return s
}
