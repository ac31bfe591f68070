package testkit

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"
	"github.com/stretchr/testify/require"
	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kgo"
	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func TestRedis_Responds(t *testing.T) {
	t.Parallel()
	for name, url := range map[string]string{"shared": Redis(t), "own": OwnRedis(t).URL(), "mini": MiniRedis(t).URL()} {
		opts, err := redis.ParseURL(url)
		require.NoError(t, err, name)
		client := redis.NewClient(opts)
		require.NoError(t, client.Set(t.Context(), unique(), 1, time.Minute).Err(), name)
		require.NoError(t, client.Close(), name)
	}
}

func TestKafka_AcceptsRecords(t *testing.T) {
	t.Parallel()
	for name, brokers := range map[string][]string{"shared": Kafka(t), "fake": FakeKafka(t)} {
		topic := Topic(t)
		client, err := kgo.NewClient(kgo.SeedBrokers(brokers...))
		require.NoError(t, err, name)
		_, err = kadm.NewClient(client).CreateTopic(t.Context(), 3, 1, nil, topic)
		require.NoError(t, err, name)
		require.NoError(t, client.ProduceSync(t.Context(), &kgo.Record{Topic: topic, Value: []byte("v")}).FirstErr(), name)
		client.Close()
	}
}

func TestEventually_Waits(t *testing.T) {
	t.Parallel()
	tries := 0
	Eventually(t, time.Minute, "the third try", func() error {
		if tries++; tries < 3 {
			return errors.New("not yet")
		}
		return nil
	})
	require.Equal(t, 3, tries)
}

// recorder stands in for a test whose service is missing.
type recorder struct {
	testing.TB
	fatal, skipped bool
}

func (r *recorder) Helper()              {}
func (r *recorder) Name() string         { return "TestX" }
func (r *recorder) Log(...any)           {}
func (r *recorder) Fatal(...any)         { r.fatal = true }
func (r *recorder) Skipf(string, ...any) { r.skipped = true }

func TestMissing_IsReported(t *testing.T) {
	file := filepath.Join(t.TempDir(), "not-run")
	t.Setenv("DOPAMINE_NOT_RUN_FILE", file)
	t.Setenv("DOPAMINE_REQUIRE_REAL", "")
	r := &recorder{TB: t}
	skipFor(r, "Postgres", errors.New("two\nlines"))
	skipFor(r, "Kafka", errors.New("no java"))
	b, err := os.ReadFile(file)
	require.NoError(t, err)
	require.Equal(t, "NOT RUN: TestX with Postgres (two lines)\nNOT RUN: TestX with Kafka (no java)\n", string(b))
	require.True(t, r.skipped)
	require.False(t, r.fatal)
}

func TestMissing_FailsIfRealIsRequired(t *testing.T) {
	t.Setenv("DOPAMINE_NOT_RUN_FILE", "") // this one need not be reported
	t.Setenv("DOPAMINE_REQUIRE_REAL", "1")
	r := &recorder{TB: t}
	missing(r, "Postgres", errors.New("none"))
	require.True(t, r.fatal)
}

func TestShared_ReplacesADeadServer(t *testing.T) {
	t.Setenv("TMPDIR", t.TempDir()) // a keeper of this test's own
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	first, users, err := acquire(ctx, "redis")
	require.NoError(t, err)
	if first.Err != "" {
		t.Skip(first.Err)
	}
	require.NoError(t, users.Close())
	gone := first
	gone.URL = "redis://127.0.0.1:1/0" // no server listens there
	require.NoError(t, tell("redis", gone))

	second, users, err := acquire(ctx, "redis")
	require.NoError(t, err)
	defer func() { _ = users.Close() }()
	require.NotEqual(t, first.PID, second.PID)
	require.NoError(t, probeRedis(ctx, second.URL))
	require.Error(t, probeRedis(ctx, first.URL), "the old server has gone with its keeper")

	again, more, err := acquire(ctx, "redis")
	require.NoError(t, err)
	require.NoError(t, more.Close())
	require.Equal(t, second.PID, again.PID, "a running server is shared")
	require.NoError(t, endKeeper(ctx, "redis", second))
}
