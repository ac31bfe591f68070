package telemetry_test

import (
	"bytes"
	"context"
	"errors"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/stretchr/testify/require"
	"go.opentelemetry.io/otel"
	"go.opentelemetry.io/otel/codes"
	sdktrace "go.opentelemetry.io/otel/sdk/trace"
	"go.opentelemetry.io/otel/sdk/trace/tracetest"
	"go.uber.org/goleak"
	"pgregory.net/rapid"

	"github.com/dopaminestore/dopamine/internal/telemetry"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const parent = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"

func TestTraceparent_RoundTrip(t *testing.T) {
	ctx := telemetry.ContextWithTraceparent(context.Background(), parent)
	require.Equal(t, parent, telemetry.Traceparent(ctx))
	require.Equal(t, "0af7651916cd43dd8448eb211c80319c", telemetry.TraceID(ctx))

	require.Empty(t, telemetry.TraceID(context.Background()))
	require.Empty(t, telemetry.Traceparent(context.Background()))
	for _, bad := range []string{"", "x", parent[1:], strings.ToUpper(parent), parent + "-", "ff" + parent[2:]} {
		require.Equal(t, context.Background(), telemetry.ContextWithTraceparent(context.Background(), bad), bad)
	}
}

func TestParseTraceparent_AcceptsOnlyValidInput(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		s := rapid.StringMatching(`(00|01|ff)-[0-9a-fA-F]{30,33}-[0-9a-f]{16}-[0-9a-g]{2}(-x)?`).Draw(t, "traceparent")
		if sc, ok := telemetry.ParseTraceparent(s); ok {
			require.Equal(t, s[3:35], sc.TraceID().String())
			require.Equal(t, s[36:52], sc.SpanID().String())
		}
	})
}

func TestSpans_WithoutExporterKeepTheTrace(t *testing.T) {
	tracing, err := telemetry.StartTracing(context.Background(), "test", "")
	require.NoError(t, err)
	require.False(t, tracing.Enabled())
	require.Nil(t, tracing.Tracer())
	ctx := telemetry.ContextWithTraceparent(context.Background(), parent)
	inner, span := telemetry.Start(ctx, "work")
	telemetry.End(span, nil)
	require.Equal(t, parent, telemetry.Traceparent(inner))
	require.NoError(t, tracing.Stop(context.Background()))
	require.NoError(t, (*telemetry.Tracing)(nil).Stop(context.Background()))
}

func TestSpans_ReachTheCollector(t *testing.T) {
	var got atomic.Int64
	collector := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/v1/traces" {
			got.Add(1)
		}
		_, _ = io.Copy(io.Discard, r.Body)
	}))
	defer collector.Close()
	tracing, err := telemetry.StartTracing(context.Background(), "test", collector.URL)
	require.NoError(t, err)
	require.True(t, tracing.Enabled())
	ctx, span := telemetry.Start(telemetry.ContextWithTraceparent(context.Background(), parent), "work")
	require.Equal(t, "0af7651916cd43dd8448eb211c80319c", telemetry.TraceID(ctx))
	require.NotEqual(t, parent, telemetry.Traceparent(ctx), "the span has a new id")
	telemetry.End(span, nil)
	require.NoError(t, tracing.Stop(context.Background()))
	require.EqualValues(t, 1, got.Load())
}

func TestSpans_WantedTraceAndFailure(t *testing.T) {
	recorder := tracetest.NewSpanRecorder()
	provider := telemetry.NewProvider(sdktrace.WithSpanProcessor(recorder))
	id, ok := telemetry.ParseTraceID("4BF92F3577b34da6a3ce929d0e0e4736")
	require.True(t, ok)
	ctx, span := provider.Tracer("x").Start(telemetry.WithWantedTrace(context.Background(), id), "root")
	require.Equal(t, "4bf92f3577b34da6a3ce929d0e0e4736", telemetry.TraceID(ctx))
	telemetry.End(span, errors.New("broken"))
	_, other := provider.Tracer("x").Start(context.Background(), "root")
	require.NotEqual(t, id, other.SpanContext().TraceID())
	require.Equal(t, codes.Error, recorder.Ended()[0].Status().Code)
	require.NoError(t, provider.Shutdown(context.Background()))
}

func TestLogs_HaveTheTraceID(t *testing.T) {
	var out bytes.Buffer
	log := telemetry.NewLogger(&out, "", slog.LevelInfo).With("component", "x")
	log.InfoContext(telemetry.ContextWithTraceparent(context.Background(), parent), "hello")
	log.Debug("hidden")
	log.Info("no trace")
	lines := strings.Split(strings.TrimSpace(out.String()), "\n")
	require.Len(t, lines, 2)
	require.Contains(t, lines[0], `"trace_id":"0af7651916cd43dd8448eb211c80319c"`)
	require.Contains(t, lines[0], `"component":"x"`)
	require.NotContains(t, lines[1], "trace_id")

	out.Reset()
	telemetry.NewLogger(&out, telemetry.Text, slog.LevelInfo).Info("hello")
	require.Contains(t, out.String(), "msg=hello")
	_, err := telemetry.ParseLevel("loud")
	require.ErrorContains(t, err, "debug, info, warn or error")
}

func TestRegistry_HasTheProcess(t *testing.T) {
	families, err := telemetry.NewRegistry().Gather()
	require.NoError(t, err)
	var names []string
	for _, f := range families {
		names = append(names, f.GetName())
	}
	require.Contains(t, names, "go_goroutines")
	require.Contains(t, names, "process_open_fds")
	require.Contains(t, names, "dopamine_build_info")
}

func TestWithinTrace_RecordsOnlyBelowASpan(t *testing.T) {
	recorder := tracetest.NewSpanRecorder()
	provider := telemetry.NewProvider(sdktrace.WithSpanProcessor(recorder))
	before := otel.GetTracerProvider()
	otel.SetTracerProvider(provider)
	t.Cleanup(func() { otel.SetTracerProvider(before) })
	client := telemetry.WithinTrace().Tracer("client")

	_, background := client.Start(context.Background(), "evalsha")
	background.End()
	require.Empty(t, recorder.Ended(), "a background call started a new trace")

	ctx, request := provider.Tracer("x").Start(context.Background(), "request")
	_, call := client.Start(ctx, "evalsha")
	call.End()
	request.End()
	require.Len(t, recorder.Ended(), 2)
	require.Equal(t, request.SpanContext().SpanID(), recorder.Ended()[0].Parent().SpanID())
	require.NoError(t, provider.Shutdown(context.Background()))
}
