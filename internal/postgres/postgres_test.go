package postgres_test

import (
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/dopaminestore/dopamine/internal/postgres"
	"github.com/dopaminestore/dopamine/tools/dbtest"
	"github.com/dopaminestore/dopamine/tools/testkit"
)

// A process that stops inside a transaction loses its locks: the next one waits
// for the timeout, not for the process.
func TestOpen_BoundsIdleTransactions(t *testing.T) {
	t.Parallel()
	pool, err := postgres.Open(t.Context(), dbtest.Write(t).Config())
	require.NoError(t, err)
	t.Cleanup(pool.Close)
	require.Equal(t, "10s", dbtest.One[string](t, pool, `show idle_in_transaction_session_timeout`))

	conn, err := pool.Acquire(t.Context())
	require.NoError(t, err)
	defer conn.Release()
	dbtest.Exec(t, conn, `select set_config('idle_in_transaction_session_timeout', '100', false)`)
	tx, err := conn.Begin(t.Context())
	require.NoError(t, err)
	dbtest.Exec(t, tx, `select pg_advisory_xact_lock(1)`)
	testkit.Eventually(t, 10*time.Second, "the stopped client's lock", func() error {
		_, err := pool.Exec(t.Context(), `select pg_advisory_lock_shared(1) from (select set_config('lock_timeout', '50', true)) as bound`)
		return err
	})
}

func TestCommitDurably_RaisesWhatTheServerIsSetTo(t *testing.T) {
	t.Parallel()
	for server, want := range map[string]string{"off": "on", "local": "on", "on": "on", "remote_apply": "remote_apply"} {
		t.Run(server, func(t *testing.T) {
			t.Parallel()
			cfg := dbtest.Write(t).Config()
			cfg.ConnConfig.RuntimeParams["synchronous_commit"] = server
			postgres.CommitDurably(cfg)
			pool, err := postgres.Open(t.Context(), cfg)
			require.NoError(t, err)
			t.Cleanup(pool.Close)
			require.Equal(t, want, dbtest.One[string](t, pool, `show synchronous_commit`))
		})
	}
}
