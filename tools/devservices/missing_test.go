package devservices

import (
	"context"
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"
)

// withoutPrograms hides the programs of the machine and earlier downloads.
func withoutPrograms(t *testing.T) {
	t.Helper()
	t.Setenv("PATH", t.TempDir())
	t.Setenv("JAVA_HOME", "")
}

func TestStartRedis_FallsBackToMiniredis(t *testing.T) {
	withoutPrograms(t)
	r, err := StartRedis(t.Context(), RedisOptions{Dir: t.TempDir(), NoInstall: true})
	require.NoError(t, err)
	stopped(t, r)
	require.Contains(t, r.Kind(), "miniredis")
	require.NoError(t, connect(t, r).Ping(t.Context()).Err())

	_, err = StartRedis(t.Context(), RedisOptions{Real: true, NoInstall: true})
	require.ErrorIs(t, err, ErrNotHere)
	require.ErrorContains(t, err, "apt-get install redis-server")
}

func TestStartKafka_WithoutJavaReportsARemedy(t *testing.T) {
	withoutPrograms(t)
	_, err := StartKafka(t.Context(), KafkaOptions{Dir: t.TempDir(), NoInstall: true})
	require.ErrorIs(t, err, ErrNotHere)
	require.ErrorContains(t, err, "default-jre-headless maven")
}

func TestStartPostgres_WithoutServerReportsARemedy(t *testing.T) {
	withoutPrograms(t)
	u, err := postgresUser()
	require.NoError(t, err)
	if len(postgresHere(t.Context(), u)) > 0 {
		t.Skip("a server outside of PATH cannot be hidden")
	}
	_, err = findPostgres(t.Context(), u, "", true, quiet(nil))
	require.ErrorIs(t, err, ErrNotHere)
	require.ErrorContains(t, err, "apt-get install postgresql")
}

func TestFetchOnce_RestartsAnInterruptedDownload(t *testing.T) {
	if os.Geteuid() == 0 {
		t.Skip("root's downloads are the machine's: not to be played with")
	}
	cache := t.TempDir()
	t.Setenv("XDG_CACHE_HOME", cache)
	require.NoError(t, os.MkdirAll(filepath.Join(cache, "dopamine", "x.part", "half"), 0o755))
	calls := 0
	for range 2 {
		dir, err := fetchOnce(t.Context(), "x", func(_ context.Context, into string) error {
			calls++
			return os.WriteFile(filepath.Join(into, "whole"), nil, 0o644)
		})
		require.NoError(t, err)
		require.FileExists(t, filepath.Join(dir, "whole"))
		require.NoDirExists(t, filepath.Join(dir, "half"))
	}
	require.Equal(t, 1, calls)
}
