package replay_test

import (
	"context"
	"fmt"
	"sync"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
	"github.com/stretchr/testify/require"

	"github.com/dopaminestore/dopamine/projections"
	"github.com/dopaminestore/dopamine/projections/parking"
	"github.com/dopaminestore/dopamine/projections/replay"
	"github.com/dopaminestore/dopamine/tools/dbtest"
	"github.com/dopaminestore/dopamine/tools/pipelinetest"
	"github.com/dopaminestore/dopamine/tools/testkit"
)

// readTimeout is the maximum time for a reader on a busy machine; without swaps it would be
// milliseconds.
const readTimeout = 3 * time.Second

// poll reads all views and a snapshot, as the query API does, until stopped. It fails if a row that
// was there is missing, or if a read takes too long.
func (s *system) poll(ctx context.Context) error {
	seen := map[string]int64{}
	reads := 0
	for ctx.Err() == nil {
		for _, view := range []string{"purchase_slots", "purchases", "slot_audit_log", "products"} {
			for _, read := range []func(context.Context, string) (int64, error){s.readView, s.readSnapshot} {
				began := time.Now()
				n, err := read(context.Background(), view)
				if err != nil {
					return fmt.Errorf("read %s: %w", view, err)
				}
				if took := time.Since(began); took > readTimeout {
					return fmt.Errorf("reading %s took %s", view, took)
				}
				if n < seen[view] {
					return fmt.Errorf("%s had %d rows, then %d", view, seen[view], n)
				}
				seen[view] = n
				reads++
			}
		}
	}
	if reads < 8 {
		return fmt.Errorf("only %d reads", reads)
	}
	return nil
}

func (s *system) readView(ctx context.Context, view string) (n int64, err error) {
	err = s.Pool.QueryRow(ctx, "SELECT count(*) FROM "+view).Scan(&n)
	return n, err
}

func (s *system) readSnapshot(ctx context.Context, projection string) (n int64, err error) {
	err = pgx.BeginTxFunc(ctx, s.Pool, pgx.TxOptions{IsoLevel: pgx.RepeatableRead, AccessMode: pgx.ReadOnly}, func(tx pgx.Tx) error {
		var generation int
		if err := tx.QueryRow(ctx, "SELECT generation FROM projection_generations WHERE projection = $1 AND state = 'live'", projection).Scan(&generation); err != nil {
			return err
		}
		return tx.QueryRow(ctx, "SELECT count(*) FROM "+projections.Table(projection, generation)).Scan(&n)
	})
	return n, err
}

// Readers never notice a replay (contract 6).
func TestSwap_IsInvisibleToReadersAndLosesNothing(t *testing.T) {
	t.Parallel()
	s := newSystem(t, testkit.Kafka(t))
	s.StartRelay()
	_, stopProjector := s.StartProjector()
	h := s.open(1)
	h.acquire(300)
	h.endSlots()
	s.AwaitCaughtUp()
	rush := testkit.Background(t, func(ctx context.Context) error {
		for seed := uint64(2); ctx.Err() == nil; seed++ {
			more := s.open(seed)
			more.acquire(40)
			more.endSlots()
		}
		return nil
	})
	views, snapshots := testkit.Background(t, s.poll), testkit.Background(t, s.poll)
	var once sync.Once
	for i := range 4 {
		cfg := s.config()
		if i == 2 { // the projector is killed during the swap
			cfg.OnProgress = func(r replay.Replay) {
				if r.Phase == replay.Swapping {
					once.Do(func() {
						_ = stopProjector()
						s.StartProjector()
					})
				}
			}
		}
		require.NoError(t, replay.Run(context.Background(), cfg))
	}
	require.NoError(t, rush())
	require.NoError(t, views())
	require.NoError(t, snapshots())
	s.AwaitCaughtUp()
	require.Equal(t, 5, s.Generation("products"))
	require.Zero(t, s.Count("SELECT count(*) FROM parked_events"))
	s.verify()
}

func TestSwap_WaitsUntilItHasWhatTheLiveGenerationHas(t *testing.T) {
	t.Parallel()
	s, _ := newLiveShop(t, 20)
	before := s.Count("SELECT count(*) FROM purchase_slots")
	var live int64
	var once sync.Once
	cfg := s.config()
	cfg.Projections = pipelinetest.Rebuildable()[1:2]
	cfg.OnProgress = func(r replay.Replay) {
		if r.Phase == replay.Swapping {
			once.Do(func() { // the live generation gets ahead of one that had caught up
				more := s.open(2)
				more.acquire(20)
				more.endSlots()
				s.AwaitCaughtUp()
				live = s.Count("SELECT count(*) FROM purchase_slots")
			})
		}
	}
	require.NoError(t, replay.Run(context.Background(), cfg))
	require.Greater(t, live, before)
	require.Equal(t, live, s.Count("SELECT count(*) FROM purchase_slots"))
}

