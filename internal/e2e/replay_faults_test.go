package e2e

import (
	"context"
	"errors"
	"fmt"
	"os"
	"strings"
	"syscall"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/stretchr/testify/require"

	"github.com/dopaminestore/dopamine/tools/testkit"
)

// reach polls until a replay has reached a point; the replay must not have ended before.
func (s *replaySystem) reach(p *process, what string, at func() bool) {
	s.t.Helper()
	tick := time.NewTicker(time.Millisecond)
	defer tick.Stop()
	for until := time.Now().Add(s.replayTimeout()); !at(); <-tick.C {
		require.False(s.t, p.ended(), "the replay ended with status %d before %s: %s", p.status, what, p.said("stderr"))
		require.True(s.t, time.Now().Before(until), "the replay did not come to %s: %s", what, p.said("stderr"))
	}
}

// line is a point that the replay's own progress reports.
func line(projection, phase string) func(*replaySystem, *process) bool {
	return func(_ *replaySystem, p *process) bool {
		return strings.Contains(p.said("stderr"), projection+": "+phase)
	}
}

// doing is a point at which Postgres executes a statement for the replay.
func doing(query string) func(*replaySystem, *process) bool {
	return func(s *replaySystem, _ *process) bool {
		return one[bool](s, `
			SELECT EXISTS (SELECT FROM pg_stat_activity WHERE application_name = 'replay' AND state = 'active' AND query ILIKE $1)`, query+"%")
	}
}

// share is a share of the log that the replay has read, according to its table.
func share(projection string, percent int) func(*replaySystem, *process) bool {
	return func(s *replaySystem, _ *process) bool {
		return one[bool](s, `
			SELECT EXISTS (SELECT FROM projection_replays WHERE projection = $1 AND ended_at IS NULL AND position * 100 >= target * $2)`, projection, percent)
	}
}

// inTheSwap is a point inside the swap's transaction: it holds the checkpoints, has ended the live
// generation, and waits for the view.
func inTheSwap(s *replaySystem, _ *process) bool {
	return one[bool](s, `
		SELECT EXISTS (SELECT FROM pg_stat_activity
			WHERE application_name = 'replay' AND state = 'active' AND wait_event_type = 'Lock' AND query LIKE 'SELECT projection_set_view%')`)
}

// hold prevents a view from being replaced immediately, like many readers one after the other.
func (s *replaySystem) hold(view string) (letGo func()) {
	s.t.Helper()
	const moment = 500 * time.Millisecond
	ctx, cancel := context.WithCancel(context.Background())
	begun, done := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(done)
		for first := true; ctx.Err() == nil; first = false {
			err := pgx.BeginFunc(context.Background(), s.db, func(tx pgx.Tx) error {
				if _, err := tx.Exec(context.Background(), `SELECT FROM `+view+` LIMIT 1`); err != nil {
					return err
				}
				if first {
					close(begun)
				}
				select {
				case <-ctx.Done():
				case <-time.After(moment):
				}
				return nil
			})
			if err != nil {
				s.t.Errorf("read %s: %v", view, err)
				return
			}
		}
	}()
	letGo = func() { cancel(); <-done }
	s.t.Cleanup(letGo)
	select {
	case <-begun:
	case <-done:
	}
	return letGo
}

// survivesKills kills replays at ten points. The next one starts immediately each time, and no
// reader notices.
func (s *replaySystem) survivesKills() {
	points := []struct {
		what string
		args []string
		hold string // a view that is read meanwhile
		at   func(*replaySystem, *process) bool
	}{
		{"the beginning", s.slowly("all"), "", line("products", "reading")},
		{"a quarter of the log", s.slowly("purchase_slots"), "", share("purchase_slots", 25)},
		{"half of the log", s.slowly("all"), "", share("purchases", 50)},
		{"three quarters of the log", s.slowly("purchases"), "", share("purchases", 75)},
		{"a COPY", []string{"slot_audit_log"}, "", doing(`copy "slot_audit_log`)},
		{"the indexes of the audit", []string{"slot_audit_log"}, "", doing(`SELECT projection_create_indexes`)},
		{"comparing", []string{"slot_audit_log", "--verify"}, "", line("slot_audit_log", "comparing")},
		{"the indexes of the purchases", []string{"purchases"}, "", doing(`SELECT projection_create_indexes`)},
		{"catching up", []string{"purchase_slots"}, "", line("purchase_slots", "catching up")},
		{"the swap", []string{"purchase_slots"}, "purchase_slots", inTheSwap},
	}
	stop := s.rushing()
	r := s.read(false)
	before := s.generations()
	for _, point := range points {
		letGo := func() {}
		if point.hold != "" {
			letGo = s.hold(point.hold)
		}
		p := s.replay(point.args...)
		s.reach(p, point.what, func() bool { return point.at(s, p) })
		p.kill9()
		letGo()
		s.t.Logf("kill -9 of replay %s at %s", strings.Join(point.args, " "), point.what)
		testkit.Eventually(s.t, 10*time.Second, "status to report that no replay runs", func() error {
			for _, replay := range s.status().Replays {
				if replay.Running {
					return fmt.Errorf("%s: %s", replay.Projection, replay.Phase)
				}
			}
			return nil
		})
		testkit.Eventually(s.t, 10*time.Second, "Postgres to notice that the client has gone", func() error {
			if left := one[string](s, `SELECT coalesce(string_agg(query, '; '), '') FROM pg_stat_activity WHERE application_name = 'replay'`); left != "" {
				return errors.New(left)
			}
			return nil
		})
		require.Equal(s.t, before, s.generations(), point.what)
	}
	s.replays("all", "--drop-old")
	r.end("with killed replays")
	stop()
	s.equal()
}

