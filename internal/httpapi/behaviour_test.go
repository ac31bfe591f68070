package httpapi_test

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"io"
	"log/slog"
	"net"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/labstack/echo/v4"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/stretchr/testify/require"

	"github.com/dopaminestore/dopamine/internal/auth"
	"github.com/dopaminestore/dopamine/internal/httpapi"
	"github.com/dopaminestore/dopamine/internal/telemetry"
	"github.com/dopaminestore/dopamine/tools/apitest"
)

const (
	wait = 5 * time.Second
	tick = 5 * time.Millisecond
)

func TestTokens(t *testing.T) {
	a := start(t, nil, routes()...)
	sub := uuid.New()
	for _, c := range []struct {
		name, path string
		headers    []string
		status     int
	}{
		{"public without", "/public", nil, 200},
		{"public with", "/public", []string{"Authorization", a.tokenOf(sub, auth.Buyer)}, 200},
		{"public with a bad one", "/public", []string{"Authorization", "Bearer x"}, 401},
		{"public with another scheme", "/public", []string{"Authorization", "Basic eDp5"}, 401},
		{"public with an empty one", "/public", []string{"Authorization", "Bearer "}, 401},
		{"two tokens", "/public", []string{"Authorization", a.token(auth.Buyer), "Authorization", a.token(auth.Buyer)}, 401},
		{"scheme in lower case", "/any", []string{"Authorization", strings.Replace(a.token(auth.Admin), "Bearer", "bearer", 1)}, 204},
		{"health with a bad one", "/health/live", []string{"Authorization", "Bearer x"}, 200},
	} {
		t.Run(c.name, func(t *testing.T) {
			res := a.send("GET", c.path, nil, c.headers...)
			require.Equal(t, c.status, res.StatusCode)
			if c.status == 401 {
				require.Equal(t, "Bearer", res.Header.Get("WWW-Authenticate"))
				require.Equal(t, "unauthenticated", res.slug())
			}
		})
	}
	res := a.send("GET", "/public", nil, "Authorization", a.tokenOf(sub, auth.Buyer|auth.Admin))
	require.JSONEq(t, `{"known":true,"sub":"`+sub.String()+`","roles":["buyer","admin"]}`, string(res.body))
}

func TestMethods(t *testing.T) {
	a := start(t, nil, routes()...)
	res := a.send("POST", "/public", nil)
	require.Equal(t, 405, res.StatusCode)
	require.Equal(t, "method-not-allowed", res.slug())
	require.Contains(t, res.Header.Get("Allow"), "GET")
	require.NotContains(t, res.Header.Get("Allow"), "POST")

	res = a.send("HEAD", "/public", nil)
	require.Equal(t, 200, res.StatusCode)
	require.Empty(t, res.body)

	res = a.send("OPTIONS", "/public", nil)
	require.Equal(t, 204, res.StatusCode)
	require.Contains(t, res.Header.Get("Allow"), "GET")

	require.Equal(t, 404, a.send("OPTIONS", "/nowhere", nil).StatusCode)
}

func TestPathsBelowAnID(t *testing.T) {
	a := start(t, nil, routes()...)
	for _, method := range []string{"GET", "PUT", "PATCH", "DELETE"} {
		for _, path := range []string{"/things/1/2", "/things/1/2/3", "/things/1/"} {
			res := a.send(method, path, nil)
			require.Equal(t, "not-found", res.slug(), "%s %s", method, path)
			require.Empty(t, res.Header.Get("Allow"))
		}
	}
	require.Equal(t, 405, a.send("PATCH", "/things/1", nil).StatusCode)
}

func TestMethods_OfAPathBelowAnID(t *testing.T) {
	below := httpapi.Route{Method: http.MethodPost, Path: "/things/:id/parts", Access: httpapi.Role(auth.Admin), Handler: ok}
	a := start(t, nil, append(routes(), below)...)
	for _, method := range []string{"GET", "HEAD", "PUT", "PATCH", "DELETE"} {
		res := a.send(method, "/things/1/parts", nil)
		require.Equal(t, 405, res.StatusCode, method)
		require.Equal(t, "OPTIONS, POST", res.Header.Get("Allow"), method)
	}
	require.Equal(t, 204, a.send("OPTIONS", "/things/1/parts", nil).StatusCode)
	require.Equal(t, 401, a.send("POST", "/things/1/parts", nil).StatusCode)
	for _, path := range []string{"/things//parts", "/things/1/parts/", "/things/1/parts/2"} {
		require.Equal(t, "not-found", a.send("GET", path, nil).slug(), path)
	}
}

