package eventstore

import (
	"time"

	"github.com/google/uuid"
)

// Meta describes the command that caused an event. The store keeps
// it and never reads it: a repeat may differ in it.
type Meta struct {
	Traceparent   string // W3C traceparent of the command's span
	CorrelationID string // of the whole request
	CausationID   string // id of the command
	Actor         string // user or service that acted
}

// NewEvent is an event to append.
type NewEvent struct {
	ID            uuid.UUID // globally unique; another append with the same ids is a repeat
	Type          string
	SchemaVersion int    // of the payload, from 1
	Payload       []byte // JSON, stored byte for byte
	Meta          Meta
}

// Expected is the version that an append expects of its stream: Any, None, or
// the exact number of events.
type Expected int

const (
	Any  Expected = -1 // any version
	None Expected = 0  // no event yet
)

// StreamAppend contains the events that an append adds to one stream.
type StreamAppend struct {
	Stream   uuid.UUID
	Expected Expected
	Events   []NewEvent
}

// Append is appended completely or not at all: events of one stream or several,
// and the guards' writes. An append with guards and no events is valid; a
// repeat of it is not detected by the store, so its guards must detect it.
type Append struct {
	Key     uuid.UUID // partition key of all its events: the product's id
	Streams []StreamAppend
	Guards  []GuardItem
}

// Result is the location of an append in the log.
type Result struct {
	Position   int64     // of the last event; 0 without events
	Positions  []int64   // of each event, in the order of the append
	RecordedAt time.Time // UTC, whole milliseconds; set also if there are no events
	Repeated   bool      // the append existed already, and this is its first result
}

// Recorded is an event of the store.
type Recorded struct {
	Position      int64 // from 1, without a gap
	ID            uuid.UUID
	Stream        uuid.UUID
	Version       int // in its stream, from 1
	Key           uuid.UUID
	Type          string
	SchemaVersion int
	Payload       []byte // read-only: rows of one read share memory
	Meta          Meta
	RecordedAt    time.Time // UTC, whole milliseconds, never decreasing along Position
}
