package projections

import (
	"context"
	"errors"
	"fmt"
	"slices"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"

	"github.com/dopaminestore/dopamine/eventstore"
)

// Action is what is ordered for a parked key.
type Action string

// Retry applies the parked events of a key again, in order, up to the first
// that fails. Skip gives its first event up, for this and all later
// generations, and retries what waits behind it.
const (
	Retry Action = "retry"
	Skip  Action = "skip"
)

// ErrNotParked says that nothing of a key is parked.
var ErrNotParked = errors.New("no event of this key is parked")

// ErrOrdered says that an order for a key is still to be carried out.
var ErrOrdered = errors.New("there is an order for this key already, its projector will carry it out")

// Execer is a pgx connection, pool or transaction.
type Execer interface {
	Exec(ctx context.Context, sql string, args ...any) (pgconn.CommandTag, error)
}

// Order leaves an order for a parked key of a projection's live generation. A
// projector carries it out within a second or so. by says who ordered it.
func Order(ctx context.Context, q Execer, projection string, key uuid.UUID, action Action, by string) error {
	tag, err := q.Exec(ctx, `
		INSERT INTO parked_orders (projection, generation, row_key, topic, partition, action, position, ordered_by)
		SELECT e.projection, e.generation, e.row_key, e.topic, e.partition, $3, e.position, $4
		FROM parked_events e JOIN projection_generations g USING (projection, generation)
		WHERE e.projection = $1 AND e.row_key = $2 AND NOT e.behind AND g.state = 'live'`, projection, key, string(action), by)
	if pg := (*pgconn.PgError)(nil); errors.As(err, &pg) && pg.ConstraintName == "parked_orders_open" {
		return ErrOrdered
	}
	if err != nil {
		return fmt.Errorf("order %s for %s of %s: %w", action, key, projection, err)
	}
	if tag.RowsAffected() == 0 {
		return fmt.Errorf("%s of %s: %w", key, projection, ErrNotParked)
	}
	return nil
}

// order is one that is to be carried out.
type order struct {
	id        int64
	key       uuid.UUID
	partition int32
	action    Action
	position  int64 // of the key's head when it was given
	by        string
}

// orderPage is how many parked events of a key one transaction takes.
const orderPage = 1000

// carryOutOrders carries out what was ordered for the partitions of a session.
func (r *Runner) carryOutOrders(ctx context.Context, all []*owned) error {
	for _, o := range all {
		orders, err := r.openOrders(ctx, o)
		if err != nil {
			return err
		}
		for _, ord := range orders {
			if err := r.carryOut(ctx, o, ord); err != nil {
				return fmt.Errorf("%s %s of %s: %w", ord.action, ord.key, o.projection.Name(), err)
			}
		}
	}
	return nil
}

func (r *Runner) openOrders(ctx context.Context, o *owned) ([]order, error) {
	partitions := make([]int32, 0, len(o.places))
	for p := range o.places {
		partitions = append(partitions, p)
	}
	rows, err := r.cfg.ReadPool.Query(ctx, `
		SELECT id, row_key, partition, action, position, ordered_by FROM parked_orders
		WHERE done_at IS NULL AND projection = $1 AND generation = $2 AND topic = $3 AND partition = ANY($4) ORDER BY id`,
		o.projection.Name(), o.generation, r.cfg.Topic, partitions)
	if err != nil {
		return nil, fmt.Errorf("look for orders: %w", err)
	}
	orders, err := pgx.CollectRows(rows, func(row pgx.CollectableRow) (ord order, err error) {
		err = row.Scan(&ord.id, &ord.key, &ord.partition, &ord.action, &ord.position, &ord.by)
		return ord, err
	})
	if err != nil {
		return nil, fmt.Errorf("look for orders: %w", err)
	}
	return orders, nil
}

// carryOut carries one order out, in as many transactions as it takes.
func (r *Runner) carryOut(ctx context.Context, o *owned, ord order) error {
	for {
		parked, err := r.readParked(ctx, o, ord)
		if err != nil {
			return err
		}
		var more bool
		err = pgx.BeginTxFunc(ctx, r.cfg.ReadPool, pgx.TxOptions{IsoLevel: pgx.ReadCommitted}, func(tx pgx.Tx) (err error) {
			if err = r.raiseVersion(ctx, tx, o, ord.partition); err != nil {
				return err
			}
			u := &unit{o: o, topic: r.cfg.Topic, tx: tx}
			more, err = u.carryOut(ctx, ord, parked)
			return err
		})
		if err != nil {
			return err
		}
		o.places[ord.partition].version++
		if !more {
			r.log.Info("an order for parked events was carried out", "projection", o.projection.Name(), "key", ord.key, "action", ord.action, "by", ord.by)
			return nil
		}
	}
}

