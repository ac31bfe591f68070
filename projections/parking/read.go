// Package parking reads the events that a projector has parked, and records operators' requests to
// retry or skip them. The projector parks events and serves requests, in package projector.
package parking

import (
	"context"
	"fmt"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
)

// Querier is a pgx connection, pool or transaction.
type Querier interface {
	Query(ctx context.Context, sql string, args ...any) (pgx.Rows, error)
}

// Key is a row that no longer changes because its first parked event could not be applied.
type Key struct {
	Projection string
	Key        uuid.UUID
	Position   int64 // of the first event; 0 if it is no event of the store
	Type       string
	Product    *uuid.UUID // nil if the record does not contain it
	Events     int64      // the first event and those behind it
	Error      string
	Attempts   int
	ParkedAt   time.Time
	Requested  Action // what is requested and not served yet, "" for nothing
}

// Keys lists the parked keys of live generations, longest parked first. If projection is "",
// it lists those of all projections.
func Keys(ctx context.Context, q Querier, projection string, limit int) ([]Key, error) {
	rows, err := q.Query(ctx, `
		SELECT e.projection, e.row_key, e.position, e.event_type, e.product_id, e.error, e.attempts, e.parked_at,
		       (SELECT count(*) FROM parked_events b
		        WHERE b.projection = e.projection AND b.generation = e.generation AND b.row_key = e.row_key),
		       coalesce((SELECT o.action FROM parked_orders o
		        WHERE o.projection = e.projection AND o.generation = e.generation AND o.row_key = e.row_key AND o.done_at IS NULL), '')
		FROM parked_events e JOIN projection_generations g USING (projection, generation)
		WHERE g.state = 'live' AND NOT e.behind AND ($1 = '' OR e.projection = $1)
		ORDER BY e.parked_at, e.projection, e.row_key LIMIT $2`, projection, limit)
	if err != nil {
		return nil, fmt.Errorf("list parked keys: %w", err)
	}
	keys, err := pgx.CollectRows(rows, func(row pgx.CollectableRow) (k Key, err error) {
		err = row.Scan(&k.Projection, &k.Key, &k.Position, &k.Type, &k.Product, &k.Error, &k.Attempts, &k.ParkedAt, &k.Events, &k.Requested)
		return k, err
	})
	if err != nil {
		return nil, fmt.Errorf("list parked keys: %w", err)
	}
	return keys, nil
}

// Event is one event that was set aside, as it was in Kafka.
type Event struct {
	Position  int64 // 0 if it is no event of the store
	EventID   *uuid.UUID
	EventType string
	Product   *uuid.UUID
	Stream    *uuid.UUID
	Topic     string
	Partition int32
	Offset    *int64 // nil if it was read from the store
	Record    []byte // the value; nil if it was read from the store
	Headers   map[string]string
	Error     string
	Behind    bool // it only waits for an earlier event
	Attempts  int
	ParkedAt  time.Time
}

// Events lists the parked events of one key in the live generation, in order. It returns
// ErrNotParked if there are none.
func Events(ctx context.Context, q Querier, projection string, key uuid.UUID, limit int) ([]Event, error) {
	rows, err := q.Query(ctx, `
		SELECT e.position, e.event_id, e.event_type, e.product_id, e.stream_id, e.topic, e.partition, e.kafka_offset, e.record,
		       e.headers, e.error, e.behind, e.attempts, e.parked_at
		FROM parked_events e JOIN projection_generations g USING (projection, generation)
		WHERE g.state = 'live' AND e.projection = $1 AND e.row_key = $2 ORDER BY e.position LIMIT $3`, projection, key, limit)
	if err != nil {
		return nil, fmt.Errorf("read the parked events of %s: %w", key, err)
	}
	events, err := pgx.CollectRows(rows, func(row pgx.CollectableRow) (e Event, err error) {
		err = row.Scan(&e.Position, &e.EventID, &e.EventType, &e.Product, &e.Stream, &e.Topic, &e.Partition, &e.Offset, &e.Record,
			&e.Headers, &e.Error, &e.Behind, &e.Attempts, &e.ParkedAt)
		return e, err
	})
	if err != nil {
		return nil, fmt.Errorf("read the parked events of %s: %w", key, err)
	}
	if len(events) == 0 {
		return nil, fmt.Errorf("%s of %s: %w", key, projection, ErrNotParked)
	}
	return events, nil
}
