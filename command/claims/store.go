package claims

import (
	"context"
	"errors"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/dopaminestore/dopamine/domain"
	"github.com/dopaminestore/dopamine/eventstore"
)

var errNotYet = errors.New("claims: not yet")

// Store reads the claims and is the Postgres side of the gate (redis.Store).
type Store struct{ pool *pgxpool.Pool }

// Decode turns a recorded event into a domain event (avsc.Decode).
type Decode func(eventstore.Recorded) (domain.Envelope, error)

// NewStore makes a Store over the write side's database.
func NewStore(pool *pgxpool.Pool, decode Decode) *Store { return &Store{pool: pool} }

// BySlot is the claim of a slot that holds a unit; false where it holds none.
func (s *Store) BySlot(ctx context.Context, slot uuid.UUID) (Record, bool, error) {
	return Record{}, false, errNotYet
}

// ByBuyer is the claim of the buyer's slot of the product; false for none.
func (s *Store) ByBuyer(ctx context.Context, product, buyer uuid.UUID) (Record, bool, error) {
	return Record{}, false, errNotYet
}

// Live lists the products that were not deleted.
func (s *Store) Live(ctx context.Context) ([]uuid.UUID, error) { return nil, errNotYet }

// Counts is what Postgres says of a product's units, to compare with a gate's
// State fed up to the same position.
type Counts struct {
	Epoch    int64
	Units    int
	Held     int
	LeasedAt time.Time // zero: never
}

// Counts reads a product's; false where it is gone.
func (s *Store) Counts(ctx context.Context, product uuid.UUID) (Counts, bool, error) {
	return Counts{}, false, errNotYet
}
