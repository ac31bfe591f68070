package httpapi_test

import (
	"bufio"
	"context"
	"io"
	"log/slog"
	"net"
	"net/http"
	"testing"
	"time"

	"github.com/labstack/echo/v4"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/dopaminestore/dopamine/internal/auth"
	"github.com/dopaminestore/dopamine/internal/httpapi"
)

// dial opens a separate connection and sends a request for the path on it.
func (a *api) dial(path string) (net.Conn, *bufio.Reader) {
	a.t.Helper()
	conn, err := net.Dial("tcp", a.Addr().String())
	require.NoError(a.t, err)
	a.t.Cleanup(func() { _ = conn.Close() })
	require.NoError(a.t, conn.SetDeadline(time.Now().Add(10*time.Second)))
	_, err = io.WriteString(conn, "GET "+path+" HTTP/1.1\r\nHost: shop\r\n\r\n")
	require.NoError(a.t, err)
	return conn, bufio.NewReader(conn)
}

func (a *api) statusOn(r *bufio.Reader) int {
	a.t.Helper()
	res, err := http.ReadResponse(r, nil)
	require.NoError(a.t, err)
	defer res.Body.Close()
	body, err := io.ReadAll(res.Body)
	require.NoError(a.t, err)
	if res.StatusCode == http.StatusServiceUnavailable {
		require.Contains(a.t, string(body), "/problems/overloaded")
		require.Equal(a.t, "1", res.Header.Get("Retry-After"))
	}
	return res.StatusCode
}

// Bounds per process (contract 7).
func TestMaxConnections(t *testing.T) {
	for name, limits := range map[string]httpapi.Limits{
		"in all":      {MaxConnections: 2},
		"per address": {MaxConnections: 100, MaxConnectionsPerAddress: 2},
	} {
		t.Run(name, func(t *testing.T) {
			a := start(t, func(o *httpapi.Options) { o.Limits = limits }, routes()...)
			first, one := a.dial("/public")
			_, two := a.dial("/public")
			require.Equal(t, 200, a.statusOn(one))
			require.Equal(t, 200, a.statusOn(two))
			_, three := a.dial("/public")
			require.Equal(t, 503, a.statusOn(three))
			require.NoError(t, first.Close())
			require.EventuallyWithT(t, func(c *assert.CollectT) {
				conn, r := a.dial("/public")
				defer conn.Close()
				res, err := http.ReadResponse(r, nil)
				require.NoError(c, err)
				_ = res.Body.Close()
				require.Equal(c, 200, res.StatusCode)
			}, 5*time.Second, 5*time.Millisecond, "a connection that closes makes room")
		})
	}
}

func TestMaxConnectionsPerAddress_TrustedProxy(t *testing.T) {
	trusted, err := httpapi.ParseTrustedProxies([]string{"127.0.0.0/8"})
	require.NoError(t, err)
	a := start(t, func(o *httpapi.Options) {
		o.Limits = httpapi.Limits{MaxConnectionsPerAddress: 1, TrustedProxies: trusted}
	}, routes()...)
	for range 3 {
		_, r := a.dial("/public")
		require.Equal(t, 200, a.statusOn(r))
	}
}

// TestSlowHeader has a client that sends half a header and stays: the connection ends
// after the header's timeout, which counts from its first byte.
func TestSlowHeader(t *testing.T) {
	t.Parallel() // it takes as long as the timeout
	a := start(t, nil, routes()...)
	conn, err := net.Dial("tcp", a.Addr().String())
	require.NoError(t, err)
	defer conn.Close()
	_, err = io.WriteString(conn, "GET /public HTTP/1.1\r\nHost:")
	require.NoError(t, err)
	began := time.Now()
	require.NoError(t, conn.SetReadDeadline(began.Add(25*time.Second)))
	_, err = io.Copy(io.Discard, conn)
	require.NoError(t, err, "the server closes the connection")
	require.Less(t, time.Since(began), 15*time.Second)
}