func TestSwap_ProceedsDuringALongSelect(t *testing.T) {
	t.Parallel()
	s, h := newLiveShop(t, 50)
	long := s.holdView(t)
	testkit.EventuallyTrue(t, 10*time.Second, "the SELECT to be a long one", func() bool {
		return s.Count("SELECT count(*) FROM pg_stat_activity WHERE pid = $1 AND xact_start < clock_timestamp() - interval '1 second'", long.Conn().PgConn().PID()) != 0
	})
	readers := testkit.Background(t, s.poll)
	queue := testkit.Background(t, s.noSessionWaitsForAView)
	done := make(chan error, 1)
	cfg := s.config()
	cfg.Projections = pipelinetest.Rebuildable()[1:2]
	go func() { done <- replay.Run(context.Background(), cfg) }()
	testkit.EventuallyEqual(t, 60*time.Second, "the swap without the view", 2, func() int { return s.Generation("purchase_slots") })
	require.NoError(t, queue())
	require.NoError(t, long.Rollback(context.Background()))
	require.NoError(t, <-done)
	require.NoError(t, readers())
	last := h.acquire(1)
	testkit.EventuallyTrue(t, 30*time.Second, "the view to show the new generation", func() bool {
		return s.Count("SELECT count(*) FROM purchase_slots_g2 WHERE last_position = $1", last) == 1
	})
	require.EqualValues(t, s.Count("SELECT count(*) FROM purchase_slots_g2"), s.Count("SELECT count(*) FROM purchase_slots"))
}

func TestProjector_UpdatesAViewThatAReplayLeft(t *testing.T) {
	t.Parallel()
	s := newLiveSystem(t)
	s.open(1).acquire(50)
	s.AwaitCaughtUp()
	long := s.holdView(t)
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	done := make(chan error, 1)
	cfg := s.config()
	cfg.Projections = pipelinetest.Rebuildable()[1:2]
	go func() { done <- replay.Run(ctx, cfg) }()
	testkit.EventuallyEqual(t, 60*time.Second, "the swap without the view", 2, func() int { return s.Generation("purchase_slots") })
	cancel()
	require.ErrorIs(t, <-done, context.Canceled)
	const shows = "SELECT count(*) FROM (SELECT pg_get_viewdef('purchase_slots'::regclass) AS text) v WHERE text LIKE '%FROM%purchase_slots_g2 %'"
	require.Zero(t, s.Count(shows), "the view followed although it was held: nothing is shown")
	require.NoError(t, long.Rollback(context.Background()))
	testkit.Eventually(t, 30*time.Second, "the view to show the live generation", func() error {
		if s.Count(shows) != 1 {
			return fmt.Errorf("%s", dbtest.One[string](t, s.Pool, "SELECT pg_get_viewdef('purchase_slots'::regclass)"))
		}
		return nil
	})
}

// noSessionWaitsForAView fails if a session waits for a lock on a view: every later reader would wait
// behind it.
func (s *system) noSessionWaitsForAView(ctx context.Context) error {
	for ctx.Err() == nil {
		var n int
		if err := s.Pool.QueryRow(context.Background(), `
			SELECT count(*) FROM pg_locks WHERE NOT granted AND relation = 'purchase_slots'::regclass
			AND database = (SELECT oid FROM pg_database WHERE datname = current_database())`).Scan(&n); err != nil { // views of other tests have the same number
			return err
		}
		if n > 0 {
			return fmt.Errorf("%d wait for the view", n)
		}
	}
	return nil
}

// An interrupted replay (contract 6).
func TestReplay_InterruptedLeavesNothingInTheWay(t *testing.T) {
	t.Parallel()
	s, _ := newLiveShop(t, 60)
	before := s.LiveRows()
	for _, phase := range []string{replay.Reading, replay.Indexing, replay.CatchingUp, replay.Comparing, replay.Swapping} {
		ctx, cancel := context.WithCancel(context.Background())
		cfg := s.config()
		cfg.Verify = true
		cfg.OnProgress = func(r replay.Replay) {
			if r.Phase == phase && r.Projection == "purchase_slots" {
				cancel()
			}
		}
		cfg.Projections = pipelinetest.Rebuildable()[1:2]
		require.ErrorIs(t, replay.Run(ctx, cfg), context.Canceled, phase)
		cancel()
		require.Zero(t, s.Count("SELECT count(*) FROM projection_generations WHERE state = 'building'"), phase)
		require.EqualValues(t, 1, s.Count("SELECT count(*) FROM pg_class WHERE relname ~ '^purchase_slots_g[0-9]+$'"), phase)
		require.Equal(t, before, s.LiveRows(), phase)
		last, err := replay.Latest(context.Background(), s.Pool)
		require.NoError(t, err)
		require.Equal(t, replay.Interrupted, last[0].Phase)
		require.False(t, last[0].Running)
	}
	require.NoError(t, replay.Run(context.Background(), s.config()))
	require.Equal(t, before, s.LiveRows())
}

