package testkit

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"net/url"
	"os"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/dopaminestore/dopamine/tools/devservices"
)

// databaseWithin bounds making or dropping a database, migrations included.
const databaseWithin = 2 * time.Minute

// Postgres returns the URL of an empty database for this test on the shared server (superuser,
// fsync off). It is dropped at the end, even if clients are still connected. Without a server the
// test is skipped.
func Postgres(tb testing.TB) string {
	tb.Helper()
	return newDatabase(tb, postgresServer(tb), "template0")
}

// OwnPostgres returns a Postgres server that the test may kill and restart, and that a benchmark
// may measure: its commits are written to disk. Without one the test is skipped.
func OwnPostgres(tb testing.TB) *devservices.Postgres {
	tb.Helper()
	return ownPostgres(tb, "a separate Postgres", devservices.StartPostgres)
}

// Standby returns a streaming standby of the primary, called "standby" in
// synchronous_standby_names. The test may kill, restart and promote it. If the programs are missing
// the test is skipped.
func Standby(tb testing.TB, primary *devservices.Postgres) *devservices.Postgres {
	tb.Helper()
	return ownPostgres(tb, "a Postgres standby", func(ctx context.Context, opts devservices.PostgresOptions) (*devservices.Postgres, error) {
		return devservices.StartStandby(ctx, primary, opts)
	})
}

func ownPostgres(tb testing.TB, what string, start func(context.Context, devservices.PostgresOptions) (*devservices.Postgres, error)) *devservices.Postgres {
	tb.Helper()
	// Not tb.TempDir, which other users may not enter: as root the server is one.
	dir, err := os.MkdirTemp("", "dopamine-postgres-")
	if err != nil {
		tb.Fatalf("folder for Postgres: %v", err)
	}
	tb.Cleanup(func() { _ = os.RemoveAll(dir) })
	if err := os.Chmod(dir, 0o755); err != nil {
		tb.Fatalf("folder for Postgres: %v", err)
	}
	p, err := start(context.Background(), devservices.PostgresOptions{Dir: dir, Disposable: true})
	if errors.Is(err, devservices.ErrNotHere) {
		skipFor(tb, what, err)
	}
	if err != nil {
		tb.Fatalf("start %s: %v", what, err)
	}
	tb.Cleanup(func() {
		if err := p.Stop(context.Background()); err != nil {
			tb.Errorf("stop %s: %v", what, err)
		}
	})
	return p
}

// Database returns the URL of a database for this test, copied from a template that migrate fills
// once for all test binaries of the run. templateName identifies what migrate does, so it must
// change with it, for instance by a hash of the migrations. migrate must have closed its
// connections when it returns.
func Database(tb testing.TB, templateName string, migrate func(ctx context.Context, url string) error) string {
	tb.Helper()
	server := postgresServer(tb)
	template := fmt.Sprintf("template_%.12x", sha256.Sum256([]byte(templateName)))
	ctx, cancel := context.WithTimeout(context.Background(), databaseWithin)
	defer cancel()
	if err := ensureTemplate(ctx, server, template, migrate); err != nil {
		tb.Fatalf("template database %s: %v", templateName, err)
	}
	return newDatabase(tb, server, template)
}

func postgresServer(tb testing.TB) string {
	tb.Helper()
	p, err := shared("postgres")
	if err != nil {
		skipFor(tb, "Postgres", err)
	}
	return p.URL
}

// ensureTemplate creates the template unless it exists. It is marked as a template last: one
// without the mark is incomplete and is recreated.
func ensureTemplate(ctx context.Context, server, name string, migrate func(ctx context.Context, url string) error) error {
	return onServer(ctx, server, func(conn *pgx.Conn) error {
		var ready bool
		const made = "select exists (select from pg_database where datname = $1 and datistemplate)"
		if err := conn.QueryRow(ctx, made, name).Scan(&ready); err != nil || ready {
			return err
		}
		// One test at a time, over all binaries; the lock ends with the connection.
		if _, err := conn.Exec(ctx, "select pg_advisory_lock(hashtext($1))", name); err != nil {
			return err
		}
		if err := conn.QueryRow(ctx, made, name).Scan(&ready); err != nil || ready {
			return err
		}
		if _, err := conn.Exec(ctx, "drop database if exists "+name+" with (force)"); err != nil {
			return err
		}
		if _, err := conn.Exec(ctx, "create database "+name+" template template0"); err != nil {
			return err
		}
		if err := migrate(ctx, inDatabase(server, name)); err != nil {
			return fmt.Errorf("migrate: %w", err)
		}
		_, err := conn.Exec(ctx, "alter database "+name+" with allow_connections false is_template true")
		return err
	})
}

func newDatabase(tb testing.TB, server, template string) string {
	tb.Helper()
	name := "test_" + unique()
	ctx, cancel := context.WithTimeout(context.Background(), databaseWithin)
	defer cancel()
	err := onServer(ctx, server, func(conn *pgx.Conn) error {
		_, err := conn.Exec(ctx, "create database "+name+" template "+template)
		return err
	})
	if err != nil {
		tb.Fatalf("make a database: %v", err)
	}
	tb.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), databaseWithin)
		defer cancel()
		err := onServer(ctx, server, func(conn *pgx.Conn) error {
			_, err := conn.Exec(ctx, "drop database if exists "+name+" with (force)")
			return err
		})
		if err != nil {
			tb.Logf("drop database %s: %v", name, err)
		}
	})
	return inDatabase(server, name)
}

func onServer(ctx context.Context, server string, do func(*pgx.Conn) error) error {
	conn, err := pgx.Connect(ctx, server)
	if err != nil {
		return err
	}
	defer func() { _ = conn.Close(context.WithoutCancel(ctx)) }()
	return do(conn)
}

func inDatabase(server, name string) string {
	u, err := url.Parse(server)
	if err != nil {
		panic("testkit: the server's own URL does not parse: " + err.Error())
	}
	u.Path = "/" + name
	return u.String()
}
