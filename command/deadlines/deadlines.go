package deadlines

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/dopaminestore/dopamine/eventstore"
)

// statementTimeout bounds each statement: a Postgres that does not answer counts as
// unavailable.
const statementTimeout = 3 * time.Second

// Store finds the slots for which an action is due.
type Store struct {
	pool   *pgxpool.Pool
	reader *eventstore.Reader
}

// NewStore creates a Store on the write side's database.
func NewStore(pool *pgxpool.Pool) *Store {
	return &Store{pool: pool, reader: eventstore.NewReader(pool)}
}

// Slot is an active slot for which an action is due.
type Slot struct {
	Product, SlotID uuid.UUID
	Deadline        time.Time // UTC
	At              time.Time // UTC; since when it is due
}

// DueForExpiry lists active slots whose deadline has passed and that have no pending
// payment, those due longest first. Slots with a pending payment are excluded before the
// limit, so that they delay no other slot's end, however many there are.
func (s *Store) DueForExpiry(ctx context.Context, limit int) ([]Slot, error) {
	return s.due(ctx, `
select product_id, slot_id, deadline, due_at from slot_claims
where due_at <= $1 and due_at = deadline
order by due_at limit $2`, limit)
}

// DueForTimeout lists active slots whose pending payment has reached its timeout,
// those due longest first.
func (s *Store) DueForTimeout(ctx context.Context, limit int) ([]Slot, error) {
	return s.due(ctx, `
select product_id, slot_id, deadline, due_at from slot_claims
where due_at <= $1 and due_at > deadline
order by due_at limit $2`, limit)
}

// DueForWarning lists active slots whose owners must be warned, those with the
// nearest warning first. After the deadline no warning is due.
func (s *Store) DueForWarning(ctx context.Context, limit int) ([]Slot, error) {
	return s.due(ctx, `
select product_id, slot_id, deadline, warn_at from slot_claims
where warn_at <= $1 and deadline > $1
order by warn_at limit $2`, limit)
}

func (s *Store) due(ctx context.Context, sql string, limit int) ([]Slot, error) {
	ctx, cancel := context.WithTimeout(ctx, statementTimeout)
	defer cancel()
	now, err := s.reader.Clock(ctx)
	if err != nil {
		return nil, err
	}
	rows, err := s.pool.Query(ctx, sql, now, limit)
	if err != nil {
		return nil, fmt.Errorf("list due slots: %w", err)
	}
	due, err := pgx.CollectRows(rows, func(row pgx.CollectableRow) (d Slot, err error) {
		err = row.Scan(&d.Product, &d.SlotID, &d.Deadline, &d.At)
		d.Deadline, d.At = d.Deadline.UTC(), d.At.UTC()
		return d, err
	})
	if err != nil {
		return nil, fmt.Errorf("list due slots: %w", err)
	}
	return due, nil
}

const (
	untilEndSQL = `
select extract(epoch from due_at - ` + eventstore.ClockSQL + `)::float8
from slot_claims where due_at = deadline order by due_at limit 1`

	// No warning is due after the deadline.
	untilWarningSQL = `
select extract(epoch from warn_at - at)::float8
from slot_claims, (select ` + eventstore.ClockSQL + ` as at) as clock where warn_at is not null and deadline > at order by warn_at limit 1`
)

// UntilExpiry returns in how long the next active slot without a pending payment is due
// to end, 0 or less if one is due already; false if there is none.
func (s *Store) UntilExpiry(ctx context.Context) (time.Duration, bool, error) {
	return s.until(ctx, untilEndSQL)
}

// overdueSQL reads the first entry of each of the indexes slot_claims_ends_idx and
// slot_claims_timed_out_idx.
const overdueSQL = `
select coalesce(greatest(0, extract(epoch from at - (select due_at from slot_claims where due_at = deadline order by due_at limit 1))), 0)::float8,
       coalesce(greatest(0, extract(epoch from at - (select due_at from slot_claims where due_at > deadline order by due_at limit 1))), 0)::float8
from (select ` + eventstore.ClockSQL + ` as at) as clock`

// Overdue returns for how long the oldest active slot has been due to expire, and the oldest one
// with a pending payment to time out; 0 if none is due.
func (s *Store) Overdue(ctx context.Context) (expiry, timeout time.Duration, err error) {
	ctx, cancel := context.WithTimeout(ctx, statementTimeout)
	defer cancel()
	var ends, times float64
	if err := s.pool.QueryRow(ctx, overdueSQL).Scan(&ends, &times); err != nil {
		return 0, 0, fmt.Errorf("find the oldest overdue slot: %w", err)
	}
	return time.Duration(ends * float64(time.Second)), time.Duration(times * float64(time.Second)), nil
}

// UntilWarning returns in how long the next owner must be warned; see UntilExpiry.
func (s *Store) UntilWarning(ctx context.Context) (time.Duration, bool, error) {
	return s.until(ctx, untilWarningSQL)
}

func (s *Store) until(ctx context.Context, sql string) (time.Duration, bool, error) {
	ctx, cancel := context.WithTimeout(ctx, statementTimeout)
	defer cancel()
	var seconds float64
	err := s.pool.QueryRow(ctx, sql).Scan(&seconds)
	if errors.Is(err, pgx.ErrNoRows) {
		return 0, false, nil
	}
	if err != nil {
		return 0, false, fmt.Errorf("find the next due slot: %w", err)
	}
	return time.Duration(seconds * float64(time.Second)), true, nil
}
