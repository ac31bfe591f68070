package projections

import (
	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"

	"github.com/dopaminestore/dopamine/domain"
)

// Rebuildable is a projection that a replay can build anew.
type Rebuildable interface {
	Projection
	// Tables are those of each generation.
	Tables() []KeyedTable
	// NewBulk begins to fill the empty tables of a generation with a whole
	// history, of which it keeps about twice most rows in memory.
	NewBulk(generation, most int) Bulk
}

// KeyedTable is a table of a projection: every row has a uuid of its own and
// the last_position that changed it.
type KeyedTable struct {
	Base     string // its name without the generation
	Key      string // the column
	Upserted bool   // a Bulk writes it by its key, which must be there from the start
}

// Bulk folds a history that is too large for memory. Rows that have not changed
// for long leave it: new ones through COPY, those that were read back by key.
// For each page of events: Needs, and where it gives any, Load and Loaded; then
// Apply for each event, then Spill.
type Bulk interface {
	// Needs are those events whose rows may have left memory. They are found by
	// the tables' keys (projection_create_key).
	Needs(events []domain.Envelope) []domain.Envelope
	Load(b *pgx.Batch, needed []domain.Envelope)
	Loaded()
	Apply(e domain.Envelope) error
	// Spill takes out what has to leave memory, everything where all is true.
	Spill(all bool) Spill
}

// Spill is what leaves memory; the receiver owns it. Copies come first.
type Spill struct {
	Copies  []Copy
	Upserts []Fold // to be written with Write
}

// Window is the rows that a Bulk has in memory. Those that were touched since
// the last turn are in Young, those touched in the turn before it wait to be
// touched again or to leave.
type Window[V any] struct {
	Young map[uuid.UUID]V

	old     map[uuid.UUID]V
	stored  map[uuid.UUID]bool // of those in memory: the table has them too
	asked   []uuid.UUID
	most    int
	spilled bool
}

// NewWindow makes an empty one that turns when most rows are young.
func NewWindow[V any](most int) *Window[V] {
	return &Window[V]{Young: map[uuid.UUID]V{}, old: map[uuid.UUID]V{}, stored: map[uuid.UUID]bool{}, most: most}
}

// Needs are the events whose rows are not in memory but may be in the table.
// creates says of an event that its row cannot be there before it.
func (w *Window[V]) Needs(key func(domain.Envelope) (uuid.UUID, bool), creates func(domain.Event) bool, events []domain.Envelope) (needed []domain.Envelope) {
	w.asked = w.asked[:0]
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
			w.asked = append(w.asked, k)
		}
	}
	return needed
}

// Loaded notes which of the rows that were asked for the table had.
func (w *Window[V]) Loaded() {
	for _, k := range w.asked {
		if _, found := w.Young[k]; found {
			w.stored[k] = true
		}
	}
}

// Touch makes a row young, if it is in memory.
func (w *Window[V]) Touch(key uuid.UUID) {
	if v, waits := w.old[key]; waits {
		w.Young[key] = v
		delete(w.old, key)
	}
}

// Stored says whether the table has a version of the row.
func (w *Window[V]) Stored(key uuid.UUID) bool { return w.stored[key] }

// Turn takes the rows out that were not touched for a turn, if it is time, all
// rows where all is true: fresh ones are in no table yet. Young is another map
// then.
func (w *Window[V]) Turn(all bool) (turned bool, fresh []V, stored map[uuid.UUID]V) {
	if !all && len(w.Young) < w.most {
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
