package parking

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"

	"github.com/dopaminestore/dopamine/internal/sleep"
)

// Action is what an operator requests for a parked key.
type Action string

// Retry applies the parked events of a key again, in order, up to the first that fails. Skip drops
// its first event, for this and all later generations, and retries those behind it.
const (
	Retry Action = "retry"
	Skip  Action = "skip"
)

// ErrNotParked means that the key has no parked events.
var ErrNotParked = errors.New("no event of this key is parked")

// ErrRequested means that an earlier request for the key has not been served yet.
var ErrRequested = errors.New("a request for this key is pending")

// Execer is a pgx connection, pool or transaction.
type Execer interface {
	Exec(ctx context.Context, sql string, args ...any) (pgconn.CommandTag, error)
}

// Request asks for an action on a parked key of a projection's live generation. A projector serves
// it within about a second. by is recorded as the person who asked.
func Request(ctx context.Context, q Execer, projection string, key uuid.UUID, action Action, by string) error {
	tag, err := q.Exec(ctx, `
		INSERT INTO parked_orders (projection, generation, row_key, topic, partition, action, position, ordered_by)
		SELECT e.projection, e.generation, e.row_key, e.topic, e.partition, $3, e.position, $4
		FROM parked_events e JOIN projection_generations g USING (projection, generation)
		WHERE e.projection = $1 AND e.row_key = $2 AND NOT e.behind AND g.state = 'live'`, projection, key, string(action), by)
	if pg := (*pgconn.PgError)(nil); errors.As(err, &pg) && pg.ConstraintName == "parked_orders_open" {
		return ErrRequested
	}
	if err != nil {
		return fmt.Errorf("request %s for %s of %s: %w", action, key, projection, err)
	}
	if tag.RowsAffected() == 0 {
		return fmt.Errorf("%s of %s: %w", key, projection, ErrNotParked)
	}
	return nil
}

// RetryAll requests a retry of every parked key of a projection's live generation, of all
// projections if projection is "". It returns the number of requests made; keys with a pending
// request are left out.
func RetryAll(ctx context.Context, q Execer, projection, by string) (int64, error) {
	tag, err := q.Exec(ctx, `
		INSERT INTO parked_orders (projection, generation, row_key, topic, partition, action, position, ordered_by)
		SELECT e.projection, e.generation, e.row_key, e.topic, e.partition, 'retry', e.position, $2
		FROM parked_events e JOIN projection_generations g USING (projection, generation)
		WHERE ($1 = '' OR e.projection = $1) AND NOT e.behind AND e.position > 0 AND g.state = 'live'
		ON CONFLICT DO NOTHING`, projection, by)
	if err != nil {
		return 0, fmt.Errorf("request a retry of everything: %w", err)
	}
	return tag.RowsAffected(), nil
}

// Requested is one entry in the history of requests for parked events.
type Requested struct {
	ID         int64
	Projection string
	Key        uuid.UUID
	Action     Action
	Position   int64 // of the key's first event at the time of the request
	By         string
	At         time.Time
	DoneAt     *time.Time // nil until the request has been served
	Outcome    string
}

const selectRequests = `
	SELECT id, projection, row_key, action, position, ordered_by, ordered_at, done_at, coalesce(outcome, '') FROM parked_orders `

// Requests reads the requests for one key, newest first.
func Requests(ctx context.Context, q Querier, projection string, key uuid.UUID, limit int) ([]Requested, error) {
	return readRequests(ctx, q, selectRequests+`WHERE projection = $1 AND row_key = $2 ORDER BY id DESC LIMIT $3`, projection, key, limit)
}

func readRequests(ctx context.Context, q Querier, sql string, args ...any) ([]Requested, error) {
	rows, err := q.Query(ctx, sql, args...)
	if err != nil {
		return nil, fmt.Errorf("read the requests: %w", err)
	}
	requests, err := pgx.CollectRows(rows, func(row pgx.CollectableRow) (r Requested, err error) {
		err = row.Scan(&r.ID, &r.Projection, &r.Key, &r.Action, &r.Position, &r.By, &r.At, &r.DoneAt, &r.Outcome)
		return r, err
	})
	if err != nil {
		return nil, fmt.Errorf("read the requests: %w", err)
	}
	return requests, nil
}

// Await waits until the newest request for a key has been served, polling at the given
// interval. If ctx ends first, it returns the request as it is together with ctx's error.
func Await(ctx context.Context, q Querier, projection string, key uuid.UUID, interval time.Duration) (Requested, error) {
	var last Requested
	for {
		requests, err := Requests(ctx, q, projection, key, 1)
		switch {
		case err != nil:
			return last, err
		case len(requests) == 0:
			return last, errors.New("there is no request for this key")
		}
		if last = requests[0]; last.DoneAt != nil {
			return last, nil
		}
		if err := sleep.For(ctx, interval); err != nil {
			return last, err
		}
	}
}
