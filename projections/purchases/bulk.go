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

func creates(e domain.Event) bool { return projections.Creates[domain.PaymentInitiated](e) }

func (b *bulk) Load(batch *pgx.Batch, needed []domain.Envelope) { b.fold.Load(batch, needed) }

func (b *bulk) Loaded() { b.window.Loaded() }

func (b *bulk) Apply(e domain.Envelope) error {
	if key, ok := (Projection{}).Key(e); ok {
		b.window.Touch(key)
	}
	return b.fold.Apply(e)
}

func (b *bulk) Spill(all bool) (s projections.Spill) {
	if len(b.fold.refunds) >= b.maxRows || all {
		s.Upserts = append(s.Upserts, &fold{refundsTable: b.fold.refundsTable, refunds: b.fold.refunds})
		b.fold.refunds = map[uuid.UUID]*refundRow{}
	}
	turned, fresh, stored := b.window.Turn(all)
	if !turned {
		return s
	}
	b.fold.rows = b.window.Young
	s.Copies = []pgbinary.Copy{rows.Copy(b.fold.table, fresh)}
	s.Upserts = append(s.Upserts, &fold{table: b.fold.table, rows: stored})
	return s
}
