package audit

import (
	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"

	"github.com/dopaminestore/dopamine/domain"
	"github.com/dopaminestore/dopamine/projections"
)

var _ projections.Rebuildable = Projection{}

// Tables implements projections.Rebuildable.
func (Projection) Tables() []projections.KeyedTable {
	return []projections.KeyedTable{{Base: "slot_audit_log", Key: "event_id"}}
}

// NewBulk implements projections.Rebuildable: rows go out as they come, the
// status of slots is what it remembers.
func (p Projection) NewBulk(generation, most int) projections.Bulk {
	b := &bulk{window: projections.NewWindow[string](most), most: most}
	b.fold = p.NewFold(generation).(*fold)
	b.fold.status = b.window.Young
	return b
}

// copiedRows is how many rows go out at a time.
const copiedRows = 10_000

type bulk struct {
	fold   *fold
	window *projections.Window[string]
	most   int
}

// asksForStatus is the slot whose status an event leaves as it is.
func asksForStatus(e domain.Envelope) (uuid.UUID, bool) {
	switch e.Event.(type) {
	case domain.PaymentFailed, domain.PaymentRegranted, domain.RefundDue, domain.RefundCompleted:
		return e.StreamID, true
	}
	return uuid.Nil, false
}

func (b *bulk) Needs(events []domain.Envelope) []domain.Envelope {
	return b.window.Needs(asksForStatus, func(domain.Event) bool { return false }, events)
}

func (b *bulk) Load(batch *pgx.Batch, needed []domain.Envelope) { b.fold.Load(batch, needed) }

// Loaded has nothing to note: rows are never changed.
func (b *bulk) Loaded() {}

func (b *bulk) Apply(e domain.Envelope) error {
	b.window.Touch(e.StreamID)
	return b.fold.Apply(e)
}

var columns = []string{"event_id", "type", "slot_id", "product_id", "user_id", "old_status", "new_status", "trace_id", "actor",
	"recorded_at", "position", "metadata"}

func (b *bulk) Spill(all bool) (s projections.Spill) {
	turns := all || len(b.window.Young) >= b.most // with the rows that the statuses came from
	if turns || len(b.fold.rows) >= min(copiedRows, b.most) {
		s.Copies = []projections.Copy{projections.CopyRows(b.fold.table, columns, b.fold.rows, func(v []any, r Row) {
			v[0], v[1], v[2], v[3], v[4] = projections.ID(r.EventID), r.Type, projections.ID(r.SlotID), projections.ID(r.ProductID), projections.ID(r.UserID)
			v[5], v[6], v[7], v[8] = r.OldStatus, r.NewStatus, r.TraceID, r.Actor
			v[9], v[10], v[11] = r.RecordedAt, r.Position, r.Metadata
		})}
		b.fold.rows = make([]Row, 0, len(b.fold.rows))
	}
	if turns {
		b.window.Turn(all)
		b.fold.status = b.window.Young
	}
	return s
}
