package main

import (
	"context"
	"testing"

	"github.com/google/uuid"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/stretchr/testify/require"

	"github.com/dopaminestore/dopamine/internal/httpapi"
	"github.com/dopaminestore/dopamine/internal/kafka"
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
