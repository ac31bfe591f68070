package gatestore

import (
	"context"
	"fmt"
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

// Store is the Postgres side of the gate (redis.Store), and lists and counts gates.
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
