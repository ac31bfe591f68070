package slots

import (
	"github.com/google/uuid"

	"github.com/dopaminestore/dopamine/domain"
	"github.com/dopaminestore/dopamine/internal/pgbinary"
	"github.com/dopaminestore/dopamine/projections"
)

var _ projections.Rebuildable = Projection{}

// Tables implements projections.Rebuildable.
func (Projection) Tables() []projections.KeyedTable {
	return []projections.KeyedTable{
		{Base: "purchase_slots", Key: "id"},
		{Base: "purchase_slots_names", Key: "product_id", Upserted: true},
	}
}

// NewBulk implements projections.Rebuildable.
func (p Projection) NewBulk(generation, maxRows int) projections.Bulk {
	b := &bulk{fold: p.NewFold(generation).(*fold), Window: projections.NewWindow[*Row](maxRows), maxRows: maxRows}
	b.rows = b.Young
	return b
}

type bulk struct {
	*fold
	*projections.Window[*Row]
	maxRows int
}

// ofSlot returns the slot whose row an event changes.
func ofSlot(e domain.Envelope) (uuid.UUID, bool) {
	switch e.Event.(type) {
	case domain.SlotAcquired, domain.SlotExpired, domain.SlotReturned, domain.PaymentCompleted:
		return e.StreamID, true
	}
	return uuid.Nil, false
}

func (b *bulk) Needs(events []domain.Envelope) []domain.Envelope {
	return b.Window.Needs(ofSlot, creates, events)
}

func creates(e domain.Event) bool { return projections.Creates[domain.SlotAcquired](e) }

func (b *bulk) Apply(e domain.Envelope) error {
	b.Touch(e.StreamID)
	return b.fold.Apply(e)
}

func (b *bulk) Spill(all bool) (s projections.Spill) {
	if len(b.names) >= b.maxRows || all {
		s.Upserts = append(s.Upserts, &fold{namesTable: b.namesTable, names: b.names})
		b.names = map[uuid.UUID]*name{}
	}
	turned, fresh, stored := b.Turn(all)
	if !turned {
		return s
	}
	s.Copies = []pgbinary.Copy{rows.Copy(b.table, fresh)}
	s.Upserts = append(s.Upserts, &fold{table: b.table, rows: stored})
	b.rows = b.Young
	return s
}
