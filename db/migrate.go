package db

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"github.com/amacneil/dbmate/v2/pkg/dbmate"
	"github.com/jackc/pgx/v5"
)

// migrateLock is the advisory lock held while migrating: one for both sets, since
// they may share a database ("dopadbmi" in ASCII).
const migrateLock = 0x646f706164626d69

// MigrateWrite brings the database at url to the write side's schema, and makes
// the database first where there is none. It is harmless where nothing is to be
// done, and where others do the same at the same time. A schema newer than the
// program, or one whose record contradicts its tables, is refused (ErrSchema…).
func MigrateWrite(ctx context.Context, url string) error { return writeSet.migrate(ctx, url) }

// MigrateRead is MigrateWrite for the read side's schema.
func MigrateRead(ctx context.Context, url string) error { return readSet.migrate(ctx, url) }

// DownWrite takes back all of the write side's migrations, the last one first.
// Everything that was ever recorded is lost with it.
func DownWrite(ctx context.Context, url string) error { return writeSet.down(ctx, url) }

// DownRead takes back all of the read side's migrations, the last one first.
func DownRead(ctx context.Context, url string) error { return readSet.down(ctx, url) }

func (s set) migrate(ctx context.Context, url string) error {
	if err := createDatabase(ctx, url); err != nil {
		return fmt.Errorf("make the %s side's database: %w", s.name, err)
	}
	err := s.locked(ctx, url, func(conn *pgx.Conn) error {
		if err := createSchema(ctx, conn); err != nil {
			return err
		}
		pending, err := s.inspect(ctx, conn)
		if err != nil || len(pending) == 0 {
			return err
		}
		return s.dbmate(ctx, url).Migrate()
	})
	if err != nil {
		return fmt.Errorf("migrate the %s side: %w", s.name, err)
	}
	return nil
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
	conn, err := connect(ctx, url)
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

// createDatabase makes the database that url names, where the server says that
// there is none.
func createDatabase(ctx context.Context, url string) error {
	conn, err := connect(ctx, url)
	if err == nil {
		return conn.Close(ctx)
	}
	if !isCode(err, noSuchDatabase) {
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
		return fmt.Errorf("connect to database postgres to make %s: %w", name, err)
	}
	defer func() { _ = conn.Close(context.WithoutCancel(ctx)) }()
	_, err = conn.Exec(ctx, "create database "+pgx.Identifier{name}.Sanitize())
	if isCode(err, databaseIsThere) || isCode(err, databaseNameTaken) {
		return nil // somebody else was faster
	}
	return err
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
