package httpapi_test

import (
	"bytes"
	"log/slog"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/labstack/echo/v4"
	"github.com/stretchr/testify/require"

	"github.com/dopaminestore/dopamine/internal/auth"
	"github.com/dopaminestore/dopamine/internal/httpapi"
	"github.com/dopaminestore/dopamine/internal/problem"
)

// lockedBuffer is written by the server's goroutines.
type lockedBuffer struct {
	mu   sync.Mutex
	text bytes.Buffer
}

func (b *lockedBuffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.text.Write(p)
}

func (b *lockedBuffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.text.String()
}

// lateCallback is a parser's error that has a reason.
type lateCallback struct{}

func (lateCallback) Error() string { return "too far away" }

func (lateCallback) RefusalReason() string { return "timestamp" }

func TestRefusedCredentials_AreCountedAndLoggedOncePerReason(t *testing.T) {
	var logs lockedBuffer
	a := start(t, func(o *httpapi.Options) { o.Logger = slog.New(slog.NewJSONHandler(&logs, nil)) },
		httpapi.Route{Method: http.MethodGet, Path: "/mine", Access: httpapi.Role(auth.Buyer), Handler: ok},
		httpapi.Route{Method: http.MethodPost, Path: "/callback", Access: httpapi.Open, Handler: func(echo.Context) error {
			return problem.New(problem.InvalidSignature, "")
		}},
		httpapi.Route{Method: http.MethodPost, Path: "/late", Access: httpapi.Open, Handler: func(echo.Context) error {
			return problem.New(problem.InvalidSignature, "").Wrap(lateCallback{})
		}})
	// The last quarter of an HS256 token is its signature.
	good := a.token(auth.Buyer)
	forged := good[:len(good)-4] + strings.Map(func(r rune) rune {
		if r == 'A' {
			return 'B'
		}
		return 'A'
	}, good[len(good)-4:len(good)-1]) + "A"
	for range 20 {
		require.Equal(t, http.StatusUnauthorized, a.send("GET", "/mine", nil, "Authorization", "Bearer secret-content.b.c").StatusCode)
		require.Equal(t, http.StatusUnauthorized, a.send("GET", "/mine", nil, "Authorization", forged).StatusCode)
		require.Equal(t, http.StatusUnauthorized, a.send("GET", "/mine", nil, "Authorization", "Basic c2VjcmV0").StatusCode)
		require.Equal(t, http.StatusUnauthorized, a.send("GET", "/mine", nil).StatusCode)
		require.Equal(t, http.StatusUnauthorized, a.send("POST", "/callback", nil).StatusCode)
		require.Equal(t, http.StatusUnauthorized, a.send("POST", "/late", nil).StatusCode)
	}
	metrics := string(a.send("GET", "/metrics", nil).body)
	require.Contains(t, metrics, `dopamine_http_refused_credentials_total{kind="token",reason="malformed"} 40`)
	require.Contains(t, metrics, `dopamine_http_refused_credentials_total{kind="token",reason="signature"} 20`)
	require.Contains(t, metrics, `dopamine_http_refused_credentials_total{kind="callback",reason="signature"} 20`)
	require.Contains(t, metrics, `dopamine_http_refused_credentials_total{kind="callback",reason="timestamp"} 20`)
	require.Equal(t, 4, strings.Count(logs.String(), `"credentials refused"`), "%s", logs.String())
	require.NotContains(t, logs.String(), "secret-content")
	require.NotContains(t, logs.String(), forged[len("Bearer "):])
}

func TestRefusedCredentials_AreLoggedAgainAfterAMinuteWithTheirNumber(t *testing.T) {
	var logs lockedBuffer
	now := time.Now()
	var mu sync.Mutex
	a := start(t, func(o *httpapi.Options) {
		o.Logger = slog.New(slog.NewJSONHandler(&logs, nil))
		o.Now = func() time.Time { mu.Lock(); defer mu.Unlock(); return now }
	}, httpapi.Route{Method: http.MethodGet, Path: "/mine", Access: httpapi.Role(auth.Buyer), Handler: ok})
	for range 5 {
		a.send("GET", "/mine", nil, "Authorization", "Bearer a.b.c")
	}
	mu.Lock()
	now = now.Add(time.Minute)
	mu.Unlock()
	a.send("GET", "/mine", nil, "Authorization", "Bearer a.b.c")
	require.Equal(t, 2, strings.Count(logs.String(), `"credentials refused"`))
	require.Contains(t, logs.String(), `"unlogged_before":4`)
}
