package claims

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"
)

const (
	untilEndSQL = `
select extract(epoch from due_at - clock_timestamp())::float8
from slot_claims where due_at = deadline order by due_at limit 1`

	// Those whose deadline has passed are warned of no more.
	untilWarningSQL = `
select extract(epoch from warn_at - clock_timestamp())::float8
from slot_claims where warn_at is not null and deadline > clock_timestamp() order by warn_at limit 1`
)

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
