package main

import (
	"context"
	"errors"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/jackc/pgx/v5/pgconn"
	"github.com/stretchr/testify/require"

	"github.com/dopaminestore/dopamine/tools/dbtest"
	"github.com/dopaminestore/dopamine/tools/testkit"
)

func TestAwait_RetriesWhatIsAwayUntilTheTimeout(t *testing.T) {
	t.Parallel()
	away := &net.OpError{Op: "dial", Err: syscall.ECONNREFUSED}
	wrong := &pgconn.PgError{Code: "28P01"}
	for name, c := range map[string]struct {
		errs    []error // of each try; the last one of all later ones
		timeout time.Duration
		tries   int // at least
		err     error
	}{
		"becomes available":              {[]error{away, &pgconn.PgError{Code: "57P03"}, nil}, time.Minute, 3, nil},
		"stays unavailable":              {[]error{away}, 500 * time.Millisecond, 2, away},
		"a terminated session":           {[]error{&pgconn.PgError{Code: "57P01"}, nil}, time.Minute, 2, nil},
		"no timeout":                     {[]error{away, nil}, 0, 1, away},
		"a wrong password is not waited": {[]error{wrong, nil}, time.Minute, 1, wrong},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			p := &parts{log: slog.New(slog.DiscardHandler), startBy: time.Now().Add(c.timeout)}
			tries := 0
			err := p.await(t.Context(), "Postgres", func(context.Context) error {
				tries++
				return c.errs[min(tries, len(c.errs))-1]
			})
			if c.err == nil {
				require.NoError(t, err)
			} else {
				require.ErrorIs(t, err, c.err)
			}
			require.GreaterOrEqual(t, tries, c.tries)
			if c.err == nil || !errors.Is(c.err, away) {
				require.Equal(t, c.tries, tries)
			}
		})
	}
}

// A try that hangs ends with the startup timeout.
func TestAwait_BoundsATry(t *testing.T) {
	t.Parallel()
	p := &parts{log: slog.New(slog.DiscardHandler), startBy: time.Now().Add(300 * time.Millisecond)}
	err := p.await(t.Context(), "Postgres", func(ctx context.Context) error {
		<-ctx.Done()
		return ctx.Err()
	})
	require.ErrorIs(t, err, context.DeadlineExceeded)
	require.ErrorContains(t, err, "Postgres did not become available within --startup-timeout")
}

// hang listens on an address that accepts connections and responds to none, or only until the
// first query of Postgres, like a paused pooler. After resume, new connections reach server.
func hang(t *testing.T, server string, atQuery bool) (addr string, resume func()) {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	t.Cleanup(func() { l.Close() })
	var works atomic.Bool
	go func() {
		for {
			near, err := l.Accept()
			if err != nil {
				return
			}
			t.Cleanup(func() { near.Close() })
			if !works.Load() && !atQuery {
				continue
			}
			far, err := net.Dial("tcp", server)
			if err != nil {
				near.Close()
				continue
			}
			t.Cleanup(func() { far.Close() })
			works := works.Load()
			go func() { _, _ = io.Copy(near, far) }()
			go func() {
				b := make([]byte, 32<<10)
				for {
					n, err := near.Read(b)
					if err != nil || !works && (b[0] == 'Q' || b[0] == 'P') { // Query or Parse
						return
					}
					_, _ = far.Write(b[:n]) // the next read reports it
				}
			}()
		}
	}()
	return l.Addr().String(), func() { works.Store(true) }
}

// A service that accepts connections and never responds does not hold a process's start for longer
// than --startup-timeout, and the log names it (R9).
func TestStartup_IsBoundedIfAServiceHangs(t *testing.T) {
	unset(t)
	d, redis := dbtest.Both(t), testkit.Redis(t)
	u, err := url.Parse(d.URL)
	require.NoError(t, err)
	database := func(atQuery bool) string {
		hung := *u
		hung.Host, _ = hang(t, u.Host, atQuery)
		return hung.String()
	}
	silent, _ := hang(t, "", false)
	const timeout = 3 * time.Second
	worker := []string{"worker", "--gateway-url", "http://" + nobodyListens, "--command-addr", "127.0.0.1:1"}
	began, running := time.Now(), map[string]*process{}
	for name, args := range map[string][]string{
		"Postgres, silent":                 {"query-api", "--jwt-key", keyFile(t), "--query-addr", "127.0.0.1:0", "--database-url", database(false)},
		"Postgres, silent after the login": append(worker, "--redis-url", redis, "--database-url", database(true)),
		"Redis, silent":                    append(worker, "--redis-url", "redis://"+silent, "--database-url", d.URL),
	} {
		running[name] = start(t, append(args, "--startup-timeout", timeout.String())...)
	}
	for name, p := range running {
		select {
		case status := <-p.exited:
			close(p.exited)
			require.Equal(t, 1, status, "%s: %s", name, p.text())
		case <-time.After(timeout + 5*time.Second - time.Since(began)):
			require.Fail(t, "still starting", "%s: %s", name, p.text())
		}
		service, _, _ := strings.Cut(name, ",")
		require.Contains(t, p.text(), service+" did not become available within --startup-timeout", name)
		if !strings.Contains(name, "login") { // its only try takes as long as the startup timeout
			require.Contains(t, p.text(), `"msg":"waiting for a service","service":"`+service+`"`, name)
		}
	}
}

