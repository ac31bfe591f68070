package replay

import (
	"context"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/dopaminestore/dopamine/projections"
)

// lockClass is the first half of the advisory lock that a replay holds on the read database. The
// second is hashtext of the projection's name.
const lockClass = 1146049863

// Phases of a replay; the last four are final.
const (
	Reading     = "reading"
	Indexing    = "indexing"
	CatchingUp  = "catching up"
	Comparing   = "comparing"
	Swapping    = "swapping"
	Swapped     = "swapped"
	Differs     = "differs"
	Failed      = "failed"
	Interrupted = "interrupted"
)

// Replay is one replay, as recorded in its table.
type Replay struct {
	ID         int64
	Projection string
	Generation int    // the generation that it builds
	Source     string // store or kafka
	Phase      string
	Events     int64 // number of events read so far
	Position   int64 // everything up to it is in the generation's tables
	Target     int64 // the event store's head when it was last read
	Rate       float64
	Error      string
	StartedAt  time.Time
	UpdatedAt  time.Time
	EndedAt    time.Time // zero if it is running or was killed
	Running    bool      // its process holds the lock
}

// ETA returns the time until the target is reached at the current rate, 0 if it cannot be computed.
func (r Replay) ETA() time.Duration {
	if !r.Running || r.Rate <= 0 {
		return 0
	}
	return time.Duration(float64(max(0, r.Target-r.Position)) / r.Rate * float64(time.Second))
}

// Latest reads the latest replay of each projection, ordered by name.
func Latest(ctx context.Context, q projections.Querier) ([]Replay, error) {
	rows, err := q.Query(ctx, `
		SELECT DISTINCT ON (projection)
		       id, projection, generation, source, phase, events, position, target, rate, coalesce(error, ''),
		       started_at, updated_at, coalesce(ended_at, 'epoch'),
		       ended_at IS NULL AND EXISTS (
		           SELECT FROM pg_locks
		           WHERE locktype = 'advisory' AND objsubid = 2 AND granted AND classid = $1
		             AND objid = (hashtext(projection)::bigint & 4294967295)::oid
		             AND database = (SELECT oid FROM pg_database WHERE datname = current_database()))
		FROM projection_replays ORDER BY projection, id DESC`, lockClass)
	if err != nil {
		return nil, fmt.Errorf("read the replays: %w", err)
	}
	all, err := pgx.CollectRows(rows, func(row pgx.CollectableRow) (r Replay, err error) {
		err = row.Scan(&r.ID, &r.Projection, &r.Generation, &r.Source, &r.Phase, &r.Events, &r.Position, &r.Target, &r.Rate, &r.Error,
			&r.StartedAt, &r.UpdatedAt, &r.EndedAt, &r.Running)
		if r.EndedAt.Unix() == 0 {
			r.EndedAt = time.Time{}
		}
		return r, err
	})
	if err != nil {
		return nil, fmt.Errorf("read the replays: %w", err)
	}
	return all, nil
}
