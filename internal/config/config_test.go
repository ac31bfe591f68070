package config_test

import (
	"context"
	"errors"
	"io"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"github.com/urfave/cli/v3"

	"github.com/dopaminestore/dopamine/internal/config"
)

var all = []*config.Setting{
	config.DatabaseURL, config.ReadDatabaseURL, config.RedisURL, config.KafkaBrokers, config.SchemaRegistryURL,
	config.CommandAddr, config.QueryAddr, config.CommandURL, config.QueryURL, config.JWTKey, config.JWKSURL,
	config.JWTIssuer, config.JWTAudience, config.TokenKey, config.SlotTTL, config.SlotWarning, config.BuyerRate,
	config.CORSOrigins, config.Data, config.LogFormat, config.LogLevel, config.OTLPEndpoint, config.KafkaPartitions,
	config.KafkaRetention, config.RedisPool, config.RedisPoolMax, config.DatabasePool, config.DatabasePoolMax, config.AppendQueue,
}

// run runs the program with the arguments and calls look with the command's reader.
func run(t *testing.T, look func(*config.Reader) error, args ...string) error {
	t.Helper()
	root := &cli.Command{
		Name: "dopamine", Writer: io.Discard, ErrWriter: io.Discard, OnUsageError: config.OnUsageError,
		ExitErrHandler: func(context.Context, *cli.Command, error) {},
		Commands: []*cli.Command{{
			Name: "go", Flags: config.Flags(all...), Before: config.FromData, OnUsageError: config.OnUsageError,
			Action: func(_ context.Context, cmd *cli.Command) error {
				r := config.From(cmd)
				if err := look(r); err != nil {
					return err
				}
				return r.Err()
			},
		}},
	}
	return root.Run(context.Background(), append([]string{"dopamine", "go"}, args...))
}

// clean removes settings from the test's folder and environment.
func clean(t *testing.T) {
	t.Helper()
	t.Chdir(t.TempDir())
	for _, s := range all {
		t.Setenv(s.Variable(), "")
	}
}

func TestReader_FlagBeforeVariableBeforeDefault(t *testing.T) {
	clean(t)
	read := func(want string) func(*config.Reader) error {
		return func(r *config.Reader) error {
			require.Equal(t, want, r.Addr(config.CommandAddr))
			return nil
		}
	}
	require.NoError(t, run(t, read("127.0.0.1:8080")))
	t.Setenv("DOPAMINE_COMMAND_ADDR", "127.0.0.1:1")
	require.NoError(t, run(t, read("127.0.0.1:1")))
	require.NoError(t, run(t, read("127.0.0.1:2"), "--command-addr", "127.0.0.1:2"))
	t.Setenv("DOPAMINE_COMMAND_ADDR", "")
	require.NoError(t, run(t, read("127.0.0.1:8080")), "an empty variable counts as absent")
	require.NoError(t, run(t, read("127.0.0.1:8080"), "--command-addr", ""))
}

func TestDefaults(t *testing.T) {
	clean(t)
	require.NoError(t, run(t, func(r *config.Reader) error {
		require.Equal(t, 30*time.Minute, r.SlotTTL())
		require.Equal(t, 5*time.Minute, r.SlotWarning())
		require.Equal(t, 50, r.BuyerRate())
		require.Empty(t, r.CORSOrigins())
		topic := r.KafkaTopicSettings()
		require.EqualValues(t, 12, topic.Partitions)
		require.Zero(t, topic.Retention)
		require.Equal(t, config.Pool{Kept: 10, Max: 20}, r.RedisPool())
		require.Equal(t, config.Pool{Kept: 10, Max: 20}, r.DatabasePool())
		require.Equal(t, 4096, r.AppendQueue())
		require.Equal(t, []string{"http://127.0.0.1:8080"}, r.CommandURLs())
		require.Equal(t, "http://127.0.0.1:8081", r.QueryURL())
		return nil
	}))
}

