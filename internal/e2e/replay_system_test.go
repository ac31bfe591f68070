package e2e

import (
	"context"
	"fmt"
	"os"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/stretchr/testify/require"

	"github.com/dopaminestore/dopamine/tools/dbtest"
	"github.com/dopaminestore/dopamine/tools/devservices"
	"github.com/dopaminestore/dopamine/tools/testkit"
)

const (
	// eventsVariable sets the length of the replayed history.
	eventsVariable = "DOPAMINE_E2E_EVENTS"
	// longSelectVariable sets the duration of the SELECT across a swap.
	longSelectVariable = "DOPAMINE_E2E_LONG_SELECT"
	// quickHistory is a history whose replay takes about a second: replays of shorter ones have to
	// be slowed down for faults during them.
	quickHistory = 500_000
)

var everyView = []string{"products", "purchase_slots", "purchases", "slot_audit_log"}

// replaySystem is a fleet on a separate Postgres, whose store has a long history that went through
// relay and projectors.
type replaySystem struct {
	*fleet
	postgres *devservices.Postgres
	events   int
	buyers   []uuid.UUID // of the past
	products []uuid.UUID // of the past
	writes   *writes
}

func startReplaySystem(t *testing.T) *replaySystem {
	t.Helper()
	s := &replaySystem{postgres: testkit.OwnPostgres(t), events: 40_000}
	if text := os.Getenv(eventsVariable); text != "" {
		n, err := strconv.Atoi(text)
		require.NoError(t, err, eventsVariable)
		s.events = n
	}
	url := s.postgres.URL()
	cfg, err := pgxpool.ParseConfig(url)
	require.NoError(t, err)
	cfg.MaxConns = 20
	pool, err := pgxpool.NewWithConfig(context.Background(), cfg)
	require.NoError(t, err)
	t.Cleanup(pool.Close)
	gateway := freeAddr(t)
	// Slots live long enough for everything that can happen to them.
	s.fleet = newFleet(t, pool, url, "DOPAMINE_GATEWAY_URL=http://"+gateway,
		"DOPAMINE_SLOT_TTL=6s", "DOPAMINE_SLOT_WARNING=3s", "DOPAMINE_PAYMENT_TIMEOUT=3s")
	status, _, errs := call(t, s.env("migrate"), "migrate")
	require.Equal(t, 0, status, errs)
	began := time.Now()
	s.buyers, s.products = loadHistory(t, pool, s.events)
	t.Logf("loaded in %s", time.Since(began).Round(time.Millisecond))
	start(t, "gateway-sim", s.env("gateway-sim"), "gateway-sim", "--addr", gateway).ready()
	began = time.Now()
	s.run()
	testkit.Eventually(t, time.Minute+time.Duration(s.events/3000)*time.Second, "the history to be projected", func() error {
		// Asking status would use up what relay and projectors need.
		if n := one[int](s, `SELECT count(DISTINCT projection) FROM projection_checkpoints WHERE position >= (SELECT max(position) FROM events)`); n < len(everyView) {
			return fmt.Errorf("%d of %d projections have all", n, len(everyView))
		}
		return nil
	})
	s.settled()
	t.Logf("published and projected in %s", time.Since(began).Round(time.Millisecond))
	dbtest.Exec(t, pool, `ANALYZE`)
	s.writes = &writes{product: s.admin.product(s.commandURLs[0], 1_000_000)}
	first := s.users.buyer().acquire(s.commandURLs[0], s.writes.product)
	require.Equal(t, 201, first.status, "%s", first.body)
	return s
}

// in returns the system for a subtest.
func (s *replaySystem) in(t *testing.T) *replaySystem {
	part := *s
	part.fleet = s.fleet.in(t)
	return &part
}

// replay starts one.
func (s *replaySystem) replay(args ...string) *process {
	s.t.Helper()
	return start(s.t, "replay "+strings.Join(args, " "), s.env("replay"), append([]string{"replay"}, args...)...)
}

// replayTimeout is the maximum duration of a replay.
func (s *replaySystem) replayTimeout() time.Duration {
	return time.Minute + time.Duration(s.events/3000)*time.Second
}

