package eventstore

import (
	"errors"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5/pgconn"
)

// write is the writer's loop: it runs batch after batch until the store is closed.
func (s *Store) write() {
	defer close(s.done)
	for {
		batch, ok := s.nextBatch()
		if !ok {
			break
		}
		s.runBatch(batch)
	}
	s.cancel()
	s.failWaiting(&UnavailableError{Err: ErrClosed})
	s.disconnect()
}

// runBatch answers every append of the batch, or puts it back into the queue.
func (s *Store) runBatch(batch []*item) { s.runPart(batch, time.Time{}) }

// runPart is runBatch for a part of a batch that met a locked row at a time; the zero time
// is for one that did not.
func (s *Store) runPart(batch []*item, locked time.Time) {
	rowLock := rowLockTimeout
	if !locked.IsZero() {
		rowLock = halfRowLockTimeout // the row was waited for already
	}
	a, err := s.try(batch, rowLock)
	var failed failedError
	var unknown unknownError
	rolledBack := errors.As(err, &failed)
	divide := rolledBack && len(batch) > 1
	rowLocked := rolledBack && lockTimedOut(failed.error)
	if rowLocked {
		if locked.IsZero() {
			locked = time.Now()
		}
		err = failed.error
		divide = divide && time.Since(locked) < halvingTimeout
	}
	switch {
	case err == nil:
		s.deliver(a)
	case divide:
		// Halve, until the append that caused the failure is alone.
		s.runPart(batch[:len(batch)/2], locked)
		s.runPart(batch[len(batch)/2:], locked)
	case errors.As(err, &failed):
		batch[0].result <- outcome{err: fmt.Errorf("eventstore: append: %w", failed.error)}
	case errors.As(err, &unknown):
		s.deliverUnknown(a, unknown.error)
		s.failWaiting(&UnavailableError{Err: unknown.error})
	default:
		unavailable := &UnavailableError{Err: err}
		for _, it := range batch {
			it.result <- outcome{err: unavailable}
		}
		if !rowLocked || len(batch) > 1 {
			// Waiting appends would fail in the same way, only one timeout later.
			s.failWaiting(unavailable)
		}
	}
}

// deliver returns the outcomes to the callers.
func (s *Store) deliver(a *attempt) {
	deferred := a.deferred
	for i, out := range a.outcomes {
		if out.deferred {
			deferred = append(deferred, a.items[i])
		} else {
			a.items[i].result <- out
		}
	}
	s.putBack(deferred)
}

// deliverUnknown answers a batch for which it is not known whether it committed. A
// repeat was in the log before, but perhaps not on the standbys; a refusal may
// depend on an append of this batch.
func (s *Store) deliverUnknown(a *attempt, err error) {
	for _, i := range a.accepted {
		a.outcomes[i] = outcome{err: &UnavailableError{Sent: true, Err: err}}
	}
	nothingSent := &UnavailableError{Err: err}
	for i, out := range a.outcomes {
		if out.Repeated && a.replicated {
			out = outcome{err: &UnavailableError{Sent: true, Err: err}}
		}
		var unavailable *UnavailableError
		if !out.Repeated && !errors.As(out.err, &unavailable) {
			out = outcome{err: nothingSent}
		}
		a.items[i].result <- out
	}
	for _, it := range a.deferred {
		it.result <- outcome{err: nothingSent}
	}
}

// try runs the batch as one transaction, and once more if the first attempt is known
// to have left nothing behind: the connection had broken since the batch
// before, or the commit turned out to have failed.
func (s *Store) try(batch []*item, rowLock time.Duration) (*attempt, error) {
	reused := s.conn != nil
	a, err := s.transact(batch, rowLock)
	var failed failedError
	var unknown unknownError
	switch {
	case err == nil || errors.As(err, &failed):
		return a, err
	case errors.As(err, &unknown):
		committed, lookErr := s.resolve(a)
		if lookErr != nil {
			return a, unknownError{fmt.Errorf("%w; resolving it: %w", unknown.error, lookErr)}
		}
		if committed {
			return a, nil
		}
	case !reused || s.conn != nil || pgconn.Timeout(err):
		return a, err // the connection was not stale
	}
	a, err = s.transact(batch, rowLock)
	if errors.As(err, &unknown) {
		if committed, lookErr := s.resolve(a); lookErr != nil {
			return a, unknownError{fmt.Errorf("%w; resolving it: %w", unknown.error, lookErr)}
		} else if !committed {
			return a, fmt.Errorf("commit failed twice: %w", unknown.error)
		}
		return a, nil
	}
	return a, err
}