func TestReader_ReportsAllErrors(t *testing.T) {
	clean(t)
	err := run(t, func(r *config.Reader) error {
		r.Require(config.DatabaseURL, config.RedisURL)
		r.DatabaseURL()
		r.RedisURLs()
		r.KafkaBrokers()
		r.SlotTTL()
		r.BuyerRate()
		r.Addr(config.CommandAddr)
		r.CORSOrigins()
		r.Logging()
		r.RedisPool()
		r.Auth()
		r.OTLPEndpoint()
		return nil
	}, "--database-url", "mysql://root:hunter2@h/db", "--kafka-brokers", "kafka", "--slot-ttl", "0s", "--buyer-rate", "-1",
		"--command-addr", "8080", "--cors-origins", "shop.example.com", "--log-format", "xml", "--log-level", "loud",
		"--redis-pool", "30", "--otlp-endpoint", "collector:4318")
	var usage *config.UsageError
	require.ErrorAs(t, err, &usage)
	require.Equal(t, 2, usage.ExitCode())
	require.Len(t, usage.Problems, 12)
	for _, part := range []string{
		"--redis-url (DOPAMINE_REDIS_URL) is missing; give a URL such as redis://localhost:6379/0",
		"--database-url (DOPAMINE_DATABASE_URL) is not such a URL", "--kafka-brokers", "--slot-ttl", "--buyer-rate", "--command-addr",
		"--cors-origins", "--log-format", "--log-level", "--redis-pool (DOPAMINE_REDIS_POOL) is more than --redis-pool-max",
		"--jwt-key (DOPAMINE_JWT_KEY) is missing, and so is --jwks-url", "--otlp-endpoint",
	} {
		require.Contains(t, usage.Error(), part)
	}
	require.NotContains(t, usage.Error(), "hunter2", "a message repeated a password")
}

func TestReader_UnknownFlagIsAUsageError(t *testing.T) {
	clean(t)
	var usage *config.UsageError
	require.ErrorAs(t, run(t, func(*config.Reader) error { return nil }, "--no-such-flag"), &usage)
	require.ErrorAs(t, run(t, func(*config.Reader) error { return nil }, "--slot-ttl"), &usage)
}

func TestLists(t *testing.T) {
	clean(t)
	require.NoError(t, run(t, func(r *config.Reader) error {
		require.Equal(t, []string{"a:1", "b:2"}, r.KafkaBrokers())
		require.Equal(t, []string{"redis://a:1?master_name=x", "redis://b:2", "redis://c:3"}, r.RedisURLs())
		require.Equal(t, []string{"https://a", "http://b:3000", "*"}, r.CORSOrigins())
		return nil
	}, "--kafka-brokers", "a:1, b:2,", "--redis-url", "redis://a:1?master_name=x,redis://b:2,c:3", "--cors-origins", "https://a,http://b:3000,*"))
}

func TestReader_LoweringThePoolsMaximumLowersBoth(t *testing.T) {
	clean(t)
	require.NoError(t, run(t, func(r *config.Reader) error {
		require.Equal(t, config.Pool{Kept: 4, Max: 4}, r.DatabasePool())
		return nil
	}, "--database-pool-max", "4"))
}

func writeData(t *testing.T, dir, content string) {
	t.Helper()
	require.NoError(t, os.MkdirAll(dir, 0o755))
	require.NoError(t, os.WriteFile(filepath.Join(dir, config.EnvFile), []byte(content), 0o600))
}

const dataFile = `
# written by dev
DOPAMINE_DATABASE_URL=postgres://dev@localhost:5/dopamine?a=b
DOPAMINE_REDIS_URL="redis://localhost:6/0"
DOPAMINE_JWT_KEY=jwt.key
DOPAMINE_LATER=x
PATH=/nowhere
`

func TestDataFolder_Named(t *testing.T) {
	clean(t)
	writeData(t, "there", dataFile)
	look := func(db, redis, key string) func(*config.Reader) error {
		return func(r *config.Reader) error {
			require.Equal(t, db, r.DatabaseURL())
			require.Equal(t, redis, r.String(config.RedisURL))
			require.Equal(t, key, r.String(config.JWTKey))
			return nil
		}
	}
	const db, redis = "postgres://dev@localhost:5/dopamine?a=b", "redis://localhost:6/0"
	require.NoError(t, run(t, look("", "", "")), "nothing named, nothing there")
	require.NoError(t, run(t, look(db, redis, "there/jwt.key"), "--data", "there"))
	require.NoError(t, run(t, look(db, "redis://mine", "there/jwt.key"), "--data", "there", "--redis-url", "redis://mine"))
	t.Setenv("DOPAMINE_DATA", "there")
	require.NoError(t, run(t, look(db, redis, "there/jwt.key")))

	var usage *config.UsageError
	require.ErrorAs(t, run(t, look("", "", ""), "--data", "missing"), &usage)
	require.Contains(t, usage.Error(), "missing")
}

