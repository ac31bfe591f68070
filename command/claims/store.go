package claims

import (
	"context"
	"errors"
	"fmt"
	"math"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/dopaminestore/dopamine/domain"
	"github.com/dopaminestore/dopamine/eventstore"
	"github.com/dopaminestore/dopamine/redis"
)

// statementTimeout bounds each statement that reads only some rows: a Postgres
// that does not answer counts as unavailable.
const statementTimeout = 3 * time.Second

// Store reads the claims and is the Postgres side of the gate (redis.Store).
type Store struct {
	pool      *pgxpool.Pool
	leases    *pgxpool.Pool // of leases, rows and heartbeats
	snapshots chan struct{} // one for each snapshot that may be open: each holds a connection
	reader    *eventstore.Reader
	decode    Decode
}

var _ redis.Store = (*Store)(nil)

// Decode converts a recorded event to a domain event (avsc.Decode).
type Decode func(eventstore.Recorded) (domain.Envelope, error)

// maxSnapshots is how many snapshots a Store has open at most.
const maxSnapshots = 4

// NewStore creates a Store on the write side's database. At most half of the pool's
// connections hold snapshots for rebuilds.
func NewStore(pool *pgxpool.Pool, decode Decode) *Store {
	snapshots := min(maxSnapshots, max(1, int(pool.Config().MaxConns)/2))
	return &Store{pool: pool, leases: pool, snapshots: make(chan struct{}, snapshots), reader: eventstore.NewReader(pool), decode: decode}
}

// WithLeasePool returns a Store that takes leases and records heartbeats over
// a separate pool: they must not wait behind appends, reads and snapshots,
// because gates stop without them.
func (s *Store) WithLeasePool(pool *pgxpool.Pool) *Store {
	with := *s
	with.leases = pool
	return &with
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

// Products lists the products that were not deleted.
func (s *Store) Products(ctx context.Context) ([]uuid.UUID, error) {
	ctx, cancel := context.WithTimeout(ctx, statementTimeout)
	defer cancel()
	rows, err := s.pool.Query(ctx, `select product_id from product_gates where not deleted order by product_id`)
	if err != nil {
		return nil, fmt.Errorf("list the products: %w", err)
	}
	products, err := pgx.CollectRows(rows, pgx.RowTo[uuid.UUID])
	if err != nil {
		return nil, fmt.Errorf("list the products: %w", err)
	}
	return products, nil
}

// Now implements redis.Store.
func (s *Store) Now(ctx context.Context) (time.Time, error) {
	ctx, cancel := context.WithTimeout(ctx, statementTimeout)
	defer cancel()
	var now time.Time
	if err := s.pool.QueryRow(ctx, `select clock_timestamp()`).Scan(&now); err != nil {
		return time.Time{}, fmt.Errorf("read Postgres' clock: %w", err)
	}
	return now, nil
}

// positionSQL uses the primary key.
const positionSQL = `select id from events where position = $1`

// Events implements redis.Store. The position is checked after the events were read:
// if Postgres fails over in between, the events may be of the lost tail, which the
// next call detects, but never of another history than the position.
func (s *Store) Events(ctx context.Context, product uuid.UUID, after redis.LogPosition, limit int) ([]redis.GateEvent, error) {
	ctx, cancel := context.WithTimeout(ctx, statementTimeout)
	defer cancel()
	recorded, err := s.reader.ReadPartition(ctx, product, after.Position, math.MaxInt64, limit)
	if err != nil {
		return nil, fmt.Errorf("read the events of product %s after %d: %w", product, after.Position, err)
	}
	if after.Event != uuid.Nil {
		var there uuid.UUID
		err := s.pool.QueryRow(ctx, positionSQL, after.Position).Scan(&there)
		if err != nil && !errors.Is(err, pgx.ErrNoRows) {
			return nil, fmt.Errorf("read the event at position %d: %w", after.Position, err)
		}
		if there != after.Event {
			return nil, fmt.Errorf("event %s at position %d: %w", after.Event, after.Position, redis.ErrTailLost)
		}
	}
	events := make([]redis.GateEvent, len(recorded))
	for i, r := range recorded {
		events[i].At = redis.LogPosition{Position: r.Position, Event: r.ID}
		switch r.Type {
		case domain.SlotAcquired{}.EventType(), domain.SlotExpired{}.EventType(),
			domain.SlotReturned{}.EventType(), domain.GrantWithdrawn{}.EventType(),
			domain.ProductStockIncreased{}.EventType(), domain.ProductStockDecreased{}.EventType():
			envelope, err := s.decode(r)
			if err != nil {
				return nil, fmt.Errorf("decode event %d: %w", r.Position, err)
			}
			events[i].Event = envelope.Event
		}
	}
	return events, nil
}
