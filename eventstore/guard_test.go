package eventstore

import (
	"context"
	"errors"
	"sync"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/stretchr/testify/require"

	"github.com/dopaminestore/dopamine/tools/dbtest"
)

// seats is a guard like that of a command: a seat is taken once, and only in
// the current epoch.
type seats struct{}

type seat struct {
	number, epoch int
	sloppy        bool // not checked, so that the table's constraint is violated
}

var (
	errEpoch = errors.New("old epoch")
	errTaken = errors.New("seat taken")
)

func (seats) Check(b *pgx.Batch, items []any, refused []error) {
	seen := map[int]bool{}
	for i, item := range items {
		s := item.(seat)
		if s.sloppy {
			continue
		}
		if seen[s.number] {
			refused[i] = ErrDefer
			continue
		}
		seen[s.number] = true
		b.Queue("select (select epoch from epochs), exists (select from seats where number = $1)", s.number).
			QueryRow(func(row pgx.Row) error {
				var epoch int
				var taken bool
				if err := row.Scan(&epoch, &taken); err != nil {
					return err
				}
				if epoch != s.epoch {
					refused[i] = errEpoch
				} else if taken {
					refused[i] = errTaken
				}
				return nil
			})
	}
}

func (seats) Apply(b *pgx.Batch, at time.Time, items []Applied) {
	for _, item := range items {
		b.Queue("insert into seats values ($1, $2, "+NowSQL+", $3)", item.Data.(seat).number, item.Positions, at)
	}
}

func withSeats(t *testing.T) *pgxpool.Pool {
	t.Helper()
	pool := dbtest.Write(t)
	dbtest.Exec(t, pool, `
		create table epochs (epoch int);
		insert into epochs values (0);
		create table seats (number int primary key, positions bigint[], now timestamptz, at timestamptz)`)
	return pool
}

func takeSeat(s seat) Append {
	a := appendTo(uuid.New(), None, 1)
	a.Guards = []GuardItem{{Guard: seats{}, Data: s}}
	return a
}

func TestGuard_RefusesOnlyItsAppend(t *testing.T) {
	t.Parallel()
	pool := withSeats(t)
	s := open(t, pool, Options{})
	_, err := s.Append(t.Context(), takeSeat(seat{number: 7}))
	require.NoError(t, err)

	errs := takeSeats(t, s, 20)
	for i, err := range errs {
		if i == 7 {
			require.ErrorIs(t, err, errTaken)
		} else {
			require.NoError(t, err)
		}
	}
	require.Len(t, wholeLog(t, pool), len(errs))
	var rows, wrong int
	require.NoError(t, pool.QueryRow(t.Context(), `
		select count(*), count(*) filter (where s.now <> s.at or s.at <> e.recorded_at or e.position is null)
		from seats s left join events e on e.position = s.positions[1]`).Scan(&rows, &wrong))
	require.Equal(t, len(errs), rows)
	require.Zero(t, wrong, "event_now(), at and recorded_at are one, and positions are the events'")
}

// Twenty appends of one batch take the same seat: those that cannot be decided together are deferred.
func TestGuard_DeferredItemsAreDecidedInTurn(t *testing.T) {
	t.Parallel()
	pool := withSeats(t)
	s := open(t, pool, Options{})
	errs := make([]error, 20)
	var all sync.WaitGroup
	blocked(t, s, len(errs), func() {
		for i := range errs {
			all.Go(func() { _, errs[i] = s.Append(context.Background(), takeSeat(seat{number: 1})) })
		}
	})
	all.Wait()
	won := 0
	for _, err := range errs {
		if err == nil {
			won++
		} else {
			require.ErrorIs(t, err, errTaken)
		}
	}
	require.Equal(t, 1, won)
	require.Len(t, wholeLog(t, pool), 1)
}

func TestGuard_ConstraintFailsOnlyItsAppend(t *testing.T) {
	t.Parallel()
	pool := withSeats(t)
	s := open(t, pool, Options{})
	errs := make([]error, 30)
	var all sync.WaitGroup
	blocked(t, s, len(errs), func() {
		for i := range errs {
			want := seat{number: i}
			if i >= 28 {
				want = seat{number: 100, sloppy: true}
			}
			all.Go(func() { _, errs[i] = s.Append(context.Background(), takeSeat(want)) })
		}
	})
	all.Wait()
	failed := 0
	for i, err := range errs {
		if i < 28 {
			require.NoError(t, err)
		} else if err != nil {
			failed++
			require.ErrorContains(t, err, "seats_pkey")
			require.NotErrorAs(t, err, new(*UnavailableError))
		}
	}
	require.Equal(t, 1, failed)
	require.Len(t, wholeLog(t, pool), len(errs)-1)
}