// Bounds per client address (contract 7).
func TestAnonymousRate(t *testing.T) {
	trusted, err := httpapi.ParseTrustedProxies([]string{"127.0.0.1", "10.0.0.0/8", "::1"})
	require.NoError(t, err)
	a := start(t, func(o *httpapi.Options) {
		o.Limits = httpapi.Limits{AnonymousRate: 1, BuyerRate: 1000, TrustedProxies: trusted}
		now := time.Now()
		o.Now = func() time.Time { return now }
	}, routes()...)
	get := func(path string, headers ...string) answer { return a.send("GET", path, nil, headers...) }
	from := func(value ...string) []string {
		var headers []string
		for _, v := range value {
			headers = append(headers, "X-Forwarded-For", v)
		}
		return headers
	}
	for range 2 {
		require.Equal(t, 200, get("/public", from("203.0.113.7")...).StatusCode)
	}
	res := get("/public", from("203.0.113.7")...)
	require.Equal(t, "too-many-requests", res.slug())
	require.NotEmpty(t, res.Header.Get("Retry-After"))
	for name, headers := range map[string][]string{
		"text that the client put in front":  from("198.51.100.1, 203.0.113.7"),
		"a second proxy that is trusted":     from("203.0.113.7, 10.1.2.3"),
		"several headers":                    from("198.51.100.1", "203.0.113.7"),
		"with a port":                        from("203.0.113.7:4711"),
		"garbage in front of the last proxy": from("garbage, 203.0.113.7"),
	} {
		require.Equal(t, 429, get("/public", headers...).StatusCode, name)
	}
	require.Equal(t, 200, get("/public", from("203.0.113.8")...).StatusCode, "another address")
	require.Equal(t, 200, get("/public", append(from("203.0.113.7"), "Authorization", a.token(auth.Buyer))...).StatusCode, "with a token")
	require.Equal(t, 401, get("/public", append(from("203.0.113.7"), "Authorization", "Bearer bad")...).StatusCode)
	require.Equal(t, 401, get("/any", from("203.0.113.7")...).StatusCode, "401 takes precedence")
	for range 5 {
		require.Equal(t, 200, get("/health/ready", from("203.0.113.7")...).StatusCode)
		require.Equal(t, 200, get("/metrics", from("203.0.113.7")...).StatusCode)
	}
	for range 2 {
		require.Equal(t, 200, get("/public", from("2001:db8:1:2::1")...).StatusCode)
	}
	require.Equal(t, 429, get("/public", from("2001:db8:1:2:ffff::2")...).StatusCode, "one client has a /64")
	require.Equal(t, 200, get("/public", from("2001:db8:1:3::1")...).StatusCode)
}

func TestParseTrustedProxies_Refuses(t *testing.T) {
	for _, bad := range []string{"proxy.example.com", "10.0.0.0/33", "10.0.0", "*"} {
		_, err := httpapi.ParseTrustedProxies([]string{bad})
		require.Error(t, err, bad)
	}
}

// TestAccess_ZeroValueRefuses has a route without an Access.
func TestAccess_ZeroValueRefuses(t *testing.T) {
	a := start(t, nil,
		httpapi.Route{Method: http.MethodGet, Path: "/forgotten", Handler: ok},
		httpapi.Route{Method: http.MethodGet, Path: "/no-roles", Access: httpapi.Role(0), Handler: ok})
	for _, path := range []string{"/forgotten", "/no-roles"} {
		for _, headers := range [][]string{nil, {"Authorization", a.token(auth.Buyer | auth.Admin)}} {
			require.Equal(t, "forbidden", a.send("GET", path, nil, headers...).slug(), path)
		}
	}
}

func TestSecurityHeaders(t *testing.T) {
	a := start(t, nil, routes()...)
	for _, path := range []string{"/public", "/any", "/nowhere", "/health/live", "/panic"} {
		require.Equal(t, "nosniff", a.send("GET", path, nil).Header.Get("X-Content-Type-Options"), path)
	}
	require.Equal(t, "no-store", a.send("GET", "/any", nil, "Authorization", a.token(auth.Buyer)).Header.Get("Cache-Control"))
	require.Empty(t, a.send("GET", "/public", nil).Header.Get("Cache-Control"))
}

