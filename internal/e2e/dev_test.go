package e2e

import (
	"encoding/json"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/stretchr/testify/require"

	"github.com/dopaminestore/dopamine/internal/config"
)

// TestDev starts the system as in the README, with its own services: it runs the
// rush, refuses a second dev, ends on SIGTERM, and continues with its data.
func TestDev(t *testing.T) {
	// Not t.TempDir, which the user that Postgres runs as may not enter.
	dir, err := os.MkdirTemp("", "dopamine-e2e-data-")
	require.NoError(t, err)
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	require.NoError(t, os.Chmod(dir, 0o755))
	data := filepath.Join(dir, "data")
	args := []string{"dev", "--data", data, "--command-addr", "127.0.0.1:0", "--query-addr", "127.0.0.1:0", "--log-format", "json"}

	var r rushReport
	if !t.Run("dev --rush --once sells the stock and ends", func(t *testing.T) {
		p := start(t, "dev", nil, append(args, "--rush", "--once", "--json", "--buyers", "2000", "--stock", "20")...)
		require.Equal(t, 0, p.wait(2*time.Minute), "the rush's status")
		out := p.said("stdout")
		require.NoError(t, json.Unmarshal([]byte(out[strings.IndexByte(out, '{'):]), &r), out)
		require.Equal(t, []int{20, 1980, 0}, []int{r.Granted, r.Refused, r.Errors})
	}) {
		return
	}

	p := start(t, "dev", nil, args...).ready()
	t.Run("a second dev on the same data is refused", func(t *testing.T) {
		status, _, said := call(t, nil, args...)
		require.Equal(t, 1, status)
		require.Contains(t, said, "another dev runs on "+data)
		require.False(t, p.ended(), "the first one continues")
	})

	values, err := config.ReadEnvFile(data)
	require.NoError(t, err)
	users := newClients(t, filepath.Join(data, "jwt.key"))
	t.Run("what the first dev sold stays sold", func(t *testing.T) {
		_, product := users.nobody().in(t).want(http.StatusOK, http.MethodGet, "http://"+values["query-addr"]+"/v1/products/"+r.Product, nil)
		require.Equal(t, "0", number(product["stock"]))
		a := users.buyer().in(t).do(http.MethodPost, "http://"+values["command-addr"]+"/v1/slots/acquire", object{"productId": r.Product})
		require.Equal(t, "sold-out", a.slug(), "%s", a.body)
	})
	t.Run("secrets are readable by their owner only", func(t *testing.T) {
		for _, secret := range []string{"jwt.key", "webhook.secret", config.EnvFile} {
			info, err := os.Stat(filepath.Join(data, secret))
			require.NoError(t, err)
			require.Zero(t, info.Mode().Perm()&0o077, secret)
		}
	})
	t.Run("every other command finds the system by its data folder", func(t *testing.T) {
		status, token, said := call(t, nil, "token", "--data", data, "--sub", uuid.NewString(), "--roles", "admin")
		require.Equal(t, 0, status, said)
		admin := users.nobody().in(t)
		admin.token = token[:len(token)-1]
		admin.want(http.StatusOK, http.MethodGet, "http://"+values["query-addr"]+"/v1/audit?limit=1", nil)
		for _, tool := range [][]string{{"status", "--json"}, {"fairness", "verify", r.Product}, {"rush", "--buyers", "50", "--stock", "5", "--json"}} {
			status, _, said := call(t, nil, append(tool, "--data", data)...)
			require.Equal(t, 0, status, "%v: %s", tool, said)
		}
	})
	t.Run("dev ends on SIGTERM, and its data folder must exist", func(t *testing.T) {
		p.stop()
		status, _, said := call(t, nil, "status", "--data", filepath.Join(data, "elsewhere"))
		require.Equal(t, 2, status)
		require.Contains(t, said, "--data (DOPAMINE_DATA)")
	})
}
