// Package origin makes events ready for the store: encoded, with ids of their
// own, and with metadata about who and what caused them.
package origin

import (
	"context"

	"github.com/google/uuid"

	"github.com/dopaminestore/dopamine/avsc"
	"github.com/dopaminestore/dopamine/domain"
	"github.com/dopaminestore/dopamine/eventstore"
	"github.com/dopaminestore/dopamine/internal/telemetry"
)

// Origin is one command: who sent it, and its id, which its events bear as
// their cause.
type Origin struct {
	Actor   string    // a user's sub, or domain.ActorSystem
	Command uuid.UUID // made by the first Encode where it is none
}

// Encode makes events ready for the store, with ctx's trace.
func (o *Origin) Encode(ctx context.Context, events ...domain.Event) ([]eventstore.NewEvent, error) {
	if o.Command == uuid.Nil {
		o.Command = NewID()
	}
	meta := eventstore.Meta{
		Traceparent:   telemetry.Traceparent(ctx),
		CorrelationID: telemetry.TraceID(ctx),
		CausationID:   o.Command.String(),
		Actor:         o.Actor,
	}
	encoded := make([]eventstore.NewEvent, len(events))
	for n, e := range events {
		typ, version, payload, err := avsc.Encode(e)
		if err != nil {
			return nil, err
		}
		encoded[n] = eventstore.NewEvent{ID: NewID(), Type: typ, SchemaVersion: version, Payload: payload, Meta: meta}
	}
	return encoded, nil
}

// NewID is a random UUID that grows with time (version 7), kind to indexes.
func NewID() uuid.UUID { return uuid.Must(uuid.NewV7()) }
