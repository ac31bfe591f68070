package db

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"time"

	"github.com/amacneil/dbmate/v2/pkg/dbmate"
	"github.com/cenkalti/backoff/v5"
	"github.com/jackc/pgerrcode"
	"github.com/jackc/pgx/v5"
)

// migrateLock is the advisory lock held while migrating: one for both sets, since
// they may share a database ("dopadbmi" in ASCII).
const migrateLock = 0x646f706164626d69

// MigrateWrite brings the database at url to the write side's schema. It is
// idempotent, also if several processes migrate at the same time. A schema newer than
// the program, or one whose record contradicts its tables, is refused (ErrSchema…). A
// database that does not exist is ErrNoDatabase: see CreateDatabase.
func MigrateWrite(ctx context.Context, url string) error { return writeSet.migrate(ctx, url) }

// MigrateRead is MigrateWrite for the read side's schema.
func MigrateRead(ctx context.Context, url string) error { return readSet.migrate(ctx, url) }

// DownWrite takes back all of the write side's migrations, the last one first.
// Everything that was ever recorded is lost with it.
func DownWrite(ctx context.Context, url string) error { return writeSet.down(ctx, url) }

// DownRead takes back all of the read side's migrations, the last one first.
func DownRead(ctx context.Context, url string) error { return readSet.down(ctx, url) }

func (s set) migrate(ctx context.Context, url string) error {
	err := s.locked(ctx, url, func(conn *pgx.Conn) error {
		if err := createSchema(ctx, conn); err != nil {
			return err
		}
		pending, err := s.inspect(ctx, conn)
		if err != nil || len(pending) == 0 {
			return err
		}
		if err := s.apply(ctx, conn, url); err != nil {
			return err
		}
		slog.InfoContext(ctx, "schema migrated", "schema", s.name, "migrations", len(pending), "newest", pending[len(pending)-1])
		return nil
	})
	if err != nil {
		return fmt.Errorf("migrate the %s side: %w", s.name, err)
	}
	return nil
}

// A migration that does not get a lock within lockTimeout is retried for lockRetryTimeout. Between
// two tries the running system has the table for longer than it waited for it.
const (
	lockRetryTimeout     = 5 * time.Minute
	lockRetryMinInterval = time.Second
	lockRetryMaxInterval = 10 * time.Second
)

// apply applies the pending migrations. Each is a transaction, so a try that fails leaves nothing.
func (s set) apply(ctx context.Context, conn *pgx.Conn, url string) error {
	wait := backoff.NewExponentialBackOff()
	wait.InitialInterval, wait.MaxInterval = lockRetryMinInterval, lockRetryMaxInterval
	giveUp := time.Now().Add(lockRetryTimeout)
	for {
		err := s.dbmate(ctx, url).Migrate()
		if failed := (*dbmate.QueryError)(nil); errors.As(err, &failed) {
			err = failed.Err // it wraps nothing
		}
		if !isCode(err, pgerrcode.LockNotAvailable) {
			return err
		}
		pending, inspectErr := s.inspect(ctx, conn)
		if inspectErr != nil || len(pending) == 0 {
			return errors.Join(err, inspectErr)
		}
		holder := oldestTransaction(ctx, conn)
		if !time.Now().Before(giveUp) {
			return fmt.Errorf("migration %s got no lock within %s, each time for %s; the oldest transaction is %s: end it and migrate again: %w",
				pending[0], lockRetryTimeout, lockTimeout, holder, err)
		}
		pause := wait.NextBackOff()
		slog.WarnContext(ctx, "migration waits for a lock, retrying", "schema", s.name, "migration", pending[0], "oldest_transaction", holder,
			"retry_in", pause.Round(time.Millisecond).String(), "error", err)
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(pause):
		}
	}
}

// oldestTransaction describes the session whose transaction has been open for the longest time in
// this database: usually it holds the lock that a migration waits for.
func oldestTransaction(ctx context.Context, conn *pgx.Conn) (session string) {
	err := conn.QueryRow(ctx, `
		select format('pid %s (%s), open for %s s', pid, application_name, extract(epoch from clock_timestamp() - xact_start)::int)
		from pg_stat_activity where datname = current_database() and pid <> pg_backend_pid() and xact_start is not null
		order by xact_start limit 1`).Scan(&session)
	if err != nil {
		return "unknown"
	}
	return session
}

func (s set) down(ctx context.Context, url string) error {
	err := s.locked(ctx, url, func(conn *pgx.Conn) error {
		if _, err := s.inspect(ctx, conn); err != nil {
			return err
		}
		mate := s.dbmate(ctx, url)
		for {
			if err := mate.Rollback(); errors.Is(err, dbmate.ErrNoRollback) {
				return nil
			} else if err != nil {
				return err
			}
		}
	})
	if err != nil {
		return fmt.Errorf("take back the %s side's migrations: %w", s.name, err)
	}
	return nil
}

// locked runs do on a connection that holds the migration lock.
func (s set) locked(ctx context.Context, url string, do func(*pgx.Conn) error) error {
	conn, err := connect(ctx, url, connectTimeout)
	if isCode(err, pgerrcode.InvalidCatalogName) {
		return fmt.Errorf("%w: check the name in the URL", ErrNoDatabase)
	}
	if err != nil {
		return err
	}
	// The lock goes with the connection.
	defer func() { _ = conn.Close(context.WithoutCancel(ctx)) }()
	if _, err := conn.Exec(ctx, "select pg_advisory_lock($1)", int64(migrateLock)); err != nil {
		return fmt.Errorf("wait for whoever else migrates: %w", err)
	}
	return do(conn)
}

// ErrNoDatabase means that the server has no database of the URL's name.
var ErrNoDatabase = errors.New("the database does not exist")

// CreateDatabase creates the database that url names unless it exists. A mistyped name
// thereby becomes an empty database, so call it only if the operator asks for it.
func CreateDatabase(ctx context.Context, url string) error {
	conn, err := connect(ctx, url, connectTimeout)
	if err == nil {
		return conn.Close(ctx)
	}
	if !isCode(err, pgerrcode.InvalidCatalogName) {
		return err
	}
	config, err := parse(url)
	if err != nil {
		return err
	}
	name := config.Database
	config.Database = "postgres"
	conn, err = pgx.ConnectConfig(ctx, config)
	if err != nil {
		return fmt.Errorf("connect to database postgres to create %s: %w", name, err)
	}
	defer func() { _ = conn.Close(context.WithoutCancel(ctx)) }()
	_, err = conn.Exec(ctx, "create database "+pgx.Identifier{name}.Sanitize())
	if isCode(err, pgerrcode.DuplicateDatabase) || isCode(err, pgerrcode.UniqueViolation) { // two created it at the same time
		return nil // another process created it meanwhile
	}
	if err != nil {
		return fmt.Errorf("create database %s: %w", name, err)
	}
	return nil
}

// createSchema makes the first schema of the search_path where none of them exists.
func createSchema(ctx context.Context, conn *pgx.Conn) error {
	var none bool
	var path string
	err := conn.QueryRow(ctx, "select current_schema() is null, current_setting('search_path')").Scan(&none, &path)
	if err != nil || !none {
		return err
	}
	first, _, _ := strings.Cut(path, ",")
	first = strings.Trim(strings.TrimSpace(first), `"`)
	if _, err := conn.Exec(ctx, "create schema if not exists "+pgx.Identifier{first}.Sanitize()); err != nil {
		return fmt.Errorf("make schema %s, the first of the search_path: %w", first, err)
	}
	return nil
}
