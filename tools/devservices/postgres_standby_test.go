package devservices

import (
	"context"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

func TestStandby_FollowsAndIsPromoted(t *testing.T) {
	t.Parallel()
	primary := startPostgresIn(t, folder(t))
	makeSale(t, primary.URL())
	standby, err := StartStandby(t.Context(), primary, PostgresOptions{Dir: folder(t)})
	skipWhereMissing(t, err)
	stopped(t, standby)
	require.True(t, ask[bool](t, standby.URL(), "select pg_is_in_recovery()"))
	require.Equal(t, 1000, ask[int](t, standby.URL(), someRows))

	require.NoError(t, standby.Restart(t.Context()), "after kill -9")
	require.Eventually(t, func() bool {
		return ask[string](t, primary.URL(), "select coalesce(max(application_name), '') from pg_stat_replication where state = 'streaming'") == "standby"
	}, 30*time.Second, 50*time.Millisecond)

	primary.Kill9()
	require.NoError(t, standby.Promote(context.Background()))
	require.False(t, ask[bool](t, standby.URL(), "select pg_is_in_recovery()"))
	require.Equal(t, 1, ask[int](t, standby.URL(), "with made as (insert into sale values (0) returning 1) select count(*)::int from made"), "it takes writes")
}
