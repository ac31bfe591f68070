package db

import (
	"context"
	"database/sql"
	"fmt"
	"log/slog"
	"net/url"
	"strings"
	"time"

	"github.com/amacneil/dbmate/v2/pkg/dbmate"
	"github.com/amacneil/dbmate/v2/pkg/driver/postgres"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/jackc/pgx/v5/stdlib"
)

// parse takes every URL that the program's pools take, pool_… included.
func parse(url string) (*pgx.ConnConfig, error) {
	config, err := pgxpool.ParseConfig(url)
	if err != nil {
		return nil, err
	}
	return config.ConnConfig, nil
}

const (
	// connectTimeout bounds the opening of a connection for a migration, unless the URL has a
	// connect_timeout: a server may accept a connection and never respond.
	connectTimeout = 10 * time.Second
	// checkConnectTimeout is the same for a check, which is retried or reported at once.
	checkConnectTimeout = 2 * time.Second
	// checkTimeout bounds a whole check: a paused pooler accepts a connection and answers no query.
	checkTimeout = 10 * time.Second
)

// connect opens a connection that keeps no prepared statements on the server: a check
// of the schema may go through a connection pooler.
func connect(ctx context.Context, url string, timeout time.Duration) (*pgx.Conn, error) {
	config, err := parse(url)
	if err != nil {
		return nil, err
	}
	config.DefaultQueryExecMode = pgx.QueryExecModeCacheDescribe
	if config.ConnectTimeout == 0 {
		config.ConnectTimeout = timeout
	}
	return pgx.ConnectConfig(ctx, config)
}

// scheme names our driver to dbmate.
const scheme = "dopamine"

func init() { dbmate.RegisterDriver(newDriver, scheme) }

// driver is dbmate's own Postgres driver on connections of pgx. dbmate connects
// by lib/pq, which knows neither several hosts nor `sslmode=prefer` (our
// default) nor pool_…: it would refuse URLs that serve everything else.
type driver struct {
	dbmate.Driver
	url string
}

func newDriver(c dbmate.DriverConfig) dbmate.Driver {
	return driver{Driver: postgres.NewDriver(c), url: c.DatabaseURL.Opaque}
}

// Open implements dbmate.Driver.
func (d driver) Open() (*sql.DB, error) {
	config, err := parse(d.url)
	if err != nil {
		return nil, err
	}
	// A migration is many statements in one text, which only this protocol takes.
	config.DefaultQueryExecMode = pgx.QueryExecModeSimpleProtocol
	return stdlib.OpenDB(*config, stdlib.OptionAfterConnect(boundLocks)), nil
}

// lockTimeout bounds how long a migration waits for a lock. Every later statement of the running
// system that needs the table waits behind it for so long.
const lockTimeout = 2 * time.Second

// boundLocks sets the lock timeout of a session.
func boundLocks(ctx context.Context, conn *pgx.Conn) error {
	if _, err := conn.Exec(ctx, fmt.Sprintf("set lock_timeout = %d", lockTimeout.Milliseconds())); err != nil {
		return fmt.Errorf("bound the wait for locks: %w", err)
	}
	return nil
}

// dbmate runs the set's migrations on the database of url.
func (s set) dbmate(ctx context.Context, databaseURL string) *dbmate.DB {
	mate := dbmate.New(&url.URL{Scheme: scheme, Opaque: databaseURL})
	mate.FS = files
	mate.MigrationsDir = []string{s.name}
	mate.MigrationsTableName = s.table
	mate.AutoDumpSchema = false // it would call pg_dump
	mate.Log = logWriter{ctx: ctx, set: s.name}
	return mate
}

// logWriter logs dbmate's lines ("Applying: …") at debug level.
type logWriter struct {
	ctx context.Context
	set string
}

func (w logWriter) Write(line []byte) (int, error) {
	slog.DebugContext(w.ctx, strings.TrimSpace(string(line)), "schema", w.set)
	return len(line), nil
}
