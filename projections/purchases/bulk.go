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

func (b *bulk) Spill(all bool) projections.Spill {
	turned, fresh, stored := b.window.Turn(all)
	if !turned {
		return projections.Spill{}
	}
	b.fold.rows = b.window.Young
	return projections.Spill{
		Copies: []projections.Copy{projections.CopyRows(b.fold.table, columns, fresh, func(v []any, r *Row) {
			v[0], v[1], v[2], v[3] = projections.ID(r.ID), projections.ID(r.SlotID), projections.ID(r.ProductID), projections.ID(r.UserID)
			v[4], v[5], v[6], v[7], v[8] = r.GatewayPaymentID, r.Status, r.Amount, r.Currency, r.Method
			v[9], v[10], v[11], v[12], v[13], v[14] = r.ConfirmedAt, r.FailureReason, r.RefundStatus, r.CreatedAt, r.UpdatedAt, r.LastPosition
		})},
		Upserts: []projections.Fold{&fold{table: b.fold.table, rows: stored}},
	}
}
