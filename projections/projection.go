package projections

import (
	"fmt"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"

	"github.com/dopaminestore/dopamine/domain"
	"github.com/dopaminestore/dopamine/internal/pgbinary"
)

// Projection is one read model.
type Projection interface {
	// Name returns its name in tables, views and commands.
	Name() string
	// Key returns the key of the row that an event changes, false if it changes none. All events of
	// one key are in one partition.
	Key(e domain.Envelope) (uuid.UUID, bool)
	// RawKey is like Key for an event of which only the headers can be read.
	RawKey(eventType string, product, stream uuid.UUID) (uuid.UUID, bool)
	// NewFold starts a batch on the tables of one generation.
	NewFold(generation int) Fold
}

// Redefined is implemented by a projection whose rows have changed their meaning since its first
// version. Only programs with the same schema version write a generation. A replay by a program
// with a newer one builds the next generation. No projection implements it yet.
type Redefined interface {
	// SchemaVersion counts up from 2. A projection without the method has schema version 1.
	SchemaVersion() int
}

// SchemaVersionOf returns the schema version with which a projection builds rows.
func SchemaVersionOf(p Projection) int {
	if r, ok := p.(Redefined); ok {
		return r.SchemaVersion()
	}
	return 1
}

// Fold holds the rows that a batch of events changes, in memory. It is used once: Load, Apply for
// each event in order, Write.
type Fold interface {
	// Load queues the queries for the rows that the events change.
	Load(b *pgx.Batch, events []domain.Envelope)
	// Apply changes the rows in memory. After an error they may be partly changed, and the fold
	// must be discarded.
	Apply(e domain.Envelope) error
	// Write queues the statements that write the rows.
	Write(b *pgx.Batch)
}

// KeysToLoad returns the keys of the rows that a fold has to load: those of events that neither
// create their row nor come after an event of the same row.
func KeysToLoad(events []domain.Envelope, key func(domain.Envelope) (uuid.UUID, bool), creates func(domain.Event) bool) (keys pgbinary.IDs) {
	seen := make(map[uuid.UUID]bool, len(events))
	for _, e := range events {
		k, ok := key(e)
		if !ok || seen[k] {
			continue
		}
		seen[k] = true
		if !creates(e.Event) {
			keys = append(keys, pgbinary.ID(k))
		}
	}
	return keys
}

// Creates reports whether an event has the type E, which creates the row.
func Creates[E domain.Event](e domain.Event) bool {
	_, yes := e.(E)
	return yes
}

// Table returns the name of a generation's table: "products_g2" for "products" and 2.
func Table(base string, generation int) string { return fmt.Sprintf("%s_g%d", base, generation) }
