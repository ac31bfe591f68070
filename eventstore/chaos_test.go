package eventstore

import (
	"context"
	"errors"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/stretchr/testify/require"

	"github.com/dopaminestore/dopamine/db"
	"github.com/dopaminestore/dopamine/tools/dbtest"
	"github.com/dopaminestore/dopamine/tools/devservices"
	"github.com/dopaminestore/dopamine/tools/testkit"
)

// promise records the results that writers received, to compare them with the log.
type promise struct {
	mu        sync.Mutex
	there     map[uuid.UUID]int64 // event id: position
	never     []uuid.UUID         // abandoned after "nothing was appended"
	trouble   int                 // failed appends
	unsettled int                 // failed appends with unknown outcome
}

// writer appends to its own stream until ctx ends. It retries a failed append
// unchanged, or, if nothing was sent, abandons it half of the time.
func (p *promise) writer(ctx context.Context, s *Store) error {
	stream, version := uuid.New(), Expected(0)
	for ctx.Err() == nil {
		a := appendTo(stream, version, 1)
		id := a.Streams[0].Events[0].ID
		for mayGiveUp := true; ; {
			result, err := s.Append(context.Background(), a)
			p.mu.Lock()
			if err == nil {
				p.there[id] = result.Position
				version++
				p.mu.Unlock()
				break
			}
			var unavailable *UnavailableError
			if !errors.As(err, &unavailable) {
				p.mu.Unlock()
				return err
			}
			p.trouble++
			if unavailable.Sent {
				p.unsettled++
				mayGiveUp = false // from now on only a success shows that it was appended once
			} else if mayGiveUp && rand.IntN(2) == 0 {
				p.never = append(p.never, id)
				p.mu.Unlock()
				break
			}
			p.mu.Unlock()
		}
	}
	return nil
}

func (p *promise) requireKept(t *testing.T, pool *pgxpool.Pool) {
	t.Helper()
	log := wholeLog(t, pool)
	require.Len(t, log, len(p.there), "each event once, and nothing else")
	for _, e := range log {
		require.Equal(t, p.there[e.ID], e.Position)
	}
	for _, id := range p.never {
		_, there := p.there[id]
		require.False(t, there)
	}
	t.Logf("%d events, %d unavailable, of these %d with unknown outcome", len(log), p.trouble, p.unsettled)
}

// chaos runs 2 stores with 8 writers each while disturb injects faults.
func chaos(t *testing.T, url string, disturb func(appended func() int)) {
	t.Helper()
	p := &promise{there: map[uuid.UUID]int64{}}
	ctx, cancel := context.WithCancel(context.Background())
	var writers sync.WaitGroup
	for range 2 {
		s := open(t, newPool(t, url), Options{})
		for range 8 {
			writers.Go(func() {
				if err := p.writer(ctx, s); err != nil {
					t.Errorf("append: %v", err)
				}
			})
		}
	}
	disturb(func() int {
		p.mu.Lock()
		defer p.mu.Unlock()
		return len(p.there)
	})
	cancel()
	writers.Wait()
	p.requireKept(t, newPool(t, url))
}

// awaitMore waits until n more events were appended.
func awaitMore(t *testing.T, appended func() int, n int) {
	t.Helper()
	from := appended()
	testkit.EventuallyTrue(t, 30*time.Second, "appends to go on", func() bool { return appended() >= from+n })
}

func TestStore_KilledBackendsLoseAndDuplicateNothing(t *testing.T) {
	t.Parallel()
	database := dbtest.Both(t)
	var killed atomic.Int64
	chaos(t, database.URL, func(appended func() int) {
		for range 60 {
			awaitMore(t, appended, 20)
			killed.Add(dbtest.One[int64](t, database.Pool, `
				select count(pg_terminate_backend(pid)) from pg_stat_activity
				where datname = current_database() and pid <> pg_backend_pid()`))
		}
	})
	require.Positive(t, killed.Load())
}

func TestStore_KilledPostgresLosesAndDuplicatesNothing(t *testing.T) {
	t.Parallel()
	pg, err := devservices.StartPostgres(t.Context(), devservices.PostgresOptions{Dir: t.TempDir(), Disposable: true})
	if errors.Is(err, devservices.ErrNotHere) {
		t.Skip(err)
	}
	require.NoError(t, err)
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
		defer cancel()
		require.NoError(t, pg.Stop(ctx))
	})
	require.NoError(t, db.MigrateWrite(t.Context(), pg.URL()))
	chaos(t, pg.URL(), func(appended func() int) {
		for range 3 {
			awaitMore(t, appended, 100)
			pg.Kill9()
			require.NoError(t, pg.Restart(context.Background()))
		}
		awaitMore(t, appended, 100)
	})
}