// raiseVersion takes the checkpoint as a batch does, and changes it, so that an
// owner that was deposed before and does not know what the order did to the
// parked keys cannot write any more.
func (r *Runner) raiseVersion(ctx context.Context, tx pgx.Tx, o *owned, partition int32) error {
	at := o.places[partition]
	tag, err := tx.Exec(ctx, `
		UPDATE projection_checkpoints SET version = version + 1, updated_at = now()
		WHERE projection = $1 AND generation = $2 AND topic = $3 AND partition = $4 AND next_offset = $5 AND position = $6 AND version = $7`,
		o.projection.Name(), o.generation, r.cfg.Topic, partition, at.offset, at.position, at.version)
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

// readParked reads the first parked events of a key, as the store has them: a
// store that was mended, or a newer program, may read what could not be read.
func (r *Runner) readParked(ctx context.Context, o *owned, ord order) ([]keyed, error) {
	rows, err := r.cfg.ReadPool.Query(ctx, `
		SELECT position, event_type FROM parked_events
		WHERE projection = $1 AND generation = $2 AND row_key = $3 ORDER BY position LIMIT $4`,
		o.projection.Name(), o.generation, ord.key, orderPage)
	if err != nil {
		return nil, fmt.Errorf("read parked events: %w", err)
	}
	parked, err := pgx.CollectRows(rows, func(row pgx.CollectableRow) (keyed, error) {
		k := keyed{key: ord.key, item: item{partition: ord.partition, offset: -1}}
		return k, row.Scan(&k.position, &k.eventType)
	})
	if err != nil {
		return nil, fmt.Errorf("read parked events: %w", err)
	}
	for i, k := range parked {
		if k.stray() {
			parked[i].err = errors.New("it is no event of the store and can only be skipped")
			continue
		}
		at, err := r.cfg.Store.At(ctx, k.position)
		if errors.Is(err, eventstore.ErrNoEvent) {
			parked[i].err = err
			continue
		}
		if err != nil {
			return nil, fmt.Errorf("read event %d from the store: %w", k.position, err)
		}
		parked[i].item = fromStore(at, ord.partition)
	}
	return parked, nil
}

// carryOut does what was ordered inside the transaction; more says that the
// order stays open, since only the first of its events were looked at.
func (u *unit) carryOut(ctx context.Context, ord order, parked []keyed) (more bool, err error) {
	full := len(parked) == orderPage
	switch {
	case len(parked) == 0:
		return false, u.close(ctx, ord, "nothing of this key is parked any more")
	case ord.action == Skip && parked[0].position != ord.position:
		return false, u.close(ctx, ord, "not done: the key's first event is another one by now")
	case ord.action == Skip:
		return false, u.skip(ctx, ord, parked[0])
	}
	done := 0
	var failed error
	if !slices.ContainsFunc(parked, func(k keyed) bool { return k.err != nil }) {
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
	if err := u.unpark(ctx, ord.key, applied); err != nil {
		return false, err
	}
	if done < len(parked) {
		if err := u.newHead(ctx, ord.key, failed); err != nil {
			return false, err
		}
		return false, u.close(ctx, ord, fmt.Sprintf("%d applied, then position %d failed: %s", done, parked[done].position, plainText(failed.Error())))
	}
	if full {
		return true, u.newHead(ctx, ord.key, nil)
	}
	return false, u.close(ctx, ord, fmt.Sprintf("%d applied", done))
}

// skip gives the head of a key up and orders a retry of what is behind it.
func (u *unit) skip(ctx context.Context, ord order, head keyed) error {
	if !head.stray() {
		if _, err := u.tx.Exec(ctx, `
			INSERT INTO skipped_events (projection, position, event_id, event_type, row_key, product_id, error, skipped_by)
			SELECT projection, position, event_id, event_type, row_key, product_id, error, $5 FROM parked_events
			WHERE projection = $1 AND generation = $2 AND row_key = $3 AND position = $4
			ON CONFLICT DO NOTHING`,
			u.o.projection.Name(), u.o.generation, ord.key, head.position, ord.by); err != nil {
			return err
		}
	}
	if err := u.unpark(ctx, ord.key, []int64{head.position}); err != nil {
		return err
	}
	if err := u.newHead(ctx, ord.key, nil); err != nil {
		return err
	}
	if err := u.close(ctx, ord, "skipped"); err != nil {
		return err
	}
	if err := Order(ctx, u.tx, u.o.projection.Name(), ord.key, Retry, ord.by); err != nil && !errors.Is(err, ErrNotParked) {
		return err
	}
	return nil
}

func (u *unit) unpark(ctx context.Context, key uuid.UUID, positions []int64) error {
	_, err := u.tx.Exec(ctx, `DELETE FROM parked_events WHERE projection = $1 AND generation = $2 AND row_key = $3 AND position = ANY($4)`,
		u.o.projection.Name(), u.o.generation, key, positions)
	return err
}

// newHead makes the first parked event of a key, if there is one, its head;
// failed is why it was not applied, nil where it was not tried.
func (u *unit) newHead(ctx context.Context, key uuid.UUID, failed error) error {
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

func (u *unit) close(ctx context.Context, ord order, outcome string) error {
	_, err := u.tx.Exec(ctx, `UPDATE parked_orders SET done_at = now(), outcome = $2 WHERE id = $1`, ord.id, outcome)
	return err
}
