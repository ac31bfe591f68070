package main

import (
	"context"
	"fmt"
	"net"
	"net/url"
	"slices"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/dopaminestore/dopamine/internal/kafka"
	"github.com/dopaminestore/dopamine/internal/status"
	"github.com/dopaminestore/dopamine/tools/devservices"
	"github.com/dopaminestore/dopamine/tools/faults/proxy"
)

var postgresScenarios = []*scenario{
	{name: "postgres-kill", about: "kill -9 of Postgres, restarted", play: func(r *run) error {
		return r.repeat(func() error {
			r.struck("kill -9 of Postgres, restarted")
			return r.fleet.postgresServer().Restart(r.ctx)
		}, 2*time.Second)
	}},
	{name: "postgres-terminate", about: "every session is terminated, again and again", play: func(r *run) error {
		return r.repeat(func() error { r.struck("terminated all sessions"); return r.terminateSessions() }, 800*time.Millisecond)
	}},
	{name: "postgres-blackhole", once: true, about: "existing connections to Postgres go silent, new ones work", play: func(r *run) error {
		all := r.fleet.proxies(func(l *links) *proxy.Proxy { return l.postgres })
		for _, p := range all {
			p.Orphan()
		}
		r.wait(max(r.duration, 8*time.Second))
		r.fleet.orphaned = true
		if n := sum(all); n > 0 {
			r.struck("connections went silent (%d chunks swallowed)", n)
		}
		return nil
	}},
	{name: "postgres-hang-one", about: "one process is cut off from Postgres for longer than its leases", affected: func(*run, string) bool { return true }, play: func(r *run) error {
		return r.repeat(func() error {
			name := fleetRoles[1+r.rand.IntN(len(fleetRoles)-1)]
			l := r.fleet.links[name].postgres
			before := l.Struck()
			l.Stall(proxy.Both)
			r.wait(r.between(leaseTime, leaseTime+2*time.Second))
			l.Heal()
			if l.Struck() > before {
				r.struck("%s was cut off from Postgres", name)
			}
			return nil
		}, 500*time.Millisecond)
	}},
	{name: "postgres-hang", about: "everybody is cut off from Postgres", play: func(r *run) error {
		all := r.fleet.proxies(func(l *links) *proxy.Proxy { return l.postgres })
		for _, p := range all {
			p.Stall(proxy.Both)
		}
		r.wait(r.between(leaseTime, leaseTime+3*time.Second))
		if sum(all) > 0 {
			r.struck("Postgres was cut off from everybody")
		}
		return nil
	}},
	{name: "postgres-reset", about: "connections to Postgres are reset and delayed", play: resets(func(l *links) *proxy.Proxy { return l.postgres }, 5*time.Millisecond, 60*time.Millisecond)},
	{name: "read-model-locked", about: "another session keeps a read model's table locked", affected: func(*run, string) bool { return false }, play: func(r *run) error {
		return r.repeat(r.lockReadModel, time.Second)
	}},
	{name: "postgres-failover-sync", once: true, about: "failover to a synchronous standby, which has every acknowledged commit", postgres: withStandby(true), play: func(r *run) error {
		r.wait(r.between(time.Second, 3*time.Second))
		return r.promote()
	}},
	{name: "postgres-standby-away", once: true, about: "the synchronous standby stops, the primary dies, the standby is promoted", postgres: withStandby(true), play: func(r *run) error {
		// Commits wait for the standby, so none may be acknowledged.
		r.fleet.replication.Stall(proxy.Both)
		r.struck("the synchronous standby was cut off")
		r.wait(r.between(3*time.Second, 5*time.Second))
		return r.promote()
	}},
	{name: "postgres-failover-async", once: true, about: "failover to a standby without the last commits, then dopamine recover", postgres: withStandby(false), losesTail: true, mayRefuse: true, play: func(r *run) error {
		r.fleet.replication.Stall(proxy.Both)
		r.wait(r.between(500*time.Millisecond, 2*time.Second))
		return r.promote()
	}, heal: recoverStore},
	{name: "postgres-restored", once: true, about: "the database is restored to an earlier moment, then dopamine recover", losesTail: true, mayRefuse: true, play: func(r *run) error {
		return r.restoreEarlier()
	}, heal: recoverStore},
}

