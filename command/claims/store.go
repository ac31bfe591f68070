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
	"github.com/dopaminestore/dopamine/internal/failpoint"
	"github.com/dopaminestore/dopamine/redis"
)

// answerWithin bounds each statement that reads no more than some rows: a Postgres
// that says nothing is away.
const answerWithin = 3 * time.Second

// Store reads the claims and is the Postgres side of the gate (redis.Store).
type Store struct {
	pool   *pgxpool.Pool
	reader *eventstore.Reader
	decode Decode
}

var _ redis.Store = (*Store)(nil)

// Decode turns a recorded event into a domain event (avsc.Decode).
type Decode func(eventstore.Recorded) (domain.Envelope, error)

// NewStore makes a Store over the write side's database.
func NewStore(pool *pgxpool.Pool, decode Decode) *Store {
	return &Store{pool: pool, reader: eventstore.NewReader(pool), decode: decode}
}

const recordColumns = `product_id, slot_id, number, unit, buyer, key_hash, status, acquired_at, deadline, position`

// BySlot is the claim of a slot that holds a unit; false where it holds none.
func (s *Store) BySlot(ctx context.Context, slot uuid.UUID) (Record, bool, error) {
	return s.record(ctx, `select `+recordColumns+` from slot_claims where slot_id = $1`, slot)
}

// ByBuyer is the claim of the buyer's slot of the product; false for none.
func (s *Store) ByBuyer(ctx context.Context, product, buyer uuid.UUID) (Record, bool, error) {
	return s.record(ctx, `select `+recordColumns+` from slot_claims where product_id = $1 and buyer = $2`, product, buyer)
}

func (s *Store) record(ctx context.Context, sql string, args ...any) (Record, bool, error) {
	ctx, cancel := context.WithTimeout(ctx, answerWithin)
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

// Live lists the products that were not deleted.
func (s *Store) Live(ctx context.Context) ([]uuid.UUID, error) {
	ctx, cancel := context.WithTimeout(ctx, answerWithin)
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

const rowColumns = `epoch, rebuilt, deleted, units, sale_date, sale_end, paused,
    coalesce(lease_epoch < rebuilt and raised_at > clock_timestamp() - $2::interval, false)`

func scanRow(row pgx.Row) (r redis.Row, err error) {
	err = row.Scan(&r.Epoch, &r.Rebuilt, &r.Deleted, &r.Units, &r.SaleDate, &r.SaleEnd, &r.Paused, &r.Rebuilding)
	if errors.Is(err, pgx.ErrNoRows) {
		return redis.Row{}, redis.ErrUnknownProduct
	}
	return r, err
}

// Row implements redis.Store.
func (s *Store) Row(ctx context.Context, product uuid.UUID) (redis.Row, error) {
	ctx, cancel := context.WithTimeout(ctx, answerWithin)
	defer cancel()
	row, err := scanRow(s.pool.QueryRow(ctx, `select `+rowColumns+` from product_gates where product_id = $1`,
		product, redis.RebuildAlone))
	if err != nil {
		return redis.Row{}, fmt.Errorf("read the row of product %s: %w", product, err)
	}
	return row, nil
}

// leaseSQL: clock_timestamp(), since now() is the transaction's beginning and may
// lie before a wait. The row's lock makes it one step with the look at the epoch.
const leaseSQL = `
update product_gates
set leased_at = greatest(leased_at, clock_timestamp()), lease_stamp = $3, lease_epoch = epoch
where product_id = $1 and epoch = $2 and not deleted`

// Lease implements redis.Store.
func (s *Store) Lease(ctx context.Context, product uuid.UUID, epoch int64, stamp string) (bool, error) {
	ctx, cancel := context.WithTimeout(ctx, answerWithin)
	defer cancel()
	failpoint.Hit(failpoint.LeaseBefore)
	tag, err := s.pool.Exec(ctx, leaseSQL, product, epoch, stamp)
	if err != nil {
		return false, fmt.Errorf("lease epoch %d of product %s: %w", epoch, product, err)
	}
	failpoint.Hit(failpoint.LeaseAfter)
	return tag.RowsAffected() == 1, nil
}

// Alive implements redis.Store.
func (s *Store) Alive(ctx context.Context, product uuid.UUID, epoch int64) (bool, error) {
	ctx, cancel := context.WithTimeout(ctx, answerWithin)
	defer cancel()
	tag, err := s.pool.Exec(ctx,
		`update product_gates set raised_at = clock_timestamp() where product_id = $1 and rebuilt = $2 and not deleted`,
		product, epoch)
	if err != nil {
		return false, fmt.Errorf("say that the rebuild of epoch %d is alive: %w", epoch, err)
	}
	return tag.RowsAffected() == 1, nil
}

// Now implements redis.Store.
func (s *Store) Now(ctx context.Context) (time.Time, error) {
	ctx, cancel := context.WithTimeout(ctx, answerWithin)
	defer cancel()
	var now time.Time
	if err := s.pool.QueryRow(ctx, `select clock_timestamp()`).Scan(&now); err != nil {
		return time.Time{}, fmt.Errorf("read Postgres' clock: %w", err)
	}
	return now, nil
}

// Events implements redis.Store.
func (s *Store) Events(ctx context.Context, product uuid.UUID, after int64, limit int) ([]redis.Fed, error) {
	ctx, cancel := context.WithTimeout(ctx, answerWithin)
	defer cancel()
	recorded, err := s.reader.Key(ctx, product, after, math.MaxInt64, limit)
	if err != nil {
		return nil, fmt.Errorf("read the events of product %s beyond %d: %w", product, after, err)
	}
	fed := make([]redis.Fed, len(recorded))
	for i, r := range recorded {
		fed[i].Position = r.Position
		switch r.Type {
		case domain.SlotAcquired{}.EventType(), domain.SlotExpired{}.EventType(),
			domain.GrantWithdrawn{}.EventType(), domain.ProductStockIncreased{}.EventType():
			envelope, err := s.decode(r)
			if err != nil {
				return nil, fmt.Errorf("decode event %d: %w", r.Position, err)
			}
			fed[i].Event = envelope.Event
		}
	}
	return fed, nil
}
