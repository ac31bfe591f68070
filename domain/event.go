package domain

import (
	"time"

	"github.com/google/uuid"
)

// Event is a fact about a product or a slot. The set is closed:
// it consists of the structs in events_product.go, events_slot.go and
// events_payment.go.
type Event interface {
	// EventType returns the event's name in the store, in Kafka's `event-type`
	// header and in the audit: "SlotAcquired", …
	EventType() string
}

// PaymentEventTypes are the types of the events of payments. SlotEventTypes are those of all events
// in the streams of slots, which include them.
var (
	PaymentEventTypes = []string{
		"PaymentInitiated", "PaymentCancelRequested", "PaymentFailed", "PaymentCompleted", "PaymentRegranted",
		"RefundDue", "RefundPending", "RefundCompleted", "RefundFailed",
		"PaymentDisputed", "PaymentDisputeClosed", "PaymentReversed", "PaymentContradicted", "PaymentResolved",
	}
	SlotEventTypes = append([]string{"SlotAcquired", "SlotExpiringSoon", "SlotExpired", "SlotReturned"}, PaymentEventTypes...)
)

// Envelope is an event together with its metadata in the store. The
// projectors receive the same Envelope from Kafka and from the
// store.
type Envelope struct {
	Position      int64     // position in the global order, from 1
	EventID       uuid.UUID // globally unique
	StreamID      uuid.UUID // the product's id or the slot's id
	StreamVersion int       // index in its stream, from 1
	ProductID     uuid.UUID // the partition key
	RecordedAt    time.Time // UTC, whole milliseconds, never decreasing along Position
	Traceparent   string    // W3C traceparent of the command's span
	CorrelationID string    // of the whole request
	CausationID   string    // id of the command that caused it
	Actor         string    // a user's `sub`, or "system" for background work
	Event         Event
}

// TraceID returns the 32 hex digits of the envelope's traceparent, or "" if
// there is none.
func (e Envelope) TraceID() string {
	const from, to = 3, 35 // "00-" + 32 digits
	if len(e.Traceparent) < to {
		return ""
	}
	return e.Traceparent[from:to]
}

// ActorSystem is the Actor of background work: expiry, withdrawal, …
const ActorSystem = "system"