// withStandby starts a primary with a streaming standby. Its commits are on the
// disk: a standby never has what a primary could lose.
func withStandby(synchronous bool) func(ctx context.Context, f *fleet) error {
	return func(ctx context.Context, f *fleet) (err error) {
		if f.postgres, err = devservices.StartPostgres(ctx, devservices.PostgresOptions{Dir: f.dir + "/primary", Disposable: true}); err != nil {
			return err
		}
		if f.standby, err = devservices.StartStandby(ctx, f.postgres, devservices.PostgresOptions{Dir: f.dir + "/standby", Disposable: true}); err != nil {
			return err
		}
		if err := f.replicateThroughProxy(ctx); err != nil || !synchronous {
			return err
		}
		conn, err := pgx.Connect(ctx, f.postgres.URL())
		if err != nil {
			return err
		}
		defer func() { _ = conn.Close(context.WithoutCancel(ctx)) }()
		for _, sql := range []string{"alter system set synchronous_standby_names = 'standby'", "select pg_reload_conf()"} {
			if _, err := conn.Exec(ctx, sql); err != nil {
				return err
			}
		}
		return poll(ctx, pollInterval, "the standby to be synchronous", func() error {
			var state string
			if err := conn.QueryRow(ctx, "select coalesce(max(sync_state), '') from pg_stat_replication").Scan(&state); err != nil {
				return err
			}
			if state != "sync" {
				return fmt.Errorf("it is %q", state)
			}
			return nil
		})
	}
}

// promote kills the primary and connects everything to the standby.
func (r *run) promote() error {
	f := r.fleet
	f.postgres.Kill9()
	r.struck("kill -9 of the primary")
	f.replication.Reset()
	if err := f.standby.Promote(r.ctx); err != nil {
		return err
	}
	r.struck("the standby was promoted")
	return f.failOver(r.ctx, f.standby)
}

// terminateSessions ends every session of the run's database.
func (r *run) terminateSessions() error {
	_, err := r.fleet.db.Exec(r.ctx, `SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = current_database() AND pid <> pg_backend_pid()`)
	return err
}

// lockedLimit is how long the other read models may stop when one is locked: projectors wait a few
// seconds for the lock before they continue without it.
const lockedLimit = 12 * time.Second

// lockReadModel locks the table of a read model until the others have every event that was recorded
// before and in the seconds after.
func (r *run) lockReadModel() error {
	f := r.fleet
	var locked, table string
	if err := f.db.QueryRow(r.ctx, `
		SELECT projection, projection || '_g' || generation FROM projection_generations WHERE state = 'live' ORDER BY 1 OFFSET $1 LIMIT 1`,
		r.rand.IntN(4)).Scan(&locked, &table); err != nil {
		return err
	}
	tx, err := f.db.Begin(r.ctx)
	if err != nil {
		return err
	}
	defer func() { _ = tx.Rollback(context.WithoutCancel(r.ctx)) }()
	if _, err := tx.Exec(r.ctx, "LOCK TABLE "+pgx.Identifier{table}.Sanitize()+" IN ACCESS EXCLUSIVE MODE"); err != nil {
		return err
	}
	r.struck("the table %s was locked", table)
	r.wait(r.between(time.Second, 3*time.Second))
	var head int64
	if err := f.db.QueryRow(r.ctx, "SELECT max(position) FROM events").Scan(&head); err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(r.ctx, lockedLimit)
	defer cancel()
	if err := poll(ctx, pollInterval, "the read models that are not locked", func() error {
		report, err := f.status(ctx)
		if err != nil {
			return err
		}
		others := slices.DeleteFunc(report.Projections, func(p status.Projection) bool { return p.Name == locked })
		if len(others) != len(report.Projections)-1 {
			return fmt.Errorf("status does not list %s", locked)
		}
		return reached(others, head)
	}); err != nil {
		r.verdict.broke("R9", "while %s was locked: %s", locked, err)
	}
	return nil
}

