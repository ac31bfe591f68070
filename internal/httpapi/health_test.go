package httpapi_test

import (
	"context"
	"encoding/json"
	"errors"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/dopaminestore/dopamine/internal/httpapi"
)

// fakeComponents are components whose health a test sets.
type fakeComponents struct {
	mu     sync.Mutex
	health map[string]httpapi.ComponentHealth
}

func (f *fakeComponents) set(name string, status httpapi.Health, details ...string) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.health[name] = httpapi.ComponentHealth{Status: status, Details: details}
}

func (f *fakeComponents) check(name string, required bool) httpapi.Check {
	return f.checkOf(name, name, required)
}

func (f *fakeComponents) checkOf(component, name string, required bool) httpapi.Check {
	return httpapi.Check{Name: component, Required: required, Probe: func(context.Context) httpapi.ComponentHealth {
		f.mu.Lock()
		defer f.mu.Unlock()
		return f.health[name]
	}}
}

func startReadiness(t *testing.T, checks ...httpapi.Check) *api {
	t.Helper()
	return start(t, func(o *httpapi.Options) { o.Checks, o.ProbeInterval = checks, time.Millisecond })
}

// awaitReady polls /health/ready until it is the wanted response.
func (a *api) awaitReady(status int, want any) {
	a.t.Helper()
	text, err := json.Marshal(want)
	require.NoError(a.t, err)
	require.EventuallyWithT(a.t, func(c *assert.CollectT) {
		res := a.send("GET", "/health/ready", nil)
		require.Equal(c, status, res.StatusCode)
		require.JSONEq(c, string(text), string(res.body))
	}, 5*time.Second, 2*time.Millisecond)
}

func TestReadiness_FollowsComponents(t *testing.T) {
	f := &fakeComponents{health: map[string]httpapi.ComponentHealth{}}
	for _, name := range []string{"database", "redis", "kafka"} {
		f.set(name, httpapi.Up)
	}
	a := startReadiness(t, f.check("database", true), f.check("redis", true), f.check("kafka", false))
	for _, c := range []struct {
		database, redis, kafka, whole httpapi.Health
		status                        int
	}{
		{"UP", "UP", "UP", "UP", 200},
		{"UP", "UP", "DOWN", "DEGRADED", 200},
		{"UP", "DEGRADED", "UP", "DEGRADED", 200},
		{"UP", "DOWN", "UP", "DOWN", 503},
		{"DOWN", "UP", "DOWN", "DOWN", 503},
	} {
		f.set("database", c.database)
		f.set("redis", c.redis)
		f.set("kafka", c.kafka)
		a.awaitReady(c.status, map[string]any{"status": c.whole, "components": map[string]any{"database": c.database, "redis": c.redis, "kafka": c.kafka}})
	}
	require.Equal(t, 200, a.send("GET", "/health/live", nil).StatusCode)
}

// TestHealthMetric_FollowsComponents reads the metric without any request for the readiness, which
// a process without a supervisor may never get.
func TestHealthMetric_FollowsComponents(t *testing.T) {
	f := &fakeComponents{health: map[string]httpapi.ComponentHealth{}}
	registry := prometheus.NewRegistry()
	start(t, func(o *httpapi.Options) {
		o.Registry, o.ProbeInterval = registry, time.Millisecond
		o.Checks = []httpapi.Check{f.check("kafka", false)}
	})
	for health, value := range map[httpapi.Health]string{httpapi.Down: "0", httpapi.Degraded: "1", httpapi.Up: "2"} {
		f.set("kafka", health)
		require.EventuallyWithT(t, func(c *assert.CollectT) {
			require.NoError(c, testutil.GatherAndCompare(registry, strings.NewReader(`
				# HELP dopamine_component_health Health of a component: 0 DOWN, 1 DEGRADED, 2 UP.
				# TYPE dopamine_component_health gauge
				dopamine_component_health{component="kafka"} `+value+"\n"), "dopamine_component_health"))
		}, 5*time.Second, 2*time.Millisecond)
	}
}

func TestReadiness_MergesChecksOfOneComponent(t *testing.T) {
	f := &fakeComponents{health: map[string]httpapi.ComponentHealth{}}
	f.set("writes", httpapi.Up)
	f.set("clock", httpapi.Degraded, "clock skew")
	a := startReadiness(t, f.checkOf("redis", "writes", true), f.checkOf("redis", "clock", false))
	a.awaitReady(200, map[string]any{"status": "DEGRADED", "components": map[string]any{"redis": "DEGRADED"},
		"details": map[string]any{"redis": []string{"clock skew"}}})
	f.set("writes", httpapi.Down, "read-only")
	a.awaitReady(503, map[string]any{"status": "DOWN", "components": map[string]any{"redis": "DOWN"},
		"details": map[string]any{"redis": []string{"read-only", "clock skew"}}})
}

// TestReadiness_HangingProbe has a probe that never returns a result and one that
// panics: the other components keep reporting.
func TestReadiness_HangingProbe(t *testing.T) {
	f := &fakeComponents{health: map[string]httpapi.ComponentHealth{}}
	f.set("database", httpapi.Up)
	a := startReadiness(t, f.check("database", true),
		httpapi.Check{Name: "kafka", Probe: func(ctx context.Context) httpapi.ComponentHealth { panic("at the disco") }})
	a.awaitReady(200, map[string]any{"status": "DEGRADED", "components": map[string]any{"database": "UP", "kafka": "DOWN"},
		"details": map[string]any{"kafka": []string{"the check panicked: at the disco"}}})
	began := time.Now()
	hanging := startReadiness(t, f.check("database", true),
		httpapi.Check{Name: "kafka", Probe: func(ctx context.Context) httpapi.ComponentHealth {
			<-ctx.Done()
			return httpapi.ComponentHealth{Status: httpapi.Down, Details: []string{"timeout"}}
		}})
	require.Equal(t, 200, hanging.send("GET", "/health/ready", nil).StatusCode)
	require.Less(t, time.Since(began), 4*time.Second)
}

func TestChecks(t *testing.T) {
	ctx := context.Background()
	away := errors.New("away")
	require.Equal(t, httpapi.ComponentHealth{Status: httpapi.Down, Details: []string{"away"}},
		httpapi.PingCheck(func(context.Context) error { return away })(ctx))
	parts := func(serving, all int) httpapi.ComponentHealth {
		return httpapi.PartsCheck(func(context.Context) (int, int, error) { return serving, all, errors.Join(away, away) })(ctx)
	}
	require.Equal(t, httpapi.Up, parts(2, 2).Status)
	require.Equal(t, httpapi.ComponentHealth{Status: httpapi.Degraded, Details: []string{"away", "away"}}, parts(1, 3))
	require.Equal(t, httpapi.Down, parts(0, 2).Status)

	registry := prometheus.NewRegistry()
	clock := func(ahead time.Duration, err error) httpapi.ComponentHealth {
		return httpapi.ClockCheck(registry, "redis", func(context.Context) (time.Duration, time.Duration, error) {
			return ahead, 100 * time.Millisecond, err
		})(ctx)
	}
	require.Equal(t, httpapi.Up, clock(1100*time.Millisecond, nil).Status)
	require.Equal(t, httpapi.Up, clock(time.Hour, away).Status)
	require.Equal(t, []string{"clock skew: the clock of redis is 30.0 s ahead of this process's"}, clock(30*time.Second, nil).Details)
	require.Equal(t, []string{"clock skew: the clock of redis is 2.0 s behind this process's"}, clock(-2*time.Second, nil).Details)
}
