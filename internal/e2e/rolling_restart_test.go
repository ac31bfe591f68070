package e2e

import (
	"encoding/csv"
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/dopaminestore/dopamine/tools/testkit"
)

// balancer is an haproxy in front of the command APIs.
type balancer struct {
	url, stateURL string
}

// serves returns an error unless the balancer sends requests to the server with that index.
func (b balancer) serves(server int) error {
	res, err := http.Get(b.stateURL + "/;csv")
	if err != nil {
		return err
	}
	defer res.Body.Close()
	rows, err := csv.NewReader(res.Body).ReadAll()
	if err != nil {
		return err
	}
	name := fmt.Sprintf("api%d", server)
	for _, row := range rows {
		if row[0] == "apis" && row[1] == name {
			if status := row[17]; !strings.HasPrefix(status, "UP") {
				return fmt.Errorf("%s is %s", name, status)
			}
			return nil
		}
	}
	return fmt.Errorf("%s is not in the balancer's state", name)
}

// balance starts haproxy in front of the addresses. It takes a server out after two
// checks of /health/ready have failed, as load balancers do, and does not repeat a
// request that a server has accepted.
func balance(t *testing.T, urls []string) balancer {
	t.Helper()
	program := testkit.Program(t, "haproxy", "haproxy")
	addr, stateAddr := freeAddr(t), freeAddr(t)
	var servers strings.Builder
	for i, u := range urls {
		fmt.Fprintf(&servers, "  server api%d %s check inter 500ms fall 2 rise 2\n", i, strings.TrimPrefix(u, "http://"))
	}
	config := filepath.Join(t.TempDir(), "haproxy.cfg")
	require.NoError(t, os.WriteFile(config, []byte(`global
  maxconn 4000
defaults
  mode http
  retries 0
  timeout connect 5s
  timeout client 30s
  timeout server 30s
frontend shop
  bind `+addr+`
  default_backend apis
frontend state
  bind `+stateAddr+`
  stats enable
  stats uri /
backend apis
  balance roundrobin
  option httpchk GET /health/ready
`+servers.String()), 0o600))
	cmd := exec.Command(program, "-db", "-f", config)
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	var said strings.Builder
	cmd.Stdout, cmd.Stderr = &said, &said
	require.NoError(t, cmd.Start())
	t.Cleanup(func() {
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
		if t.Failed() {
			t.Log(said.String())
		}
	})
	testkit.Eventually(t, 20*time.Second, "haproxy to balance", func() error {
		res, err := http.Get("http://" + addr + "/health/ready")
		if err != nil {
			return err
		}
		defer res.Body.Close()
		if res.StatusCode != http.StatusOK {
			return fmt.Errorf("status %d", res.StatusCode)
		}
		return nil
	})
	return balancer{url: "http://" + addr, stateURL: "http://" + stateAddr}
}

// TestRollingRestart restarts both command APIs, one after the other, behind a load
// balancer that repeats nothing, while buyers keep coming: no client sees an error, and
// R1 to R6 hold. The second restart waits until the balancer uses the first server
// again, as a rollout by readiness does.
func TestRollingRestart(t *testing.T) {
	f := startFleet(t)
	front := balance(t, f.commandURLs)
	rush := start(t, "rush", f.env("rush"), "rush", "--json", "--buyers", "6000", "--stock", "1500", "--rate", "200", "--connections", "50",
		"--command-url", front.url, "--query-url", f.queryURL)
	f.newest(1500)
	for i, api := range f.commands {
		began := time.Now()
		api.stop()
		t.Logf("%s has ended %s after SIGTERM", api.name, time.Since(began).Round(time.Millisecond))
		require.GreaterOrEqual(t, time.Since(began), 5*time.Second, "it serves on for the drain delay")
		api.restart()
		api.ready()
		testkit.Eventually(t, 20*time.Second, "the balancer to use the restarted server", func() error { return front.serves(i) })
	}
	require.False(t, rush.ended(), "the restarts were during the rush")
	require.Equal(t, 0, rush.wait(3*time.Minute))
	r := report(rush)
	require.Zero(t, r.Errors, "%v", r.ErrorKinds)
	require.Equal(t, 1500, r.Granted)
	for rule, held := range r.Rules {
		require.True(t, held, rule)
	}
}
