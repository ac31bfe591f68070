package main

import (
	"bytes"
	"context"
	"crypto/ed25519"
	"crypto/rand"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"reflect"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/stretchr/testify/require"
	"github.com/urfave/cli/v3"

	"github.com/dopaminestore/dopamine/internal/consistency"
	"github.com/dopaminestore/dopamine/tools/dbtest"
	"github.com/dopaminestore/dopamine/tools/devservices"
	"github.com/dopaminestore/dopamine/tools/testkit"
)

const secrets = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"

// process is a command that serves.
type process struct {
	t      *testing.T
	name   string
	stop   context.CancelFunc
	exited chan int
	mu     sync.Mutex
	said   bytes.Buffer
}

// Write collects the process's output.
func (p *process) Write(b []byte) (int, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.said.Write(b)
}

func (p *process) text() string {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.said.String()
}

// start runs a command in this process until the test ends or end is called.
func start(t *testing.T, args ...string) *process {
	t.Helper()
	ctx, stop := context.WithCancel(context.Background())
	p := &process{t: t, name: args[0], stop: stop, exited: make(chan int, 1)}
	go func() { p.exited <- run(ctx, append([]string{"dopamine"}, args...), p, p) }()
	t.Cleanup(func() { p.end() })
	return p
}

// end stops the process and waits. It returns -1 if it has been stopped before.
func (p *process) end() (status int) {
	p.t.Helper()
	p.stop()
	select {
	case status, ok := <-p.exited:
		if !ok {
			return -1
		}
		close(p.exited)
		return status
	case <-time.After(shutdownLimit + 2*time.Second):
		require.Fail(p.t, "did not stop", "%s: %s", p.name, p.text())
		return -1
	}
}

func freeAddr(t *testing.T) string {
	t.Helper()
	port, err := devservices.FreePort()
	require.NoError(t, err)
	return net.JoinHostPort("127.0.0.1", strconv.Itoa(port))
}

type health struct {
	status     int
	Status     string            `json:"status"`
	Components map[string]string `json:"components"`
}

// healthOf polls until the process answers.
func healthOf(t *testing.T, p *process, addr string) health {
	t.Helper()
	var h health
	testkit.Eventually(t, 20*time.Second, p.name+" to answer", func() error {
		resp, err := http.Get("http://" + addr + "/health/ready")
		if err != nil {
			return err
		}
		defer resp.Body.Close()
		h = health{status: resp.StatusCode}
		return json.NewDecoder(resp.Body).Decode(&h)
	})
	return h
}

// requireHealth waits until the process reports this health: it is probed once a second.
func requireHealth(t *testing.T, p *process, addr string, want health) {
	t.Helper()
	testkit.Eventually(t, 10*time.Second, p.name+" to change its health", func() error {
		if h := healthOf(t, p, addr); !reflect.DeepEqual(h, want) {
			return fmt.Errorf("it is %v", h)
		}
		return nil
	})
}

// Readiness (contract 7).
func TestReadiness_ReportsConfiguredServices(t *testing.T) {
	unset(t)
	d, key, redis := dbtest.Both(t), keyFile(t), testkit.Redis(t)
	commandArgs := []string{"command-api", "--database-url", d.URL, "--redis-url", redis, "--jwt-key", key, "--gateway-url", "http://" + nobodyListens, "--webhook-secrets", secrets}
	queryArgs := []string{"query-api", "--database-url", d.URL, "--jwt-key", key}
	for name, tt := range map[string]struct {
		args []string
		addr string
		want health
	}{
		"query API, its database alone": {queryArgs, "--query-addr", health{200, "UP", map[string]string{"database": "UP"}}},
		"query API, all up":             {append(queryArgs, "--redis-url", redis), "--query-addr", health{200, "UP", map[string]string{"database": "UP", "redis": "UP"}}},
		"query API without Kafka and Redis": {append(queryArgs, "--redis-url", "redis://"+nobodyListens, "--kafka-brokers", nobodyListens), "--query-addr",
			health{200, "DEGRADED", map[string]string{"database": "UP", "redis": "DOWN", "kafka": "DOWN"}}},
		"command API, what it needs":        {commandArgs, "--command-addr", health{200, "UP", map[string]string{"database": "UP", "redis": "UP"}}},
		"command API, Kafka is unavailable": {append(commandArgs, "--kafka-brokers", nobodyListens), "--command-addr", health{200, "DEGRADED", map[string]string{"database": "UP", "redis": "UP", "kafka": "DOWN"}}},
		"worker, what it cannot be without": {[]string{"worker", "--database-url", d.URL, "--redis-url", redis, "--gateway-url", "http://" + nobodyListens, "--command-addr", "127.0.0.1:1"},
			"--metrics-addr", health{200, "UP", map[string]string{"database": "UP", "redis": "UP"}}},
	} {
		t.Run(name, func(t *testing.T) {
			addr := freeAddr(t)
			args := append(append([]string{}, tt.args...), tt.addr, addr)
			if tt.args[0] == "command-api" {
				args = append(args, "--callback-url", "http://"+addr+"/v1/webhooks/payment")
			}
			p := start(t, args...)
			require.Equal(t, tt.want, healthOf(t, p, addr))
			require.Equal(t, 0, p.end(), p.text())
		})
	}
}

