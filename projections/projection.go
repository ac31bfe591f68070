package projections

import (
	"fmt"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"

	"github.com/dopaminestore/dopamine/domain"
)

// Projection is one read model.
type Projection interface {
	// Name is its name in tables, views and commands.
	Name() string
	// Key is the row that an event changes; false where it changes none. All
	// events of one key are in one partition.
	Key(e domain.Envelope) (uuid.UUID, bool)
	// RawKey is Key for an event of which only its headers can be read.
	RawKey(eventType string, product, stream uuid.UUID) (uuid.UUID, bool)
	// NewFold begins a batch over the tables of one generation.
	NewFold(generation int) Fold
}

// Redefined is a projection whose rows mean something else than those of the
// first version of it did. A generation is written only by programs of its own
// definition; a replay by a program of the next one makes the next generation.
type Redefined interface {
	// Definition counts up from 2; a projection without it has definition 1.
	Definition() int
}

// DefinitionOf is the definition by which a projection makes rows.
func DefinitionOf(p Projection) int {
	if r, ok := p.(Redefined); ok {
		return r.Definition()
	}
	return 1
}

// Fold is the rows that a batch of events changes, in memory. It is used
// once: Load, Apply for each event in order, Write.
type Fold interface {
	// Load queues the reading of those rows that the events need as they are.
	Load(b *pgx.Batch, events []domain.Envelope)
	// Apply changes the rows in memory. Upon an error they may be half changed;
	// the fold must then be thrown away.
	Apply(e domain.Envelope) error
	// Write queues the writing of the rows.
	Write(b *pgx.Batch)
}

// Table is the name of a generation's table: "products" and 2 make
// "products_g2".
func Table(base string, generation int) string { return fmt.Sprintf("%s_g%d", base, generation) }

// applyAll applies events in order; a panic is an error like any other.
func applyAll(f Fold, events []domain.Envelope) (err error) {
	at := 0
	defer func() {
		if p := recover(); p != nil {
			err = fmt.Errorf("%s at position %d: panic: %v", events[at].Event.EventType(), events[at].Position, p)
		}
	}()
	for i, e := range events {
		at = i
		if err := f.Apply(e); err != nil {
			return fmt.Errorf("%s at position %d: %w", e.Event.EventType(), e.Position, err)
		}
	}
	return nil
}
