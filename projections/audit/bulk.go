package audit

import (
	"github.com/google/uuid"

	"github.com/dopaminestore/dopamine/domain"
	"github.com/dopaminestore/dopamine/internal/pgbinary"
	"github.com/dopaminestore/dopamine/projections"
)

var _ projections.Rebuildable = Projection{}

// Tables implements projections.Rebuildable.
func (Projection) Tables() []projections.KeyedTable {
	return []projections.KeyedTable{{Base: "slot_audit_log", Key: "event_id"}}
}

// NewBulk implements projections.Rebuildable. Rows are written as they come; only the status of
// slots is kept in memory.
func (p Projection) NewBulk(generation, maxRows int) projections.Bulk {
	b := &bulk{fold: p.NewFold(generation).(*fold), Window: projections.NewWindow[domain.SlotStatus](maxRows), maxRows: maxRows}
	b.status = b.Young
	return b
}

// copiedRows is the number of rows written at a time.
const copiedRows = 10_000

type bulk struct {
	*fold
	*projections.Window[domain.SlotStatus]
	maxRows int
}

// keepsStatus reports whether an event does not change its slot's status: the events of payments,
// except for the two that contain it.
func keepsStatus(e domain.Event) bool {
	switch e.(type) {
	case domain.PaymentInitiated, domain.PaymentCompleted:
		return false
	}
	_, _, ok := domain.PaymentOf(e)
	return ok
}

func (b *bulk) Needs(events []domain.Envelope) []domain.Envelope {
	slot := func(e domain.Envelope) (uuid.UUID, bool) { return e.StreamID, keepsStatus(e.Event) }
	return b.Window.Needs(slot, func(domain.Event) bool { return false }, events)
}

// Loaded does nothing: rows never change.
func (b *bulk) Loaded() {}

func (b *bulk) Apply(e domain.Envelope) error {
	b.Touch(e.StreamID)
	return b.fold.Apply(e)
}

func (b *bulk) Spill(all bool) (s projections.Spill) {
	turns := all || len(b.Young) >= b.maxRows // together with the rows that the statuses were read from
	if turns || len(b.rows) >= min(copiedRows, b.maxRows) {
		s.Copies = []pgbinary.Copy{rows.Copy(b.table, b.rows)}
		b.rows = make([]*Row, 0, len(b.rows))
	}
	if turns {
		b.Turn(all)
		b.status = b.Young
	}
	return s
}
