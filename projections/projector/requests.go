package projector

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"

	"github.com/dopaminestore/dopamine/internal/guard"
	"github.com/dopaminestore/dopamine/internal/sleep"
	"github.com/dopaminestore/dopamine/projections/parking"
)

// request is a pending request.
type request struct {
	id        int64
	key       uuid.UUID
	partition int32
	action    parking.Action
	position  int64 // of the key's first event at the time of the request
	by        string
}

const (
	// requestPage is the number of parked events of a key that one transaction applies, fewer after
	// one that took too long.
	requestPage = 1000
	// requestBatch is the number of requests served before the next batch.
	requestBatch = 100
)

// serveRequests serves requests for the partitions of a session, one page of events per key. It
// returns true if there is more to do.
func (r *Runner) serveRequests(ctx context.Context, s *session) (more bool, err error) {
	for _, o := range s.attached() {
		requests, err := r.openRequests(ctx, o)
		if err != nil {
			return false, err
		}
		open, err := r.serveAll(ctx, o, requests)
		if err != nil {
			o.requested = true
			if err := r.detach(ctx, s, o, err); err != nil {
				return false, err
			}
		}
		more = more || open
	}
	return more, nil
}

// serveAll serves requests for one projection.
func (r *Runner) serveAll(ctx context.Context, o *assignment, requests []request) (more bool, err error) {
	more = len(requests) == requestBatch
	for _, req := range requests {
		open, err := r.serve(ctx, o, req)
		if err != nil {
			return false, fmt.Errorf("%s %s: %w", req.action, req.key, err)
		}
		more = more || open
	}
	return more, nil
}

// serveDetached serves requests for a detached projection, after one of them failed. If that fails
// again the projection continues to catch up, after a pause, and stays detached.
func (r *Runner) serveDetached(ctx context.Context, o *assignment) error {
	err := guard.Run(r.log, "serve requests for "+o.projection.Name(), func() error {
		requests, err := r.openRequests(ctx, o)
		if err == nil {
			_, err = r.serveAll(ctx, o, requests)
		}
		return err
	})
	if err == nil {
		o.requested = false
		return nil
	}
	if ctx.Err() != nil || !detachable(err) {
		return err
	}
	r.retryLater(o, err)
	return sleep.For(ctx, r.lockTimeout())
}

// openRequests reads the pending requests, oldest first.
func (r *Runner) openRequests(ctx context.Context, o *assignment) ([]request, error) {
	ctx, cancel := context.WithTimeout(ctx, r.cfg.ReadTimeout)
	defer cancel()
	rows, err := r.cfg.ReadPool.Query(ctx, `
		SELECT id, row_key, partition, action, position, ordered_by FROM parked_orders
		WHERE done_at IS NULL AND projection = $1 AND generation = $2 AND topic = $3 AND partition = ANY($4) ORDER BY id LIMIT $5`,
		o.projection.Name(), o.generation, r.cfg.Topic, slices.Collect(maps.Keys(o.checkpoints)), requestBatch)
	if err != nil {
		return nil, fmt.Errorf("read requests: %w", err)
	}
	requests, err := pgx.CollectRows(rows, func(row pgx.CollectableRow) (req request, err error) {
		err = row.Scan(&req.id, &req.key, &req.partition, &req.action, &req.position, &req.by)
		return req, err
	})
	if err != nil {
		return nil, fmt.Errorf("read requests: %w", err)
	}
	return requests, nil
}

// serve serves a request in one transaction. It returns true if the request stays pending because
// only a page of the key's events was applied.
func (r *Runner) serve(ctx context.Context, o *assignment, req request) (more bool, err error) {
	parked, full, err := r.readParked(ctx, o, req)
	if err != nil {
		return false, err
	}
	ctx, cancel := context.WithTimeout(ctx, r.cfg.BatchTimeout)
	defer cancel()
	began := time.Now()
	u := r.newBatchTx(o)
	err = pgx.BeginTxFunc(ctx, r.cfg.ReadPool, pgx.TxOptions{IsoLevel: pgx.ReadCommitted}, func(tx pgx.Tx) (err error) {
		if err = r.raiseVersion(ctx, tx, o, req.partition); err != nil {
			return err
		}
		if _, err = tx.Exec(ctx, `SELECT set_config('lock_timeout', $1, true)`, u.lockTimeout); err != nil {
			return err
		}
		u.tx = tx
		more, err = u.serve(ctx, req, parked, full)
		return err
	})
	r.adjust(r.requestLimits[o.projection.Name()], requestPage, err, time.Since(began))
	if err != nil {
		return false, err
	}
	o.checkpoints[req.partition].version++
	if !more {
		r.log.Info("request for parked events served", "projection", o.projection.Name(), "key", req.key, "action", req.action, "by", req.by)
	}
	return more, nil
}