func TestReadiness_DownWithoutARequiredService(t *testing.T) {
	unset(t)
	d, key := dbtest.Both(t), keyFile(t)
	redis := testkit.OwnRedis(t)
	command, query := freeAddr(t), freeAddr(t)
	c := start(t, "command-api", "--database-url", d.URL, "--redis-url", redis.URL(), "--jwt-key", key, "--gateway-url", "http://"+nobodyListens,
		"--webhook-secrets", secrets, "--command-addr", command)
	q := start(t, "query-api", "--database-url", d.URL, "--redis-url", redis.URL(), "--jwt-key", key, "--query-addr", query)
	require.Equal(t, "UP", healthOf(t, c, command).Status)
	require.Equal(t, "UP", healthOf(t, q, query).Status)
	redis.Kill9()
	requireHealth(t, c, command, health{503, "DOWN", map[string]string{"database": "UP", "redis": "DOWN"}})
	requireHealth(t, q, query, health{200, "DEGRADED", map[string]string{"database": "UP", "redis": "DOWN"}})
}

func TestProcess_StoppedDuringStartupExitsCleanly(t *testing.T) {
	unset(t)
	silent, err := net.Listen("tcp", "127.0.0.1:0") // accepts connections and never responds
	require.NoError(t, err)
	defer silent.Close()
	asked := make(chan struct{}, 100)
	go func() {
		for {
			conn, err := silent.Accept()
			if err != nil {
				return
			}
			t.Cleanup(func() { conn.Close() })
			asked <- struct{}{}
		}
	}()
	database := "postgres://u:p@" + silent.Addr().String() + "/d?sslmode=disable"
	key := keyFile(t)
	for _, args := range [][]string{
		{"query-api", "--jwt-key", key}, {"relay", "--kafka-brokers", nobodyListens}, {"projector", "--kafka-brokers", nobodyListens},
		{"worker", "--redis-url", "redis://" + nobodyListens, "--gateway-url", "http://" + nobodyListens},
	} {
		p := start(t, append(args, "--database-url", database)...)
		<-asked
		require.Equal(t, 0, p.end(), "%v: %s", args, p.text())
	}
}

// wire forwards bytes to a server until it is silenced: then it carries nothing more, like a
// suspended machine.
func wire(t *testing.T, server string) (addr string, silence func()) {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	t.Cleanup(func() { l.Close() })
	var silent atomic.Bool
	carry := func(to, from net.Conn) {
		b := make([]byte, 32<<10)
		for {
			n, err := from.Read(b)
			if err != nil {
				to.Close()
				return
			}
			if !silent.Load() {
				_, _ = to.Write(b[:n]) // the next read reports it
			}
		}
	}
	go func() {
		for {
			near, err := l.Accept()
			if err != nil {
				return
			}
			far, err := net.Dial("tcp", server)
			if err != nil {
				near.Close()
				continue
			}
			go carry(far, near)
			go carry(near, far)
		}
	}()
	return l.Addr().String(), func() { silent.Store(true) }
}

// A projector applies nothing without the event store, which may be in another database than the
// read models.
func TestReadiness_ProjectorIsDownWithoutTheEventStore(t *testing.T) {
	unset(t)
	d, addr := dbtest.Both(t), freeAddr(t)
	u, err := url.Parse(d.URL)
	require.NoError(t, err)
	var silence func()
	u.Host, silence = wire(t, u.Host)
	p := start(t, "projector", "--database-url", u.String(), "--read-database-url", d.URL, "--kafka-brokers", strings.Join(testkit.FakeKafka(t), ","), "--metrics-addr", addr)
	requireHealth(t, p, addr, health{200, "UP", map[string]string{"database": "UP", "kafka": "UP"}})
	silence()
	requireHealth(t, p, addr, health{503, "DOWN", map[string]string{"database": "DOWN", "kafka": "UP"}})
}

// TestProcess_EndsDespiteASilentDatabase: closing waited without limit for connections on which no
// server responded.
func TestProcess_EndsDespiteASilentDatabase(t *testing.T) {
	unset(t)
	d, addr := dbtest.Both(t), freeAddr(t)
	u, err := url.Parse(d.URL)
	require.NoError(t, err)
	server := u.Host
	var silence func()
	u.Host, silence = wire(t, server)
	p := start(t, "query-api", "--database-url", u.String(), "--jwt-key", keyFile(t), "--query-addr", addr)
	require.Equal(t, "UP", healthOf(t, p, addr).Status)
	silence()
	resp, err := http.Get("http://" + addr + "/v1/products")
	require.NoError(t, err)
	require.NoError(t, resp.Body.Close())
	require.Equal(t, http.StatusServiceUnavailable, resp.StatusCode)
	began := time.Now()
	require.Equal(t, 0, p.end())
	require.Less(t, time.Since(began), 10*time.Second, p.text())
}

