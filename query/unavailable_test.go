package query_test

import (
	"context"
	"fmt"
	"net"
	"net/http"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/stretchr/testify/require"

	"github.com/dopaminestore/dopamine/db"
	"github.com/dopaminestore/dopamine/internal/consistency"
	"github.com/dopaminestore/dopamine/query"
	"github.com/dopaminestore/dopamine/tools/dbtest"
	"github.com/dopaminestore/dopamine/tools/testkit"
)

// silentPool returns a pool of a database that accepts connections and never responds.
func silentPool(t *testing.T) *pgxpool.Pool {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	var open []net.Conn
	done := make(chan struct{})
	go func() {
		defer close(done)
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			open = append(open, c)
		}
	}()
	pool, err := pgxpool.New(context.Background(), "postgres://nobody@"+l.Addr().String()+"/none?sslmode=disable&connect_timeout=1")
	require.NoError(t, err)
	t.Cleanup(func() {
		require.NoError(t, l.Close())
		<-done
		for _, c := range open {
			_ = c.Close()
		}
		pool.Close()
	})
	return pool
}

// R9: 503 within seconds (contract 2 and 7).
func TestUnavailable_SilentDatabase(t *testing.T) {
	t.Parallel()
	w := newWorldOver(t, query.Config{ReadPool: silentPool(t)})
	boss := w.token(uuid.New(), admin|buyer)
	min := header{"X-Min-Position": consistency.Encode(uuid.New(), 1), "Accept": "text/csv"}
	for _, path := range []string{"/v1/products", "/v1/slots/my-slots", "/v1/purchases", "/v1/audit"} {
		for _, h := range []header{nil, min} {
			began := time.Now()
			a := w.get(path, boss, h)
			require.Equal(t, "unavailable", a.slug(t), path)
			require.NotEmpty(t, a.Header.Get("Retry-After"))
			require.Less(t, time.Since(began), 4*time.Second, path)
		}
	}
	down := `503 {"status":"DOWN","components":{"database":"DOWN"},"details":{"database":["the read side's database does not respond"]}}`
	testkit.EventuallyEqual(t, 10*time.Second, "readiness to be DOWN", down, func() string {
		ready := w.get("/health/ready", "")
		return fmt.Sprintf("%d %s", ready.StatusCode, ready.body)
	})
	require.Equal(t, http.StatusOK, w.get("/health/live", "").StatusCode)
}

// R9: recovery without an operator (contract 2).
func TestUnavailable_DatabaseComesBack(t *testing.T) {
	t.Parallel()
	server, pool := dbtest.Own(t, db.MigrateRead)
	w := newWorldOver(t, query.Config{ReadPool: pool})
	require.Equal(t, http.StatusOK, w.get("/v1/products", "").StatusCode)

	server.Kill9()
	// A server process may outlive the postmaster for a moment.
	status := func() int { return w.get("/v1/products", "").StatusCode }
	testkit.EventuallyEqual(t, 10*time.Second, "the database to be unavailable", http.StatusServiceUnavailable, status)
	require.Equal(t, "unavailable", w.get("/v1/products", "").slug(t))
	require.Equal(t, "unavailable", w.get("/v1/products", "", atLeast(uuid.New(), 1)).slug(t))
	require.NoError(t, server.Restart(t.Context()))
	testkit.EventuallyEqual(t, 10*time.Second, "the products to be available again", http.StatusOK, status)
}

func TestOpenAPI_MatchesTheRoutes(t *testing.T) {
	t.Parallel()
	var described []string
	for path, item := range document(t).Paths.Map() {
		for method := range item.Operations() {
			described = append(described, method+" "+path)
		}
	}
	w := newWorldOver(t, query.Config{ReadPool: silentPool(t)})
	var routed []string
	for _, r := range w.api.Routes() {
		routed = append(routed, r.Method+" "+r.Path)
	}
	require.ElementsMatch(t, described, routed)
	require.Equal(t, "not-found", w.get("/v1/nothing", "").slug(t))
	a := w.get("/openapi.yaml", "")
	require.Equal(t, http.StatusOK, a.StatusCode)
	require.Contains(t, string(a.body), "openapi: 3")
}
