package main

import (
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/stretchr/testify/require"

	"github.com/dopaminestore/dopamine/internal/auth"
	"github.com/dopaminestore/dopamine/tools/dbtest"
	"github.com/dopaminestore/dopamine/tools/testkit"
)

// keyFile returns a file with a secret for tokens.
func keyFile(t *testing.T) string {
	t.Helper()
	file := filepath.Join(t.TempDir(), "jwt.key")
	require.NoError(t, os.WriteFile(file, []byte(strings.Repeat("k", 48)+"\n"), 0o600))
	return file
}

func TestToken_Verifies(t *testing.T) {
	unset(t)
	key, sub := keyFile(t), uuid.New()
	exit, out, said := bounded(t, "token", "--jwt-key", key, "--sub", sub.String(), "--roles", "buyer,admin", "--ttl", "1m")
	require.Equal(t, 0, exit, said)
	verifier, err := auth.New(t.Context(), auth.Config{KeyFile: key})
	require.NoError(t, err)
	who, err := verifier.Verify(t.Context(), strings.TrimSpace(out))
	require.NoError(t, err)
	require.Equal(t, sub, who.Sub)
	require.Equal(t, auth.Buyer|auth.Admin, who.Roles)
}

// TestGatewaySim_MakesItsDataFolder starts the simulator with a folder that no dev has used.
func TestGatewaySim_MakesItsDataFolder(t *testing.T) {
	unset(t)
	data, addr := filepath.Join(t.TempDir(), "books"), freeAddr(t)
	sim := start(t, "gateway-sim", "--data", data, "--addr", addr, "--webhook-secrets", "whsec_"+strings.Repeat("A", 32))
	testkit.Eventually(t, 10*time.Second, "the simulator's health", func() error {
		res, err := http.Get("http://" + addr + "/payments/none")
		if err == nil {
			_ = res.Body.Close()
		}
		return err
	})
	require.Equal(t, 0, sim.end(), sim.text())
	require.DirExists(t, data)
}

func TestFairness_Verify(t *testing.T) {
	unset(t)
	const good = `{"epoch":0,"type":"opened","units":1}
{"epoch":0,"type":"granted","sequence":1,"unit":1}
{"epoch":0,"type":"refused","from":2,"to":4,"soldOut":2,"duplicate":1,"notStarted":0,"closed":0}
{"epoch":0,"type":"returned","unit":1,"reason":"AUTO_EXPIRED"}
{"epoch":0,"type":"granted","sequence":5,"unit":1}
`
	inverted := strings.Replace(good, `"sequence":5`, `"sequence":6`, 1) +
		`{"epoch":0,"type":"returned","unit":1,"reason":"AUTO_EXPIRED"}
{"epoch":0,"type":"refused","from":7,"to":7,"soldOut":1,"duplicate":0,"notStarted":0,"closed":0}
`
	for name, tt := range map[string]struct {
		log  string
		exit int
		says string
	}{
		"good":       {good, 0, "the log folds"},
		"inversions": {inverted, 1, "breaks"},
		"no JSON":    {good + "x\n", 1, "breaks"},
	} {
		file := filepath.Join(t.TempDir(), "log.ndjson")
		require.NoError(t, os.WriteFile(file, []byte(tt.log), 0o600))
		exit, out, said := bounded(t, "fairness", "verify", file)
		require.Equal(t, tt.exit, exit, "%s: %s%s", name, out, said)
		require.Contains(t, out, tt.says, name)

		piped, err := os.Open(file)
		require.NoError(t, err)
		input := os.Stdin
		os.Stdin = piped
		exit, again, said := bounded(t, "fairness", "verify", "-")
		os.Stdin = input
		require.NoError(t, piped.Close())
		require.Equal(t, tt.exit, exit, "%s by standard input: %s", name, said)
		require.Equal(t, out, again, name)
	}
}

func TestStartup_RefusesAnotherSchema(t *testing.T) {
	unset(t)
	key := keyFile(t)
	common := map[string][]string{
		"command-api": {"--redis-url", testkit.Redis(t), "--jwt-key", key, "--gateway-url", "http://127.0.0.1:1", "--webhook-secrets", secrets, "--command-addr", "127.0.0.1:8080"},
		"query-api":   {"--jwt-key", key, "--query-addr", "127.0.0.1:0"},
		"relay":       {"--kafka-brokers", "127.0.0.1:1"},
		"projector":   {"--kafka-brokers", "127.0.0.1:1"},
		"worker":      {"--redis-url", testkit.Redis(t), "--gateway-url", "http://127.0.0.1:1"},
	}
	empty, newer, older, gap := testkit.Postgres(t), dbtest.Both(t), dbtest.Both(t), dbtest.Both(t)
	for _, table := range []string{"schema_migrations", "read_schema_migrations"} {
		for d, change := range map[dbtest.DB]string{
			newer: "INSERT INTO " + table + " (version) VALUES ('29991231000000')",
			older: "DELETE FROM " + table + " WHERE version = (SELECT max(version) FROM " + table + ")",
			gap:   "DELETE FROM " + table + " WHERE version = (SELECT version FROM " + table + " ORDER BY version OFFSET 1 LIMIT 1)",
		} {
			dbtest.Exec(t, d.Pool, change)
		}
	}
	for name, args := range common {
		exit, _, said := bounded(t, append([]string{name, "--database-url", empty}, args...)...)
		require.Equal(t, 1, exit, "%s: %s", name, said)
		require.Contains(t, said, "dopamine migrate", name)
		exit, _, said = bounded(t, append([]string{name, "--database-url", newer.URL}, args...)...)
		require.Equal(t, 1, exit, "%s: %s", name, said)
		require.Contains(t, said, "newer than this program", name)
		require.Contains(t, said, "29991231000000", name)
		for wrong, url := range map[string]string{"is older than this program": older.URL, "is applied in part": gap.URL} {
			exit, _, said = bounded(t, append([]string{name, "--database-url", url}, args...)...)
			require.Equal(t, 1, exit, "%s: %s", name, said)
			require.Contains(t, said, wrong, name)
			require.Contains(t, said, "dopamine migrate", name)
		}
	}
	exit, out, said := bounded(t, "migrate", "--database-url", empty)
	require.Equal(t, 0, exit, said)
	require.Contains(t, out, "up to date")
	exit, _, said = bounded(t, "migrate", "--database-url", strings.Replace(empty, "?", "_mistyped?", 1))
	require.Equal(t, 1, exit, said)
	require.Contains(t, said, "--create-database")
	exit, _, said = bounded(t, "migrate", "--database-url", newer.URL)
	require.Equal(t, 1, exit, said)
	require.Contains(t, said, "newer than this program")
}