func TestFlags_OneListFitsEveryProcess(t *testing.T) {
	unset(t)
	for _, name := range []string{"command-api", "query-api", "relay", "projector", "worker"} {
		args := []string{name}
		taken := map[string]bool{}
		for _, f := range commandNamed(t, name).Flags {
			taken[f.Names()[0]] = true
		}
		for _, other := range []string{"command-api", "query-api", "relay", "projector", "worker"} {
			for _, f := range commandNamed(t, other).Flags {
				require.True(t, taken[f.Names()[0]], "%s does not take --%s of %s", name, f.Names()[0], other)
			}
		}
		exit, _, said := bounded(t, append(args, "--webhook-secrets", secrets, "--slot-ttl", "1m", "--query-addr", "127.0.0.1:0")...)
		require.Equal(t, 2, exit)
		require.Contains(t, said, "--database-url (DOPAMINE_DATABASE_URL) is missing", "a required setting is still required")
		_, help, _ := bounded(t, name, "--help")
		require.Equal(t, name == "query-api", strings.Contains(help, "--query-addr"), "%s shows what it uses: %s", name, help)
	}
}

// TestDev_ChecksAllSettingsFirst: a wrong key was reported only after Postgres, Redis and Kafka had
// started.
func TestDev_ChecksAllSettingsFirst(t *testing.T) {
	unset(t)
	public, _, err := ed25519.GenerateKey(rand.Reader)
	require.NoError(t, err)
	der, err := x509.MarshalPKIXPublicKey(public)
	require.NoError(t, err)
	file := filepath.Join(t.TempDir(), "public.pem")
	require.NoError(t, os.WriteFile(file, pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: der}), 0o600))
	data := filepath.Join(t.TempDir(), "data")
	for flags, says := range map[string]string{
		"--jwks-url ftp://" + nobodyListens + "/keys": "--jwks-url (DOPAMINE_JWKS_URL)",
		"--jwt-key /no/such/file":                     "--jwt-key (DOPAMINE_JWT_KEY)",
		"--jwt-key " + file + " --rush":               "--token-key",
		"--callback-url h":                            "--callback-url (DOPAMINE_CALLBACK_URL)",
	} {
		exit, _, said := bounded(t, append([]string{"dev", "--data", data}, strings.Fields(flags)...)...)
		require.Equal(t, 2, exit, "%s: %s", flags, said)
		require.Contains(t, said, says, flags)
		require.NoDirExists(t, data, "nothing was begun: %s", flags)
	}
}

func TestHelp_IsReferredToByTheFullName(t *testing.T) {
	unset(t)
	for _, args := range [][]string{{"--fast"}, {"relay", "--fast"}, {"parked", "list", "--fast"}} {
		exit, _, said := bounded(t, args...)
		require.Equal(t, 2, exit)
		require.Contains(t, said, "see "+strings.Join(append([]string{"dopamine"}, args[:len(args)-1]...), " ")+" --help")
	}
}

// visible reports whether --help shows the flag.
func visible(f cli.Flag) bool {
	v, ok := f.(cli.VisibleFlag)
	return !ok || v.IsVisible()
}

func readAll(t *testing.T, r io.Reader) string {
	t.Helper()
	text, err := io.ReadAll(r)
	require.NoError(t, err)
	return string(text)
}

// 503 read-model-behind (contract 6).
func TestQueryAPI_ReadModelBehindAfterTwoSeconds(t *testing.T) {
	unset(t)
	d, addr := dbtest.Both(t), freeAddr(t)
	product := uuid.New()
	at := appendTo(t, d, product, product, lamp(t)) // no projector runs
	p := start(t, "query-api", "--database-url", d.URL, "--jwt-key", keyFile(t), "--query-addr", addr)
	require.Equal(t, "UP", healthOf(t, p, addr).Status)
	for _, path := range []string{"/v1/products", "/v1/products/" + product.String()} {
		req, err := http.NewRequest(http.MethodGet, "http://"+addr+path, nil)
		require.NoError(t, err)
		req.Header.Set("X-Min-Position", consistency.Encode(product, at))
		began := time.Now()
		resp, err := http.DefaultClient.Do(req)
		require.NoError(t, err)
		body := readAll(t, resp.Body)
		require.NoError(t, resp.Body.Close())
		took := time.Since(began)
		require.Equal(t, http.StatusServiceUnavailable, resp.StatusCode, body)
		require.Contains(t, body, "https://dopaminestore.dev/problems/read-model-behind")
		require.NotEmpty(t, resp.Header.Get("Retry-After"))
		require.Greater(t, took, 1900*time.Millisecond)
		require.Less(t, took, 4*time.Second)
	}
	started := time.Now()
	require.Equal(t, 0, p.end(), p.text())
	require.Less(t, time.Since(started), 5*time.Second)
}