// raiseVersion advances the checkpoint as a batch does, so that an owner that was deposed before,
// and does not know what the request did to the parked keys, can write no more.
func (r *Runner) raiseVersion(ctx context.Context, tx pgx.Tx, o *assignment, partition int32) error {
	at := o.checkpoints[partition]
	if _, err := tx.Exec(ctx, `SELECT set_config('idle_in_transaction_session_timeout', $1, true)`, idleTransactionTimeout); err != nil {
		return err
	}
	tag, err := tx.Exec(ctx, `
		UPDATE projection_checkpoints SET version = version + 1, updated_at = now()
		WHERE projection = $1 AND generation = $2 AND topic = $3 AND partition = $4 AND next_offset = $5 AND position = $6 AND version = $7 AND topic_id = $8`,
		o.projection.Name(), o.generation, r.cfg.Topic, partition, at.offset, at.position, at.version, o.topicID)
	if err != nil {
		return err
	}
	var generation int
	if err := liveGeneration(ctx, tx, o.projection, &generation); err != nil {
		return err
	}
	if tag.RowsAffected() != 1 || generation != o.generation {
		return errMoved
	}
	return nil
}

// readParked reads the first parked events of a key from the store: a store that was repaired, or a
// newer program, may decode what could not be decoded. full reports that there may be more.
func (r *Runner) readParked(ctx context.Context, o *assignment, req request) (parked []rowEvent, full bool, err error) {
	ctx, cancel := context.WithTimeout(ctx, r.cfg.ReadTimeout)
	defer cancel()
	limit := min(int(r.requestLimits[o.projection.Name()].Load()), r.batchLimit(o.projection))
	rows, err := r.cfg.ReadPool.Query(ctx, `
		SELECT position, event_type FROM parked_events
		WHERE projection = $1 AND generation = $2 AND row_key = $3 ORDER BY position LIMIT $4`,
		o.projection.Name(), o.generation, req.key, limit)
	if err != nil {
		return nil, false, fmt.Errorf("read parked events: %w", err)
	}
	var positions []int64
	parked, err = pgx.CollectRows(rows, func(row pgx.CollectableRow) (rowEvent, error) {
		k := rowEvent{key: req.key, rawKey: req.key, item: item{partition: req.partition, offset: -1}}
		err := row.Scan(&k.position, &k.eventType)
		positions = append(positions, k.position)
		return k, err
	})
	if err != nil {
		return nil, false, fmt.Errorf("read parked events: %w", err)
	}
	events, err := r.cfg.Store.Events(ctx, positions)
	if err != nil {
		return nil, false, failedIn(partEventStore, fmt.Errorf("read %d parked events from the event store: %w", len(positions), err))
	}
	byPosition := make(map[int64]int, len(events))
	for i, e := range events {
		byPosition[e.Position] = i
	}
	for i, k := range parked {
		at, found := byPosition[k.position]
		switch {
		case !k.isEvent():
			parked[i].err = errors.New("it is not an event of the store and can only be skipped")
		case !found:
			parked[i].err = errors.New("the store has no event at this position")
		default:
			parked[i].item = fromStore(events[at], req.partition)
			// Now that the event is decoded its own key is known, and may differ.
			if own, ok := withKey(parked[i].item, o.projection); ok {
				parked[i].rawKey = own.key
			}
		}
	}
	return parked, len(parked) == limit, nil
}

// serve executes the request inside the transaction. more reports that the request stays pending
// because only the first of its events were read.
func (u *batchTx) serve(ctx context.Context, req request, parked []rowEvent, full bool) (more bool, err error) {
	switch {
	case len(parked) == 0:
		return false, u.close(ctx, req, "nothing of this key is parked any more")
	case req.action == parking.Skip && parked[0].position != req.position:
		return false, u.close(ctx, req, "not done: the key's first event is another one by now")
	case req.action == parking.Skip:
		return false, u.skip(ctx, req, parked[0])
	}
	if err := u.holdBack(ctx, req, parked); err != nil {
		return false, err
	}
	done := 0
	var failed error
	if !slices.ContainsFunc(parked, func(k rowEvent) bool { return k.err != nil }) {
		if failed = u.attempt(ctx, parked); failed == nil {
			done = len(parked)
		} else if !isContent(failed) {
			return false, failed
		}
	}
	for ; done < len(parked); done++ {
		if failed = parked[done].err; failed != nil {
			break
		}
		if failed = u.attempt(ctx, parked[done:done+1]); failed != nil {
			if !isContent(failed) {
				return false, failed
			}
			break
		}
	}
	applied := make([]int64, done)
	for i, k := range parked[:done] {
		applied[i] = k.position
	}
	if err := u.unpark(ctx, req.key, applied); err != nil {
		return false, err
	}
	if done < len(parked) {
		if err := u.newHead(ctx, req.key, failed); err != nil {
			return false, err
		}
		return false, u.close(ctx, req, fmt.Sprintf("%d applied, then position %d failed: %s", done, parked[done].position, plainText(failed.Error())))
	}
	if full {
		return true, u.newHead(ctx, req.key, nil)
	}
	return false, u.close(ctx, req, fmt.Sprintf("%d applied", done))
}

