package products

import (
	"github.com/google/uuid"

	"github.com/dopaminestore/dopamine/domain"
	"github.com/dopaminestore/dopamine/internal/pgbinary"
	"github.com/dopaminestore/dopamine/projections"
)

var _ projections.Rebuildable = Projection{}

// Tables implements projections.Rebuildable.
func (Projection) Tables() []projections.KeyedTable {
	return []projections.KeyedTable{{Base: "products", Key: "id", Later: []string{"revision"}}}
}

// NewBulk implements projections.Rebuildable.
func (p Projection) NewBulk(generation, maxRows int) projections.Bulk {
	b := &bulk{fold: p.NewFold(generation).(*fold), Window: projections.NewWindow[*Row](maxRows)}
	b.rows = b.Young
	return b
}

type bulk struct {
	*fold
	*projections.Window[*Row]
}

func (b *bulk) Needs(events []domain.Envelope) []domain.Envelope {
	return b.Window.Needs(Projection{}.Key, creates, events)
}

func creates(e domain.Event) bool { return projections.Creates[domain.ProductCreated](e) }

func (b *bulk) Apply(e domain.Envelope) error {
	b.Touch(e.ProductID)
	stored := b.Stored(e.ProductID)
	if err := b.fold.Apply(e); err != nil {
		return err
	}
	if !stored {
		delete(b.gone, e.ProductID) // there is no row to delete
	}
	return nil
}

func (b *bulk) Spill(all bool) projections.Spill {
	turned, fresh, stored := b.Turn(all)
	if !turned {
		return projections.Spill{}
	}
	s := projections.Spill{
		Copies:  []pgbinary.Copy{rows.Copy(b.table, fresh)},
		Upserts: []projections.Fold{&fold{table: b.table, rows: stored, gone: b.gone}},
	}
	b.fold = &fold{table: b.table, rows: b.Young, gone: map[uuid.UUID]bool{}}
	return s
}
