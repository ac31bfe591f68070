package telemetry

import (
	"context"
	"fmt"
	"net/url"
	"os"

	"go.opentelemetry.io/otel"
	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/codes"
	"go.opentelemetry.io/otel/exporters/otlp/otlptrace/otlptracehttp"
	"go.opentelemetry.io/otel/propagation"
	"go.opentelemetry.io/otel/sdk/resource"
	sdktrace "go.opentelemetry.io/otel/sdk/trace"
	"go.opentelemetry.io/otel/trace"
)

// scope names the source of our spans.
const scope = "github.com/dopaminestore/dopamine"

// tracer follows the global provider, whenever that is set.
var tracer = otel.Tracer(scope)

// Tracing is a process's tracing. The zero value and nil record nothing.
type Tracing struct {
	provider *sdktrace.TracerProvider
}

// StartTracing makes W3C trace context the way of propagation and, where endpoint
// is not empty, sends spans there by OTLP over HTTP (a URL such as
// http://localhost:4318). The service names the process, as in "command-api".
func StartTracing(ctx context.Context, service, endpoint string) (*Tracing, error) {
	otel.SetTextMapPropagator(propagation.TraceContext{})
	if endpoint == "" {
		return &Tracing{}, nil
	}
	// Like OTEL_EXPORTER_OTLP_ENDPOINT: the signal's path is appended to the endpoint.
	traces, err := url.JoinPath(endpoint, "v1", "traces")
	if err != nil {
		return nil, fmt.Errorf("the trace collector's address %s: %w", endpoint, err)
	}
	exporter, err := otlptracehttp.New(ctx, otlptracehttp.WithEndpointURL(traces))
	if err != nil {
		return nil, fmt.Errorf("open the trace exporter to %s: %w", endpoint, err)
	}
	provider := NewProvider(sdktrace.WithBatcher(exporter), sdktrace.WithResource(resource.NewSchemaless(
		attribute.String("service.namespace", "dopamine"),
		attribute.String("service.name", service),
		attribute.String("service.version", ReadBuild().Version),
		attribute.String("vcs.ref.head.revision", ReadBuild().Revision),
		attribute.Int("process.pid", os.Getpid()),
	)))
	otel.SetTracerProvider(provider)
	return &Tracing{provider}, nil
}

// NewProvider returns a provider whose root spans use the trace id of WithWantedTrace.
func NewProvider(opts ...sdktrace.TracerProviderOption) *sdktrace.TracerProvider {
	return sdktrace.NewTracerProvider(append(opts, sdktrace.WithIDGenerator(ids{}))...)
}

// Enabled reports whether spans are recorded.
func (t *Tracing) Enabled() bool { return t != nil && t.provider != nil }

// Tracer returns the tracer for request spans, nil if nothing is recorded.
func (t *Tracing) Tracer() trace.Tracer {
	if !t.Enabled() {
		return nil
	}
	return t.provider.Tracer(scope)
}

// Stop flushes the remaining spans.
func (t *Tracing) Stop(ctx context.Context) error {
	if !t.Enabled() {
		return nil
	}
	if err := t.provider.Shutdown(ctx); err != nil {
		return fmt.Errorf("stop tracing: %w", err)
	}
	return nil
}

// Start starts a span below the context's. Without an exporter it costs almost nothing and the
// trace stays unchanged.
func Start(ctx context.Context, name string, opts ...trace.SpanStartOption) (context.Context, trace.Span) {
	return tracer.Start(ctx, name, opts...)
}

// StartRoot starts a new trace for work that no request caused. Events recorded under it
// carry its id, whether or not spans are exported.
func StartRoot(ctx context.Context, name string) (context.Context, trace.Span) {
	ctx, span := Start(ctx, name, trace.WithNewRoot())
	if !span.SpanContext().IsValid() {
		ctx = trace.ContextWithSpanContext(ctx, trace.NewSpanContext(trace.SpanContextConfig{TraceID: NewTraceID(), SpanID: NewSpanID()}))
	}
	return ctx, span
}

// End ends the span and marks it failed if err is not nil.
func End(span trace.Span, err error) {
	if err != nil {
		span.RecordError(err)
		span.SetStatus(codes.Error, "")
	}
	span.End()
}
