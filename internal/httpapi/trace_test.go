package httpapi_test

import (
	"context"
	"net/http"
	"strings"
	"testing"

	"github.com/labstack/echo/v4"
	"github.com/stretchr/testify/require"
	sdktrace "go.opentelemetry.io/otel/sdk/trace"
	"go.opentelemetry.io/otel/sdk/trace/tracetest"

	"github.com/dopaminestore/dopamine/internal/httpapi"
	"github.com/dopaminestore/dopamine/internal/telemetry"
)

const (
	traceA = "0af7651916cd43dd8448eb211c80319c"
	traceB = "4bf92f3577b34da6a3ce929d0e0e4736"
)

func traceRoute(seen *[2]string) httpapi.Route {
	return httpapi.Route{Method: http.MethodGet, Path: "/trace/:id", Access: httpapi.Open, Handler: func(c echo.Context) error {
		ctx := c.Request().Context()
		*seen = [2]string{telemetry.TraceID(ctx), telemetry.Traceparent(ctx)}
		if httpapi.TraceID(c) != seen[0] {
			panic("two trace ids")
		}
		return c.NoContent(http.StatusNoContent)
	}}
}

// testTraceIDs holds with and without an exporter.
func testTraceIDs(t *testing.T, change func(*httpapi.Options)) {
	var seen [2]string
	a := start(t, change, append(routes(), traceRoute(&seen))...)
	parent := "00-" + traceA + "-b7ad6b7169203331-01"
	for _, c := range []struct {
		name    string
		headers []string
		want    string
	}{
		{"traceparent", []string{"traceparent", parent}, traceA},
		{"traceparent before X-Trace-ID", []string{"traceparent", parent, "X-Trace-ID", traceB}, traceA},
		{"a later version", []string{"traceparent", "cc-" + traceA + "-b7ad6b7169203331-01-more"}, traceA},
		{"X-Trace-ID", []string{"X-Trace-ID", traceB}, traceB},
		{"X-Trace-ID in upper case", []string{"X-Trace-ID", strings.ToUpper(traceB)}, traceB},
		{"bad traceparent, good X-Trace-ID", []string{"traceparent", "00-xyz", "X-Trace-ID", traceB}, traceB},
		{"nothing", nil, ""},
		{"zero trace", []string{"traceparent", "00-" + strings.Repeat("0", 32) + "-b7ad6b7169203331-01"}, ""},
		{"zero span", []string{"traceparent", "00-" + traceA + "-0000000000000000-01"}, ""},
		{"upper case", []string{"traceparent", strings.ToUpper(parent)}, ""},
		{"version ff", []string{"traceparent", "ff" + parent[2:]}, ""},
		{"version 00 and longer", []string{"traceparent", parent + "-x"}, ""},
		{"two traceparents", []string{"traceparent", parent, "traceparent", parent}, ""},
		{"short X-Trace-ID", []string{"X-Trace-ID", traceB[1:]}, ""},
		{"zero X-Trace-ID", []string{"X-Trace-ID", strings.Repeat("0", 32)}, ""},
		{"no hex", []string{"X-Trace-ID", strings.Repeat("g", 32)}, ""},
	} {
		t.Run(c.name, func(t *testing.T) {
			res := a.send("GET", "/trace/1", nil, c.headers...)
			got := res.Header.Get("X-Trace-ID")
			if c.want != "" {
				require.Equal(t, c.want, got)
			} else {
				require.NotContains(t, []string{traceA, traceB, strings.Repeat("0", 32)}, got)
			}
			require.Equal(t, got, seen[0])
			require.Contains(t, seen[1], "-"+got+"-", "traceparent for events")
			// Also if no handler is called.
			for _, path := range []string{"/nowhere", "/any", "/panic"} {
				res := a.send("GET", path, nil, c.headers...)
				if c.want != "" {
					require.Equal(t, c.want, res.Header.Get("X-Trace-ID"))
				}
			}
			require.NotEmpty(t, a.send("DELETE", "/any", nil, c.headers...).Header.Get("X-Trace-ID"))
		})
	}
	require.NotEqual(t, a.send("GET", "/trace/1", nil).Header.Get("X-Trace-ID"), a.send("GET", "/trace/1", nil).Header.Get("X-Trace-ID"))
}

func TestTraceIDs_WithoutExporter(t *testing.T) { testTraceIDs(t, nil) }

func TestTraceIDs_WithExporter(t *testing.T) {
	recorder := tracetest.NewSpanRecorder()
	provider := telemetry.NewProvider(sdktrace.WithSpanProcessor(recorder))
	defer func() { require.NoError(t, provider.Shutdown(context.Background())) }()
	testTraceIDs(t, func(o *httpapi.Options) { o.Tracer = provider.Tracer("test") })
}

func TestSpan_IsNamedByRoute(t *testing.T) {
	recorder := tracetest.NewSpanRecorder()
	provider := telemetry.NewProvider(sdktrace.WithSpanProcessor(recorder))
	defer func() { require.NoError(t, provider.Shutdown(context.Background())) }()
	var seen [2]string
	a := start(t, func(o *httpapi.Options) { o.Tracer = provider.Tracer("test") }, append(routes(), traceRoute(&seen))...)
	a.send("GET", "/trace/secret", nil, "traceparent", "00-"+traceA+"-b7ad6b7169203331-01")
	require.Eventually(t, func() bool { return len(recorder.Ended()) == 1 }, wait, tick)
	span := recorder.Ended()[0]
	require.Equal(t, "GET /trace/:id", span.Name())
	require.Equal(t, traceA, span.SpanContext().TraceID().String())
	require.Equal(t, "b7ad6b7169203331", span.Parent().SpanID().String())
	require.Contains(t, seen[1], span.SpanContext().SpanID().String(), "the stored traceparent is that of the request's span")
}
