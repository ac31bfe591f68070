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

	p := start(t, "dev", nil, append(args, "--rush", "--once", "--json", "--buyers", "2000", "--stock", "20")...)
	require.Equal(t, 0, p.wait(2*time.Minute), "the rush's status")
	var r rushReport
	out := p.said("stdout")
	require.NoError(t, json.Unmarshal([]byte(out[strings.IndexByte(out, '{'):]), &r), out)
	require.Equal(t, []int{20, 1980, 0}, []int{r.Granted, r.Refused, r.Errors})

	p = start(t, "dev", nil, args...).ready()
	status, _, said := call(t, nil, args...)
	require.Equal(t, 1, status)
	require.Contains(t, said, "another dev runs on "+data)
	require.False(t, p.ended(), "the first one does not mind")

	values, err := config.ReadEnvFile(data)
	require.NoError(t, err)
	users := newClients(t, filepath.Join(data, "jwt.key"))
	_, product := users.nobody().want(http.StatusOK, http.MethodGet, "http://"+values["query-addr"]+"/v1/products/"+r.Product, nil)
	require.Equal(t, "0", number(product["stock"]), "what the first dev sold is sold")
	a := users.buyer().do(http.MethodPost, "http://"+values["command-addr"]+"/v1/slots/acquire", object{"productId": r.Product})
	require.Equal(t, "sold-out", a.slug(), "%s", a.body)
	for _, secret := range []string{"jwt.key", "webhook.secret", config.EnvFile} {
		info, err := os.Stat(filepath.Join(data, secret))
		require.NoError(t, err)
		require.Zero(t, info.Mode().Perm()&0o077, "%s is readable by its owner only", secret)
	}

	// Every other command finds the system by its data folder.
	status, token, said := call(t, nil, "token", "--data", data, "--sub", uuid.NewString(), "--roles", "admin")
	require.Equal(t, 0, status, said)
	admin := users.nobody()
	admin.token = token[:len(token)-1]
	admin.want(http.StatusOK, http.MethodGet, "http://"+values["query-addr"]+"/v1/audit?limit=1", nil)
	for _, tool := range [][]string{{"status", "--json"}, {"fairness", "verify", r.Product}, {"rush", "--buyers", "50", "--stock", "5", "--json"}} {
		status, _, said := call(t, nil, append(tool, "--data", data)...)
		require.Equal(t, 0, status, "%v: %s", tool, said)
	}
	p.stop()
	status, _, said = call(t, nil, "status", "--data", filepath.Join(data, "elsewhere"))
	require.Equal(t, 2, status)
	require.Contains(t, said, "--data (DOPAMINE_DATA)")
}