func TestReplay_RefusesASecondOne(t *testing.T) {
	t.Parallel()
	s := newSystem(t, nil)
	s.open(1).acquire(20)
	second := make(chan error, 1)
	var once sync.Once
	cfg := s.config()
	cfg.OnProgress = func(replay.Replay) {
		once.Do(func() {
			last, err := replay.Latest(context.Background(), s.Pool)
			require.NoError(t, err)
			require.True(t, last[0].Running)
			other := s.config()
			other.Projections = pipelinetest.Rebuildable()[:1]
			second <- replay.Run(context.Background(), other)
		})
	}
	require.NoError(t, replay.Run(context.Background(), cfg))
	require.ErrorIs(t, <-second, replay.ErrRunning)
}

// A skip also holds in replays (contract 6).
func TestReplay_StopsAtAFailingEventAndHonoursSkips(t *testing.T) {
	t.Parallel()
	s := newLiveSystem(t)
	h := s.open(1)
	h.acquire(20)
	nobody := slot{id: uuid.New(), user: uuid.New(), unit: 7, number: 7777}
	bad := s.record(h.product, expired(nobody))
	h.endSlots()
	testkit.Eventually(t, 60*time.Second, "the event to be parked", func() error {
		keys, err := parking.Keys(context.Background(), s.Pool, "purchase_slots", 10)
		if err == nil && len(keys) != 1 {
			err = fmt.Errorf("%d keys are parked", len(keys))
		}
		return err
	})
	cfg := s.config()
	cfg.Projections = pipelinetest.Rebuildable()[1:2]
	err := replay.Run(context.Background(), cfg)
	require.ErrorContains(t, err, fmt.Sprintf("event %d (SlotExpired)", bad))
	require.Equal(t, 1, s.Generation("purchase_slots"))
	last, err := replay.Latest(context.Background(), s.Pool)
	require.NoError(t, err)
	require.Equal(t, replay.Failed, last[0].Phase)
	require.Contains(t, last[0].Error, "has no row")

	s.skip("purchase_slots", nobody.id)
	require.NoError(t, replay.Run(context.Background(), cfg))
	require.Equal(t, 3, s.Generation("purchase_slots"), "the number of the failed replay is not reused")
	require.Zero(t, s.Count("SELECT count(*) FROM purchase_slots WHERE id = $1", nobody.id))

	// A restored store has another event at the position.
	dbtest.Exec(t, s.Pool, "UPDATE skipped_events SET event_id = gen_random_uuid()")
	require.ErrorContains(t, replay.Run(context.Background(), cfg), fmt.Sprintf("event %d (SlotExpired)", bad), "a skip is of an event, not of a position")
}

func TestReplay_StartsOverAfterASkip(t *testing.T) {
	t.Parallel()
	s := newLiveSystem(t)
	h := s.open(1)
	h.acquire(20)
	s.AwaitCaughtUp()
	// The live row is removed, so that the live generation cannot apply what a replay can.
	lost := h.slots[0]
	s.Exec("DELETE FROM purchase_slots_g1 WHERE id = $1", lost.id)
	s.record(h.product, expired(lost))
	testkit.EventuallyTrue(t, 60*time.Second, "the event to be parked", func() bool {
		return s.Count("SELECT count(*) FROM parked_events WHERE projection = 'purchase_slots'") == 1
	})
	var once sync.Once
	cfg := s.config()
	cfg.Projections = pipelinetest.Rebuildable()[1:2]
	cfg.OnProgress = func(r replay.Replay) {
		if r.Phase == replay.Swapping {
			once.Do(func() { s.skip("purchase_slots", lost.id) })
		}
	}
	require.NoError(t, replay.Run(context.Background(), cfg))
	require.Equal(t, 3, s.Generation("purchase_slots"), "the second one was swapped")
	require.EqualValues(t, 1, s.Count("SELECT count(*) FROM purchase_slots WHERE id = $1 AND status = 'ACTIVE'", lost.id), "the end was skipped")
	last, err := replay.Latest(context.Background(), s.Pool)
	require.NoError(t, err)
	require.Equal(t, replay.Swapped, last[0].Phase)
	require.Contains(t, dbtest.One[string](t, s.Pool, "SELECT error FROM projection_replays WHERE phase = 'interrupted'"), "skipped")
}

// skip drops the first parked event of a key and waits until that is done.
func (s *system) skip(projection string, key uuid.UUID) {
	require.NoError(s.TB, parking.Request(context.Background(), s.Pool, projection, key, parking.Skip, "operator"))
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	defer cancel()
	done, err := parking.Await(ctx, s.Pool, projection, key, 20*time.Millisecond)
	require.NoError(s.TB, err)
	require.Equal(s.TB, "operator", done.By)
}
