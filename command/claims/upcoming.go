package claims

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"
)

// storeClockSQL is the event store's clock outside of an append: the time that the next
// event would have. Payments and expiry are judged by this clock only: Postgres' own
// may have been set back since an event was recorded.
const storeClockSQL = `greatest(clock_timestamp(), (select recorded_at from events order by position desc limit 1))`

const (
	untilEndSQL = `
select extract(epoch from due_at - ` + storeClockSQL + `)::float8
from slot_claims where due_at = deadline order by due_at limit 1`

	// No warning is due after the deadline.
	untilWarningSQL = `
select extract(epoch from warn_at - at)::float8
from slot_claims, (select ` + storeClockSQL + ` as at) as clock where warn_at is not null and deadline > at order by warn_at limit 1`
)

// StoreClock reads the event store's clock.
func (s *Store) StoreClock(ctx context.Context) (time.Time, error) {
	ctx, cancel := context.WithTimeout(ctx, statementTimeout)
	defer cancel()
	var now time.Time
	if err := s.pool.QueryRow(ctx, `select `+storeClockSQL).Scan(&now); err != nil {
		return time.Time{}, fmt.Errorf("read the event store's clock: %w", err)
	}
	return now, nil
}

// UntilExpiry returns in how long the next active slot without a pending payment is due
// to end, 0 or less if one is due already; false if there is none.
func (s *Store) UntilExpiry(ctx context.Context) (time.Duration, bool, error) {
	return s.until(ctx, untilEndSQL)
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
