package projector

import (
	"context"
	"errors"
	"fmt"
	"sync/atomic"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"

	"github.com/dopaminestore/dopamine/domain"
	"github.com/dopaminestore/dopamine/internal/failpoint"
	"github.com/dopaminestore/dopamine/projections"
)

// idleTransactionTimeout is how long Postgres lets one of these transactions idle. A process that
// is stopped inside a transaction holds the checkpoints of its partitions.
const idleTransactionTimeout = "10s"

// rowEvent is an item with its row key and its raw key, the key that it has if it cannot be decoded:
// events may be parked under that one.
type rowEvent struct {
	item
	key, rawKey uuid.UUID
}

func withKey(it item, p projections.Projection) (rowEvent, bool) {
	key, ok := it.key(p)
	if !ok {
		return rowEvent{}, false
	}
	k := rowEvent{it, key, key}
	if it.isEvent() {
		if raw, ok := p.RawKey(it.eventType, it.product, it.stream); ok {
			k.rawKey = raw
		}
	}
	return k, true
}

// batchTx is a batch of one projection inside its transaction.
type batchTx struct {
	o     *assignment
	topic string
	tx    pgx.Tx
	items []rowEvent       // those that change a row
	fold  projections.Fold // of all items that can be read; nil if the batch is split
	heads map[uuid.UUID]int64
	parks []park

	lockTimeout string // how long a statement waits for a lock, e.g. "5000ms"
}

func (r *Runner) newBatchTx(o *assignment) *batchTx {
	return &batchTx{o: o, topic: r.cfg.Topic, heads: map[uuid.UUID]int64{}, lockTimeout: fmt.Sprintf("%dms", r.lockTimeout().Milliseconds())}
}

// lockTimeout is how long a transaction waits for a lock on a read model.
func (r *Runner) lockTimeout() time.Duration { return r.cfg.BatchTimeout / 3 }

// options begin the transaction with the lock timeout: the statements of a batch are prepared before
// the first of them is executed, and preparing one needs a lock on its tables too.
func (u *batchTx) options() pgx.TxOptions {
	return pgx.TxOptions{BeginQuery: "BEGIN ISOLATION LEVEL READ COMMITTED; SET LOCAL lock_timeout = '" + u.lockTimeout + "'"}
}

// transact advances the checkpoints and applies the items in one transaction. If an item fails, it
// is parked if split is set; otherwise the batch fails.
func (r *Runner) transact(ctx context.Context, o *assignment, p plan, split bool) error {
	ctx, cancel := context.WithTimeout(ctx, r.cfg.BatchTimeout)
	defer cancel()
	began := time.Now()
	u := r.newBatchTx(o)
	for _, it := range p.items {
		if k, ok := withKey(it, o.projection); ok {
			u.items = append(u.items, k)
		}
	}
	err := pgx.BeginTxFunc(ctx, r.cfg.ReadPool, u.options(), func(tx pgx.Tx) error {
		u.tx = tx
		if err := u.open(ctx, p, split); err != nil {
			return err
		}
		failpoint.Hit(failpoint.ProjectMoved)
		if split {
			if err := u.split(ctx); err != nil {
				return err
			}
		} else if err := u.foldAll(); err != nil {
			return err
		}
		b := &pgx.Batch{}
		if u.fold != nil {
			u.fold.Write(b)
		}
		u.queueParks(b)
		if err := send(ctx, tx, b); err != nil {
			return err
		}
		failpoint.Hit(failpoint.ProjectBeforeCommit)
		return nil
	})
	if err == nil {
		err = failpoint.Error(failpoint.ProjectAfterCommit)
	}
	r.adjust(r.batchLimits[o.projection.Name()], r.cfg.MaxBatch, err, time.Since(began))
	if err == nil {
		r.metrics.parked.WithLabelValues(o.projection.Name()).Add(float64(len(u.parks)))
		for _, k := range u.parks {
			if !k.behind {
				r.log.Error("event cannot be applied, parked", "projection", o.projection.Name(), "key", k.key,
					"partition", k.partition, "position", k.position, "type", k.eventType, "error", k.err)
			}
		}
	}
	return err
}

// batchLimit returns how many events the next transaction of a projection may have.
func (r *Runner) batchLimit(p projections.Projection) int {
	return int(r.batchLimits[p.Name()].Load())
}

// adjust reduces a limit on the events per transaction after a transaction that took too long, and
// increases it, up to most, after one that took far less.
func (r *Runner) adjust(limit *atomic.Int64, most int, err error, took time.Duration) {
	now := limit.Load()
	switch {
	case errors.Is(err, context.DeadlineExceeded):
		limit.Store(max(minBatch, now/4))
	case err == nil && took < r.cfg.BatchTimeout/4:
		limit.Store(min(int64(most), 2*now))
	}
}

