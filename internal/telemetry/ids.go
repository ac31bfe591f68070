package telemetry

import (
	"context"

	"go.opentelemetry.io/otel/trace"
)

type wantedTrace struct{}

// WithWantedTrace makes the next root span of the context take this trace id: what
// a client named in X-Trace-ID, which has no span to continue.
func WithWantedTrace(ctx context.Context, id trace.TraceID) context.Context {
	return context.WithValue(ctx, wantedTrace{}, id)
}

// ids is the SDK's source of ids; it implements WithWantedTrace.
type ids struct{}

func (ids) NewIDs(ctx context.Context) (trace.TraceID, trace.SpanID) {
	if id, ok := ctx.Value(wantedTrace{}).(trace.TraceID); ok && id.IsValid() {
		return id, NewSpanID()
	}
	return NewTraceID(), NewSpanID()
}

func (ids) NewSpanID(context.Context, trace.TraceID) trace.SpanID { return NewSpanID() }
