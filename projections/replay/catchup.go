package replay

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/dopaminestore/dopamine/eventstore"
	"github.com/dopaminestore/dopamine/internal/sleep"
	"github.com/dopaminestore/dopamine/projections"
)

// build builds the indexes, catches up, and compares if requested.
func (t *target) build(ctx context.Context) error {
	t.enter(Indexing)
	if err := t.index(ctx); err != nil {
		return fmt.Errorf("build the indexes: %w", err)
	}
	t.enter(CatchingUp)
	if err := t.catchUp(ctx); err != nil {
		return err
	}
	var err error
	if t.foreign, err = t.isForeign(ctx); err != nil || !t.r.Verify {
		return err
	}
	t.enter(Comparing)
	return t.verify(ctx)
}

// goLive swaps, then updates the view and drops old generations.
func (t *target) goLive(ctx context.Context) error {
	t.enter(Swapping)
	withView, err := t.swap(ctx)
	if err != nil {
		return err
	}
	t.r.Logger.Info("the next generation is live", "projection", t.Name(), "generation", t.generation, "position", t.position)
	if !withView {
		t.r.Logger.Warn("a long SELECT holds the view, which follows as soon as it ends", "view", t.Name())
		if err := t.r.followView(ctx, t.Name(), forever); err != nil {
			return fmt.Errorf("the generation is live, but the view does not show it yet, the next replay mends that: %w", err)
		}
	}
	if t.r.DropOld {
		if err := t.r.dropGenerations(ctx, t.Name(), "old"); err != nil {
			return fmt.Errorf("the generation is live, but an older one is still there, `replay --drop-old` drops it: %w", err)
		}
	}
	return nil
}

// catchUp applies the events recorded after the replay's position, as in live processing, up to the
// log's end.
func (t *target) catchUp(ctx context.Context) error {
	for {
		recorded, err := t.r.Store.ReadAll(ctx, t.position, t.r.page())
		if err != nil || len(recorded) == 0 {
			return err
		}
		if err := t.r.limit.WaitN(ctx, len(recorded)); err != nil {
			return err
		}
		if err := t.applyPage(ctx, recorded); err != nil {
			return err
		}
		t.position = recorded[len(recorded)-1].Position
		t.passed(len(recorded), t.position, t.position)
	}
}

func (t *target) applyPage(ctx context.Context, recorded []eventstore.Recorded) error {
	p := &page{recorded: recorded, decoded: make(chan struct{})}
	p.decode()
	events, err := t.relevant(ctx, p)
	if err != nil || len(events) == 0 {
		return err
	}
	return pgx.BeginFunc(ctx, t.r.ReadPool, func(tx pgx.Tx) error {
		if _, err := tx.Exec(ctx, asyncCommit); err != nil {
			return err
		}
		fold := t.NewFold(t.generation)
		b := &pgx.Batch{}
		fold.Load(b, events)
		if b.Len() > 0 {
			if err := tx.SendBatch(ctx, b).Close(); err != nil {
				return err
			}
		}
		if err := apply(fold, events); err != nil {
			return err
		}
		b = &pgx.Batch{}
		fold.Write(b)
		if b.Len() == 0 {
			return nil
		}
		return tx.SendBatch(ctx, b).Close()
	})
}

// isForeign reports whether the live generation has applied events that the store does not have.
// Then the store was restored to an earlier moment, and the live generation's position cannot be
// compared.
func (t *target) isForeign(ctx context.Context) (bool, error) {
	rows, err := t.r.ReadPool.Query(ctx, `
		SELECT c.position, c.event_id FROM projection_checkpoints c JOIN projection_generations g USING (projection, generation)
		WHERE c.projection = $1 AND g.state = 'live' AND c.position > 0`, t.Name())
	if err != nil {
		return false, fmt.Errorf("read the live checkpoints: %w", err)
	}
	type checkpoint struct {
		Position int64
		EventID  [16]byte
	}
	all, err := pgx.CollectRows(rows, pgx.RowToStructByPos[checkpoint])
	if err != nil {
		return false, fmt.Errorf("read the live checkpoints: %w", err)
	}
	for _, c := range all {
		at, err := t.r.Store.At(ctx, c.Position)
		if err != nil && !errors.Is(err, eventstore.ErrNoEvent) {
			return false, err
		}
		if err != nil || at.ID != c.EventID {
			t.r.Logger.Warn("live generation has events that the store lacks, replacing it",
				"projection", t.Name(), "position", c.Position)
			return true, nil
		}
	}
	return false, nil
}

const (
	forever   = 0
	dropTries = 50
	tryAgain  = 200 * time.Millisecond
)

// retryLocked calls do again while a lock is not available, up to the given number of attempts.
func (r *runner) retryLocked(ctx context.Context, attempts int, do func() error) error {
	for try := 1; ; try++ {
		err := do()
		if !projections.LockedOut(err) || try == attempts {
			return err
		}
		if err := sleep.For(ctx, tryAgain); err != nil {
			return err
		}
	}
}
