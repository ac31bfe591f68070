package purchases

import (
	"github.com/google/uuid"

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
	b := &bulk{fold: newFold(generation), Window: projections.NewWindow[*Row](maxRows), maxRows: maxRows}
	b.rows = b.Young
	return b
}

type bulk struct {
	*fold
	*projections.Window[*Row]
	maxRows int
}

func (b *bulk) Needs(events []domain.Envelope) []domain.Envelope {
	return b.Window.Needs(Projection{}.Key, creates, events)
}

func creates(e domain.Event) bool { return projections.Creates[domain.PaymentInitiated](e) }

func (b *bulk) Apply(e domain.Envelope) error {
	if key, ok := (Projection{}).Key(e); ok {
		b.Touch(key)
	}
	return b.fold.Apply(e)
}

func (b *bulk) Spill(all bool) (s projections.Spill) {
	if len(b.refunds) >= b.maxRows || all {
		s.Upserts = append(s.Upserts, &fold{refundsTable: b.refundsTable, refunds: b.refunds})
		b.refunds = map[uuid.UUID]*refundRow{}
	}
	turned, fresh, stored := b.Turn(all)
	if !turned {
		return s
	}
	b.rows = b.Young
	s.Copies = []pgbinary.Copy{rows.Copy(b.table, fresh)}
	s.Upserts = append(s.Upserts, &fold{table: b.table, rows: stored})
	return s
}