// restoreEarlier copies the database, lets the sale go on, and puts the copy in
// its place, as a restore from a backup does.
func (r *run) restoreEarlier() error {
	f := r.fleet
	admin, err := pgx.Connect(r.ctx, f.postgresServer().URL())
	if err != nil {
		return err
	}
	defer func() { _ = admin.Close(context.WithoutCancel(r.ctx)) }()
	exec := func(sql string) {
		if err == nil {
			_, err = admin.Exec(r.ctx, sql)
		}
	}
	backup := f.database + "_backup"
	// A template must have no connections.
	away := func(refuse bool) {
		for _, p := range f.proxies(func(l *links) *proxy.Proxy { return l.postgres }) {
			if refuse {
				p.Refuse()
				p.Reset()
			} else {
				p.Heal()
			}
		}
		if refuse {
			f.db.Reset()
			exec(fmt.Sprintf("select pg_terminate_backend(pid) from pg_stat_activity where datname = '%s'", f.database))
		}
	}
	away(true)
	exec(fmt.Sprintf("create database %s template %s", backup, f.database))
	away(false)
	r.wait(r.between(2*time.Second, 4*time.Second))
	away(true)
	exec("drop database " + f.database + " with (force)")
	exec(fmt.Sprintf("alter database %s rename to %s", backup, f.database))
	away(false)
	if err != nil {
		return fmt.Errorf("restore the database: %w", err)
	}
	r.struck("the database was restored to an earlier moment")
	r.wait(r.duration / 2)
	return nil
}

// recoverStore runs the operator's command, where the program has it.
func recoverStore(r *run) error {
	ctx, cancel := context.WithTimeout(r.ctx, 2*time.Minute)
	defer cancel()
	out, err := r.fleet.call(ctx, "recover")
	switch {
	case err != nil && strings.Contains(err.Error(), "nothing was changed"):
		out = "not needed" // nobody has seen what was lost
	case err != nil:
		return fmt.Errorf("dopamine recover: %w", err)
	}
	r.verdict.note("recover: %s", lastLines(out, 1))
	r.fleet.foreign = olderIncarnation(r)
	return nil
}

// olderIncarnation reports records of a history that the store does not have, and
// markers of a new incarnation.
func olderIncarnation(r *run) func(map[string]string) bool {
	return func(h map[string]string) bool {
		if h["event-id"] == "" || h["event-type"] == kafka.TypeIncarnation {
			return true
		}
		var n int
		err := r.fleet.db.QueryRow(r.ctx, `SELECT count(*) FROM events WHERE id = $1 AND position::text = $2`, h["event-id"], h["position"]).Scan(&n)
		return err == nil && n == 0
	}
}

// replicateThroughProxy lets the standby follow its primary through a proxy.
func (f *fleet) replicateThroughProxy(ctx context.Context) (err error) {
	if f.replication, err = proxy.New(hostOf(f.postgres.URL())); err != nil {
		return err
	}
	u, err := url.Parse(f.postgres.URL())
	if err != nil {
		return err
	}
	password, _ := u.User.Password()
	host, port, err := net.SplitHostPort(f.replication.Addr())
	if err != nil {
		return err
	}
	conn, err := pgx.Connect(ctx, f.standby.URL())
	if err != nil {
		return err
	}
	defer func() { _ = conn.Close(context.WithoutCancel(ctx)) }()
	for _, sql := range []string{
		fmt.Sprintf("alter system set primary_conninfo = 'host=%s port=%s user=postgres password=%s sslmode=disable application_name=standby'", host, port, password),
		"select pg_reload_conf()",
	} {
		if _, err := conn.Exec(ctx, sql); err != nil {
			return err
		}
	}
	return poll(ctx, pollInterval, "the standby to follow through the proxy", func() error {
		if f.replication.Moved() == 0 {
			return fmt.Errorf("nothing was forwarded")
		}
		return nil
	})
}

// resets delays the connections of a process to a service by up to a time, and then resets them, again
// and again.
func resets(link func(*links) *proxy.Proxy, least, most time.Duration) func(*run) error {
	return func(r *run) error {
		// A proxy that no process uses would be drawn in vain.
		used := slices.DeleteFunc(r.fleet.proxies(link), func(p *proxy.Proxy) bool { return p.Moved() == 0 })
		return r.repeat(func() error {
			p := used[r.rand.IntN(len(used))]
			p.Delay(r.between(least, most))
			r.wait(r.between(100*time.Millisecond, 500*time.Millisecond))
			p.Reset()
			p.Heal()
			if p.Struck() > 0 {
				r.struck("delayed, then reset")
			}
			return nil
		}, 200*time.Millisecond)
	}
}