// holdBack prevents events from being applied whose own key is parked too: they are parked behind
// it.
func (u *batchTx) holdBack(ctx context.Context, req request, parked []rowEvent) error {
	others := map[uuid.UUID]bool{}
	for _, k := range parked {
		if k.err == nil && k.rawKey != req.key {
			others[k.rawKey] = true
		}
	}
	if len(others) == 0 {
		return nil
	}
	rows, err := u.tx.Query(ctx, `
		SELECT row_key, position FROM parked_events
		WHERE projection = $1 AND generation = $2 AND row_key = ANY($3) AND NOT behind`,
		u.o.projection.Name(), u.o.generation, slices.Collect(maps.Keys(others)))
	if err != nil {
		return err
	}
	heads := map[uuid.UUID]int64{}
	var key uuid.UUID
	var position int64
	if _, err := pgx.ForEachRow(rows, []any{&key, &position}, func() error { heads[key] = position; return nil }); err != nil {
		return err
	}
	for i, k := range parked {
		if head, ok := heads[k.rawKey]; ok && k.err == nil && k.rawKey != req.key && head < k.position {
			parked[i].err = fmt.Errorf("it is parked behind the event at position %d of %s: retry that first", head, k.rawKey)
		}
	}
	return nil
}

// skip drops the first event of a key and requests a retry of those behind it.
func (u *batchTx) skip(ctx context.Context, req request, head rowEvent) error {
	if head.isEvent() {
		if _, err := u.tx.Exec(ctx, `
			INSERT INTO skipped_events (projection, position, event_id, event_type, row_key, product_id, error, skipped_by)
			SELECT projection, position, event_id, event_type, row_key, product_id, error, $5 FROM parked_events
			WHERE projection = $1 AND generation = $2 AND row_key = $3 AND position = $4
			ON CONFLICT (projection, position) DO UPDATE SET -- of an event that a restore lost
				event_id = EXCLUDED.event_id, event_type = EXCLUDED.event_type, row_key = EXCLUDED.row_key, product_id = EXCLUDED.product_id,
				error = EXCLUDED.error, skipped_by = EXCLUDED.skipped_by, skipped_at = now()`,
			u.o.projection.Name(), u.o.generation, req.key, head.position, req.by); err != nil {
			return err
		}
	}
	if err := u.unpark(ctx, req.key, []int64{head.position}); err != nil {
		return err
	}
	if err := u.newHead(ctx, req.key, nil); err != nil {
		return err
	}
	if err := u.close(ctx, req, "skipped"); err != nil {
		return err
	}
	if err := parking.Request(ctx, u.tx, u.o.projection.Name(), req.key, parking.Retry, req.by); err != nil && !errors.Is(err, parking.ErrNotParked) {
		return err
	}
	return nil
}

func (u *batchTx) unpark(ctx context.Context, key uuid.UUID, positions []int64) error {
	_, err := u.tx.Exec(ctx, `DELETE FROM parked_events WHERE projection = $1 AND generation = $2 AND row_key = $3 AND position = ANY($4)`,
		u.o.projection.Name(), u.o.generation, key, positions)
	return err
}

// newHead makes the first remaining parked event of a key its head. failed is the reason why it
// could not be applied, nil if it was not tried.
func (u *batchTx) newHead(ctx context.Context, key uuid.UUID, failed error) error {
	var why *string
	if failed != nil {
		text := plainText(failed.Error())
		why = &text
	}
	_, err := u.tx.Exec(ctx, `
		UPDATE parked_events SET behind = false, error = coalesce($4, 'its turn has come, it was not tried yet'), attempts = attempts + 1
		WHERE (projection, generation, row_key, position) IN (
			SELECT projection, generation, row_key, position FROM parked_events
			WHERE projection = $1 AND generation = $2 AND row_key = $3 ORDER BY position LIMIT 1)`,
		u.o.projection.Name(), u.o.generation, key, why)
	return err
}

func (u *batchTx) close(ctx context.Context, req request, outcome string) error {
	_, err := u.tx.Exec(ctx, `UPDATE parked_orders SET done_at = now(), outcome = $2 WHERE id = $1`, req.id, outcome)
	return err
}