// projectorsDieInTheSwap kills all projectors while the swap's transaction is
// open; others take over, with the new generation.
func (s *replaySystem) projectorsDieInTheSwap() {
	stop := s.rushing()
	r := s.read(true)
	letGo := s.hold("purchase_slots")
	p := s.replay("all", "--drop-old")
	s.reach(p, "the swap", func() bool { return inTheSwap(s, p) })
	for _, projector := range s.projectors {
		projector.kill9()
	}
	letGo()
	require.Equal(s.t, 0, p.wait(s.replayTimeout()), p.said("stderr"))
	for _, projector := range s.projectors {
		projector.start()
	}
	for _, projector := range s.projectors {
		projector.ready()
	}
	s.settledInARush()
	r.end("with killed projectors")
	stop()
	s.settled()
	s.equal()
}

// settledInARush waits until the projectors have reached the store's current position.
func (s *replaySystem) settledInARush() {
	s.t.Helper()
	head := s.status().Store.Head
	testkit.Eventually(s.t, 60*time.Second, "the projectors", func() error {
		for _, p := range s.status().Projections {
			if p.Position == nil || *p.Position < head {
				return fmt.Errorf("%s is not yet at %d", p.Name, head)
			}
		}
		return nil
	})
}

// projectorsSleepThroughTheSwap suspends all projectors, at least one of them inside a transaction,
// while the swap happens, and resumes them: what they were about to write must not get into the new
// generation.
func (s *replaySystem) projectorsSleepThroughTheSwap() {
	stop := s.rushing()
	r := s.read(true)
	signal := func(sig syscall.Signal) {
		for _, p := range s.projectors {
			require.NoError(s.t, p.cmd.Process.Signal(sig))
		}
	}
	defer signal(syscall.SIGCONT)
	p := s.replay("all", "--drop-old")
	s.reach(p, "the end of reading", func() bool {
		return line("purchase_slots", "catching up")(s, p) || line("purchase_slots", "indexing")(s, p)
	})
	inside := func() bool {
		signal(syscall.SIGSTOP)
		return one[bool](s, `SELECT EXISTS (SELECT FROM pg_stat_activity WHERE application_name LIKE 'projector-%' AND state = 'idle in transaction' AND backend_xid IS NOT NULL)`)
	}
	for tries := 1; !inside(); tries++ {
		if tries == 500 {
			s.t.Log("the projectors were not caught inside a transaction")
			break
		}
		signal(syscall.SIGCONT)
	}
	require.Equal(s.t, 0, p.wait(s.replayTimeout()), p.said("stderr"))
	swapped := s.generations()
	testkit.Eventually(s.t, 15*time.Second, "Postgres to end what the projectors left open", func() error {
		if open := one[string](s, `
			SELECT coalesce(string_agg(concat_ws(', ', application_name, state, wait_event, query), '; '), '') FROM pg_stat_activity
			WHERE application_name LIKE 'projector-%' AND backend_xid IS NOT NULL`); open != "" {
			return errors.New(open)
		}
		return nil
	})
	signal(syscall.SIGCONT)
	s.settledInARush()
	require.Equal(s.t, swapped, s.generations())
	r.end("with sleeping projectors")
	stop()
	s.settled()
	s.equal()
}

