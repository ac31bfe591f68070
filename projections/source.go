package projections

import (
	"context"
	"fmt"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/dopaminestore/dopamine/eventstore"
)

// Store is the part of the event store that read models are built from: its identity, its events,
// and the copies of those that the topic lacks or that cannot be decoded.
type Store interface {
	ReadAll(ctx context.Context, after int64, limit int) ([]eventstore.Recorded, error)
	At(ctx context.Context, position int64) (eventstore.Recorded, error)
	Events(ctx context.Context, positions []int64) ([]eventstore.Recorded, error)
	IDs(ctx context.Context, positions []int64) (map[int64]uuid.UUID, error)
	Identity(ctx context.Context) (eventstore.Identity, error)
}

// RefusedError is the reason why a projector or a replay must not continue, with what to do about
// it.
type RefusedError struct{ Reason string }

func (e *RefusedError) Error() string { return "projections: " + e.Reason }

// CheckSource returns a *RefusedError if the event store is not the one that the rows were built
// from. If there are no rows yet, it records that they are built from this store.
func CheckSource(ctx context.Context, readPool *pgxpool.Pool, store eventstore.Identity) error {
	var recorded uuid.UUID
	err := readPool.QueryRow(ctx, `
		WITH made AS (INSERT INTO projection_source (store_id, incarnation) VALUES ($1, $2) ON CONFLICT DO NOTHING RETURNING store_id)
		SELECT store_id FROM made UNION ALL SELECT store_id FROM projection_source LIMIT 1`, store.Store, store.Incarnation).Scan(&recorded)
	if err != nil {
		return fmt.Errorf("read which event store the projections were built from: %w", err)
	}
	if recorded != store.Store {
		return &RefusedError{fmt.Sprintf("the read side was built from event store %s, this one is %s. Point both at the same system, or begin with an empty read database", recorded, store.Store)}
	}
	return nil
}
