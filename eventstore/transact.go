package eventstore

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"

	"github.com/dopaminestore/dopamine/internal/failpoint"
)

// How a transaction can end without a commit, beside "Postgres is unavailable,
// nothing is in the log", which is any other error.
type (
	// failedError: rolled back, by the fault of some append.
	failedError struct{ error }
	// unknownError: the commit was sent and not answered.
	unknownError struct{ error }
)

// transact runs the batch as one transaction of two round trips.
func (s *Store) transact(batch []*item) (a *attempt, err error) {
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
	looked := s.roundTrip(s.ctx, func(b *pgx.Batch) { s.begin(b); a.look(b, s.opts.withoutLock) })
	if looked != nil {
		s.freeLock(looked)
		return a, s.rolledBack(fmt.Errorf("look: %w", looked))
	}
	s.incarnation.Store(a.incarnation)
	s.replicated.Store(a.replicated)
	a.decide()
	if len(a.accepted) == 0 && !(a.replicated && a.repeats()) {
		s.rollback() // whatever comes of it: nothing was written
		return a, nil
	}
	failpoint.Hit(failpoint.AppendBeforeCommit)
	var tag string
	wrote := s.roundTrip(s.ctx, func(b *pgx.Batch) { a.write(b, &tag) })
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
		// No transaction is open any more, and no answer says how it ended.
		s.disconnect()
		return a, unknownError{fmt.Errorf("write: %w", wrote)}
	}
	return a, s.rolledBack(fmt.Errorf("write: %w", wrote))
}

// roundTrip sends what queue queues in one go and takes all answers.
func (s *Store) roundTrip(ctx context.Context, queue func(*pgx.Batch)) error {
	ctx, cancel := context.WithTimeout(ctx, tripWithin)
	defer cancel()
	b := &pgx.Batch{}
	queue(b)
	return s.conn.SendBatch(ctx, b).Close()
}

// freeLock frees the append lock if looking failed for want of it and its holder
// is not alive. It takes a connection of its own: this one has a transaction that
// failed.
func (s *Store) freeLock(looked error) {
	var pgErr *pgconn.PgError
	if !errors.As(looked, &pgErr) || pgErr.Code != "55P03" {
		return
	}
	conn, err := connect(s.ctx, s.pool)
	if err != nil {
		return // the next append tries again
	}
	ctx, cancel := context.WithTimeout(s.ctx, tripWithin)
	defer cancel()
	defer func() { _ = conn.Close(ctx) }()
	_, _ = conn.Exec(ctx, freeLockSQL)
}

// rolledBack ends the transaction after err, and says whose fault err was.
func (s *Store) rolledBack(err error) error {
	if !s.rollback() || unavailable(err) {
		return err
	}
	return failedError{err}
}

// rollback ends the transaction; where that cannot be done it disconnects, which
// ends it too, and answers false.
func (s *Store) rollback() bool {
	ctx, cancel := context.WithTimeout(s.ctx, tripWithin)
	defer cancel()
	if _, err := s.conn.Exec(ctx, "rollback"); err != nil {
		s.disconnect()
		return false
	}
	return true
}

// unavailable says whether err is Postgres' way to say that it cannot serve,
// whatever was asked.
func unavailable(err error) bool {
	var pgErr *pgconn.PgError
	if !errors.As(err, &pgErr) || len(pgErr.Code) != 5 {
		return false
	}
	switch pgErr.Code[:2] {
	case "08", "53", "57", "58": // connection, resources, operator, system
		return true
	}
	switch pgErr.Code {
	case "55P03", // lock_not_available: the append lock, or a table's
		"25006": // read_only_sql_transaction: a standby
		return true
	}
	return false
}

// resolve finds out whether the attempt's commit, which was not answered, came
// to be. It looks under the append lock, which the old backend keeps until it
// has ended its transaction one way or the other.
func (s *Store) resolve(a *attempt) (committed bool, err error) {
	if a.events == 0 {
		return false, errors.New("the batch has no event that would tell")
	}
	ctx, cancel := context.WithTimeout(s.ctx, resolveWithin)
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

// lookUp says whether all events of the attempt are where it put them. One that
// is elsewhere, or some alone, were appended by somebody else's repeat.
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
		b.Queue(awaitStandbysSQL) // the commit that is looked for may not have waited for them
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
