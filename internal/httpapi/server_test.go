package httpapi_test

import (
	"context"
	"encoding/json"
	"errors"
	"io"
	"log/slog"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/labstack/echo/v4"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"

	"github.com/dopaminestore/dopamine/internal/auth"
	"github.com/dopaminestore/dopamine/internal/httpapi"
	"github.com/dopaminestore/dopamine/internal/problem"
	"github.com/dopaminestore/dopamine/tools/apitest"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// api is a running server with all kinds of routes.
type api struct {
	*httpapi.Server
	t      testing.TB
	url    string
	tokens apitest.Tokens
	client *http.Client
}

func start(t testing.TB, change func(*httpapi.Options), routes ...httpapi.Route) *api {
	t.Helper()
	tokens := apitest.NewTokens(t)
	opts := httpapi.Options{
		Addr: "127.0.0.1:0", Verifier: tokens.Verifier,
		Registry: prometheus.NewRegistry(), OpenAPI: []byte("openapi: 3.1.0\n"),
		Logger: slog.New(slog.DiscardHandler),
	}
	if change != nil {
		change(&opts)
	}
	s := httpapi.New(opts)
	s.Handle(routes...)
	require.NoError(t, s.Listen())
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- s.Run(ctx) }()
	<-s.Ready()
	a := &api{Server: s, t: t, url: "http://" + s.Addr().String(), tokens: tokens, client: &http.Client{Transport: &http.Transport{}}}
	t.Cleanup(func() {
		a.client.CloseIdleConnections()
		cancel()
		require.NoError(t, <-done)
	})
	return a
}

func (a *api) token(roles auth.Roles) string { return a.tokenOf(uuid.New(), roles) }

func (a *api) tokenOf(sub uuid.UUID, roles auth.Roles) string {
	return "Bearer " + a.tokens.Sign(a.t, sub, roles)
}

type answer struct {
	*http.Response
	body    []byte
	problem map[string]any
}

func (a answer) slug() string {
	t, _ := a.problem["type"].(string)
	return strings.TrimPrefix(t, problem.TypeBase)
}

// send sends a request; headers are pairs.
func (a *api) send(method, path string, body io.Reader, headers ...string) answer {
	a.t.Helper()
	req, err := http.NewRequest(method, a.url+path, body)
	require.NoError(a.t, err)
	for i := 0; i < len(headers); i += 2 {
		req.Header.Add(headers[i], headers[i+1])
	}
	res, err := a.client.Do(req)
	require.NoError(a.t, err)
	defer res.Body.Close()
	out := answer{Response: res}
	out.body, err = io.ReadAll(res.Body)
	require.NoError(a.t, err)
	if res.Header.Get("Content-Type") == problem.ContentType && len(out.body) > 0 {
		require.NoError(a.t, json.Unmarshal(out.body, &out.problem))
		require.EqualValues(a.t, res.StatusCode, out.problem["status"])
		require.Equal(a.t, res.Header.Get("X-Trace-ID"), out.problem["traceId"])
		require.Equal(a.t, strings.Split(path, "?")[0], out.problem["instance"])
	}
	require.Regexp(a.t, "^[0-9a-f]{32}$", res.Header.Get("X-Trace-ID"))
	return out
}

func ok(c echo.Context) error { return c.NoContent(http.StatusNoContent) }

// things responds like a real handler: it checks the body, the path, then the named objects.
func things(c echo.Context) error {
	var in struct {
		Name *string `json:"name"`
	}
	if err := httpapi.DecodeJSON(c, &in); err != nil {
		return err
	}
	if _, err := httpapi.PathUUID(c, "id"); err != nil {
		return err
	}
	return problem.New(problem.ProductNotFound, "")
}

