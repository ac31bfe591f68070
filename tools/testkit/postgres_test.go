package testkit

import (
	"context"
	"testing"

	"github.com/jackc/pgx/v5"
	"github.com/stretchr/testify/require"
)

func TestPostgres_IsEmptyAndSeparate(t *testing.T) {
	t.Parallel()
	one, two := Postgres(t), Postgres(t)
	require.NotEqual(t, one, two)
	require.Equal(t, 0, tables(t, one))
	query(t, one, "create table a (b int)")
	require.Equal(t, 1, tables(t, one))
	require.Equal(t, 0, tables(t, two))
}

func TestDatabase_MigratesItsTemplateOnce(t *testing.T) {
	t.Parallel()
	name, migrated := unique(), 0
	migrate := func(ctx context.Context, url string) error {
		migrated++
		query(t, url, "create table a (b int)")
		return nil
	}
	for range 3 {
		require.Equal(t, 1, tables(t, Database(t, name, migrate)))
	}
	require.Equal(t, 1, migrated)
}

func TestDatabase_IsDroppedDespiteConnections(t *testing.T) {
	t.Parallel()
	server := postgresServer(t)
	var url string
	t.Run("the test that has it", func(t *testing.T) {
		url = Postgres(t)
		_, err := pgx.Connect(context.Background(), url)
		require.NoError(t, err)
	})
	_, err := pgx.Connect(context.Background(), url)
	require.ErrorContains(t, err, "does not exist")
	require.NoError(t, probePostgres(context.Background(), server))
}

func TestOwnPostgres_RestartsAfterKill9(t *testing.T) {
	t.Parallel()
	p := OwnPostgres(t)
	query(t, p.URL(), "create table a (b int)")
	require.NoError(t, p.Restart(t.Context()))
	require.Equal(t, 1, tables(t, p.URL()))
}

func query(t *testing.T, url, sql string) {
	t.Helper()
	require.NoError(t, onServer(t.Context(), url, func(c *pgx.Conn) error {
		_, err := c.Exec(t.Context(), sql)
		return err
	}))
}

func tables(t *testing.T, url string) (n int) {
	t.Helper()
	require.NoError(t, onServer(t.Context(), url, func(c *pgx.Conn) error {
		return c.QueryRow(t.Context(), "select count(*) from pg_tables where schemaname = 'public'").Scan(&n)
	}))
	return n
}