// TestRoutes_StaticPathWithParameterSibling has POST /slots/acquire and DELETE /slots/:id.
func TestRoutes_StaticPathWithParameterSibling(t *testing.T) {
	a := start(t, nil,
		httpapi.Route{Method: http.MethodPost, Path: "/slots/acquire", Access: httpapi.Open, Handler: ok},
		httpapi.Route{Method: http.MethodDelete, Path: "/slots/:id", Access: httpapi.Open, Handler: ok})
	res := a.send("DELETE", "/slots/acquire", nil)
	require.Equal(t, "method-not-allowed", res.slug())
	require.Equal(t, "POST", res.Header.Get("Allow"))
	require.Equal(t, 204, a.send("DELETE", "/slots/other", nil).StatusCode)
	require.Equal(t, 204, a.send("POST", "/slots/acquire", nil).StatusCode)
}

// TestServer_Drain stops a server with a drain delay: it continues to serve, reports DOWN, and
// closes connections. The server of its health and metrics outlives it (contract 7, readiness).
func TestServer_Drain(t *testing.T) {
	slow := make(chan struct{})
	s := httpapi.New(httpapi.Options{
		Addr: "127.0.0.1:0", Registry: prometheus.NewRegistry(), HideMetrics: true, Logger: slog.New(slog.DiscardHandler),
		Limits: httpapi.Limits{DrainDelay: 300 * time.Millisecond},
	})
	s.Handle(
		httpapi.Route{Method: http.MethodGet, Path: "/ok", Access: httpapi.Public, Handler: ok},
		httpapi.Route{Method: http.MethodGet, Path: "/slow", Access: httpapi.Public, Handler: func(c echo.Context) error { <-slow; return ok(c) }})
	ops := s.Ops("127.0.0.1:0")
	require.NoError(t, s.Listen())
	require.NoError(t, ops.Listen())
	ctx, stop := context.WithCancel(t.Context())
	ended, opsEnded := make(chan error, 1), make(chan error, 1)
	go func() { ended <- s.Run(ctx) }()
	go func() { opsEnded <- ops.Run(ctx) }()
	<-s.Ready()
	<-ops.Ready()
	client := &http.Client{Transport: &http.Transport{}}
	defer client.CloseIdleConnections()
	get := func(host *httpapi.Server, path string) (int, bool) {
		res, err := client.Get("http://" + host.Addr().String() + path)
		require.NoError(t, err)
		defer res.Body.Close()
		_, _ = io.Copy(io.Discard, res.Body)
		return res.StatusCode, res.Close
	}
	status, _ := get(s, "/metrics")
	require.Equal(t, 404, status, "metrics are at the other address")
	status, _ = get(ops, "/metrics")
	require.Equal(t, 200, status)
	status, _ = get(s, "/health/ready")
	require.Equal(t, 200, status)
	accepted := make(chan int, 1)
	go func() {
		res, err := client.Get("http://" + s.Addr().String() + "/slow")
		if err != nil {
			accepted <- 0
			return
		}
		_ = res.Body.Close()
		accepted <- res.StatusCode
	}()
	began := time.Now()
	stop()
	require.EventuallyWithT(t, func(c *assert.CollectT) {
		status, _ := get(s, "/health/ready")
		require.Equal(c, 503, status)
	}, 250*time.Millisecond, time.Millisecond)
	status, closes := get(s, "/ok")
	require.Equal(t, 204, status, "requests are served")
	require.True(t, closes, "the client is to open a new connection elsewhere")
	status, _ = get(ops, "/health/ready")
	require.Equal(t, 503, status)
	require.EventuallyWithT(t, func(c *assert.CollectT) {
		conn, err := net.Dial("tcp", s.Addr().String())
		if err == nil {
			_ = conn.Close()
		}
		require.Error(c, err)
	}, 5*time.Second, 5*time.Millisecond)
	require.GreaterOrEqual(t, time.Since(began), 300*time.Millisecond)
	close(slow)
	require.Equal(t, 204, <-accepted, "what was accepted is finished")
	require.NoError(t, <-ended)
	require.NoError(t, <-opsEnded)
}
