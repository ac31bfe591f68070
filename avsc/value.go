package avsc

import (
	"encoding/binary"
	"fmt"

	"github.com/dopaminestore/dopamine/domain"
)

// A value in single-object encoding begins with these two bytes and the schema's
// fingerprint.
const (
	marker0, marker1 = 0xC3, 0x01
	headerSize       = 2 + 8
)

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
	w := form.writers.Get().(*recordWriter)
	defer form.writers.Put(w)
	w.begin(eventType, e)
	form.write(w, e.Event)
	form.envelope(w, &w.envelope)
	if w.err != nil {
		return nil, w.err
	}
	schema := known.current[eventType]
	if ids != nil {
		dst = append(dst, registeredMarker)
		dst = binary.BigEndian.AppendUint32(dst, ids[eventType])
	} else {
		dst = append(dst, marker0, marker1)
		dst = binary.LittleEndian.AppendUint64(dst, schema.fingerprint)
	}
	dst, err := schema.codec.BinaryFromNative(dst, w.native)
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
func (s *schemas) read(writer *writerSchema, encoded []byte, h Headers) (domain.Envelope, error) {
	native, err := s.native(writer, encoded)
	if err != nil {
		return domain.Envelope{}, fmt.Errorf("decode %s from Avro: %w", writer.eventType, err)
	}
	form, ok := forms[writer.eventType]
	if !ok {
		return domain.Envelope{}, &UnknownEventError{writer.eventType}
	}
	if complete := completions[writer.eventType]; complete != nil {
		complete(native)
	}
	r := &recordReader{record{eventType: writer.eventType, native: native}, domain.Envelope{
		Position:      h.Position,
		EventID:       h.EventID,
		StreamVersion: h.StreamVersion,
		Traceparent:   h.Traceparent,
		CorrelationID: h.CorrelationID,
		CausationID:   h.CausationID,
	}}
	e := &r.envelope
	form.envelope(r, e)
	e.Event = form.read(r)
	if h.EventType != writer.eventType {
		r.fail("event-type", "the header is %q", h.EventType)
	}
	if !form.slot {
		e.StreamID = e.ProductID
	}
	if e.StreamID != h.StreamID {
		r.fail("stream-id", "the header is %s, that of the record %s", h.StreamID, e.StreamID)
	}
	if r.err != nil {
		return domain.Envelope{}, r.err
	}
	return *e, nil
}

// completions set what an Avro default cannot express, in records that were written before refunds
// had ids and causes; see identifyRefund for payloads.
var completions = map[string]func(native map[string]any){
	"RefundDue":       completeRefund,
	"RefundCompleted": completeRefund,
}

func completeRefund(native map[string]any) {
	if native["refundReference"] == "" {
		native["refundReference"] = native["purchaseId"]
	}
	if reason, due := native["reason"].(string); due && native["cause"] == "" {
		native["cause"] = string(causeOf(reason))
	}
}

// native decodes a record with the schema with which it was written. goavro
// has no schema resolution, but it fills in defaults for missing fields
// when it encodes, so a record of an older schema is encoded and decoded once with
// the present one.
func (s *schemas) native(writer *writerSchema, encoded []byte) (map[string]any, error) {
	native, err := decodeAll(writer, encoded)
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

func decodeAll(schema *writerSchema, encoded []byte) (map[string]any, error) {
	native, rest, err := schema.codec.NativeFromBinary(encoded)
	if err != nil {
		return nil, err
	}
	if len(rest) > 0 {
		return nil, fmt.Errorf("%d unexpected bytes at the end", len(rest))
	}
	return native.(map[string]any), nil
}
