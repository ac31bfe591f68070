package main

import (
	"context"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"testing"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/stretchr/testify/require"

	"github.com/dopaminestore/dopamine/command"
	"github.com/dopaminestore/dopamine/internal/auth"
	"github.com/dopaminestore/dopamine/internal/config"
	"github.com/dopaminestore/dopamine/internal/httpapi"
	"github.com/dopaminestore/dopamine/internal/kafka"
	"github.com/dopaminestore/dopamine/internal/telemetry"
	"github.com/dopaminestore/dopamine/query"
	"github.com/dopaminestore/dopamine/tools/dbtest"
	"github.com/dopaminestore/dopamine/tools/testkit"
)

// In dev the APIs' readiness names what blocks the relay and the projector, which have no
// address of their own.
func TestChecks_NameWhatBlocksThePipelineOfOneProcess(t *testing.T) {
	t.Parallel()
	p := &parts{}
	t.Cleanup(p.close)
	var pipeline pipelineHealth
	checks := optionalChecks(p, redisServer{}, kafka.Cluster{Brokers: testkit.FakeKafka(t)}, pipeline.reasons)
	require.Len(t, checks, 1)
	probe := func() httpapi.ComponentHealth { return checks[0].Probe(context.Background()) }
	require.Equal(t, httpapi.ComponentHealth{Status: httpapi.Up}, probe(), "neither is there yet")
	var blocked []string
	pipeline.set(func() []string { return nil }, func() []string { return blocked })
	require.Equal(t, httpapi.Up, probe().Status)
	blocked = []string{"the store lost events"}
	require.Equal(t, httpapi.ComponentHealth{Status: httpapi.Degraded, Details: blocked}, probe())
}

// With a separate read database, a process of the read side measures the event store's clock in the
// write database: the other one has no events.
func TestChecks_MeasureTheEventStoresClockInTheWriteDatabase(t *testing.T) {
	t.Parallel()
	write, read := dbtest.Write(t), dbtest.Read(t)
	_, err := write.Exec(t.Context(), `INSERT INTO events (position, id, stream, version, key, type, schema_version, payload, traceparent, correlation_id, causation_id, actor, recorded_at)
		VALUES (1, $1, $1, 1, $1, 'ProductCreated', 1, '{}', '', '', '', 'system', clock_timestamp() + interval '1 hour')`, uuid.New())
	require.NoError(t, err)
	var degraded []string
	for _, check := range clockChecks(prometheus.NewRegistry(), read, write, nil) {
		if health := check.Probe(t.Context()); health.Status == httpapi.Degraded {
			degraded = append(degraded, health.Details...)
		}
	}
	require.Len(t, degraded, 1)
	require.Contains(t, degraded[0], "the clock of event_store is")
}

// With every connection of the requests' pools in use, the database is still UP: a load balancer must
// not take out a node because it is busy.
func TestReadiness_DoesNotWaitForTheConnectionsOfRequests(t *testing.T) {
	d, ctx := dbtest.Both(t), t.Context()
	verifier, err := auth.New(ctx, auth.Config{KeyFile: keyFile(t)})
	require.NoError(t, err)
	p := &parts{name: "test", log: slog.New(slog.DiscardHandler), registry: telemetry.NewRegistry(), tracing: &telemetry.Tracing{}}
	t.Cleanup(p.close)
	two := config.Pool{Max: 2}
	require.NoError(t, p.openWrite(ctx, d.URL, two))
	require.NoError(t, p.openRead(ctx, d.URL, two))
	require.Same(t, p.probe, p.readProbe, "one database, one connection")
	require.NoError(t, p.openPresence(ctx, true))
	require.NoError(t, p.openStore(ctx, 1))
	require.NoError(t, p.openGate(ctx, redisServer{urls: []string{testkit.Redis(t)}}, two))
	require.NoError(t, p.openPayments(ctx, paymentSettings{gatewaySettings{url: "http://" + nobodyListens}, "http://" + nobodyListens, 1e9, 1e9, 1e9}))
	commandAPI, err := newCommandAPI(p, command.Config{Addr: "127.0.0.1:0", Verifier: verifier, AppendQueue: 1, SlotTTL: 1e9, WebhookSecrets: []string{secrets}, Registry: p.registry})
	require.NoError(t, err)
	queryAPI, err := query.New(query.Config{Server: httpapi.Options{Addr: "127.0.0.1:0", Verifier: verifier, Registry: telemetry.NewRegistry()},
		ReadPool: p.readPool, WritePool: p.writePool, ReadProbe: p.readProbe, WriteProbe: p.probe})
	require.NoError(t, err)
	for _, pool := range []*pgxpool.Pool{p.writePool, p.readPool} {
		for range two.Max {
			conn, err := pool.Acquire(ctx)
			require.NoError(t, err)
			defer conn.Release()
		}
	}
	for name, api := range map[string]http.Handler{"command API": commandAPI.Handler(), "query API": queryAPI.Handler()} {
		response := httptest.NewRecorder()
		api.ServeHTTP(response, httptest.NewRequestWithContext(ctx, http.MethodGet, "/health/ready", nil))
		require.Equal(t, http.StatusOK, response.Code, "%s: %s", name, response.Body)
		require.Contains(t, response.Body.String(), `"database":"UP"`, name)
	}
	for name, check := range map[string]httpapi.Check{"worker, relay": databaseCheck(p.probe), "projector": storeCheck(p.probe)} {
		require.Equal(t, httpapi.Up, check.Probe(ctx).Status, name)
	}
}
