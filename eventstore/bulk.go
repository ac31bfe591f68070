package eventstore

import (
	"context"
	"fmt"

	"github.com/google/uuid"

	"github.com/dopaminestore/dopamine/internal/pgbinary"
)

// keysSQL selects the keys in a range of the log, and its last position.
const keysSQL = `
select key, max(position)
from (select key, position from events where position > $1 order by position limit $2) as piece
group by key`

// Keys returns the distinct partition keys of at most limit events after a position,
// and the position of the last event read, or after if there
// are none.
func (r *Reader) Keys(ctx context.Context, after int64, limit int) (keys []uuid.UUID, upTo int64, err error) {
	upTo = after
	rows, err := r.pool.Query(ctx, keysSQL, after, limit)
	if err != nil {
		return nil, after, fmt.Errorf("read keys after position %d: %w", after, err)
	}
	defer rows.Close()
	for rows.Next() {
		var key uuid.UUID
		var last int64
		if err := rows.Scan(&key, &last); err != nil {
			return nil, after, fmt.Errorf("read keys after position %d: %w", after, err)
		}
		keys, upTo = append(keys, key), max(upTo, last)
	}
	if err := rows.Err(); err != nil {
		return nil, after, fmt.Errorf("read keys after position %d: %w", after, err)
	}
	return keys, upTo, nil
}

// streamsSQL uses one index lookup for each stream, whatever Postgres' statistics
// of the table are; the limit prevents other joins.
const streamsSQL = `
select e.position, e.id, e.stream, e.version, e.key, e.type, e.schema_version, e.payload,
       e.traceparent, e.correlation_id, e.causation_id, e.actor, e.recorded_at
from unnest($1::uuid[]) with ordinality as s(stream, n)
cross join lateral (select * from events where stream = s.stream order by version limit 1000000) as e
order by s.n, e.version`

// Streams returns all events of several streams in one round trip: those of the
// first stream in order, then those of the second, and so on.
func (r *Reader) Streams(ctx context.Context, streams []uuid.UUID) ([]Recorded, error) {
	events, err := r.read(ctx, streamsSQL, 2*len(streams), pgbinary.Raw(streams))
	if err != nil {
		return nil, fmt.Errorf("read %d streams: %w", len(streams), err)
	}
	return events, nil
}
