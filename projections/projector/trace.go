package projector

import (
	"context"
	"time"

	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/trace"

	"github.com/dopaminestore/dopamine/internal/telemetry"
)

// spansPerBatch bounds the cost of exporting spans for a large batch.
const spansPerBatch = 200

// traceBatch adds a span of the projection to the trace of each event, from the beginning of the
// batch until now. Without an exporter it does nothing.
func traceBatch(ctx context.Context, projection string, items []item, began time.Time) {
	_, batch := telemetry.Start(ctx, "project batch", trace.WithNewRoot(), trace.WithTimestamp(began))
	defer batch.End()
	if !batch.IsRecording() {
		return
	}
	batch.SetAttributes(attribute.String("projection", projection), attribute.Int("events", len(items)))
	for _, it := range items[:min(len(items), spansPerBatch)] {
		if it.env.Traceparent == "" {
			continue
		}
		_, span := telemetry.Start(telemetry.ContextWithTraceparent(context.Background(), it.env.Traceparent), "project "+it.eventType,
			trace.WithSpanKind(trace.SpanKindConsumer), trace.WithTimestamp(began), trace.WithLinks(trace.Link{SpanContext: batch.SpanContext()}),
			trace.WithAttributes(attribute.String("projection", projection), attribute.Int64("position", it.position), attribute.String("event.id", it.eventID.String())))
		span.End()
	}
}
