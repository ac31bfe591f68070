package main

import (
	"context"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/dopaminestore/dopamine/internal/httpapi"
	"github.com/dopaminestore/dopamine/internal/kafka"
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
