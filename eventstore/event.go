package eventstore

import (
	"time"

	"github.com/google/uuid"
)

// Meta is what an event says about the command that caused it. The store keeps
// it and never looks at it: a repeat may differ in it.
type Meta struct {
	Traceparent   string // W3C traceparent of the command's span
	CorrelationID string // of the whole request
	CausationID   string // id of the command
	Actor         string // who acted
}

// NewEvent is an event that is to be appended.
type NewEvent struct {
	ID            uuid.UUID // unique for ever; an append with the same ids again is a repeat
	Type          string
	SchemaVersion int    // of the payload, from 1
	Payload       []byte // JSON, kept byte for byte
	Meta          Meta
}

// Expected is the version at which an append expects its stream: Any, None, or
// exactly that many events.
type Expected int

const (
	Any  Expected = -1 // whatever is there
	None Expected = 0  // no event yet
)

// StreamAppend is what one append adds to one stream.
type StreamAppend struct {
	Stream   uuid.UUID
	Expected Expected
	Events   []NewEvent
}

// Append is what is appended all or nothing: events to one stream or several,
// and what the guards write beside them. One with guards and no events is
// legal; its repeat is not recognised, its guards must be able to tell.
type Append struct {
	Key     uuid.UUID // partition key of all its events: the product's id
	Streams []StreamAppend
	Guards  []Guarded
}

// Result says where an append lies in the log.
type Result struct {
	Position   int64     // of the last event; 0 without events
	Positions  []int64   // of each event, in the order of the append
	RecordedAt time.Time // UTC, whole milliseconds; set also where there are no events
	Repeated   bool      // the append was there already: this is the first answer again
}

// Recorded is an event as the store has it.
type Recorded struct {
	Position      int64 // from 1, without a gap
	ID            uuid.UUID
	Stream        uuid.UUID
	Version       int // in its stream, from 1
	Key           uuid.UUID
	Type          string
	SchemaVersion int
	Payload       []byte // must not be written to: rows of one read share memory
	Meta          Meta
	RecordedAt    time.Time // UTC, whole milliseconds, never falling along Position
}
