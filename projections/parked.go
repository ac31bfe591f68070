package projections

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
)

// ParkedKey is a row that does not change any more: its first event that could not
// be applied, and how many wait.
type ParkedKey struct {
	Projection string
	Key        uuid.UUID
	Position   int64 // of the first; 0: a record that is no event of the store
	Type       string
	Product    *uuid.UUID // nil where the record does not tell
	Events     int64      // the first and those behind it
	Error      string
	Attempts   int
	ParkedAt   time.Time
	Requested  Action // what is requested and not served yet, "" for nothing
}

// ParkedKeys lists what is parked in live generations, of all projections where
// projection is "", longest parked first, limit of them at most.
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
		return nil, fmt.Errorf("list what is parked: %w", err)
	}
	keys, err := pgx.CollectRows(rows, func(row pgx.CollectableRow) (k ParkedKey, err error) {
		err = row.Scan(&k.Projection, &k.Key, &k.Position, &k.Type, &k.Product, &k.Error, &k.Attempts, &k.ParkedAt, &k.Events, &k.Requested)
		return k, err
	})
	if err != nil {
		return nil, fmt.Errorf("list what is parked: %w", err)
	}
	return keys, nil
}

// ParkedEvent is one event that was set aside, as Kafka had it.
type ParkedEvent struct {
	Position  int64 // 0: a record that is no event of the store
	EventID   *uuid.UUID
	EventType string
	Product   *uuid.UUID
	Stream    *uuid.UUID
	Topic     string
	Partition int32
	Offset    *int64 // nil where it came from the store
	Record    []byte // the value; nil where it came from the store
	Headers   map[string]string
	Error     string
	Behind    bool // it only waits for an earlier one
	Attempts  int
	ParkedAt  time.Time
}

// ParkedEvents lists what is parked of one key in the live generation, in
// order, limit of them at most; ErrNotParked for nothing.
func ParkedEvents(ctx context.Context, q Querier, projection string, key uuid.UUID, limit int) ([]ParkedEvent, error) {
	rows, err := q.Query(ctx, `
		SELECT e.position, e.event_id, e.event_type, e.product_id, e.stream_id, e.topic, e.partition, e.kafka_offset, e.record,
		       e.headers, e.error, e.behind, e.attempts, e.parked_at
		FROM parked_events e JOIN projection_generations g USING (projection, generation)
		WHERE g.state = 'live' AND e.projection = $1 AND e.row_key = $2 ORDER BY e.position LIMIT $3`, projection, key, limit)
	if err != nil {
		return nil, fmt.Errorf("read what is parked of %s: %w", key, err)
	}
	events, err := pgx.CollectRows(rows, func(row pgx.CollectableRow) (e ParkedEvent, err error) {
		err = row.Scan(&e.Position, &e.EventID, &e.EventType, &e.Product, &e.Stream, &e.Topic, &e.Partition, &e.Offset, &e.Record,
			&e.Headers, &e.Error, &e.Behind, &e.Attempts, &e.ParkedAt)
		return e, err
	})
	if err != nil {
		return nil, fmt.Errorf("read what is parked of %s: %w", key, err)
	}
	if len(events) == 0 {
		return nil, fmt.Errorf("%s of %s: %w", key, projection, ErrNotParked)
	}
	return events, nil
}

// Requested is one entry of the account of requests for parked events.
type Requested struct {
	ID         int64
	Projection string
	Key        uuid.UUID
	Action     Action
	Position   int64 // of the key's first event when it was requested
	By         string
	At         time.Time
	DoneAt     *time.Time // nil: still to be served
	Outcome    string
}

const selectRequests = `
	SELECT id, projection, row_key, action, position, ordered_by, ordered_at, done_at, coalesce(outcome, '') FROM parked_orders `

// RequestsOf reads the account of one key, newest first, limit of them at most.
func RequestsOf(ctx context.Context, q Querier, projection string, key uuid.UUID, limit int) ([]Requested, error) {
	return readOrders(ctx, q, selectRequests+`WHERE projection = $1 AND row_key = $2 ORDER BY id DESC LIMIT $3`, projection, key, limit)
}

func readOrders(ctx context.Context, q Querier, sql string, args ...any) ([]Requested, error) {
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

// AwaitRequest waits until the newest order of a key is carried out; asked says
// how often it is looked at. When ctx ends first its error comes with the order
// as it is.
func AwaitRequest(ctx context.Context, q Querier, projection string, key uuid.UUID, asked time.Duration) (Requested, error) {
	var last Requested
	for {
		orders, err := RequestsOf(ctx, q, projection, key, 1)
		switch {
		case err != nil:
			return last, err
		case len(orders) == 0:
			return last, errors.New("there is no order for this key")
		}
		if last = orders[0]; last.DoneAt != nil {
			return last, nil
		}
		select {
		case <-ctx.Done():
			return last, ctx.Err()
		case <-time.After(asked):
		}
	}
}
