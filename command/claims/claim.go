package claims

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/dopaminestore/dopamine/domain"
)

// statementTimeout bounds each statement: a Postgres that does not answer counts as
// unavailable.
const statementTimeout = 3 * time.Second

// Store reads claims.
type Store struct{ pool *pgxpool.Pool }

// NewStore creates a Store on the write side's database.
func NewStore(pool *pgxpool.Pool) *Store { return &Store{pool: pool} }

// Status is the status of a slot that holds a unit.
type Status = domain.SlotStatus

// The statuses of slots that hold a unit.
const (
	Active    = domain.ActiveSlot
	Completed = domain.CompletedSlot
)

// Record is a row of slot_claims: it assigns a unit to a slot.
type Record struct {
	Product    uuid.UUID
	SlotID     uuid.UUID
	Number     int64 // arrivalSequence
	Unit       int
	Buyer      uuid.UUID
	KeyHash    []byte // nil for none
	Status     Status
	AcquiredAt time.Time // UTC
	Deadline   time.Time // UTC
	Position   int64     // of its SlotAcquired
}

const recordColumns = `product_id, slot_id, number, unit, buyer, key_hash, status, acquired_at, deadline, position`

// BySlot reads the claim of a slot that holds a unit; false if it holds none.
func (s *Store) BySlot(ctx context.Context, slot uuid.UUID) (Record, bool, error) {
	return s.record(ctx, `select `+recordColumns+` from slot_claims where slot_id = $1`, slot)
}

// ByBuyer reads the claim of the buyer's slot of the product; false for none.
func (s *Store) ByBuyer(ctx context.Context, product, buyer uuid.UUID) (Record, bool, error) {
	return s.record(ctx, `select `+recordColumns+` from slot_claims where product_id = $1 and buyer = $2`, product, buyer)
}

func (s *Store) record(ctx context.Context, sql string, args ...any) (Record, bool, error) {
	ctx, cancel := context.WithTimeout(ctx, statementTimeout)
	defer cancel()
	var r Record
	err := s.pool.QueryRow(ctx, sql, args...).Scan(&r.Product, &r.SlotID, &r.Number, &r.Unit, &r.Buyer, &r.KeyHash,
		&r.Status, &r.AcquiredAt, &r.Deadline, &r.Position)
	if errors.Is(err, pgx.ErrNoRows) {
		return Record{}, false, nil
	}
	if err != nil {
		return Record{}, false, fmt.Errorf("read a claim: %w", err)
	}
	r.AcquiredAt, r.Deadline = r.AcquiredAt.UTC(), r.Deadline.UTC()
	return r, true, nil
}
