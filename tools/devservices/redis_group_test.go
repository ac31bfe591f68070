package devservices

import (
	"context"
	"errors"
	"strings"
	"testing"

	"github.com/redis/go-redis/v9"
	"github.com/stretchr/testify/require"
)

func TestRedisCluster(t *testing.T) {
	t.Parallel()
	g, err := StartRedisCluster(t.Context(), 3, 1, RedisOptions{NoInstall: true})
	if errors.Is(err, ErrNotHere) {
		t.Skip(err)
	}
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, g.Stop(context.Background())) })
	require.Len(t, strings.Split(g.URL(), ","), 6)
	c := redis.NewClusterClient(&redis.ClusterOptions{Addrs: []string{strings.TrimSuffix(strings.TrimPrefix(g.Nodes[5].URL(), "redis://"), "/0")}})
	defer func() { _ = c.Close() }()
	for _, key := range []string{"a", "b", "c", "d"} {
		require.NoError(t, c.Set(t.Context(), key, key, 0).Err())
	}
}

func TestSentinels(t *testing.T) {
	t.Parallel()
	g, err := StartSentinels(t.Context(), 1, 3, RedisOptions{NoInstall: true})
	if errors.Is(err, ErrNotHere) {
		t.Skip(err)
	}
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, g.Stop(context.Background())) })
	require.Contains(t, g.URL(), "?master_name="+SentinelMaster)
	require.NoError(t, g.Nodes[0].Pause())
	require.NoError(t, g.Nodes[0].Resume())
}
