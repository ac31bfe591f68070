package products

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
	return []projections.KeyedTable{{Base: "products", Key: "id", Later: []string{"revision"}}}
}

// NewBulk implements projections.Rebuildable.
func (p Projection) NewBulk(generation, maxRows int) projections.Bulk {
	b := &bulk{window: projections.NewWindow[*Row](maxRows)}
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

func creates(e domain.Event) bool { return projections.Creates[domain.ProductCreated](e) }

func (b *bulk) Load(batch *pgx.Batch, needed []domain.Envelope) { b.fold.Load(batch, needed) }

func (b *bulk) Loaded() { b.window.Loaded() }

func (b *bulk) Apply(e domain.Envelope) error {
	b.window.Touch(e.ProductID)
	stored := b.window.Stored(e.ProductID)
	if err := b.fold.Apply(e); err != nil {
		return err
	}
	if !stored {
		delete(b.fold.gone, e.ProductID) // there is no row to delete
	}
	return nil
}

func (b *bulk) Spill(all bool) projections.Spill {
	turned, fresh, stored := b.window.Turn(all)
	if !turned {
		return projections.Spill{}
	}
	s := projections.Spill{
		Copies:  []pgbinary.Copy{rows.Copy(b.fold.table, fresh)},
		Upserts: []projections.Fold{&fold{table: b.fold.table, rows: stored, gone: b.fold.gone}},
	}
	b.fold = &fold{table: b.fold.table, rows: b.window.Young, gone: map[uuid.UUID]bool{}}
	return s
}
