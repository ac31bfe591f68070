package relay

import (
	"context"
	"time"

	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/trace"

	"github.com/dopaminestore/dopamine/avsc"
	"github.com/dopaminestore/dopamine/internal/telemetry"
)

// spansPerChunk bounds the cost of a large chunk if spans are exported.
const spansPerChunk = 200

// traceChunk adds a span of the publishing to the trace of each event, from
// the beginning of the chunk until now. Without an exporter it does nothing.
func traceChunk(ctx context.Context, topic string, c chunk, began time.Time) {
	_, all := telemetry.Start(ctx, "relay chunk", trace.WithNewRoot(), trace.WithTimestamp(began))
	defer all.End()
	if !all.IsRecording() {
		return
	}
	all.SetAttributes(attribute.String("topic", topic), attribute.Int("events", len(c.messages)))
	for _, m := range c.messages[:min(len(c.messages), spansPerChunk)] {
		traceparent := m.Metadata[avsc.HeaderTraceparent]
		if traceparent == "" {
			continue
		}
		_, span := telemetry.Start(telemetry.ContextWithTraceparent(context.Background(), traceparent), "publish "+m.Metadata[avsc.HeaderEventType],
			trace.WithSpanKind(trace.SpanKindProducer), trace.WithTimestamp(began), trace.WithLinks(trace.Link{SpanContext: all.SpanContext()}),
			trace.WithAttributes(attribute.String("topic", topic), attribute.String("position", m.Metadata[avsc.HeaderPosition]), attribute.String("event.id", m.UUID)))
		span.End()
	}
}
