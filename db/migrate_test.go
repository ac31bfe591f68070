package db_test

import (
	"context"
	"fmt"
	"net/url"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/stretchr/testify/require"
	"golang.org/x/sync/errgroup"

	"github.com/dopaminestore/dopamine/db"
	"github.com/dopaminestore/dopamine/tools/dbtest"
	"github.com/dopaminestore/dopamine/tools/testkit"
)

type side struct {
	name                 string
	migrate, down, check func(context.Context, string) error
	table                string // where dbmate records what it has applied
}

var sides = []side{
	{"write", db.MigrateWrite, db.DownWrite, db.CheckWrite, "schema_migrations"},
	{"read", db.MigrateRead, db.DownRead, db.CheckRead, "read_schema_migrations"},
}

// migrated returns the URL of a database with both schemas.
func migrated(t *testing.T) string {
	url := testkit.Postgres(t)
	for _, s := range sides {
		require.NoError(t, s.migrate(t.Context(), url))
	}
	return url
}

func eachSide(t *testing.T, run func(t *testing.T, s side, url string)) {
	for _, s := range sides {
		t.Run(s.name, func(t *testing.T) {
			t.Parallel()
			run(t, s, testkit.Postgres(t))
		})
	}
}

func exec(t *testing.T, url, sql string) {
	t.Helper()
	conn, err := pgx.Connect(context.Background(), url)
	require.NoError(t, err)
	defer func() { _ = conn.Close(context.Background()) }()
	dbtest.Exec(t, conn, sql)
}

// objects are the tables, views and functions of the database's own.
func objects(t *testing.T, url string) []string {
	t.Helper()
	conn, err := pgx.Connect(t.Context(), url)
	require.NoError(t, err)
	defer func() { _ = conn.Close(context.Background()) }()
	rows, err := conn.Query(t.Context(), `
		select relkind::text || ' ' || relname from pg_class where relnamespace = 'public'::regnamespace
		union all select 'function ' || proname from pg_proc where pronamespace = 'public'::regnamespace
		order by 1`)
	require.NoError(t, err)
	names, err := pgx.CollectRows(rows, pgx.RowTo[string])
	require.NoError(t, err)
	return names
}

func TestUpDownUp(t *testing.T) {
	t.Parallel()
	eachSide(t, func(t *testing.T, s side, url string) {
		require.ErrorIs(t, s.check(t.Context(), url), db.ErrSchemaMissing)
		require.NoError(t, s.migrate(t.Context(), url))
		require.NoError(t, s.check(t.Context(), url))
		first := objects(t, url)
		require.NoError(t, s.migrate(t.Context(), url), "a second time is harmless")

		require.NoError(t, s.down(t.Context(), url))
		require.Equal(t, []string{"i " + s.table + "_pkey", "r " + s.table}, objects(t, url), "nothing of ours is left")
		require.ErrorIs(t, s.check(t.Context(), url), db.ErrSchemaMissing)

		require.NoError(t, s.migrate(t.Context(), url))
		require.NoError(t, s.check(t.Context(), url))
		require.Equal(t, first, objects(t, url))
	})
}

func TestBothInOneDatabaseDoNotMeet(t *testing.T) {
	t.Parallel()
	url := migrated(t)
	require.NoError(t, db.DownRead(t.Context(), url))
	require.NoError(t, db.CheckWrite(t.Context(), url))
	require.ErrorIs(t, db.CheckRead(t.Context(), url), db.ErrSchemaMissing)
}

func TestManyMigrateAtOnce(t *testing.T) {
	t.Parallel()
	eachSide(t, func(t *testing.T, s side, url string) {
		var all errgroup.Group
		for range 5 {
			all.Go(func() error { return s.migrate(t.Context(), url) })
		}
		require.NoError(t, all.Wait())
		require.NoError(t, s.check(t.Context(), url))
	})
}

func TestWrongSchemaIsRefusedWithWhatToDo(t *testing.T) {
	t.Parallel()
	eachSide(t, func(t *testing.T, s side, url string) {
		require.NoError(t, s.migrate(t.Context(), url))
		exec(t, url, "insert into "+s.table+" values ('29991231235959')")
		for _, err := range []error{s.check(t.Context(), url), s.migrate(t.Context(), url), s.down(t.Context(), url)} {
			require.ErrorIs(t, err, db.ErrSchemaNewer)
			require.ErrorContains(t, err, "29991231235959")
		}
		exec(t, url, "delete from "+s.table+" where version = '29991231235959'")
		require.NoError(t, s.check(t.Context(), url))

		exec(t, url, "delete from "+s.table)
		for _, err := range []error{s.check(t.Context(), url), s.migrate(t.Context(), url)} {
			require.ErrorIs(t, err, db.ErrSchemaHalfApplied)
			require.ErrorContains(t, err, "restore")
		}
	})
}

func TestOlderAndHalfAppliedWrite(t *testing.T) {
	t.Parallel()
	url := testkit.Postgres(t)
	require.NoError(t, db.MigrateWrite(t.Context(), url))
	exec(t, url, "delete from schema_migrations where version = (select max(version) from schema_migrations)")
	err := db.CheckWrite(t.Context(), url)
	require.ErrorIs(t, err, db.ErrSchemaOlder)
	require.ErrorContains(t, err, "dopamine migrate")
}