// swapsDuringALongSelect swaps while a SELECT on each view runs. The views follow when it has
// ended, and no reader waits behind it.
func (s *replaySystem) swapsDuringALongSelect() {
	lasts := time.Duration(0) // until all is seen
	if text := os.Getenv(longSelectVariable); text != "" {
		var err error
		lasts, err = time.ParseDuration(text)
		require.NoError(s.t, err, longSelectVariable)
	}
	stop := s.rushing()
	conn, err := pgx.Connect(s.t.Context(), s.dbURL)
	require.NoError(s.t, err)
	defer conn.Close(context.Background()) //nolint:errcheck // it may be gone
	selected := make(chan error, 1)
	began := time.Now()
	go func() {
		_, err := conn.Exec(context.Background(), `
			SELECT pg_sleep($1), (SELECT count(*) FROM products), (SELECT count(*) FROM purchase_slots), (SELECT count(*) FROM purchases), (SELECT count(*) FROM slot_audit_log)`,
			max(lasts, s.replayTimeout()).Seconds())
		selected <- err
	}()
	before := s.generations()
	testkit.EventuallyEqual(s.t, 10*time.Second, "the SELECT to hold all views, and to have done so for long", len(everyView), func() int {
		return one[int](s, `
			SELECT count(DISTINCT relation) FROM pg_locks JOIN pg_stat_activity USING (pid)
			WHERE pid = $1 AND relation = ANY($2::regclass[]) AND xact_start < clock_timestamp() - interval '1 second'`,
			conn.PgConn().PID(), everyView)
	})
	r := s.read(false)
	const queued = `
		SELECT CASE WHEN bool_or(granted AND pid = $2) THEN count(*) FILTER (WHERE NOT granted) ELSE 0 END
		FROM pg_locks WHERE relation = ANY($1::regclass[])`
	r.loop(10*time.Millisecond, func() error {
		var n int
		if err := s.db.QueryRow(context.Background(), queued, everyView, conn.PgConn().PID()).Scan(&n); err != nil {
			return err
		}
		if n > 0 {
			return fmt.Errorf("%d wait for a view that the long SELECT holds", n)
		}
		return nil
	})
	p := s.replay("all")
	s.reach(p, "all swaps", func() bool {
		for view, generation := range s.generations() {
			if generation == before[view] {
				return false
			}
		}
		return true
	})
	s.t.Logf("all swapped after %s", time.Since(began).Round(time.Millisecond))
	require.Contains(s.t, p.said("stderr"), "a long SELECT holds the view")
	for _, view := range everyView {
		require.Equal(s.t, before[view], s.shown(view), "what the view %s shows as long as the SELECT runs", view)
	}
	stop()
	select {
	case err := <-selected:
		require.NoError(s.t, err)
		require.Less(s.t, lasts, time.Since(began), "the SELECT ended too early")
	case <-time.After(max(lasts, 3*time.Second)):
		require.True(s.t, one[bool](s, `SELECT pg_cancel_backend($1)`, conn.PgConn().PID()))
		require.Error(s.t, <-selected)
	}
	s.t.Logf("the SELECT took %s", time.Since(began).Round(time.Millisecond))
	require.Equal(s.t, 0, p.wait(30*time.Second), p.said("stderr"))
	r.end("during a long SELECT")
	s.settled()
	s.equal()
}

// postgresDies kills Postgres during a replay and restarts it: the replay ends with an error,
// everything else continues.
func (s *replaySystem) postgresDies() {
	before := s.generations()
	r := s.read(false)
	p := s.replay(s.slowly("all")...)
	s.reach(p, "half of the log", func() bool { return share("purchase_slots", 50)(s, p) })
	r.end("before Postgres is killed")
	require.NoError(s.t, s.postgres.Restart(s.t.Context()))
	status := p.wait(time.Minute)
	s.t.Logf("the replay ended with status %d: %s", status, lastLine(p.said("stderr")))
	require.Equal(s.t, 1, status, p.said("stderr"))
	testkit.Eventually(s.t, 30*time.Second, "Postgres", func() error { return s.db.Ping(s.t.Context()) })
	require.Equal(s.t, before, s.generations())
	for _, role := range s.all() {
		require.False(s.t, role.ended(), "%s ended with status %d", role.name, role.status)
	}
	s.settled()
	r = s.read(true)
	s.replays("all", "--verify", "--drop-old")
	r.end("after Postgres was killed")
	s.settled()
	s.tidy()
	s.kept()
}

func lastLine(text string) string {
	lines := strings.Split(strings.TrimSpace(text), "\n")
	return lines[len(lines)-1]
}
