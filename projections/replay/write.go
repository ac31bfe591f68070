package replay

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"

	"github.com/jackc/pgx/v5"

	"github.com/dopaminestore/dopamine/avsc"
	"github.com/dopaminestore/dopamine/domain"
	"github.com/dopaminestore/dopamine/internal/failpoint"
	"github.com/dopaminestore/dopamine/internal/guard"
	"github.com/dopaminestore/dopamine/projections"
)

// writer writes the rows that leave memory, one spill after the other, in parallel with the
// folding.
type writer struct {
	ctx  context.Context
	t    *target
	work chan projections.Spill
	busy sync.WaitGroup // spills handed over and not yet written
	done chan struct{}

	mu  sync.Mutex
	err error // the first error
}

func newWriter(ctx context.Context, t *target) *writer {
	w := &writer{ctx: ctx, t: t, work: make(chan projections.Spill, 1), done: make(chan struct{})}
	go func() {
		defer guard.Log("write a replay's rows")
		defer close(w.done)
		for s := range w.work {
			if w.failed() == nil {
				if err := w.t.store(w.ctx, s); err != nil {
					w.mu.Lock()
					w.err = err
					w.mu.Unlock()
				}
			}
			w.busy.Done()
		}
	}()
	return w
}

func (w *writer) failed() error {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.err
}

// write hands a spill over. The error may be that of an earlier spill.
func (w *writer) write(s projections.Spill) error {
	if len(s.Copies)+len(s.Upserts) > 0 {
		w.busy.Add(1)
		w.work <- s
	}
	return w.failed()
}

// drain waits until everything is written.
func (w *writer) drain() error {
	w.busy.Wait()
	return w.failed()
}

func (w *writer) close() error {
	close(w.work)
	<-w.done
	return w.failed()
}

// asyncCommit avoids waiting for the disk: the swap's own commit waits for everything written
// before it.
const asyncCommit = `SET LOCAL synchronous_commit = off`

// store writes a spill in a separate transaction: one long transaction would keep vacuum from
// removing rows in the whole database.
func (t *target) store(ctx context.Context, s projections.Spill) error {
	return pgx.BeginFunc(ctx, t.r.ReadPool, func(tx pgx.Tx) error {
		if _, err := tx.Exec(ctx, asyncCommit); err != nil {
			return err
		}
		for _, c := range s.Copies {
			sql := fmt.Sprintf("COPY %s (%s) FROM STDIN (FORMAT binary)", pgx.Identifier{c.Table}.Sanitize(), strings.Join(c.Columns, ", "))
			if _, err := tx.Conn().PgConn().CopyFrom(ctx, c.Rows, sql); err != nil {
				return fmt.Errorf("copy into %s: %w", c.Table, err)
			}
		}
		failpoint.Hit(failpoint.ReplayPage)
		b := &pgx.Batch{}
		for _, f := range s.Upserts {
			f.Write(b)
		}
		if b.Len() == 0 {
			return nil
		}
		return tx.SendBatch(ctx, b).Close()
	})
}

// apply folds events in order. A panic is returned as an error.
func apply(f interface{ Apply(domain.Envelope) error }, events []domain.Envelope) (err error) {
	at := 0
	defer func() {
		if p := recover(); p != nil {
			err = fmt.Errorf("event %d (%s): panic: %v", events[at].Position, events[at].Event.EventType(), p)
		}
	}()
	for i, e := range events {
		at = i
		if err := f.Apply(e); err != nil {
			return fmt.Errorf("event %d (%s): %w", e.Position, e.Event.EventType(), err)
		}
	}
	return nil
}

// isUnknown reports whether a newer program wrote the event: it may then concern any projection.
func isUnknown(err error) bool {
	var unknown *avsc.UnknownEventError
	return errors.As(err, &unknown)
}
