package avsc

import (
	"fmt"
	"strconv"

	"github.com/google/uuid"

	"github.com/dopaminestore/dopamine/domain"
)

// Names of the headers of a record in Kafka.
const (
	HeaderEventID       = "event-id"
	HeaderEventType     = "event-type"
	HeaderStreamID      = "stream-id"
	HeaderStreamVersion = "stream-version"
	HeaderPosition      = "position"
	HeaderTraceparent   = "traceparent"
	HeaderCorrelationID = "correlation-id"
	HeaderCausationID   = "causation-id"
)

// Headers are the part of a Kafka record that describes its event outside the value, so
// that a consumer can filter without decoding. Together with the value they form a
// complete envelope.
type Headers struct {
	EventID       uuid.UUID
	EventType     string
	StreamID      uuid.UUID
	StreamVersion int
	Position      int64
	Traceparent   string
	CorrelationID string
	CausationID   string
}

// HeadersOf returns the headers to send with e.
func HeadersOf(e domain.Envelope) Headers {
	return Headers{
		EventID:       e.EventID,
		EventType:     e.Event.EventType(),
		StreamID:      e.StreamID,
		StreamVersion: e.StreamVersion,
		Position:      e.Position,
		Traceparent:   e.Traceparent,
		CorrelationID: e.CorrelationID,
		CausationID:   e.CausationID,
	}
}

// Each calls set with the name and the text of each header.
func (h Headers) Each(set func(name, text string)) {
	set(HeaderEventID, h.EventID.String())
	set(HeaderEventType, h.EventType)
	set(HeaderStreamID, h.StreamID.String())
	set(HeaderStreamVersion, strconv.Itoa(h.StreamVersion))
	set(HeaderPosition, strconv.FormatInt(h.Position, 10))
	set(HeaderTraceparent, h.Traceparent)
	set(HeaderCorrelationID, h.CorrelationID)
	set(HeaderCausationID, h.CausationID)
}

// ParseHeaders parses what Each has set; get returns the text of a header,
// or "" if it is missing. The error names the invalid header.
func ParseHeaders(get func(name string) string) (Headers, error) {
	h := Headers{
		EventType:     get(HeaderEventType),
		Traceparent:   get(HeaderTraceparent),
		CorrelationID: get(HeaderCorrelationID),
		CausationID:   get(HeaderCausationID),
	}
	var err error
	if h.EventID, err = uuid.Parse(get(HeaderEventID)); err != nil {
		return Headers{}, fmt.Errorf("header %s: %w", HeaderEventID, err)
	}
	if h.StreamID, err = uuid.Parse(get(HeaderStreamID)); err != nil {
		return Headers{}, fmt.Errorf("header %s: %w", HeaderStreamID, err)
	}
	if h.StreamVersion, err = strconv.Atoi(get(HeaderStreamVersion)); err != nil {
		return Headers{}, fmt.Errorf("header %s: %w", HeaderStreamVersion, err)
	}
	if h.Position, err = strconv.ParseInt(get(HeaderPosition), 10, 64); err != nil {
		return Headers{}, fmt.Errorf("header %s: %w", HeaderPosition, err)
	}
	return h, nil
}
