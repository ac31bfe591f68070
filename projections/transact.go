package projections

import (
	"context"
	"errors"
	"fmt"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"

	"github.com/dopaminestore/dopamine/domain"
	"github.com/dopaminestore/dopamine/internal/failpoint"
)

// stoppedAfter is how long Postgres lets a transaction of ours idle: a process
// that is stopped inside one holds the checkpoints of its partitions.
const stoppedAfter = "10s"

// keyed is an item with its row key.
type keyed struct {
	item
	key uuid.UUID
}

// unit is a batch of one projection inside its transaction.
type unit struct {
	o     *owned
	topic string
	tx    pgx.Tx
	items []keyed // those that change a row
	fold  Fold    // of all items that can be read; nil where the batch is taken apart
	heads map[uuid.UUID]int64
	parks []park
}

// transact moves the checkpoints and applies the items in one transaction:
// apart says that what fails is to be parked, otherwise it fails the batch.
func (r *Runner) transact(ctx context.Context, o *owned, p plan, apart bool) error {
	u := &unit{o: o, topic: r.cfg.Topic, heads: map[uuid.UUID]int64{}}
	for _, it := range p.items {
		if key, ok := it.key(o.projection); ok {
			u.items = append(u.items, keyed{it, key})
		}
	}
	err := pgx.BeginTxFunc(ctx, r.cfg.ReadPool, pgx.TxOptions{IsoLevel: pgx.ReadCommitted}, func(tx pgx.Tx) error {
		u.tx = tx
		if err := u.open(ctx, p, apart); err != nil {
			return err
		}
		failpoint.Hit(failpoint.ProjectMoved)
		if apart {
			if err := u.apart(ctx); err != nil {
				return err
			}
		} else if err := u.whole(); err != nil {
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
	var pg *pgconn.PgError
	if errors.As(err, &pg) && pg.Code == "42P01" { // the tables of an old generation were dropped
		return fmt.Errorf("%w: %w", errMoved, err)
	}
	if err == nil {
		r.metrics.parked.WithLabelValues(o.projection.Name()).Add(float64(len(u.parks)))
		for _, k := range u.parks {
			if !k.behind {
				r.log.Error("an event cannot be applied and was set aside", "projection", o.projection.Name(), "key", k.key,
					"partition", k.partition, "position", k.position, "type", k.eventType, "error", k.err)
			}
		}
	}
	return err
}

// open moves the checkpoints, and then, under their locks, reads what decides
// about the items, and the rows. All of it is one round trip.
func (u *unit) open(ctx context.Context, p plan, apart bool) error {
	b := &pgx.Batch{}
	var moved int64
	var generation int
	queueMove(b, u.o, u.topic, p, &moved)
	b.Queue(liveGenerationSQL, u.o.projection.Name()).QueryRow(func(row pgx.Row) error { return row.Scan(&generation) })
	skipped := map[int64]bool{}
	if len(u.items) > 0 {
		u.queueHeads(b, p)
		u.queueSkipped(b, skipped)
		if !apart {
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
		if it.stray() || !skipped[it.position] {
			kept = append(kept, it)
		}
	}
	u.items = kept
	return nil
}

// queueMove is the compare and swap. It comes first: what is read after it is
// read under the locks of the checkpoints, by which a swap of generations and
// orders for parked events wait for this transaction or were seen by it.
func queueMove(b *pgx.Batch, o *owned, topic string, p plan, moved *int64) {
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
	b.Queue(`SELECT set_config('idle_in_transaction_session_timeout', $1, true)`, stoppedAfter)
	b.Queue(`
		UPDATE projection_checkpoints c
		SET next_offset = m.to_offset, position = m.to_position, event_id = m.event_id, updated_at = now()
		FROM unnest($4::int[], $5::bigint[], $6::bigint[], $7::bigint[], $8::bigint[], $9::bigint[], $10::uuid[])
		     AS m(partition, from_offset, from_position, version, to_offset, to_position, event_id)
		WHERE c.projection = $1 AND c.generation = $2 AND c.topic = $3 AND c.partition = m.partition
		  AND c.next_offset = m.from_offset AND c.position = m.from_position AND c.version = m.version`,
		o.projection.Name(), o.generation, topic, partitions, fromOffset, fromPosition, version, toOffset, toPosition, eventID).
		Exec(func(tag pgconn.CommandTag) error { *moved = tag.RowsAffected(); return nil })
}

func (u *unit) queueSkipped(b *pgx.Batch, into map[int64]bool) {
	lowest := u.items[0].position
	for _, it := range u.items {
		lowest = min(lowest, it.position)
	}
	b.Queue(`SELECT position FROM skipped_events WHERE projection = $1 AND position >= $2`, u.o.projection.Name(), lowest).
		Query(func(rows pgx.Rows) error {
			var position int64
			_, err := pgx.ForEachRow(rows, []any{&position}, func() error { into[position] = true; return nil })
			return err
		})
}

// load queues the reading of the rows that the items will change.
func (u *unit) load(b *pgx.Batch) {
	events := make([]domain.Envelope, 0, len(u.items))
	for _, it := range u.items {
		if it.err == nil {
			events = append(events, it.env)
		}
	}
	u.fold = u.o.projection.NewFold(u.o.generation)
	u.fold.Load(b, events)
}

// whole folds the items; those that cannot be read, and what is behind a
// parked key, are set aside.
func (u *unit) whole() error {
	if u.fold == nil {
		return nil
	}
	events := make([]domain.Envelope, 0, len(u.items))
	for _, it := range u.items {
		if !u.setAside(it, it.err) {
			events = append(events, it.env)
		}
	}
	if err := applyAll(u.fold, events); err != nil {
		return &contentError{err}
	}
	return nil
}

// send sends a batch and reads all answers.
func send(ctx context.Context, tx pgx.Tx, b *pgx.Batch) error {
	if b.Len() == 0 {
		return nil
	}
	return tx.SendBatch(ctx, b).Close()
}