func TestMediaTypes(t *testing.T) {
	a := start(t, nil, routes()...)
	token := a.token(auth.Admin)
	for media, status := range map[string]int{
		"application/json":                     204,
		"application/json; charset=utf-8":      204,
		`application/json;charset="UTF-8"`:     204,
		"Application/JSON":                     204,
		"application/json; charset=iso-8859-1": 415,
		"application/merge-patch+json":         415,
		"text/json":                            415,
		"text/plain":                           415,
		"application/x-www-form-urlencoded":    415,
		"nonsense/":                            415,
		"":                                     415,
	} {
		res := a.send("POST", "/admin", strings.NewReader("{}"), "Authorization", token, "Content-Type", media)
		require.Equal(t, status, res.StatusCode, media)
	}
	res := a.send("POST", "/admin", strings.NewReader("{}"), "Authorization", token, "Content-Type", "application/json", "Content-Encoding", "gzip")
	require.Equal(t, 415, res.StatusCode)
	res = a.send("PUT", "/things/"+uuid.NewString(), nil, "Authorization", token)
	require.Equal(t, "invalid-request", res.slug(), "no body at all is bad JSON, not a media type")
}

func TestBodyLimit(t *testing.T) {
	a := start(t, nil, routes()...)
	full := strings.Repeat("x", httpapi.MaxBody)
	for _, chunked := range []bool{false, true} {
		reader := func(s string) io.Reader {
			if chunked {
				return io.MultiReader(strings.NewReader(s))
			}
			return strings.NewReader(s)
		}
		res := a.send("POST", "/raw", reader(full))
		require.Equal(t, 200, res.StatusCode)
		require.Equal(t, full, string(res.body))
		require.Equal(t, "payload-too-large", a.send("POST", "/raw", reader(full+"x")).slug())
		for _, n := range []int{0, 1, 4095, 4096, 4097, 10_000} {
			require.Equal(t, full[:n], string(a.send("POST", "/raw", reader(full[:n])).body))
		}
	}
}

func TestServer_LogsInternalErrorsWithoutShowingThem(t *testing.T) {
	var logs bytes.Buffer
	a := start(t, func(o *httpapi.Options) {
		o.Logger = telemetry.NewLogger(&logs, telemetry.JSON, slog.LevelInfo)
	}, routes()...)
	for _, path := range []string{"/panic", "/error"} {
		logs.Reset()
		res := a.send("GET", path, nil, "Authorization", a.token(auth.Buyer))
		require.Equal(t, 500, res.StatusCode)
		require.Equal(t, "internal", res.slug())
		require.NotContains(t, string(res.body), "secret")
		require.Contains(t, logs.String(), "secret inner text")
		require.Contains(t, logs.String(), `"trace_id":"`+res.Header.Get("X-Trace-ID")+`"`)
		require.NotContains(t, logs.String(), "Bearer")
	}
	logs.Reset()
	a.send("GET", "/nowhere", nil)
	require.Empty(t, logs.String(), "a client's mistake is not logged")
}

// Pages of other origins (contract 7).
func TestCORS(t *testing.T) {
	const page = "https://shop.example.com"
	a := start(t, func(o *httpapi.Options) { o.CORSOrigins = []string{page} }, routes()...)
	pre := []string{"Access-Control-Request-Method", "PUT", "Access-Control-Request-Headers", "authorization"}

	res := a.send("OPTIONS", "/things/1", nil, append(pre, "Origin", page)...)
	require.Equal(t, 204, res.StatusCode)
	require.Equal(t, page, res.Header.Get("Access-Control-Allow-Origin"))
	require.Contains(t, res.Header.Get("Access-Control-Allow-Methods"), "PUT")
	for _, h := range []string{"Authorization", "Content-Type", "Idempotency-Key", "X-Min-Position", "traceparent", "X-Trace-ID", "Last-Event-ID"} {
		require.Contains(t, res.Header.Get("Access-Control-Allow-Headers"), h)
	}
	res = a.send("GET", "/any", nil, "Origin", page)
	require.Equal(t, 401, res.StatusCode)
	require.Equal(t, page, res.Header.Get("Access-Control-Allow-Origin"), "a page must be able to read a refusal")
	require.Equal(t, "Origin", res.Header.Get("Vary"))
	for _, h := range []string{"X-Trace-ID", "X-Position", "Location", "Retry-After"} {
		require.Contains(t, res.Header.Get("Access-Control-Expose-Headers"), h)
	}
	for _, other := range []string{"https://evil.example.com", page + ".evil.com", "http://shop.example.com", "null"} {
		require.Empty(t, a.send("OPTIONS", "/things/1", nil, append(pre, "Origin", other)...).Header.Get("Access-Control-Allow-Origin"), other)
	}

	closed := start(t, nil, routes()...)
	require.Empty(t, closed.send("GET", "/public", nil, "Origin", page).Header.Get("Access-Control-Allow-Origin"))
}

