package replay

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/dopaminestore/dopamine/projections"
)

// target is one generation that is being built.
type target struct {
	projections.Rebuildable
	r          *runner
	generation int
	keys       bool           // the tables' keys were built early
	honoured   map[int64]bool // skips that were known when their event was processed
	position   int64          // everything up to it is applied
	foreign    bool           // the live generation has events of another history; its position cannot be compared
	*progress
}

// begin drops the generation of an interrupted replay and creates the next one, without indexes.
func (r *runner) begin(ctx context.Context, p projections.Rebuildable) (*target, error) {
	t := &target{Rebuildable: p, r: r, honoured: map[int64]bool{}}
	if err := r.dropGenerations(ctx, p.Name(), "building"); err != nil {
		return nil, err
	}
	if err := r.followView(ctx, p.Name(), 1); err != nil {
		return nil, err
	}
	head, err := r.Store.Head(ctx)
	if err != nil {
		return nil, err
	}
	var id int64
	err = pgx.BeginFunc(ctx, r.ReadPool, func(tx pgx.Tx) error {
		if _, err := tx.Exec(ctx, `
			UPDATE projection_replays SET phase = 'interrupted', ended_at = now(), updated_at = now()
			WHERE projection = $1 AND ended_at IS NULL`, p.Name()); err != nil {
			return err
		}
		// A number is never reused: the process that had it may still write.
		if err := tx.QueryRow(ctx, `
			INSERT INTO projection_generations (projection, generation, definition, state)
			SELECT $1, 1 + greatest(
				(SELECT max(generation) FROM projection_generations WHERE projection = $1),
				(SELECT max(generation) FROM projection_replays WHERE projection = $1)), $2, 'building'
			RETURNING generation`, p.Name(), projections.SchemaVersionOf(p)).Scan(&t.generation); err != nil {
			return err
		}
		if _, err := tx.Exec(ctx, `SELECT projection_create_tables($1, $2)`, p.Name(), t.generation); err != nil {
			return err
		}
		for _, table := range p.Tables() {
			if table.Upserted {
				if _, err := tx.Exec(ctx, `SELECT projection_create_key($1, $2)`, table.Base, t.generation); err != nil {
					return err
				}
			}
		}
		return tx.QueryRow(ctx, `
			INSERT INTO projection_replays (projection, generation, source, phase, target) VALUES ($1, $2, $5, $3, $4)
			RETURNING id`, p.Name(), t.generation, Reading, head, r.source()).Scan(&id)
	})
	if err != nil {
		return nil, err
	}
	t.progress = r.report(Replay{ID: id, Projection: p.Name(), Generation: t.generation, Source: r.source(), Phase: Reading,
		Target: head, StartedAt: time.Now(), Running: true})
	return t, nil
}

// close records the end of the replay, and drops the generation if it did not become live. It is
// idempotent.
func (t *target) close(err error) {
	if !t.progress.stop() {
		return
	}
	ctx, cancel := context.WithTimeout(context.Background(), cleanupTimeout)
	defer cancel()
	end := Swapped
	switch {
	case err == nil:
	case errors.Is(err, ErrDiffers):
		end = Differs
	case errors.Is(err, context.Canceled), errors.Is(err, errSkipped), errors.Is(err, errNotAll):
		end = Interrupted
	default:
		end = Failed
	}
	if end != Swapped {
		if dropErr := t.r.dropGenerations(ctx, t.Name(), "building"); dropErr != nil {
			t.r.Logger.Warn("the generation was not dropped, the next replay does that", "projection", t.Name(), "generation", t.generation, "error", dropErr)
		}
	}
	var why *string
	if err != nil {
		text := err.Error()
		why = &text
	}
	if tellErr := t.progress.end(ctx, end, why); tellErr != nil {
		t.r.Logger.Warn("the end of the replay was not written down", "projection", t.Name(), "phase", end, "error", tellErr)
	}
}

// dropTimeout bounds how long readers of an old generation may be blocked by dropping it.
const dropTimeout = "100ms"

// dropGenerations drops the projection's generations in a state.
func (r *runner) dropGenerations(ctx context.Context, projection, state string) error {
	rows, err := r.ReadPool.Query(ctx, `SELECT generation FROM projection_generations WHERE projection = $1 AND state = $2`, projection, state)
	if err != nil {
		return fmt.Errorf("find generations to drop: %w", err)
	}
	generations, err := pgx.CollectRows(rows, pgx.RowTo[int])
	if err != nil {
		return fmt.Errorf("find generations to drop: %w", err)
	}
	for _, g := range generations {
		err := r.retryLocked(ctx, dropTries, func() error {
			return pgx.BeginFunc(ctx, r.ReadPool, func(tx pgx.Tx) error {
				b := &pgx.Batch{}
				b.Queue(`SELECT set_config('lock_timeout', $1, true)`, dropTimeout)
				b.Queue(`SELECT projection_drop_tables($1, $2)`, projection, g)
				b.Queue(`DELETE FROM projection_generations WHERE projection = $1 AND generation = $2 AND state = $3`, projection, g, state)
				return tx.SendBatch(ctx, b).Close()
			})
		})
		if err != nil {
			return fmt.Errorf("drop generation %d of %s: %w", g, projection, err)
		}
	}
	return nil
}

// source returns the source of the events, as recorded in the replay's row.
func (r *runner) source() string {
	if r.Topic != nil {
		return "kafka"
	}
	return "store"
}
