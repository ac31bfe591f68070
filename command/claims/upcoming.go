package claims

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"
)

// storeClockSQL is the event store's clock outside of an append: what the next event
// would bear. By it, and by no other, payments and expiry are judged: Postgres' own
// may have been corrected backwards since an event was recorded.
const storeClockSQL = `greatest(clock_timestamp(), (select recorded_at from events order by position desc limit 1))`

const (
	untilEndSQL = `
select extract(epoch from due_at - ` + storeClockSQL + `)::float8
from slot_claims where due_at = deadline order by due_at limit 1`

	// Those whose deadline has passed are warned of no more.
	untilWarningSQL = `
select extract(epoch from warn_at - at)::float8
from slot_claims, (select ` + storeClockSQL + ` as at) as clock where warn_at is not null and deadline > at order by warn_at limit 1`
)

// StoreClock reads the event store's clock.
func (s *Store) StoreClock(ctx context.Context) (time.Time, error) {
	ctx, cancel := context.WithTimeout(ctx, answerWithin)
	defer cancel()
	var now time.Time
	if err := s.pool.QueryRow(ctx, `select `+storeClockSQL).Scan(&now); err != nil {
		return time.Time{}, fmt.Errorf("read the event store's clock: %w", err)
	}
	return now, nil
}

// UntilEnd says in how long the next active slot that waits for no payment is due
// to end, 0 or less where one is; false where there is none.
func (s *Store) UntilEnd(ctx context.Context) (time.Duration, bool, error) {
	return s.until(ctx, untilEndSQL)
}

// UntilWarning says in how long the next owner is to be warned; see UntilEnd.
func (s *Store) UntilWarning(ctx context.Context) (time.Duration, bool, error) {
	return s.until(ctx, untilWarningSQL)
}

func (s *Store) until(ctx context.Context, sql string) (time.Duration, bool, error) {
	ctx, cancel := context.WithTimeout(ctx, answerWithin)
	defer cancel()
	var seconds float64
	err := s.pool.QueryRow(ctx, sql).Scan(&seconds)
	if errors.Is(err, pgx.ErrNoRows) {
		return 0, false, nil
	}
	if err != nil {
		return 0, false, fmt.Errorf("see what is due next: %w", err)
	}
	return time.Duration(seconds * float64(time.Second)), true, nil
}
