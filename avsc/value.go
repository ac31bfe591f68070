package avsc

import (
	"encoding/binary"
	"fmt"
	"sync"

	"github.com/dopaminestore/dopamine/domain"
)

// A value in single-object encoding begins with these two bytes and the schema's
// fingerprint.
const (
	marker0, marker1 = 0xC3, 0x01
	headerSize       = 2 + 8
)

// natives are maps to hand to goavro: built once and used again it encodes
// three times as fast. A map is never used for another event type.
var natives sync.Map // event type -> *sync.Pool of map[string]any

func pooled(eventType string) *sync.Pool {
	if p, ok := natives.Load(eventType); ok {
		return p.(*sync.Pool)
	}
	p, _ := natives.LoadOrStore(eventType, &sync.Pool{New: func() any { return map[string]any{} }})
	return p.(*sync.Pool)
}

// Marshal appends e as an Avro value in single-object encoding to dst. What
// Headers carries is not in it. The error is an *UnknownEventError or a
// *ValueError.
func Marshal(dst []byte, e domain.Envelope) ([]byte, error) { return marshal(dst, e, nil) }

// marshal frames the value by the schema's id where there are ids, else by its
// fingerprint.
func marshal(dst []byte, e domain.Envelope, ids map[string]uint32) ([]byte, error) {
	if e.Event == nil {
		return nil, &UnknownEventError{}
	}
	eventType := e.Event.EventType()
	form, ok := forms[eventType]
	if !ok {
		return nil, &UnknownEventError{eventType}
	}
	pool := pooled(eventType)
	f := fields{eventType: eventType, native: pool.Get().(map[string]any)}
	defer pool.Put(f.native)

	form.write(&f, e)
	f.setID("productId", e.ProductID)
	if form.slot {
		f.setID("slotId", e.StreamID)
	}
	f.setText("traceId", e.TraceID())
	f.setText("actor", e.Actor)
	f.setTime("recordedAt", e.RecordedAt)
	if f.err != nil {
		return nil, f.err
	}
	schema := known.current[eventType]
	if ids != nil {
		dst = append(dst, registeredMarker)
		dst = binary.BigEndian.AppendUint32(dst, ids[eventType])
	} else {
		dst = append(dst, marker0, marker1)
		dst = binary.LittleEndian.AppendUint64(dst, schema.fingerprint)
	}
	dst, err := schema.codec.BinaryFromNative(dst, f.native)
	if err != nil {
		return nil, fmt.Errorf("encode %s as Avro: %w", eventType, err)
	}
	return dst, nil
}

// Unmarshal returns the envelope that was marshaled to value, in single-object
// encoding, and sent with the headers h. The value may have been written with any schema ever published.
// The error is an *UnknownSchemaError or a *ValueError, or describes what else is
// wrong with value.
func Unmarshal(value []byte, h Headers) (domain.Envelope, error) { return known.unmarshal(value, h) }

func (s *schemas) unmarshal(value []byte, h Headers) (domain.Envelope, error) {
	if len(value) < headerSize || value[0] != marker0 || value[1] != marker1 {
		return domain.Envelope{}, fmt.Errorf("decode Avro value of %d bytes: not in single-object encoding", len(value))
	}
	fp := binary.LittleEndian.Uint64(value[2:])
	writer, ok := s.written[fp]
	if !ok {
		return domain.Envelope{}, &UnknownSchemaError{fp}
	}
	return s.read(writer, value[headerSize:], h)
}

// read returns the envelope of a record that was written with the schema.
func (s *schemas) read(writer *writerSchema, record []byte, h Headers) (domain.Envelope, error) {
	native, err := s.native(writer, record)
	if err != nil {
		return domain.Envelope{}, fmt.Errorf("decode %s from Avro: %w", writer.eventType, err)
	}
	form, ok := forms[writer.eventType]
	if !ok {
		return domain.Envelope{}, &UnknownEventError{writer.eventType}
	}
	f := fields{eventType: writer.eventType, native: native}
	e := domain.Envelope{
		Position:      h.Position,
		EventID:       h.EventID,
		StreamID:      h.StreamID,
		StreamVersion: h.StreamVersion,
		ProductID:     f.id("productId"),
		RecordedAt:    f.time("recordedAt"),
		Traceparent:   h.Traceparent,
		CorrelationID: h.CorrelationID,
		CausationID:   h.CausationID,
		Actor:         f.text("actor"),
		Event:         form.read(&f),
	}
	if h.EventType != writer.eventType {
		f.fail("event-type", "the header is %q", h.EventType)
	}
	stream := e.ProductID
	if form.slot {
		stream = f.id("slotId")
	}
	if stream != h.StreamID {
		f.fail("stream-id", "the header is %s, that of the record %s", h.StreamID, stream)
	}
	if f.err != nil {
		return domain.Envelope{}, f.err
	}
	return e, nil
}

// native decodes a record with the schema with which it was written. goavro
// has no schema resolution, but it fills in defaults for missing fields
// when it encodes, so a record of an older schema is encoded and decoded once with
// the present one.
func (s *schemas) native(writer *writerSchema, record []byte) (map[string]any, error) {
	native, err := decodeAll(writer, record)
	if err != nil {
		return nil, err
	}
	current := s.current[writer.eventType]
	if current == nil || current == writer {
		return native, nil
	}
	resolved, err := current.codec.BinaryFromNative(nil, native)
	if err != nil {
		return nil, fmt.Errorf("resolve the schema with the fingerprint %016x: %w", writer.fingerprint, err)
	}
	return decodeAll(current, resolved)
}

func decodeAll(schema *writerSchema, record []byte) (map[string]any, error) {
	native, rest, err := schema.codec.NativeFromBinary(record)
	if err != nil {
		return nil, err
	}
	if len(rest) > 0 {
		return nil, fmt.Errorf("%d unexpected bytes at the end", len(rest))
	}
	return native.(map[string]any), nil
}
