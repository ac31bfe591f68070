package query_test

import (
	"bytes"
	"context"
	"encoding/json"
	"io"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"

	"github.com/dopaminestore/dopamine/internal/auth"
	"github.com/dopaminestore/dopamine/internal/httpapi"
	"github.com/dopaminestore/dopamine/query"
	"github.com/dopaminestore/dopamine/tools/apitest"
	"github.com/dopaminestore/dopamine/tools/dbtest"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// world is a query API on the test's own database. Its successful responses are checked against the
// API's description.
type world struct {
	t        testing.TB
	pool     *pgxpool.Pool
	tx       pgx.Tx // of inOneCommit; nil outside
	url      string
	client   *http.Client
	tokens   apitest.Tokens
	document apitest.Document
	api      *query.API
	stop     func() // stops the server and waits until it has stopped
}

func newWorld(t testing.TB) *world {
	t.Helper()
	pool := dbtest.Both(t).Pool
	return newWorldOver(t, query.Config{ReadPool: pool, WritePool: pool})
}

func newWorldOver(t testing.TB, cfg query.Config) *world {
	t.Helper()
	tokens := apitest.NewTokens(t)
	cfg.Server = httpapi.Options{Addr: "127.0.0.1:0", Verifier: tokens.Verifier, Registry: prometheus.NewRegistry()}
	api, err := query.New(cfg)
	require.NoError(t, err)
	ctx, stop := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- api.Run(ctx) }()
	select {
	case <-api.Ready():
	case err := <-done:
		require.NoError(t, err)
	}
	client := &http.Client{Transport: &http.Transport{MaxIdleConnsPerHost: 64}, Timeout: time.Minute}
	end := sync.OnceFunc(func() {
		client.CloseIdleConnections()
		stop()
		require.NoError(t, <-done)
	})
	t.Cleanup(end)
	return &world{stop: end, t: t, pool: cfg.ReadPool, url: "http://" + api.Addr().String(), client: client, tokens: tokens, document: document(t), api: api}
}

func document(t testing.TB) apitest.Document {
	t.Helper()
	text, err := os.ReadFile("openapi.yaml")
	require.NoError(t, err)
	return apitest.Load(t, text)
}

// in returns the world for a subtest.
func (w *world) in(t testing.TB) *world {
	part := *w
	part.t = t
	return &part
}

func (w *world) token(sub uuid.UUID, roles auth.Roles) string { return w.tokens.Sign(w.t, sub, roles) }

// response is a response.
type response struct {
	*http.Response
	body []byte
}

func (a response) json(t testing.TB) map[string]any {
	t.Helper()
	var v map[string]any
	require.NoError(t, json.Unmarshal(a.body, &v), "%s", a.body)
	return v
}

// slug returns the slug of the problem.
func (a response) slug(t testing.TB) string {
	t.Helper()
	require.Equal(t, "application/problem+json", a.Header.Get("Content-Type"), "%d %s", a.StatusCode, a.body)
	return filepath.Base(a.json(t)["type"].(string))
}

type header map[string]string

// request returns a GET request; token "" is none.
func (w *world) request(ctx context.Context, path, token string, headers ...header) *http.Request {
	w.t.Helper()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, w.url+path, nil)
	require.NoError(w.t, err)
	if token != "" {
		req.Header.Set("Authorization", "Bearer "+token)
	}
	for _, h := range headers {
		for name, value := range h {
			req.Header.Set(name, value)
		}
	}
	return req
}

func (w *world) get(path, token string, headers ...header) response {
	w.t.Helper()
	req := w.request(context.Background(), path, token, headers...)
	resp, err := w.client.Do(req)
	require.NoError(w.t, err)
	body, err := io.ReadAll(resp.Body)
	require.NoError(w.t, err)
	require.NoError(w.t, resp.Body.Close())
	a := response{resp, body}
	w.described(req, a)
	return a
}

// described checks a response against openapi.yaml.
func (w *world) described(req *http.Request, a response) {
	w.t.Helper()
	if a.StatusCode == http.StatusNotFound && bytes.Contains(a.body, []byte("problems/not-found")) {
		return
	}
	target := httptest.NewRequest(req.Method, req.URL.RequestURI(), nil)
	require.NoError(w.t, w.document.Check(target, a.StatusCode, a.Header, a.body))
}

// pages reads a list page by page, from path with further parameters, and calls each.
func (w *world) pages(path, token string, each func(page response)) {
	w.t.Helper()
	for cursor := ""; ; {
		page := w.get(path+cursor, token)
		next, more := page.json(w.t)["nextCursor"].(string)
		each(page)
		if !more {
			return
		}
		cursor = "&cursor=" + url.QueryEscape(next)
	}
}

// nextCursor returns the parameter that continues after a page.
func (a response) nextCursor(t testing.TB) string {
	t.Helper()
	next, _ := a.json(t)["nextCursor"].(string)
	return "cursor=" + url.QueryEscape(next)
}

func (w *world) exec(sql string, args ...any) {
	w.t.Helper()
	if w.tx != nil {
		dbtest.Exec(w.t, w.tx, sql, args...)
		return
	}
	dbtest.Exec(w.t, w.pool, sql, args...)
}

// inOneCommit executes the statements of f in one transaction, as a projector commits the rows of an
// event together with its checkpoint.
func (w *world) inOneCommit(f func(w *world)) {
	w.t.Helper()
	require.NoError(w.t, pgx.BeginFunc(context.Background(), w.pool, func(tx pgx.Tx) error {
		inside := w.in(w.t)
		inside.tx = tx
		f(inside)
		return nil
	}))
}

const buyer, admin = auth.Buyer, auth.Admin
