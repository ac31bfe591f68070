package worker

import (
	"context"

	"go.opentelemetry.io/otel/trace"

	"github.com/dopaminestore/dopamine/command/origin"
	"github.com/dopaminestore/dopamine/domain"
	"github.com/dopaminestore/dopamine/eventstore"
	"github.com/dopaminestore/dopamine/internal/telemetry"
)

// begin starts a trace for background work: its events carry the trace's
// id, whether or not spans are recorded.
func begin(ctx context.Context, name string) (context.Context, trace.Span) {
	return telemetry.StartRoot(ctx, name)
}

// encode encodes events for the store, under the context's trace.
func encode(ctx context.Context, events ...domain.Event) ([]eventstore.NewEvent, error) {
	by := origin.Origin{Actor: domain.ActorSystem}
	return by.Encode(ctx, events...)
}
