package devservices

import (
	"strings"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"
	"github.com/stretchr/testify/require"
)

func startRedis(t *testing.T, opts RedisOptions) *Redis {
	t.Helper()
	r, err := StartRedis(t.Context(), opts)
	skipWhereMissing(t, err)
	stopped(t, r)
	return r
}

func connect(t *testing.T, r *Redis) *redis.Client {
	t.Helper()
	opts, err := redis.ParseURL(r.URL())
	require.NoError(t, err)
	client := redis.NewClient(opts)
	t.Cleanup(func() { require.NoError(t, client.Close()) })
	return client
}

// identity returns what distinguishes one life of a Redis from the next.
func identity(t *testing.T, client *redis.Client) (runID, replID string) {
	t.Helper()
	info := client.Info(t.Context(), "server").Val() + client.Info(t.Context(), "replication").Val()
	require.Contains(t, info, "role:master")
	for line := range strings.Lines(info) {
		name, value, _ := strings.Cut(strings.TrimSpace(line), ":")
		switch name {
		case "run_id":
			runID = value
		case "master_replid":
			replID = value
		}
	}
	require.Len(t, runID, 40)
	require.Len(t, replID, 40)
	return runID, replID
}

// Both kinds must appear the same to the gate.
func TestRedis_ReportsItsIdentity(t *testing.T) {
	t.Parallel()
	for name, opts := range map[string]RedisOptions{"server": {Real: true}, "mini": {Mini: true}} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			r := startRedis(t, opts)
			client := connect(t, r)
			require.Equal(t, map[string]string{"maxmemory-policy": "noeviction"}, client.ConfigGet(t.Context(), "maxmemory-policy").Val())
			run, repl := identity(t, client)
			sameRun, sameRepl := identity(t, client)
			require.Equal(t, run+repl, sameRun+sameRepl)

			require.NoError(t, client.Set(t.Context(), "short", 1, 100*time.Millisecond).Err())
			require.Eventually(t, func() bool { return client.Exists(t.Context(), "short").Val() == 0 }, 10*time.Second, 10*time.Millisecond)

			url := r.URL()
			require.NoError(t, r.Restart(t.Context()))
			require.Equal(t, url, r.URL())
			otherRun, otherRepl := identity(t, connect(t, r))
			require.NotEqual(t, run, otherRun)
			require.NotEqual(t, repl, otherRepl)
			require.NoError(t, r.Stop(t.Context()))
			require.NoError(t, r.Stop(t.Context()), "twice")
		})
	}
}

func TestRedis_KeepsItsDataAcrossEveryEnd(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	r := startRedis(t, RedisOptions{Dir: dir, Real: true})
	require.NoError(t, connect(t, r).Set(t.Context(), "a", "1", 0).Err())
	require.NoError(t, r.Restart(t.Context()), "after kill -9")
	require.Equal(t, "1", connect(t, r).Get(t.Context(), "a").Val())

	_, err := StartRedis(t.Context(), RedisOptions{Dir: dir, Real: true})
	require.ErrorIs(t, err, ErrInUse)
	require.NoError(t, r.Stop(t.Context()))

	killProgram(t, "redis="+dir)
	again := startRedis(t, RedisOptions{Dir: dir, Real: true})
	require.Equal(t, "1", connect(t, again).Get(t.Context(), "a").Val())
}