func routes() []httpapi.Route {
	return []httpapi.Route{
		{Method: http.MethodGet, Path: "/public", Access: httpapi.Public, Handler: func(c echo.Context) error {
			id, known := httpapi.IdentityOf(c)
			return httpapi.JSON(c, http.StatusOK, map[string]any{"known": known, "sub": id.Sub, "roles": id.Roles.Names()})
		}},
		{Method: http.MethodGet, Path: "/any", Access: httpapi.Role(auth.Buyer | auth.Admin), Handler: ok},
		{Method: http.MethodPut, Path: "/things/:id", Access: httpapi.Role(auth.Admin | auth.Buyer), Body: httpapi.JSONBody, Handler: things},
		{Method: http.MethodPost, Path: "/admin", Access: httpapi.Role(auth.Admin), Body: httpapi.JSONBody, Handler: ok},
		{Method: http.MethodPost, Path: "/raw", Access: httpapi.Open, Body: httpapi.RawBody, Handler: func(c echo.Context) error {
			return c.Blob(http.StatusOK, "text/plain", httpapi.ReadBody(c))
		}},
		{Method: http.MethodGet, Path: "/panic", Access: httpapi.Open, Handler: func(echo.Context) error { panic("secret inner text") }},
		{Method: http.MethodGet, Path: "/error", Access: httpapi.Open, Handler: func(echo.Context) error { return errors.New("secret inner text") }},
	}
}

// TestPrecedence sends requests with several things wrong: each line has one fault
// fewer than the one before (contract 7).
func TestPrecedence(t *testing.T) {
	a := start(t, func(o *httpapi.Options) {
		o.BuyerRate = 1
		now := time.Now()
		o.Now = func() time.Time { return now }
	}, routes()...)
	big := strings.Repeat("x", httpapi.MaxBody+1)
	throttled := a.token(auth.Buyer)
	require.Equal(t, 204, a.send("GET", "/any", nil, "Authorization", throttled).StatusCode)
	require.Equal(t, 204, a.send("GET", "/any", nil, "Authorization", throttled).StatusCode)
	id := "/things/" + uuid.NewString()

	for _, c := range []struct {
		name, method, path, token, media, body, slug string
		status                                       int
	}{
		{"path", "PATCH", "/nowhere", "Bearer bad", "text/plain", big, "not-found", 404},
		{"empty parameter", "PUT", "/things/", "Bearer bad", "text/plain", big, "not-found", 404},
		{"method", "PATCH", "/things/x", "Bearer bad", "text/plain", big, "method-not-allowed", 405},
		{"bad token", "PUT", "/things/x", "Bearer bad", "text/plain", big, "unauthenticated", 401},
		{"no token", "PUT", "/things/x", "", "text/plain", big, "unauthenticated", 401},
		{"role", "POST", "/admin", throttled, "text/plain", big, "forbidden", 403},
		{"no role", "PUT", "/things/x", a.token(0), "text/plain", big, "forbidden", 403},
		{"rate", "PUT", "/things/x", throttled, "text/plain", big, "too-many-requests", 429},
		{"size", "PUT", "/things/x", a.token(auth.Admin), "text/plain", big, "payload-too-large", 413},
		{"media", "PUT", "/things/x", a.token(auth.Admin), "text/plain", "{", "unsupported-media-type", 415},
		{"body", "PUT", "/things/x", a.token(auth.Admin), "application/json", "{", "invalid-request", 400},
		{"id", "PUT", "/things/x", a.token(auth.Admin), "application/json", "{}", "invalid-request", 400},
		{"found", "PUT", id, a.token(auth.Admin), "application/json", "{}", "product-not-found", 404},
	} {
		t.Run(c.name, func(t *testing.T) {
			headers := []string{"Content-Type", c.media}
			if c.token != "" {
				headers = append(headers, "Authorization", c.token)
			}
			for _, chunked := range []bool{false, true} {
				var body io.Reader = strings.NewReader(c.body)
				if chunked {
					body = io.MultiReader(body)
				}
				res := a.send(c.method, c.path, body, headers...)
				require.Equal(t, c.slug, res.slug())
				require.Equal(t, c.status, res.StatusCode)
			}
		})
	}
}