// open advances the checkpoints. Under their locks it reads what decides about the items, and the
// rows. All of it is one round trip.
func (u *batchTx) open(ctx context.Context, p plan, split bool) error {
	b := &pgx.Batch{}
	var moved int64
	var generation int
	queueAdvance(b, u.o, u.topic, p, &moved)
	b.Queue(`SELECT set_config('lock_timeout', $1, true)`, u.lockTimeout)
	b.Queue(liveGenerationSQL, u.o.projection.Name()).QueryRow(func(row pgx.Row) error { return row.Scan(&generation) })
	skipped := map[int64]bool{}
	if len(u.items) > 0 {
		u.queueHeads(b, p)
		u.queueSkipped(b, skipped)
		if !split {
			u.load(b)
		}
	}
	if err := send(ctx, u.tx, b); err != nil {
		return err
	}
	if moved != int64(len(p.to)) || generation != u.o.generation {
		return errMoved
	}
	kept := u.items[:0]
	for _, it := range u.items {
		if !it.isEvent() || !skipped[it.position] {
			kept = append(kept, it)
		}
	}
	u.items = kept
	return nil
}

// queueAdvance queues the compare-and-swap of the checkpoints. It comes first, so that everything
// after it is read under their locks: a swap of generations or a request for parked events either
// waits for this transaction or is visible to it.
func queueAdvance(b *pgx.Batch, o *assignment, topic string, p plan, moved *int64) {
	n := len(p.to)
	partitions := make([]int32, 0, n)
	fromOffset, fromPosition, version := make([]int64, 0, n), make([]int64, 0, n), make([]int64, 0, n)
	toOffset, toPosition := make([]int64, 0, n), make([]int64, 0, n)
	eventID := make([]*uuid.UUID, 0, n)
	for partition, to := range p.to {
		from := p.from[partition]
		partitions = append(partitions, partition)
		fromOffset, fromPosition, version = append(fromOffset, from.offset), append(fromPosition, from.position), append(version, from.version)
		toOffset, toPosition, eventID = append(toOffset, to.offset), append(toPosition, to.position), append(eventID, to.eventID)
	}
	// No lock timeout for the checkpoints: a deposed owner may hold them.
	b.Queue(`SELECT set_config('idle_in_transaction_session_timeout', $1, true), set_config('lock_timeout', '0', true)`, idleTransactionTimeout)
	b.Queue(`
		UPDATE projection_checkpoints c
		SET next_offset = m.to_offset, position = m.to_position, event_id = m.event_id, updated_at = now()
		FROM unnest($4::int[], $5::bigint[], $6::bigint[], $7::bigint[], $8::bigint[], $9::bigint[], $10::uuid[])
		     AS m(partition, from_offset, from_position, version, to_offset, to_position, event_id)
		WHERE c.projection = $1 AND c.generation = $2 AND c.topic = $3 AND c.partition = m.partition AND c.topic_id = $11
		  AND c.next_offset = m.from_offset AND c.position = m.from_position AND c.version = m.version`,
		o.projection.Name(), o.generation, topic, partitions, fromOffset, fromPosition, version, toOffset, toPosition, eventID, o.topicID).
		Exec(func(tag pgconn.CommandTag) error { *moved = tag.RowsAffected(); return nil })
}

func (u *batchTx) queueSkipped(b *pgx.Batch, into map[int64]bool) {
	lowest := u.items[0].position
	ids := make(map[int64]uuid.UUID, len(u.items))
	for _, it := range u.items {
		lowest = min(lowest, it.position)
		ids[it.position] = it.eventID
	}
	// A skip belongs to an event, not to a position: after a restore another event may have the
	// position.
	b.Queue(`SELECT position, event_id FROM skipped_events WHERE projection = $1 AND position >= $2 AND event_id IS NOT NULL`, u.o.projection.Name(), lowest).
		Query(func(rows pgx.Rows) error {
			var position int64
			var id [16]byte
			_, err := pgx.ForEachRow(rows, []any{&position, &id}, func() error {
				if ids[position] == id {
					into[position] = true
				}
				return nil
			})
			return err
		})
}

// load queues the queries for the rows that the items change.
func (u *batchTx) load(b *pgx.Batch) {
	events := make([]domain.Envelope, 0, len(u.items))
	for _, it := range u.items {
		if it.err == nil {
			events = append(events, it.env)
		}
	}
	u.fold = u.o.projection.NewFold(u.o.generation)
	u.fold.Load(b, events)
}

// foldAll folds the items. Those that cannot be read, and those behind a parked key, are parked.
func (u *batchTx) foldAll() error {
	if u.fold == nil {
		return nil
	}
	events := make([]domain.Envelope, 0, len(u.items))
	for _, it := range u.items {
		if !u.park(it, it.err) {
			events = append(events, it.env)
		}
	}
	if err := applyAll(u.fold, events); err != nil {
		return &contentError{err}
	}
	return nil
}

// applyAll applies events in order. A panic is returned as an error.
func applyAll(f projections.Fold, events []domain.Envelope) (err error) {
	at := 0
	defer func() {
		if p := recover(); p != nil {
			err = fmt.Errorf("%s at position %d: panic: %v", events[at].Event.EventType(), events[at].Position, p)
		}
	}()
	for i, e := range events {
		at = i
		if err := f.Apply(e); err != nil {
			return fmt.Errorf("%s at position %d: %w", e.Event.EventType(), e.Position, err)
		}
	}
	return nil
}

// send sends a batch and reads all results.
func send(ctx context.Context, tx pgx.Tx, b *pgx.Batch) error {
	if b.Len() == 0 {
		return nil
	}
	return tx.SendBatch(ctx, b).Close()
}