func TestStartup_ContinuesWhenAHungPostgresResponds(t *testing.T) {
	unset(t)
	d, addr := dbtest.Both(t), freeAddr(t)
	u, err := url.Parse(d.URL)
	require.NoError(t, err)
	var resume func()
	u.Host, resume = hang(t, u.Host, false)
	p := start(t, "query-api", "--jwt-key", keyFile(t), "--query-addr", addr, "--database-url", u.String(), "--startup-timeout", "1m")
	testkit.EventuallyTrue(t, 10*time.Second, "the log to name Postgres", func() bool {
		return strings.Contains(p.text(), `"msg":"waiting for a service","service":"Postgres"`)
	})
	resume()
	require.Equal(t, "UP", healthOf(t, p, addr).Status)
}

// A query API serves the read models although the event store's database hangs.
func TestStartup_QueryAPIDoesNotWaitForAHungEventStore(t *testing.T) {
	unset(t)
	d, addr := dbtest.Both(t), freeAddr(t)
	u, err := url.Parse(d.URL)
	require.NoError(t, err)
	u.Host, _ = hang(t, u.Host, true)
	p := start(t, "query-api", "--jwt-key", keyFile(t), "--query-addr", addr, "--database-url", u.String(), "--read-database-url", d.URL)
	require.Equal(t, "DEGRADED", healthOf(t, p, addr).Status)
}

// An identity provider that is away at the start is waited for like the services.
func TestStartup_WaitsForTheIdentityProvider(t *testing.T) {
	unset(t)
	d := dbtest.Both(t)
	var works atomic.Bool
	provider := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		if !works.Load() {
			w.WriteHeader(http.StatusServiceUnavailable)
			return
		}
		_, _ = io.WriteString(w, `{"keys":[]}`)
	}))
	t.Cleanup(provider.Close)
	query := func(jwks string, args ...string) []string {
		return append([]string{"query-api", "--database-url", d.URL, "--jwt-issuer", "i", "--jwt-audience", "a", "--jwks-url", jwks}, args...)
	}
	addr := freeAddr(t)
	p := start(t, query(provider.URL, "--query-addr", addr, "--startup-timeout", "1m")...)
	testkit.EventuallyTrue(t, 10*time.Second, "the log to name the identity provider", func() bool {
		return strings.Contains(p.text(), `"msg":"waiting for a service","service":"identity provider (--jwks-url)"`)
	})
	works.Store(true)
	require.Equal(t, "UP", healthOf(t, p, addr).Status)

	away := "http://" + nobodyListens + "/keys"
	exit, _, said := bounded(t, query(away, "--query-addr", "127.0.0.1:0", "--startup-timeout", "300ms")...)
	require.Equal(t, 1, exit, said)
	require.Contains(t, said, "identity provider (--jwks-url) did not become available within --startup-timeout")
	exit, _, said = bounded(t, "dev", "--data", t.TempDir(), "--jwks-url", away, "--startup-timeout", "300ms")
	require.Equal(t, 1, exit, said)
	require.Contains(t, said, "identity provider (--jwks-url) did not become available within --startup-timeout")

	notKeys := httptest.NewServer(http.NotFoundHandler())
	t.Cleanup(notKeys.Close)
	exit, _, said = bounded(t, query(notKeys.URL, "--query-addr", "127.0.0.1:0", "--startup-timeout", "1m")...)
	require.Equal(t, 2, exit, said)
	require.Contains(t, said, "--jwks-url (DOPAMINE_JWKS_URL)")
}
