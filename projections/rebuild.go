package projections

import (
	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"

	"github.com/dopaminestore/dopamine/domain"
	"github.com/dopaminestore/dopamine/internal/pgbinary"
)

// Rebuildable is a projection that a replay can rebuild.
type Rebuildable interface {
	Projection
	// Tables returns the tables that each generation has.
	Tables() []KeyedTable
	// NewBulk starts to fill the empty tables of a generation from the whole history. It keeps
	// about 2*maxRows rows in memory.
	NewBulk(generation, maxRows int) Bulk
}

// KeyedTable describes a table of a projection. Every row has a uuid as its key and the
// last_position that changed it.
type KeyedTable struct {
	Base     string // name without the generation
	Key      string // the key's column
	Upserted bool   // a Bulk writes by the key, so its index must exist from the start
	// Later are columns that a migration added and could not fill, because the read database does not have
	// the events: null in a live row means not known, until the row changes or is rebuilt.
	Later []string
}

// Bulk folds a history that is too large for memory. Rows that have not changed for a while are
// written out: new rows by COPY, rows that were read back by their key. For each page of events the
// caller calls Needs, then Load and Loaded if Needs returned any, then Apply for each event, then
// Spill.
type Bulk interface {
	// Needs returns the events whose rows may have been written out. They are found by the tables'
	// keys (projection_create_key).
	Needs(events []domain.Envelope) []domain.Envelope
	Load(b *pgx.Batch, needed []domain.Envelope)
	Loaded()
	Apply(e domain.Envelope) error
	// Spill returns the rows that have to be written out, all of them if all is set.
	Spill(all bool) Spill
}

// Spill holds the rows to be written out; the receiver owns them. Copies come first.
type Spill struct {
	Copies  []pgbinary.Copy
	Upserts []Fold // written with Write
}

// Window is the set of rows that a Bulk has in memory, in two ages. Young has the rows touched
// since the last turn. Rows that were touched in the turn before stay in memory until they are
// touched again or the window turns.
type Window[V any] struct {
	Young map[uuid.UUID]V

	old       map[uuid.UUID]V
	stored    map[uuid.UUID]bool // rows in memory that also have a version in the table
	requested []uuid.UUID
	maxRows   int
	spilled   bool
}

// NewWindow returns an empty window that turns when it has maxRows young rows.
func NewWindow[V any](maxRows int) *Window[V] {
	return &Window[V]{Young: map[uuid.UUID]V{}, old: map[uuid.UUID]V{}, stored: map[uuid.UUID]bool{}, maxRows: maxRows}
}

// Needs returns the events whose rows are not in memory but may be in the table. creates reports
// whether an event creates its row, so that the table cannot have it.
func (w *Window[V]) Needs(key func(domain.Envelope) (uuid.UUID, bool), creates func(domain.Event) bool, events []domain.Envelope) (needed []domain.Envelope) {
	w.requested = w.requested[:0]
	if !w.spilled {
		return nil
	}
	created := map[uuid.UUID]bool{}
	for _, e := range events {
		k, ok := key(e)
		if !ok {
			continue
		}
		if creates(e.Event) {
			created[k] = true
			continue
		}
		_, young := w.Young[k]
		_, old := w.old[k]
		if !young && !old && !created[k] {
			needed = append(needed, e)
			w.requested = append(w.requested, k)
		}
	}
	return needed
}

// Loaded records which of the requested rows were found in the table.
func (w *Window[V]) Loaded() {
	for _, k := range w.requested {
		if _, found := w.Young[k]; found {
			w.stored[k] = true
		}
	}
}

// Touch makes a row young if it is in memory.
func (w *Window[V]) Touch(key uuid.UUID) {
	if v, waits := w.old[key]; waits {
		w.Young[key] = v
		delete(w.old, key)
	}
}

// Stored reports whether the table has a version of the row.
func (w *Window[V]) Stored(key uuid.UUID) bool { return w.stored[key] }

// Turn removes and returns the rows that were not touched during a turn, if the window is full. If
// all is set it removes all rows. fresh rows are in no table yet. After a turn Young is a new map.
func (w *Window[V]) Turn(all bool) (turned bool, fresh []V, stored map[uuid.UUID]V) {
	if !all && len(w.Young) < w.maxRows {
		return false, nil, nil
	}
	leaving := []map[uuid.UUID]V{w.old}
	w.old, w.Young = w.Young, make(map[uuid.UUID]V, len(w.Young))
	if all {
		leaving = append(leaving, w.old)
		w.old = map[uuid.UUID]V{}
	}
	fresh, stored = make([]V, 0, len(leaving[0])), map[uuid.UUID]V{}
	for _, rows := range leaving {
		for k, v := range rows {
			w.spilled = true
			if w.stored[k] {
				stored[k] = v
				delete(w.stored, k)
			} else {
				fresh = append(fresh, v)
			}
		}
	}
	return true, fresh, stored
}
