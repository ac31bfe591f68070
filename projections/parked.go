package projections

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
)

// ParkedKey is a row that no longer changes because its first parked event could not be applied.
type ParkedKey struct {
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

// ParkedKeys lists the parked keys of live generations, longest parked first. If projection is "",
// it lists those of all projections.
func ParkedKeys(ctx context.Context, q Querier, projection string, limit int) ([]ParkedKey, error) {
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
	keys, err := pgx.CollectRows(rows, func(row pgx.CollectableRow) (k ParkedKey, err error) {
		err = row.Scan(&k.Projection, &k.Key, &k.Position, &k.Type, &k.Product, &k.Error, &k.Attempts, &k.ParkedAt, &k.Events, &k.Requested)
		return k, err
	})
	if err != nil {
		return nil, fmt.Errorf("list parked keys: %w", err)
	}
	return keys, nil
}

// ParkedEvent is one event that was set aside, as it was in Kafka.
type ParkedEvent struct {
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

// ParkedEvents lists the parked events of one key in the live generation, in order. It returns
// ErrNotParked if there are none.
func ParkedEvents(ctx context.Context, q Querier, projection string, key uuid.UUID, limit int) ([]ParkedEvent, error) {
	rows, err := q.Query(ctx, `
		SELECT e.position, e.event_id, e.event_type, e.product_id, e.stream_id, e.topic, e.partition, e.kafka_offset, e.record,
		       e.headers, e.error, e.behind, e.attempts, e.parked_at
		FROM parked_events e JOIN projection_generations g USING (projection, generation)
		WHERE g.state = 'live' AND e.projection = $1 AND e.row_key = $2 ORDER BY e.position LIMIT $3`, projection, key, limit)
	if err != nil {
		return nil, fmt.Errorf("read the parked events of %s: %w", key, err)
	}
	events, err := pgx.CollectRows(rows, func(row pgx.CollectableRow) (e ParkedEvent, err error) {
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

// RequestsOf reads the requests for one key, newest first.
func RequestsOf(ctx context.Context, q Querier, projection string, key uuid.UUID, limit int) ([]Requested, error) {
	return readRequests(ctx, q, selectRequests+`WHERE projection = $1 AND row_key = $2 ORDER BY id DESC LIMIT $3`, projection, key, limit)
}

func readRequests(ctx context.Context, q Querier, sql string, args ...any) ([]Requested, error) {
	rows, err := q.Query(ctx, sql, args...)
	if err != nil {
		return nil, fmt.Errorf("read the orders: %w", err)
	}
	orders, err := pgx.CollectRows(rows, func(row pgx.CollectableRow) (o Requested, err error) {
		err = row.Scan(&o.ID, &o.Projection, &o.Key, &o.Action, &o.Position, &o.By, &o.At, &o.DoneAt, &o.Outcome)
		return o, err
	})
	if err != nil {
		return nil, fmt.Errorf("read the orders: %w", err)
	}
	return orders, nil
}

// AwaitRequest waits until the newest request for a key has been served, polling at the given
// interval. If ctx ends first, it returns the request as it is together with ctx's error.
func AwaitRequest(ctx context.Context, q Querier, projection string, key uuid.UUID, interval time.Duration) (Requested, error) {
	var last Requested
	for {
		orders, err := RequestsOf(ctx, q, projection, key, 1)
		switch {
		case err != nil:
			return last, err
		case len(orders) == 0:
			return last, errors.New("there is no request for this key")
		}
		if last = orders[0]; last.DoneAt != nil {
			return last, nil
		}
		select {
		case <-ctx.Done():
			return last, ctx.Err()
		case <-time.After(interval):
		}
	}
}