// A migration that waits for a lock lets the statements of a running system pass, and is applied when
// the lock is free.
func TestMigrate_WaitsForALockInShortTries(t *testing.T) {
	t.Parallel()
	url := testkit.Postgres(t)
	require.NoError(t, db.MigrateWrite(t.Context(), url))
	exec(t, url, "alter table gate_epochs drop column rebuilt_id; delete from schema_migrations where version = '20261129012001'")
	reader, err := pgx.Connect(t.Context(), url)
	require.NoError(t, err)
	defer func() { _ = reader.Close(context.Background()) }()
	holder, err := pgx.Connect(t.Context(), url)
	require.NoError(t, err)
	defer func() { _ = holder.Close(context.Background()) }()
	dbtest.Exec(t, holder, "begin; select count(*) from gate_epochs")

	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	migrated := make(chan error, 1)
	go func() { migrated <- db.MigrateWrite(ctx, url) }()
	testkit.EventuallyTrue(t, 20*time.Second, "the migration to wait for the lock", func() bool {
		return dbtest.One[bool](t, reader, "select exists (select from pg_locks where relation = 'gate_epochs'::regclass and not granted)")
	})
	dbtest.Exec(t, reader, "set statement_timeout = '15s'")
	dbtest.Exec(t, reader, "select count(*) from gate_epochs") // behind the migration
	select {
	case err := <-migrated:
		require.Fail(t, "it did not wait", "%v", err)
	default:
	}
	dbtest.Exec(t, holder, "commit")
	require.NoError(t, <-migrated)
	require.NoError(t, db.CheckWrite(t.Context(), url))
}

func TestCreateDatabase_OnlyIfAsked(t *testing.T) {
	t.Parallel()
	own := testkit.Postgres(t)
	u, err := url.Parse(own)
	require.NoError(t, err)
	u.Path += "_made"
	query := u.Query()
	query.Set("search_path", "shop")
	query.Set("pool_max_conns", "3")
	u.RawQuery = query.Encode()
	made := u.String()
	t.Cleanup(func() {
		exec(t, own, "drop database if exists "+strings.TrimPrefix(u.Path, "/")+" with (force)")
	})

	require.ErrorIs(t, db.CheckWrite(t.Context(), made), db.ErrSchemaMissing)
	for _, s := range sides {
		require.ErrorIs(t, s.migrate(t.Context(), made), db.ErrNoDatabase, "a mistyped name became a database")
	}
	var all errgroup.Group
	for range sides {
		all.Go(func() error { return db.CreateDatabase(context.Background(), made) })
	}
	require.NoError(t, all.Wait())
	for _, s := range sides {
		all.Go(func() error { return s.migrate(context.Background(), made) })
	}
	require.NoError(t, all.Wait())
	for _, s := range sides {
		require.NoError(t, s.check(t.Context(), made))
	}
	u.RawQuery = ""
	for _, name := range objects(t, u.String()) {
		require.Fail(t, fmt.Sprintf("%s is in schema public, the search_path said shop", name))
	}
}

// The migration in docs/replay.md that adds a column runs as it stands there, up and down.
func TestNewColumn_AsDocumented(t *testing.T) {
	t.Parallel()
	up, down, found := strings.Cut(documented(t, "../docs/replay.md", "## A new column"), "\n-- migrate:down\n")
	require.True(t, found)

	url := testkit.Postgres(t)
	require.NoError(t, db.MigrateRead(t.Context(), url))
	before := objects(t, url)
	view := columns(t, url, "purchases")
	exec(t, url, up)
	exec(t, url, "SELECT projection_create_tables('purchases', 2)") // as a replay does
	for _, table := range []string{"purchases_g1", "purchases_g2"} {
		all := columns(t, url, table)
		require.Equal(t, "gateway", all[len(all)-1], table)
	}
	require.Equal(t, append(view, "gateway"), columns(t, url, "purchases"))
	exec(t, url, "INSERT INTO projection_generations (projection, generation, state) VALUES ('purchases', 2, 'building')")
	exec(t, url, down)
	require.Equal(t, view, columns(t, url, "purchases"))
	require.NotContains(t, columns(t, url, "purchases_g1"), "gateway")
	require.NotContains(t, columns(t, url, "purchases_g2"), "gateway")
	exec(t, url, "DELETE FROM projection_generations WHERE generation = 2; SELECT projection_drop_tables('purchases', 2)")
	require.Equal(t, before, objects(t, url))
}

// The query in docs/operations.md for the partitions that lag runs as it stands there.
func TestLagQuery_AsDocumented(t *testing.T) {
	t.Parallel()
	url := migrated(t)
	exec(t, url, documented(t, "../docs/operations.md", "## Why a read model lags"))
}

// documented returns the SQL of a section of a document.
func documented(t *testing.T, file, heading string) string {
	t.Helper()
	document, err := os.ReadFile(file)
	require.NoError(t, err)
	_, section, found := strings.Cut(string(document), "\n"+heading+"\n")
	require.True(t, found, heading)
	_, sql, found := strings.Cut(section, "```sql\n")
	require.True(t, found, heading)
	sql, _, _ = strings.Cut(sql, "```")
	return sql
}

// columns are the columns of a table or view, in order.
func columns(t *testing.T, url, table string) []string {
	t.Helper()
	conn, err := pgx.Connect(t.Context(), url)
	require.NoError(t, err)
	defer func() { _ = conn.Close(context.Background()) }()
	rows, err := conn.Query(t.Context(), "SELECT attname::text FROM pg_attribute WHERE attrelid = $1::text::regclass AND attnum > 0 AND NOT attisdropped ORDER BY attnum", table)
	require.NoError(t, err)
	names, err := pgx.CollectRows(rows, pgx.RowTo[string])
	require.NoError(t, err)
	return names
}
