package domain

import (
	"time"

	"github.com/google/uuid"
)

// Event is one thing that happened to a product or a slot. The set is closed:
// it is the structs in events_product.go, events_slot.go and
// events_payment.go.
type Event interface {
	// EventType is the event's name in the store, in Kafka's `event-type`
	// header and in the audit: "SlotAcquired", …
	EventType() string
}

// Envelope is an event together with what the store recorded about it. The
// projectors see the same Envelope whether it came from Kafka or from the
// store.
type Envelope struct {
	Position      int64     // place in the global order, from 1
	EventID       uuid.UUID // unique for ever
	StreamID      uuid.UUID // the product's id or the slot's id
	StreamVersion int       // place in its stream, from 1
	ProductID     uuid.UUID // whose partition the event lies in
	RecordedAt    time.Time // UTC, whole milliseconds, never falling along Position
	Traceparent   string    // W3C traceparent of the command's span
	CorrelationID string    // of the whole request
	CausationID   string    // id of the command that caused it
	Actor         string    // a user's `sub`, or "system" for what happens by itself
	Event         Event
}

// TraceID is the 32 hex digits of the envelope's traceparent, or "" where
// there is none.
func (e Envelope) TraceID() string {
	const from, to = 3, 35 // "00-" + 32 digits
	if len(e.Traceparent) < to {
		return ""
	}
	return e.Traceparent[from:to]
}

// ActorSystem is the Actor of what happens by itself: expiry, withdrawal, …
const ActorSystem = "system"