// replays runs one to its end, which has to be a good one.
func (s *replaySystem) replays(args ...string) {
	s.t.Helper()
	began := time.Now()
	p := s.replay(args...)
	status := p.wait(s.replayTimeout())
	require.Equal(s.t, 0, status, "replay %v: %s%s", args, p.said("stdout"), p.said("stderr"))
	took := time.Since(began)
	s.t.Logf("replay %s: %s, %.0f events/s in all", strings.Join(args, " "), took.Round(time.Millisecond), float64(s.events)/took.Seconds())
	for line := range strings.Lines(p.said("stdout")) {
		s.t.Log("  " + strings.TrimSpace(line))
	}
}

// slowly returns flags that make the replay of a short history last some seconds.
func (s *replaySystem) slowly(args ...string) []string {
	if s.events >= quickHistory {
		return args
	}
	return append(args, "--rate", strconv.Itoa(s.events/4))
}

// generations are the live ones.
func (s *replaySystem) generations() map[string]int {
	s.t.Helper()
	rows, err := s.db.Query(s.t.Context(), `SELECT projection, generation FROM projection_generations WHERE state = 'live'`)
	require.NoError(s.t, err)
	live := map[string]int{}
	var projection string
	var generation int
	_, err = pgx.ForEachRow(rows, []any{&projection, &generation}, func() error { live[projection] = generation; return nil })
	require.NoError(s.t, err)
	require.Len(s.t, live, len(everyView))
	return live
}

// one reads a single value.
func one[T any](s *replaySystem, sql string, args ...any) (v T) {
	s.t.Helper()
	require.NoError(s.t, s.db.QueryRow(s.t.Context(), sql, args...).Scan(&v), sql)
	return v
}

// tidy checks that failed replays left nothing except what the next one removes, and then that it
// did.
func (s *replaySystem) tidy() {
	s.t.Helper()
	require.Zero(s.t, one[int](s, `SELECT count(*) FROM projection_generations WHERE state = 'building'`), "generations left")
	require.Zero(s.t, one[int](s, `SELECT count(*) FROM projection_replays WHERE ended_at IS NULL`), "replays that did not end")
	require.Zero(s.t, one[int](s, `
		SELECT count(*) FROM pg_class c WHERE relkind = 'r' AND relname ~ '_g[0-9]+$' AND NOT EXISTS (
			SELECT FROM projection_generations g WHERE c.relname IN (g.projection || '_g' || g.generation, g.projection || '_names_g' || g.generation)
				OR g.projection = 'purchases' AND c.relname = 'refunds_g' || g.generation)`), "tables of no generation")
	for _, view := range everyView {
		require.Equal(s.t, s.generations()[view], s.shown(view), "the generation that the view %s shows", view)
	}
}

// shown returns the generation that a view shows.
func (s *replaySystem) shown(view string) int {
	s.t.Helper()
	return one[int](s, `
		SELECT substring(c.relname FROM '_g([0-9]+)$')::int FROM pg_depend d JOIN pg_rewrite w ON w.oid = d.objid JOIN pg_class c ON c.oid = d.refobjid
		WHERE d.classid = 'pg_rewrite'::regclass AND w.ev_class = $1::regclass AND c.relname ~ ($1 || '_g[0-9]+$') LIMIT 1`, view)
}

// equal runs a replay that compares every row with the live one.
func (s *replaySystem) equal() {
	s.t.Helper()
	p := s.replay("all", "--verify", "--drop-old")
	status := p.wait(s.replayTimeout())
	require.Equal(s.t, 0, status, "replay all --verify: %s%s", p.said("stdout"), p.said("stderr"))
	s.tidy()
}

// rows returns counts and sums of all rows of the live generations: if they differ, rows differ.
func (s *replaySystem) rows() map[string]string {
	s.t.Helper()
	all := map[string]string{}
	for _, table := range append([]string{"purchase_slots_names"}, everyView...) {
		projection := strings.TrimSuffix(table, "_names")
		all[table] = one[string](s, fmt.Sprintf(`SELECT count(*) || ' rows, ' || coalesce(sum(hashtextextended(t::text, 0)::numeric), 0) || ' ' || coalesce(sum(hashtextextended(t::text, 1)::numeric), 0) FROM %s_g%d t`,
			table, s.generations()[projection]))
	}
	return all
}