func TestDataFolder_Default(t *testing.T) {
	clean(t)
	writeData(t, ".dopamine", dataFile)
	got := func(want string) func(*config.Reader) error {
		return func(r *config.Reader) error {
			require.Equal(t, want, r.String(config.RedisURL))
			return nil
		}
	}
	require.NoError(t, run(t, got("redis://localhost:6/0")))
	require.NoError(t, run(t, got("redis://localhost:6/0"), "--log-level", "debug"), "a setting that the file does not have does not matter")
	require.NoError(t, run(t, got(""), "--database-url", "postgres://other/db"), "two systems were mixed")
	t.Setenv("DOPAMINE_DATABASE_URL", "postgres://other/db")
	require.NoError(t, run(t, got("")), "two systems were mixed")
}

func TestEnvFile_RoundTrip(t *testing.T) {
	dir := t.TempDir()
	require.NoError(t, config.WriteEnvFile(dir, map[*config.Setting]string{
		config.DatabaseURL: "postgres://u:p%20=@h/db?x=y", config.JWTKey: "/abs/jwt.key", config.RedisURL: "",
	}))
	values, err := config.ReadEnvFile(dir)
	require.NoError(t, err)
	require.Equal(t, map[string]string{"database-url": "postgres://u:p%20=@h/db?x=y", "jwt-key": "/abs/jwt.key"}, values)
	info, err := os.Stat(filepath.Join(dir, config.EnvFile))
	require.NoError(t, err)
	require.EqualValues(t, 0o600, info.Mode().Perm())

	writeData(t, dir, "nonsense\n")
	_, err = config.ReadEnvFile(dir)
	require.ErrorContains(t, err, "line 1")
}

func TestReader_JWKSReplacesTheKey(t *testing.T) {
	clean(t)
	require.NoError(t, run(t, func(r *config.Reader) error {
		c := r.Auth()
		require.Empty(t, c.KeyFile)
		require.Equal(t, "https://login/jwks", c.JWKSURL)
		return nil
	}, "--jwt-key", "k", "--jwks-url", "https://login/jwks", "--jwt-issuer", "https://login", "--jwt-audience", "store"))
	for _, args := range [][]string{
		{"--jwks-url", "https://login/jwks", "--jwt-issuer", "https://login"},
		{"--jwks-url", "https://login/jwks", "--jwt-audience", "store"},
		{"--jwks-url", "http://login/jwks", "--jwt-issuer", "https://login", "--jwt-audience", "store"},
	} {
		require.True(t, errors.As(run(t, func(r *config.Reader) error { r.Auth(); return nil }, args...), new(*config.UsageError)), args)
	}
	err := run(t, func(r *config.Reader) error { r.Signing(); return nil })
	require.True(t, errors.As(err, new(*config.UsageError)))
}

func TestSecret_ReadFromFile(t *testing.T) {
	clean(t)
	file := func(t *testing.T, content string) string {
		name := filepath.Join(t.TempDir(), "secret")
		require.NoError(t, os.WriteFile(name, []byte(content), 0o600))
		return name
	}
	const url = "postgres://shop:hunter2@db/shop"
	read := func(want string) func(*config.Reader) error {
		return func(r *config.Reader) error {
			require.Equal(t, want, r.DatabaseURL())
			return nil
		}
	}
	t.Run("flag", func(t *testing.T) {
		require.NoError(t, run(t, read(url), "--database-url-file", file(t, url+"\n")))
	})
	t.Run("variable", func(t *testing.T) {
		t.Setenv("DOPAMINE_DATABASE_URL_FILE", file(t, url))
		require.NoError(t, run(t, read(url)))
	})
	t.Run("before the data folder", func(t *testing.T) {
		writeData(t, "there", dataFile)
		require.NoError(t, run(t, read(url), "--data", "there", "--database-url-file", file(t, url)))
	})
	for name, tc := range map[string]struct {
		args []string
		text string
	}{
		"missing":   {[]string{"--database-url-file", "/no/such/file"}, "no such file"},
		"empty":     {[]string{"--database-url-file", file(t, " \n")}, "is empty"},
		"too large": {[]string{"--database-url-file", file(t, string(make([]byte, 70_000)))}, "65536 bytes"},
		"both":      {[]string{"--database-url-file", file(t, url), "--database-url", url}, "both given"},
	} {
		t.Run(name, func(t *testing.T) {
			err := run(t, func(r *config.Reader) error { r.DatabaseURL(); return nil }, tc.args...)
			var usage *config.UsageError
			require.ErrorAs(t, err, &usage)
			require.Contains(t, usage.Error(), "--database-url-file (DOPAMINE_DATABASE_URL_FILE)")
			require.Contains(t, usage.Error(), tc.text)
			require.NotContains(t, usage.Error(), "hunter2", "a message repeated a password")
		})
	}
}
