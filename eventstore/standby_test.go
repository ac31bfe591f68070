package eventstore

import (
	"context"
	"net/url"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
	"github.com/stretchr/testify/require"

	"github.com/dopaminestore/dopamine/db"
	"github.com/dopaminestore/dopamine/tools/dbtest"
	"github.com/dopaminestore/dopamine/tools/devservices"
	"github.com/dopaminestore/dopamine/tools/testkit"
)

// replicatedPair is a primary that waits for its standby, with the write side's
// tables.
type replicatedPair struct {
	t                *testing.T
	primary, standby *devservices.Postgres
}

func newReplicatedPair(t *testing.T) replicatedPair {
	t.Helper()
	p := replicatedPair{t: t, primary: testkit.OwnPostgres(t)}
	require.NoError(t, db.MigrateWrite(t.Context(), p.primary.URL()))
	p.standby = testkit.Standby(t, p.primary)
	for _, sql := range []string{"alter system set synchronous_standby_names = 'standby'", "select pg_reload_conf()"} {
		p.exec(sql)
	}
	p.awaitSync()
	return p
}

func (p replicatedPair) exec(sql string) {
	p.t.Helper()
	conn, err := pgx.Connect(p.t.Context(), p.primary.URL())
	require.NoError(p.t, err)
	defer func() { _ = conn.Close(context.Background()) }()
	dbtest.Exec(p.t, conn, sql)
}

func (p replicatedPair) awaitSync() {
	p.t.Helper()
	p.awaitStandbys(1)
}

func (p replicatedPair) awaitStandbys(n int) {
	p.t.Helper()
	conn, err := pgx.Connect(p.t.Context(), p.primary.URL())
	require.NoError(p.t, err)
	defer func() { _ = conn.Close(context.Background()) }()
	require.Eventually(p.t, func() bool {
		var now int
		err := conn.QueryRow(p.t.Context(), "select count(*) from pg_stat_replication where sync_state = 'sync' and state = 'streaming'").Scan(&now)
		return err == nil && now == n
	}, 30*time.Second, 20*time.Millisecond, "%d synchronous standbys", n)
}

// killStandby returns when the primary has noticed: the standby's receiver outlives its
// parent for a moment.
func (p replicatedPair) killStandby() {
	p.t.Helper()
	p.standby.Kill9()
	p.awaitStandbys(0)
}

// failOver kills the primary, promotes the standby and returns its log.
func (p replicatedPair) failOver() []Recorded {
	p.t.Helper()
	p.primary.Kill9()
	require.NoError(p.t, p.standby.Restart(p.t.Context()))
	require.NoError(p.t, p.standby.Promote(p.t.Context()))
	return wholeLog(p.t, newPool(p.t, p.standby.URL()))
}

func requireUnacknowledged(t *testing.T, err error) {
	t.Helper()
	var away *UnavailableError
	require.ErrorAs(t, err, &away)
}

func withSetting(t *testing.T, database, name, value string) string {
	t.Helper()
	u, err := url.Parse(database)
	require.NoError(t, err)
	q := u.Query()
	q.Set(name, value)
	u.RawQuery = q.Encode()
	return u.String()
}

// Every acknowledged append survives the primary, whatever happened to the standby
// before: nothing is acknowledged while the standby is unavailable.
func TestStore_AcknowledgesOnlyReplicatedAppends(t *testing.T) {
	t.Parallel()
	for name, setting := range map[string]string{"synchronous_commit on": "on", "synchronous_commit local": "local"} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			p := newReplicatedPair(t)
			pool := newPool(t, withSetting(t, p.primary.URL(), "synchronous_commit", setting))
			s, err := Open(t.Context(), pool, Options{})
			require.NoError(t, err)
			t.Cleanup(func() { s.cancel(); <-s.done })
			_, err = s.Append(t.Context(), appendTo(uuid.New(), None, 1))
			require.NoError(t, err)
			require.NoError(t, s.Confirm(t.Context()))

			p.killStandby()
			lost := appendTo(uuid.New(), None, 1)
			_, err = s.Append(t.Context(), lost)
			requireUnacknowledged(t, err)
			_, err = s.Append(t.Context(), lost)
			requireUnacknowledged(t, err) // a repeat is not acknowledged either
			require.Len(t, wholeLog(t, newPool(t, p.primary.URL())), 1, "the commit is not visible: its backend still waits")

			require.Len(t, p.failOver(), 1)
		})
	}
}

// The wait for the standby was ended by a restart of the primary: the commit
// is visible, and still must not be acknowledged.
func TestStore_DoesNotTrustVisibleCommit(t *testing.T) {
	t.Parallel()
	p := newReplicatedPair(t)
	pool := newPool(t, p.primary.URL())
	s, err := Open(t.Context(), pool, Options{})
	require.NoError(t, err)
	t.Cleanup(func() { s.cancel(); <-s.done })
	_, err = s.Append(t.Context(), appendTo(uuid.New(), None, 1))
	require.NoError(t, err)

	p.killStandby()
	late := appendTo(uuid.New(), None, 1)
	_, err = s.Append(t.Context(), late)
	requireUnacknowledged(t, err)
	require.NoError(t, p.primary.Restart(t.Context()))
	require.Len(t, wholeLog(t, newPool(t, p.primary.URL())), 2, "visible")
	_, err = s.Append(t.Context(), late)
	requireUnacknowledged(t, err)
	requireUnacknowledged(t, s.Confirm(t.Context()))

	require.NoError(t, p.standby.Restart(t.Context()))
	p.awaitSync()
	result, err := s.Append(t.Context(), late)
	require.NoError(t, err)
	require.EqualValues(t, 2, result.Position)
	require.NoError(t, s.Confirm(t.Context()))
	require.Len(t, p.failOver(), 2)
}

// A process that was stopped while it was sending keeps its connection alive, and
// before Postgres 17 no setting ends its transaction. The next process that wants the lock
// ends it.
func TestLock_IsTakenFromProcessStoppedWhileSending(t *testing.T) {
	t.Parallel()
	database := dbtest.WriteDB(t)
	s := open(t, database.Pool, Options{})
	version := dbtest.One[int](t, database.Pool, "select current_setting('server_version_num')::int")
	config, err := pgx.ParseConfig(database.URL)
	require.NoError(t, err)
	stopped, err := pgx.ConnectConfig(t.Context(), config)
	require.NoError(t, err)
	defer func() { _ = stopped.Close(context.Background()) }()
	if version < 170000 {
		_, err = stopped.Exec(t.Context(), settingsSQL(false))
		require.NoError(t, err)
	}
	// A pipeline that takes the lock and is never completed: no Sync follows.
	pipeline := stopped.PgConn().StartPipeline(context.Background())
	pipeline.SendQueryParams(beginSQL, nil, nil, nil, nil)
	pipeline.SendQueryParams(lockSQL, nil, nil, nil, nil)
	pipeline.SendFlushRequest()
	require.NoError(t, pipeline.Flush())
	for range 2 {
		_, err := pipeline.GetResults()
		require.NoError(t, err)
	}
	began := time.Now()
	require.Eventually(t, func() bool {
		_, err := s.Append(t.Context(), appendTo(uuid.New(), None, 1))
		return err == nil
	}, 30*time.Second, 10*time.Millisecond)
	require.Less(t, time.Since(began), transactionTimeout+3*lockTimeout)
}
