// Package dbtest provides each test with a separate migrated database.
package dbtest

import (
	"context"
	"testing"

	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/dopaminestore/dopamine/db"
	"github.com/dopaminestore/dopamine/tools/devservices"
	"github.com/dopaminestore/dopamine/tools/testkit"
)

// DB is a migrated database.
type DB struct {
	Pool *pgxpool.Pool // closed at the test's end
	URL  string
}

// Write returns a pool on a new database with the write side's tables.
func Write(tb testing.TB) *pgxpool.Pool {
	tb.Helper()
	return WriteDB(tb).Pool
}

// WriteDB is Write with the database's URL.
func WriteDB(tb testing.TB) DB {
	tb.Helper()
	return open(tb, "write", db.MigrateWrite)
}

// Read returns a pool on a new database with the read side's tables.
func Read(tb testing.TB) *pgxpool.Pool {
	tb.Helper()
	return ReadDB(tb).Pool
}

// ReadDB is Read with the database's URL.
func ReadDB(tb testing.TB) DB {
	tb.Helper()
	return open(tb, "read", db.MigrateRead)
}

// Both returns a new database with the tables of both sides.
func Both(tb testing.TB) DB {
	tb.Helper()
	return open(tb, "both", func(ctx context.Context, url string) error {
		if err := db.MigrateWrite(ctx, url); err != nil {
			return err
		}
		return db.MigrateRead(ctx, url)
	})
}

// Own returns a separate server, which the test may kill and restart, with the tables that migrate
// makes. Without one the test is skipped.
func Own(tb testing.TB, migrate func(context.Context, string) error) (*devservices.Postgres, *pgxpool.Pool) {
	tb.Helper()
	server := testkit.OwnPostgres(tb)
	err := migrate(context.Background(), server.URL())
	if err != nil {
		tb.Fatalf("migrate the test's server: %v", err)
	}
	pool, err := pgxpool.New(context.Background(), server.URL())
	if err != nil {
		tb.Fatalf("connect to the test's server: %v", err)
	}
	tb.Cleanup(pool.Close)
	return server, pool
}

// open copies the template of these migrations and connects to the copy.
func open(tb testing.TB, set string, migrate func(context.Context, string) error) DB {
	tb.Helper()
	url := testkit.Database(tb, set+"-"+db.Digest(), migrate)
	pool, err := pgxpool.New(context.Background(), url)
	if err != nil {
		tb.Fatalf("connect to the test's database: %v", err)
	}
	tb.Cleanup(pool.Close)
	if err := renewIdentity(pool); err != nil {
		tb.Fatalf("renew the identity of the test's database: %v", err)
	}
	return DB{Pool: pool, URL: url}
}

// renewIdentity gives the copy a new store id, because two tests must not appear to use the same
// store. The table is append-only, so its trigger is disabled for this.
func renewIdentity(pool *pgxpool.Pool) error {
	_, err := pool.Exec(context.Background(), `
		do $$
		begin
			if to_regclass('store_identity') is not null then
				alter table store_identity disable trigger store_identity_append_only;
				update store_identity set id = gen_random_uuid();
				alter table store_identity enable always trigger store_identity_append_only;
			end if;
		end
		$$`)
	return err
}
