package httpapi_test

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"sync/atomic"
	"testing"
	"time"

	"github.com/labstack/echo/v4"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/stretchr/testify/require"

	"github.com/dopaminestore/dopamine/internal/httpapi"
	"github.com/dopaminestore/dopamine/tools/apitest"
)

// lives returns a server with one open response, which sends a piece and then calls run; until is
// its duration.
func lives(t *testing.T, until time.Duration, run func(*httpapi.Live) error) *api {
	t.Helper()
	return start(t, func(o *httpapi.Options) { o.CORSOrigins = []string{"https://shop.example"} }, httpapi.Route{Method: http.MethodGet, Path: "/live", Access: httpapi.Public, Endless: true, Handler: func(c echo.Context) error {
		var end time.Time
		if until > 0 {
			end = time.Now().Add(until)
		}
		c.Response().Header().Set("Cache-Control", "no-store")
		return httpapi.GoLive(c, "text/plain", end, func(l *httpapi.Live) error {
			if err := l.Write(httpapi.NewPiece([]byte("piece"))); err != nil {
				return err
			}
			return run(l)
		})
	}})
}

func untilDone(l *httpapi.Live) error {
	select {
	case <-l.Done():
	case <-l.Stopping():
	}
	return nil
}

func TestLive_EndsInTime(t *testing.T) {
	a := lives(t, 300*time.Millisecond, untilDone)
	req, err := http.NewRequest(http.MethodGet, a.url+"/live", nil)
	require.NoError(t, err)
	req.Header.Set("Origin", "https://shop.example")
	req.Header.Set("Accept", "application/json") // there is one form of it
	res, err := a.client.Do(req)
	require.NoError(t, err)
	defer res.Body.Close()
	require.Equal(t, []string{"text/plain", "no-store", "https://shop.example"},
		[]string{res.Header.Get("Content-Type"), res.Header.Get("Cache-Control"), res.Header.Get("Access-Control-Allow-Origin")})
	require.Len(t, res.Header.Get("X-Trace-ID"), 32)
	require.NotEmpty(t, res.Header.Get("Date"))
	body, err := io.ReadAll(res.Body)
	require.NoError(t, err, "cut off, instead of ended")
	require.Equal(t, "piece", string(body))
}

// TestLive_IsCutOffOnFailure fails by an error and by a panic; neither ends the server.
func TestLive_IsCutOffOnFailure(t *testing.T) {
	fail := []func(*httpapi.Live) error{
		func(*httpapi.Live) error { return errors.New("no") },
		func(*httpapi.Live) error { panic("no") },
	}
	next := make(chan func(*httpapi.Live) error, len(fail))
	a := lives(t, 0, func(l *httpapi.Live) error { return (<-next)(l) })
	for _, f := range fail {
		next <- f
		res, err := a.client.Get(a.url + "/live")
		require.NoError(t, err)
		body, err := io.ReadAll(res.Body)
		require.Error(t, err, "the client must notice an incomplete response")
		require.Equal(t, "piece", string(body))
		require.NoError(t, res.Body.Close())
	}
}

// TestLive_NoticesDisconnection also uses HTTP/1.0.
func TestLive_NoticesDisconnection(t *testing.T) {
	left := make(chan struct{}, 2)
	a := lives(t, 0, func(l *httpapi.Live) error {
		defer func() { left <- struct{}{} }()
		return untilDone(l)
	})
	for version, framed := range map[string]string{"HTTP/1.1": "5\r\npiece\r\n", "HTTP/1.0": "piece"} {
		conn, err := net.Dial("tcp", a.Addr().String())
		require.NoError(t, err)
		_, err = fmt.Fprintf(conn, "GET /live %s\r\nHost: x\r\n\r\n", version)
		require.NoError(t, err)
		r := bufio.NewReader(conn)
		line, err := r.ReadString('\n')
		require.NoError(t, err)
		require.Equal(t, version+" 200 OK\r\n", line)
		for line != "\r\n" {
			line, err = r.ReadString('\n')
			require.NoError(t, err)
		}
		got := make([]byte, len(framed))
		_, err = io.ReadFull(r, got)
		require.NoError(t, err)
		require.Equal(t, framed, string(got))
		require.NoError(t, conn.Close())
		select {
		case <-left:
		case <-time.After(wait):
			require.Fail(t, "the client's leaving was not seen")
		}
	}
}

// TestLive_UnreadResponseDoesNotDelayShutdown stops a server with an open response whose client
// reads nothing.
func TestLive_UnreadResponseDoesNotDelayShutdown(t *testing.T) {
	s := httpapi.New(httpapi.Options{Addr: "127.0.0.1:0", Verifier: apitest.NewTokens(t).Verifier, Registry: prometheus.NewRegistry()})
	var wrote atomic.Int64
	s.Handle(httpapi.Route{Method: http.MethodGet, Path: "/live", Access: httpapi.Public, Endless: true, Handler: func(c echo.Context) error {
		return httpapi.GoLive(c, "text/plain", time.Time{}, func(l *httpapi.Live) error {
			p := httpapi.NewPiece(make([]byte, 64<<10))
			for {
				if err := l.Write(p); err != nil {
					return err
				}
				wrote.Add(1)
			}
		})
	}})
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	done := make(chan error, 1)
	go func() { done <- s.Run(ctx) }()
	<-s.Ready()
	conn, err := net.Dial("tcp", s.Addr().String())
	require.NoError(t, err)
	defer conn.Close()
	_, err = io.WriteString(conn, "GET /live HTTP/1.1\r\nHost: x\r\n\r\n")
	require.NoError(t, err)
	before := int64(-1)
	require.Eventually(t, func() bool { // until the buffers are full
		now := wrote.Load()
		stuck := now > 0 && now == before
		before = now
		return stuck
	}, 10*wait, 300*time.Millisecond)
	cancel()
	select {
	case err := <-done:
		require.NoError(t, err)
	case <-time.After(10 * time.Second):
		require.Fail(t, "the server does not end")
	}
}
