package eventstore

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
)

// Reader reads the log. Because positions are assigned and committed under one
// lock, a reader that has read up to a position has read everything below it.
//
// Each read has a deadline of 30 s, or ctx's if that is earlier.
type Reader struct {
	pool    *pgxpool.Pool
	timeout time.Duration // readTimeout, or shorter in tests
}

// readTimeout bounds each read, all of its rows included: a server process may stop responding while
// the connection to it stays open. It is far longer than a page takes, so that a replay survives a
// slow disk; callers whose users wait have shorter deadlines.
const readTimeout = 30 * time.Second

// NewReader returns a reader on the pool's database.
func NewReader(pool *pgxpool.Pool) *Reader { return &Reader{pool: pool, timeout: readTimeout} }

const selectEvents = `
select position, id, stream, version, key, type, schema_version, payload,
       traceparent, correlation_id, causation_id, actor, recorded_at
from events `

// Stream returns all of a stream's events after a version, in order.
func (r *Reader) Stream(ctx context.Context, stream uuid.UUID, afterVersion int) ([]Recorded, error) {
	events, err := r.read(ctx, selectEvents+"where stream = $1 and version > $2 order by version",
		0, [16]byte(stream), afterVersion)
	if err != nil {
		return nil, fmt.Errorf("read stream %s: %w", stream, err)
	}
	return events, nil
}

// First returns a stream's first event, or ErrNoEvent.
func (r *Reader) First(ctx context.Context, stream uuid.UUID) (Recorded, error) {
	events, err := r.read(ctx, selectEvents+"where stream = $1 and version = 1", 1, [16]byte(stream))
	if err != nil {
		return Recorded{}, fmt.Errorf("read the first event of stream %s: %w", stream, err)
	}
	if len(events) == 0 {
		return Recorded{}, fmt.Errorf("%w: stream %s has none", ErrNoEvent, stream)
	}
	return events[0], nil
}

// keySQL compares rows, and orders by the key too, so that only the index by key
// and position gives that order. For "key = $1 … order by position", Postgres may
// use the primary key, if the log has few keys or the key is
// not known to the planner, and read the events of all other keys to find that there are none.
const keySQL = selectEvents + `
where (key, position) > ($1, $2) and (key, position) <= ($1, $3) order by key, position limit $4`

// ReadPartition returns the events of one partition key with after < position <= upTo, in
// order, at most limit of them.
func (r *Reader) ReadPartition(ctx context.Context, key uuid.UUID, after, upTo int64, limit int) ([]Recorded, error) {
	events, err := r.read(ctx, keySQL, limit, [16]byte(key), after, upTo, limit)
	if err != nil {
		return nil, fmt.Errorf("read the events of %s after position %d: %w", key, after, err)
	}
	return events, nil
}

// ReadAll returns the events after a position, in order, at most limit of them. There
// are no gaps: fewer than limit means that there are no more.
func (r *Reader) ReadAll(ctx context.Context, after int64, limit int) ([]Recorded, error) {
	events, err := r.read(ctx, selectEvents+"where position > $1 order by position limit $2", limit, after, limit)
	if err != nil {
		return nil, fmt.Errorf("read the log after position %d: %w", after, err)
	}
	return events, nil
}

// At returns the event at a position, or ErrNoEvent.
func (r *Reader) At(ctx context.Context, position int64) (Recorded, error) {
	events, err := r.read(ctx, selectEvents+"where position = $1", 1, position)
	if err != nil {
		return Recorded{}, fmt.Errorf("read the event at position %d: %w", position, err)
	}
	if len(events) == 0 {
		return Recorded{}, fmt.Errorf("%w: %d", ErrNoEvent, position)
	}
	return events[0], nil
}

// Events returns the events at positions, in order; positions without an event are
// missing.
func (r *Reader) Events(ctx context.Context, positions []int64) ([]Recorded, error) {
	events, err := r.read(ctx, selectEvents+"where position = any($1) order by position", len(positions), positions)
	if err != nil {
		return nil, fmt.Errorf("read the events at %d positions: %w", len(positions), err)
	}
	return events, nil
}

// Head returns the last position, 0 for an empty log.
func (r *Reader) Head(ctx context.Context) (int64, error) {
	ctx, cancel := context.WithTimeout(ctx, r.timeout)
	defer cancel()
	var head int64
	err := r.pool.QueryRow(ctx, "select position from events order by position desc limit 1").Scan(&head)
	if err != nil && !errors.Is(err, pgx.ErrNoRows) {
		return 0, fmt.Errorf("read the last position: %w", err)
	}
	return head, nil
}

// ClockSQL is the SQL expression for the event store's clock outside of an append: the time
// that the next event would have. Payments and expiry are judged by this clock only: Postgres'
// own may have been set back since an event was recorded.
const ClockSQL = `greatest(clock_timestamp(), (select recorded_at from events order by position desc limit 1))`

// clockTimeout bounds reading the clock.
const clockTimeout = 3 * time.Second

// Clock returns the event store's clock; see ClockSQL.
func (r *Reader) Clock(ctx context.Context) (time.Time, error) {
	ctx, cancel := context.WithTimeout(ctx, clockTimeout)
	defer cancel()
	var now time.Time
	if err := r.pool.QueryRow(ctx, `select `+ClockSQL).Scan(&now); err != nil {
		return time.Time{}, fmt.Errorf("read the event store's clock: %w", err)
	}
	return now, nil
}

// read collects a query's events; limit is a hint for their number.
func (r *Reader) read(ctx context.Context, sql string, limit int, args ...any) ([]Recorded, error) {
	ctx, cancel := context.WithTimeout(ctx, r.timeout)
	defer cancel()
	rows, err := r.pool.Query(ctx, sql, args...)
	if err != nil {
		return nil, err
	}
	defer rows.Close()
	events := make([]Recorded, 0, min(limit, 4096))
	var d decoder
	for rows.Next() {
		events = append(events, Recorded{})
		if err := d.decode(rows, &events[len(events)-1]); err != nil {
			return nil, err
		}
	}
	return events, rows.Err()
}
