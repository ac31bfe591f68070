package testkit

import (
	"context"
	"errors"
	"testing"

	"github.com/redis/go-redis/v9"

	"github.com/dopaminestore/dopamine/tools/devservices"
)

// Redis returns the URL of the Redis that all tests share: use unique keys, flush nothing, kill
// nothing. Without redis-server it is a miniredis for this test, which is reported.
func Redis(tb testing.TB) string {
	tb.Helper()
	p, err := shared("redis")
	if err != nil {
		missing(tb, "a real Redis", err)
		return MiniRedis(tb).URL()
	}
	return p.URL
}

// OwnRedis returns a real redis-server that the test may flush, kill and restart. It keeps its data
// across a restart. Without redis-server the test is skipped.
func OwnRedis(tb testing.TB) *devservices.Redis {
	tb.Helper()
	return startOwnRedis(tb, devservices.RedisOptions{Dir: tb.TempDir(), Real: true})
}

// MiniRedis returns a miniredis in process, for this test only.
func MiniRedis(tb testing.TB) *devservices.Redis {
	tb.Helper()
	return startOwnRedis(tb, devservices.RedisOptions{Mini: true})
}

// RedisClient returns a client that is closed at the test's end.
func RedisClient(tb testing.TB, url string) *redis.Client {
	tb.Helper()
	opts, err := redis.ParseURL(url)
	if err != nil {
		tb.Fatalf("the URL of Redis: %v", err)
	}
	client := redis.NewClient(opts)
	tb.Cleanup(func() { _ = client.Close() })
	return client
}

// RedisCluster returns a Redis Cluster for this test with that many replicas of each master.
// Without redis-server the test is skipped.
func RedisCluster(tb testing.TB, masters, replicas int) *devservices.RedisGroup {
	tb.Helper()
	return startGroup(tb, "a Redis Cluster", func(ctx context.Context) (*devservices.RedisGroup, error) {
		return devservices.StartRedisCluster(ctx, masters, replicas, devservices.RedisOptions{})
	})
}

// Sentinels returns a Redis for this test with a replica and three Sentinels. Without redis-server
// the test is skipped.
func Sentinels(tb testing.TB) *devservices.RedisGroup {
	tb.Helper()
	return startGroup(tb, "Redis Sentinels", func(ctx context.Context) (*devservices.RedisGroup, error) {
		return devservices.StartSentinels(ctx, 1, 3, devservices.RedisOptions{})
	})
}

func startGroup(tb testing.TB, what string, start func(context.Context) (*devservices.RedisGroup, error)) *devservices.RedisGroup {
	tb.Helper()
	g, err := start(context.Background())
	if errors.Is(err, devservices.ErrNotHere) {
		skipFor(tb, what, err)
	}
	if err != nil {
		tb.Fatalf("start %s: %v", what, err)
	}
	tb.Cleanup(func() {
		if err := g.Stop(context.Background()); err != nil {
			tb.Errorf("stop %s: %v", what, err)
		}
	})
	return g
}

func startOwnRedis(tb testing.TB, opts devservices.RedisOptions) *devservices.Redis {
	tb.Helper()
	r, err := devservices.StartRedis(context.Background(), opts)
	if errors.Is(err, devservices.ErrNotHere) {
		skipFor(tb, "a separate Redis", err)
	}
	if err != nil {
		tb.Fatalf("start a Redis: %v", err)
	}
	tb.Cleanup(func() {
		if err := r.Stop(context.Background()); err != nil {
			tb.Errorf("stop the test's Redis: %v", err)
		}
	})
	return r
}
