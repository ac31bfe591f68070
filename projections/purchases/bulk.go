package purchases

import (
	"github.com/jackc/pgx/v5"

	"github.com/dopaminestore/dopamine/domain"
	"github.com/dopaminestore/dopamine/projections"
)

var _ projections.Rebuildable = Projection{}

// Tables implements projections.Rebuildable.
func (Projection) Tables() []projections.KeyedTable {
	return []projections.KeyedTable{{Base: "purchases", Key: "id"}}
}

// NewBulk implements projections.Rebuildable.
func (p Projection) NewBulk(generation, most int) projections.Bulk {
	b := &bulk{window: projections.NewWindow[*Row](most)}
	b.fold = p.NewFold(generation).(*fold)
	b.fold.rows = b.window.Young
	return b
}

type bulk struct {
	fold   *fold
	window *projections.Window[*Row]
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
	"confirmation_timestamp", "failure_reason", "refund_status", "created_at", "updated_at", "last_position"}

func writeRow(w *projections.CopyRow, r *Row) {
	w.ID(r.ID)
	w.ID(r.SlotID)
	w.ID(r.ProductID)
	w.ID(r.UserID)
	projections.Optional(w, r.GatewayPaymentID, (*projections.CopyRow).Text)
	w.Text(r.Status)
	w.Decimal(r.Amount)
	w.Text(r.Currency)
	w.Text(r.Method)
	projections.Optional(w, r.ConfirmedAt, (*projections.CopyRow).Time)
	projections.Optional(w, r.FailureReason, (*projections.CopyRow).Text)
	projections.Optional(w, r.RefundStatus, (*projections.CopyRow).Text)
	w.Time(r.CreatedAt)
	w.Time(r.UpdatedAt)
	w.Long(r.LastPosition)
}

func (b *bulk) Spill(all bool) projections.Spill {
	turned, fresh, stored := b.window.Turn(all)
	if !turned {
		return projections.Spill{}
	}
	b.fold.rows = b.window.Young
	return projections.Spill{
		Copies:  []projections.Copy{projections.CopyRows(b.fold.table, columns, fresh, writeRow)},
		Upserts: []projections.Fold{&fold{table: b.fold.table, rows: stored}},
	}
}