// Another session has a row that one of twenty appends needs: the others do not fail with it.
func TestGuard_LockedRowFailsOnlyItsAppend(t *testing.T) {
	t.Parallel()
	pool := withSeats(t)
	s := open(t, pool, Options{})
	other := begin(t, pool)
	dbtest.Exec(t, other, "insert into seats (number) values (7)") // neither committed nor rolled back
	errs := takeSeats(t, s, 20)
	for i, err := range errs {
		if i != 7 {
			require.NoError(t, err)
			continue
		}
		var away *UnavailableError
		require.ErrorAs(t, err, &away)
		require.False(t, away.Sent)
	}
	require.NoError(t, other.Rollback(t.Context()))
	_, err := s.Append(t.Context(), takeSeat(seat{number: 7}))
	require.NoError(t, err)
}

// A whole table is locked: halving would not find an append that is to blame, and ends.
func TestGuard_LockedTableFailsTheBatch(t *testing.T) {
	t.Parallel()
	pool := withSeats(t)
	s := open(t, pool, Options{})
	other := begin(t, pool)
	dbtest.Exec(t, other, "lock table seats in exclusive mode")
	for _, err := range takeSeats(t, s, 200) {
		var away *UnavailableError
		require.ErrorAs(t, err, &away)
		require.False(t, away.Sent)
	}
	require.NoError(t, other.Rollback(t.Context()))
	for _, err := range takeSeats(t, s, 20) {
		require.NoError(t, err)
	}
}

// begin begins a transaction of another session, which ends with the test at the latest.
func begin(t *testing.T, pool *pgxpool.Pool) pgx.Tx {
	t.Helper()
	tx, err := pool.Begin(t.Context())
	require.NoError(t, err)
	t.Cleanup(func() { _ = tx.Rollback(context.Background()) })
	return tx
}

// takeSeats takes n seats in one batch or two.
func takeSeats(t *testing.T, s *Store, n int) []error {
	t.Helper()
	errs := make([]error, n)
	var all sync.WaitGroup
	blocked(t, s, n, func() {
		for i := range errs {
			all.Go(func() { _, errs[i] = s.Append(context.Background(), takeSeat(seat{number: i})) })
		}
	})
	all.Wait()
	return errs
}

// The append waits for the lock while the epoch is raised: it must see the new
// one, which a snapshot taken before the wait would not contain.
func TestGuard_SeesChangesMadeWhileItWaited(t *testing.T) {
	t.Parallel()
	pool := withSeats(t)
	s := open(t, pool, Options{})
	tx, err := pool.Begin(t.Context())
	require.NoError(t, err)
	dbtest.Exec(t, tx, lockSQL)
	dbtest.Exec(t, tx, "update epochs set epoch = 1")
	result := make(chan error, 1)
	go func() {
		_, err := s.Append(context.Background(), takeSeat(seat{number: 1, epoch: 0}))
		result <- err
	}()
	waitsForLock(t, pool, 1)
	require.NoError(t, tx.Commit(t.Context()))
	require.ErrorIs(t, <-result, errEpoch)
	require.Empty(t, wholeLog(t, pool))
}

func TestGuard_WithoutEvents(t *testing.T) {
	t.Parallel()
	pool := withSeats(t)
	s := open(t, pool, Options{})
	a := Append{Key: uuid.New(), Guards: []GuardItem{{Guard: seats{}, Data: seat{number: 1}}}}
	result, err := s.Append(t.Context(), a)
	require.NoError(t, err)
	require.Zero(t, result.Position)
	require.False(t, result.RecordedAt.IsZero())
	_, err = s.Append(t.Context(), a)
	require.ErrorIs(t, err, errTaken)
}

func TestGuard_IsNotAppliedToRepeat(t *testing.T) {
	t.Parallel()
	pool := withSeats(t)
	s := open(t, pool, Options{})
	a := takeSeat(seat{number: 1})
	_, err := s.Append(t.Context(), a)
	require.NoError(t, err)
	again, err := s.Append(t.Context(), a)
	require.NoError(t, err, "the seat is taken by the same append")
	require.True(t, again.Repeated)
}

// stubborn defers every item.
type stubborn struct{}

func (stubborn) Check(_ *pgx.Batch, _ []any, refused []error) {
	for i := range refused {
		refused[i] = ErrDefer
	}
}
func (stubborn) Apply(*pgx.Batch, time.Time, []Applied) {}

func TestGuard_DeferringEnds(t *testing.T) {
	t.Parallel()
	s := open(t, dbtest.Write(t), Options{})
	var all sync.WaitGroup
	for range 5 {
		all.Go(func() {
			_, err := s.Append(context.Background(), Append{Guards: []GuardItem{{Guard: stubborn{}}}})
			require.ErrorIs(t, err, ErrDefer)
		})
	}
	all.Wait()
}