func TestMetricsAndOpenAPI(t *testing.T) {
	a := start(t, func(o *httpapi.Options) { o.Registry = prometheus.NewRegistry() }, routes()...)
	a.send("GET", "/any", nil)
	a.send("GET", "/nowhere", nil)
	a.send("PUT", "/things/1", nil, "Authorization", a.token(0))
	text := string(a.send("GET", "/metrics", nil).body)
	require.Contains(t, text, `dopamine_http_request_duration_seconds_count{method="GET",route="/any",status="401"} 1`)
	require.Contains(t, text, `dopamine_http_request_duration_seconds_count{method="any",route="unmatched",status="404"} 1`)
	require.Contains(t, text, `dopamine_http_request_duration_seconds_count{method="PUT",route="/things/:id",status="403"} 1`)

	res := a.send("GET", "/openapi.yaml", nil)
	require.Equal(t, "openapi: 3.1.0\n", string(res.body))
	require.Contains(t, a.Routes(), httpapi.RouteInfo{Method: "PUT", Path: "/things/{id}", Access: httpapi.Role(auth.Admin | auth.Buyer)})
	require.Contains(t, a.Routes(), httpapi.RouteInfo{Method: "GET", Path: "/health/ready", Access: httpapi.Open})
}

func TestStream_EndsWhenTheServerStops(t *testing.T) {
	s := httpapi.New(httpapi.Options{Addr: "127.0.0.1:0", Verifier: apitest.NewTokens(t).Verifier, Registry: prometheus.NewRegistry()})
	finish := make(chan struct{})
	s.Handle(
		httpapi.Route{Method: http.MethodGet, Path: "/stream", Access: httpapi.Public, Endless: true, Handler: func(c echo.Context) error {
			return httpapi.GoLive(c, "application/x-ndjson", time.Time{}, func(l *httpapi.Live) error {
				if err := l.Write(httpapi.NewPiece([]byte("first\n"))); err != nil {
					return err
				}
				<-l.Stopping()
				return l.Write(httpapi.NewPiece([]byte("last\n")))
			})
		}},
		httpapi.Route{Method: http.MethodGet, Path: "/slow", Access: httpapi.Public, Handler: func(c echo.Context) error {
			st, err := httpapi.NewStream(c, "text/plain")
			if err != nil {
				return err
			}
			if err := st.Flush(); err != nil {
				return err
			}
			<-finish
			_, err = io.WriteString(st, "done")
			return err
		}},
	)
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- s.Run(ctx) }()
	<-s.Ready()
	client := &http.Client{Transport: &http.Transport{}}
	defer client.CloseIdleConnections()
	url := "http://" + s.Addr().String()
	stream, err := client.Get(url + "/stream")
	require.NoError(t, err)
	defer stream.Body.Close()
	slow, err := client.Get(url + "/slow")
	require.NoError(t, err)
	defer slow.Body.Close()
	lines := bufio.NewScanner(stream.Body)
	require.True(t, lines.Scan())
	require.Equal(t, "first", lines.Text())

	cancel()
	require.True(t, lines.Scan())
	require.Equal(t, "last", lines.Text())
	require.False(t, lines.Scan())
	require.NoError(t, lines.Err())
	require.Eventually(t, func() bool {
		c, err := net.DialTimeout("tcp", s.Addr().String(), time.Second)
		if err == nil {
			c.Close()
		}
		return err != nil
	}, wait, tick, "a stopping server still takes connections")
	close(finish)
	body, err := io.ReadAll(slow.Body)
	require.NoError(t, err)
	require.Equal(t, "done", string(body), "what was accepted is finished")
	require.NoError(t, <-done)
}

func TestStream_IsCutOffOnFailure(t *testing.T) {
	a := start(t, nil, httpapi.Route{Method: http.MethodGet, Path: "/export", Access: httpapi.Public, Handler: func(c echo.Context) error {
		st, err := httpapi.NewStream(c, "text/csv")
		if err != nil {
			return err
		}
		if _, err := io.WriteString(st, "half"); err != nil {
			return err
		}
		if err := st.Flush(); err != nil {
			return err
		}
		return errors.New("the database is unavailable")
	}})
	res, err := a.client.Get(a.url + "/export")
	require.NoError(t, err)
	defer res.Body.Close()
	body, err := io.ReadAll(res.Body)
	require.Equal(t, "half", string(body))
	require.Error(t, err, "the client takes half an export for the whole")
}

func TestServer_BusyPortIsAnError(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	defer l.Close()
	s := httpapi.New(httpapi.Options{Addr: l.Addr().String(), Verifier: apitest.NewTokens(t).Verifier, Registry: prometheus.NewRegistry()})
	require.ErrorContains(t, s.Run(context.Background()), l.Addr().String())
}
