package telemetry

import (
	"context"

	"go.opentelemetry.io/otel"
	"go.opentelemetry.io/otel/trace"
	"go.opentelemetry.io/otel/trace/embedded"
	"go.opentelemetry.io/otel/trace/noop"
)

// WithinTrace returns a tracer provider for client libraries (Postgres, Redis) that records a call
// only below another span. Background work such as lease renewals makes thousands of calls a
// minute; otherwise each of them would be a trace of one span.
func WithinTrace() trace.TracerProvider { return withinProvider{} }

type withinProvider struct{ embedded.TracerProvider }

func (withinProvider) Tracer(name string, opts ...trace.TracerOption) trace.Tracer {
	return withinTracer{next: otel.GetTracerProvider().Tracer(name, opts...)}
}

type withinTracer struct {
	embedded.Tracer
	next trace.Tracer
}

// Start begins a span if ctx belongs to a trace; otherwise the span records nothing.
func (t withinTracer) Start(ctx context.Context, name string, opts ...trace.SpanStartOption) (context.Context, trace.Span) {
	if !trace.SpanContextFromContext(ctx).IsValid() {
		return ctx, noop.Span{}
	}
	return t.next.Start(ctx, name, opts...)
}
