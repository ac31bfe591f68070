package worker

import (
	"context"

	"github.com/google/uuid"
	"go.opentelemetry.io/otel/trace"

	"github.com/dopaminestore/dopamine/avsc"
	"github.com/dopaminestore/dopamine/domain"
	"github.com/dopaminestore/dopamine/eventstore"
	"github.com/dopaminestore/dopamine/internal/telemetry"
)

// begin starts a trace for something that happens by itself: its events bear its
// id, whether or not spans are recorded.
func begin(ctx context.Context, name string) (context.Context, trace.Span) {
	ctx, span := telemetry.Start(ctx, name, trace.WithNewRoot())
	if !span.SpanContext().IsValid() {
		ctx = trace.ContextWithSpanContext(ctx, trace.NewSpanContext(trace.SpanContextConfig{
			TraceID: telemetry.NewTraceID(), SpanID: telemetry.NewSpanID(),
		}))
	}
	return ctx, span
}

// encode makes events ready for the store, under the context's trace.
func encode(ctx context.Context, events ...domain.Event) ([]eventstore.NewEvent, error) {
	meta := eventstore.Meta{
		Traceparent:   telemetry.Traceparent(ctx),
		CorrelationID: telemetry.TraceID(ctx),
		CausationID:   uuid.Must(uuid.NewV7()).String(),
		Actor:         domain.ActorSystem,
	}
	encoded := make([]eventstore.NewEvent, len(events))
	for i, e := range events {
		typ, version, payload, err := avsc.Encode(e)
		if err != nil {
			return nil, err
		}
		encoded[i] = eventstore.NewEvent{
			ID: uuid.Must(uuid.NewV7()), Type: typ, SchemaVersion: version, Payload: payload, Meta: meta,
		}
	}
	return encoded, nil
}
