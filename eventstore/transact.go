package eventstore

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgerrcode"
	"github.com/jackc/pgx/v5"

	"github.com/dopaminestore/dopamine/internal/failpoint"
	"github.com/dopaminestore/dopamine/internal/postgres"
)

// Ways in which a transaction ends without a commit. Any other error means that Postgres
// is unavailable and nothing is in the log.
type (
	// failedError: rolled back, because of some append.
	failedError struct{ error }
	// unknownError: the commit was sent and not answered.
	unknownError struct{ error }
)

// transact runs the batch as one transaction of two round trips, which waits for a row
// for rowLock at most.
func (s *Store) transact(batch []*item, rowLock time.Duration) (a *attempt, err error) {
	begun := time.Now()
	defer func() {
		if s.opts.Observe != nil {
			s.opts.Observe(Batch{Appends: len(batch), Events: a.events, Took: time.Since(begun), Ahead: a.ahead, Err: err})
		}
	}()
	a = newAttempt(batch)
	if s.conn == nil {
		if s.conn, err = connectAppender(s.ctx, s.pool, s.opts.Pooled); err != nil {
			return a, err
		}
	}
	looked := s.roundTrip(s.ctx, func(b *pgx.Batch) { s.begin(b); a.queueReads(b, rowLock, s.opts.withoutLock) })
	if looked != nil {
		if a.at.IsZero() {
			s.freeLock(looked)
		}
		return a, s.rolledBack(a, fmt.Errorf("read: %w", looked))
	}
	s.incarnation.Store(a.incarnation)
	s.replicated.Store(a.replicated)
	a.decide()
	if len(a.accepted) == 0 && !(a.replicated && a.repeats()) {
		s.rollback() // ignored, because nothing was written
		return a, nil
	}
	failpoint.Hit(failpoint.AppendBeforeCommit)
	var tag string
	wrote := s.roundTrip(s.ctx, func(b *pgx.Batch) { a.queueWrites(b, &tag) })
	switch {
	case wrote == nil && tag == "COMMIT":
		if lost := failpoint.Error(failpoint.AppendAfterCommit); lost != nil {
			s.disconnect()
			return a, unknownError{fmt.Errorf("write: %w", lost)}
		}
		return a, nil
	case wrote == nil:
		return a, failedError{fmt.Errorf("commit answered %s", tag)}
	case s.conn.IsClosed() || s.conn.PgConn().TxStatus() == 'I':
		// No transaction is open any more, and its outcome is not known.
		s.disconnect()
		return a, unknownError{fmt.Errorf("write: %w", wrote)}
	}
	return a, s.rolledBack(a, fmt.Errorf("write: %w", wrote))
}

// roundTrip sends the queued statements at once and reads all results.
func (s *Store) roundTrip(ctx context.Context, queue func(*pgx.Batch)) error {
	ctx, cancel := context.WithTimeout(ctx, roundTripTimeout)
	defer cancel()
	b := &pgx.Batch{}
	queue(b)
	return s.conn.SendBatch(ctx, b).Close()
}

// freeLock frees the append lock if the reads timed out waiting for it and its holder
// is not alive. It uses a separate connection: this one has a failed
// transaction.
func (s *Store) freeLock(looked error) {
	if !lockTimedOut(looked) {
		return
	}
	conn, err := connect(s.ctx, s.pool)
	if err != nil {
		return // the next append retries
	}
	ctx, cancel := context.WithTimeout(s.ctx, roundTripTimeout)
	defer cancel()
	defer func() { _ = conn.Close(ctx) }()
	_, _ = conn.Exec(ctx, freeLockSQL)
}

// rolledBack ends the attempt's transaction after err, and classifies err. A lock that
// could not be had is every append's trouble if it is the append lock, or the log's, and
// otherwise that of the appends that need the row.
func (s *Store) rolledBack(a *attempt, err error) error {
	if !s.rollback() || postgres.Unavailable(err) || lockTimedOut(err) && a.at.IsZero() {
		return err
	}
	return failedError{err}
}

// rollback ends the transaction. If that fails it disconnects, which
// ends it too, and returns false.
func (s *Store) rollback() bool {
	ctx, cancel := context.WithTimeout(s.ctx, roundTripTimeout)
	defer cancel()
	if _, err := s.conn.Exec(ctx, "rollback"); err != nil {
		s.disconnect()
		return false
	}
	return true
}

// lockTimedOut reports whether err is that a lock could not be had in time.
func lockTimedOut(err error) bool { return postgres.Code(err) == pgerrcode.LockNotAvailable }

// resolve determines whether the attempt's commit, which was not answered, took
// effect. It reads under the append lock, which the old backend keeps until it
// has ended its transaction in either way.
func (s *Store) resolve(a *attempt) (committed bool, err error) {
	if a.events == 0 {
		return false, errors.New("the batch has no event to look up")
	}
	ctx, cancel := context.WithTimeout(s.ctx, resolveTimeout)
	defer cancel()
	again := time.NewTicker(50 * time.Millisecond) // Postgres may be starting
	defer again.Stop()
	for {
		if committed, err = s.lookUp(ctx, a); err == nil {
			return committed, nil
		}
		select {
		case <-again.C:
		case <-ctx.Done():
			return false, err
		}
	}
}

// lookUp reports whether all events of the attempt are where it put them. If one is
// elsewhere, or only some exist, they were appended by another process's repeat.
func (s *Store) lookUp(ctx context.Context, a *attempt) (bool, error) {
	s.disconnect()
	conn, err := connectAppender(ctx, s.pool, s.opts.Pooled)
	if err != nil {
		return false, err
	}
	s.conn = conn
	there := &attempt{existing: map[uuid.UUID]found{}}
	err = s.roundTrip(ctx, func(b *pgx.Batch) {
		s.begin(b)
		b.Queue(lockSQL)
		b.Queue(existingSQL, a.ids).Query(there.scanExisting)
		b.Queue(awaitStandbysSQL) // the commit may not have waited for them
		b.Queue("commit")
	})
	if err != nil {
		s.disconnect()
		return false, err
	}
	for _, i := range a.accepted {
		position := 0
		for _, stream := range a.items[i].Streams {
			for _, event := range stream.Events {
				f, ok := there.existing[event.ID]
				if !ok || f.position != a.outcomes[i].Positions[position] || !f.recordedAt.Equal(a.at) {
					return false, nil
				}
				position++
			}
		}
	}
	return true, nil
}
