package projector

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strings"

	"github.com/google/uuid"
	"github.com/jackc/pgerrcode"
	"github.com/jackc/pgx/v5"

	"github.com/dopaminestore/dopamine/domain"
	"github.com/dopaminestore/dopamine/internal/kafka"
	"github.com/dopaminestore/dopamine/internal/postgres"
)

// contentError is a failure caused by the events themselves, found without Postgres.
type contentError struct{ err error }

func (e *contentError) Error() string { return e.err.Error() }

func (e *contentError) Unwrap() error { return e.err }

// isContent reports whether an error is about the data to be written (a fold that failed, a value
// or constraint that Postgres rejected, an exception raised by a trigger) and not about the state
// of the database or the connection.
func isContent(err error) bool {
	var content *contentError
	if errors.As(err, &content) {
		return true
	}
	return postgres.InClass(err, pgerrcode.DataException, pgerrcode.IntegrityConstraintViolation, pgerrcode.PLpgSQLError)
}

// park is an item that is to be parked.
type park struct {
	rowEvent
	err    string
	behind bool // it only waits for an earlier event of its key
}

// queueHeads reads the parked keys and the first parked event of each.
func (u *batchTx) queueHeads(b *pgx.Batch, p plan) {
	partitions := make([]int32, 0, len(p.to))
	for partition := range p.to {
		partitions = append(partitions, partition)
	}
	b.Queue(`
		SELECT row_key, position FROM parked_events
		WHERE projection = $1 AND generation = $2 AND topic = $3 AND partition = ANY($4) AND NOT behind`,
		u.o.projection.Name(), u.o.generation, u.topic, partitions).
		Query(func(rows pgx.Rows) error {
			var key uuid.UUID
			var position int64
			_, err := pgx.ForEachRow(rows, []any{&key, &position}, func() error { u.heads[key] = position; return nil })
			return err
		})
}

// park parks the item if its key is parked or err is not nil, and reports whether it did. Events
// after one that could not be decoded are parked behind it, even if their own key is another one:
// the row of that event is unknown.
func (u *batchTx) park(it rowEvent, err error) bool {
	for _, key := range []uuid.UUID{it.rawKey, it.key} {
		if head, parked := u.heads[key]; parked {
			it.key = key
			u.parks = append(u.parks, park{it, fmt.Sprintf("waits behind the event at position %d", head), true})
			return true
		}
	}
	if err == nil {
		return false
	}
	u.parks = append(u.parks, park{it, err.Error(), false})
	u.heads[it.key] = it.position
	return true
}

func (u *batchTx) queueParks(b *pgx.Batch) {
	for _, k := range u.parks {
		var (
			eventID, product, stream *uuid.UUID
			offset                   *int64
			value                    []byte
			headers                  = []byte("{}")
		)
		if k.isEvent() {
			eventID, product, stream = &k.eventID, &k.product, &k.stream
		}
		if k.raw != nil {
			offset, value, headers = &k.offset, k.raw.Payload, headersJSON(kafka.Headers(k.raw))
		}
		b.Queue(`
			INSERT INTO parked_events (projection, generation, row_key, position, topic, partition, kafka_offset, event_id, event_type,
			                           product_id, stream_id, record, headers, error, behind)
			VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $15)
			ON CONFLICT DO NOTHING`, // the same record, which is not an event, in a recreated topic
			u.o.projection.Name(), u.o.generation, k.key, k.position, u.topic, k.partition, offset, eventID, plainText(k.eventType),
			product, stream, value, headers, plainText(k.err), k.behind)
	}
}

// headersJSON encodes headers as a JSON object that Postgres accepts, whatever they contain.
func headersJSON(h map[string]string) []byte {
	clean := make(map[string]string, len(h))
	for k, v := range h {
		clean[plainText(k)] = plainText(v)
	}
	out, err := json.Marshal(clean)
	if err != nil { // cannot happen with a map of strings
		return []byte("{}")
	}
	return out
}

// plainText returns s without what Postgres rejects in a text.
func plainText(s string) string {
	return strings.ReplaceAll(strings.ToValidUTF8(s, "\uFFFD"), "\x00", "\uFFFD")
}

// split applies the items by row key, and parks those that fail and those behind them.
func (u *batchTx) split(ctx context.Context) error {
	var keys []uuid.UUID // in the order of their first events
	byKey := map[uuid.UUID][]rowEvent{}
	for _, it := range u.items {
		if u.park(it, it.err) {
			continue
		}
		if byKey[it.key] == nil {
			keys = append(keys, it.key)
		}
		byKey[it.key] = append(byKey[it.key], it)
	}
	return u.bisect(ctx, keys, byKey)
}

// bisect applies the events of several keys together. If that fails, it applies each half
// separately.
func (u *batchTx) bisect(ctx context.Context, keys []uuid.UUID, byKey map[uuid.UUID][]rowEvent) error {
	if len(keys) == 0 {
		return nil
	}
	var items []rowEvent
	for _, k := range keys {
		items = append(items, byKey[k]...)
	}
	err := u.attempt(ctx, items)
	switch {
	case err == nil:
		return nil
	case !isContent(err):
		return err
	case len(keys) > 1:
		middle := len(keys) / 2
		if err := u.bisect(ctx, keys[:middle], byKey); err != nil {
			return err
		}
		return u.bisect(ctx, keys[middle:], byKey)
	}
	for _, it := range items {
		if u.park(it, nil) {
			continue
		}
		if err := u.attempt(ctx, []rowEvent{it}); err != nil {
			if !isContent(err) {
				return err
			}
			u.park(it, err)
		}
	}
	return nil
}

// attempt applies items inside a savepoint, which is rolled back if it fails.
func (u *batchTx) attempt(ctx context.Context, items []rowEvent) error {
	return pgx.BeginFunc(ctx, u.tx, func(tx pgx.Tx) error {
		events := make([]domain.Envelope, len(items))
		for i, it := range items {
			events[i] = it.env
		}
		fold := u.o.projection.NewFold(u.o.generation)
		b := &pgx.Batch{}
		fold.Load(b, events)
		if err := send(ctx, tx, b); err != nil {
			return err
		}
		if err := applyAll(fold, events); err != nil {
			return &contentError{err}
		}
		b = &pgx.Batch{}
		fold.Write(b)
		return send(ctx, tx, b)
	})
}
