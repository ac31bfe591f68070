package replay

import (
	"context"
	"errors"
	"fmt"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"

	"github.com/dopaminestore/dopamine/internal/failpoint"
	"github.com/dopaminestore/dopamine/internal/sleep"
	"github.com/dopaminestore/dopamine/projections"
)

const (
	// checkpointTimeout is how long the swap waits for the batches in progress. It is less than
	// Postgres' deadlock_timeout (1 s): if swap and projector wait for each other, the swap gives
	// way, not the projector.
	checkpointTimeout = "900ms"
	// viewAttempts is the number of attempts to swap with the view before swapping without it.
	viewAttempts = 20
)

// swap makes the generation live if it is not behind. withView reports whether the view shows it
// already.
func (t *target) swap(ctx context.Context) (withView bool, err error) {
	for try := 1; ; try++ {
		withView = try <= viewAttempts
		failpoint.Hit(failpoint.SwapBefore)
		before := t.position
		err := t.swapOnce(ctx, withView)
		switch {
		case err == nil:
			failpoint.Hit(failpoint.SwapAfter)
			return withView, nil
		case errors.Is(err, errBehind): // below
		case projections.LockedOut(err):
			if err := sleep.For(ctx, tryAgain); err != nil {
				return false, err
			}
		default:
			return false, fmt.Errorf("swap: %w", err)
		}
		if err := t.catchUp(ctx); err != nil {
			return false, err
		}
		if errors.Is(err, errBehind) && t.position == before { // the store does not have what the live generation has
			if err := sleep.For(ctx, tryAgain); err != nil {
				return false, err
			}
		}
	}
}

func (t *target) swapOnce(ctx context.Context, withView bool) error {
	if withView {
		if err := projections.CheckView(ctx, t.r.ReadPool, t.Name()); err != nil {
			return err
		}
	}
	head, err := t.r.Published(ctx)
	if err != nil {
		return err
	}
	var eventID *uuid.UUID
	if t.position > 0 {
		at, err := t.r.Store.At(ctx, t.position)
		if err != nil {
			return err
		}
		eventID = &at.ID
	}
	return pgx.BeginTxFunc(ctx, t.r.ReadPool, pgx.TxOptions{IsoLevel: pgx.ReadCommitted}, func(tx pgx.Tx) error {
		ahead, err := t.lockLive(ctx, tx)
		if err != nil {
			return err
		}
		if ahead > t.position && !t.foreign {
			return errBehind
		}
		if err := t.checkSkips(ctx, tx); err != nil {
			return err
		}
		if err := t.takeOver(ctx, tx, eventID, len(head.Last)); err != nil {
			return err
		}
		failpoint.Hit(failpoint.SwapBeforeCommit)
		if withView {
			return projections.SetView(ctx, tx, t.Name(), t.generation)
		}
		return nil
	})
}

// lockLive locks the live checkpoints and returns the highest position among them. It is read after
// locking, so that it includes what the previous lock holders committed.
func (t *target) lockLive(ctx context.Context, tx pgx.Tx) (ahead int64, err error) {
	if _, err := tx.Exec(ctx, `SELECT set_config('lock_timeout', $1, true)`, checkpointTimeout); err != nil {
		return 0, err
	}
	rows, err := tx.Query(ctx, `
		SELECT c.position FROM projection_checkpoints c
		WHERE c.projection = $1 AND c.generation = (SELECT generation FROM projection_generations WHERE projection = $1 AND state = 'live')
		ORDER BY c.topic, c.partition FOR UPDATE`, t.Name())
	if err != nil {
		return 0, err
	}
	var position int64
	_, err = pgx.ForEachRow(rows, []any{&position}, func() error { ahead = max(ahead, position); return nil })
	return ahead, err
}

// checkSkips refuses if an event that the replay applied has been skipped since. Skips are recorded
// under the lock of a checkpoint, so none is in progress.
func (t *target) checkSkips(ctx context.Context, tx pgx.Tx) error {
	rows, err := tx.Query(ctx, `SELECT position, event_id FROM skipped_events WHERE projection = $1 AND position <= $2 AND event_id IS NOT NULL`, t.Name(), t.position)
	if err != nil {
		return err
	}
	var since []int64
	skipped := map[int64]uuid.UUID{}
	var position int64
	var id [16]byte
	_, err = pgx.ForEachRow(rows, []any{&position, &id}, func() error {
		if !t.honoured[position] {
			since, skipped[position] = append(since, position), id
		}
		return nil
	})
	if err != nil || len(since) == 0 {
		return err
	}
	// A skip of an event that a restore lost does not concern any event of the store.
	ids, err := t.r.Store.IDs(ctx, since)
	if err != nil {
		return err
	}
	for _, p := range since {
		if ids[p] == skipped[p] {
			return fmt.Errorf("%w: at position %d", errSkipped, p)
		}
	}
	return nil
}

// takeOver makes the generation the live one, continuing at the other generation's offsets in
// Kafka. Checkpoints of a topic with another partition count are not taken over: their partitions
// start at the first record, with the replay's position.
func (t *target) takeOver(ctx context.Context, tx pgx.Tx, eventID *uuid.UUID, partitions int) error {
	var old int
	if err := tx.QueryRow(ctx, `
		UPDATE projection_generations SET state = 'old' WHERE projection = $1 AND state = 'live' RETURNING generation`,
		t.Name()).Scan(&old); err != nil {
		return fmt.Errorf("end the live generation: %w", err)
	}
	tag, err := tx.Exec(ctx, `
		UPDATE projection_generations SET state = 'live', live_at = now(), position = $3, event_id = $4
		WHERE projection = $1 AND generation = $2 AND state = 'building'`, t.Name(), t.generation, t.position, eventID)
	if err != nil {
		return err
	}
	if tag.RowsAffected() != 1 {
		return fmt.Errorf("generation %d is not there any more: another replay has begun", t.generation)
	}
	if _, err := tx.Exec(ctx, `
		INSERT INTO projection_checkpoints (projection, generation, topic, partition, partitions, topic_id, next_offset, position, event_id, version)
		SELECT projection, $3, topic, partition, partitions, topic_id, next_offset, $4, $5, version + 1
		FROM projection_checkpoints WHERE projection = $1 AND generation = $2 AND ($6 = 0 OR partitions = $6)`,
		t.Name(), old, t.generation, t.position, eventID, partitions); err != nil {
		return err
	}
	_, err = tx.Exec(ctx, `
		UPDATE parked_orders SET done_at = now(), outcome = 'not needed any more: a replay has built the projection anew'
		WHERE projection = $1 AND generation = $2 AND done_at IS NULL`, t.Name(), old)
	return err
}

// followView points the view at the live generation if it shows another one. It is not an error if
// the view is still in use after all attempts.
func (r *runner) followView(ctx context.Context, projection string, attempts int) error {
	err := r.retryLocked(ctx, attempts, func() error { return projections.FollowView(ctx, r.ReadPool, projection) })
	if projections.LockedOut(err) {
		return nil
	}
	return err
}
