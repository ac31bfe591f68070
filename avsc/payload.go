package avsc

import (
	"context"
	"encoding/json"
	"fmt"
	"sync"
	"time"

	"github.com/google/uuid"

	"github.com/dopaminestore/dopamine/domain"
	"github.com/dopaminestore/dopamine/eventstore"
)

// versionOf identifies a version of a payload.
type versionOf struct {
	eventType string
	version   int
}

// payloads are the present and former versions of stored payloads.
type payloads struct {
	// upcasts convert a payload of one version to the next. The
	// newest version of an event type is the one without an upcast;
	// the first is 1.
	upcasts map[versionOf]func(payload []byte) ([]byte, error)
}

// stored are the payloads of this program.
var stored = payloads{upcasts: map[versionOf]func([]byte) ([]byte, error){
	{"RefundDue", 1}:           identifyRefund,
	{"RefundCompleted", 1}:     identifyRefund,
	{"PaymentContradicted", 1}: unchanged,
}}

// unchanged is the upcast to a version that only has a new field, whose zero value means that it is
// absent. With the version, an older program waits for a newer one instead of dropping the field
// (contract 6).
func unchanged(payload []byte) ([]byte, error) { return payload, nil }

// identifyRefund sets the id of a refund in an event written before refunds had ids to the id of
// its payment, and sets a cause (contract 5).
func identifyRefund(payload []byte) ([]byte, error) {
	var fields map[string]json.RawMessage
	if err := json.Unmarshal(payload, &fields); err != nil {
		return nil, err
	}
	fields["refundReference"] = fields["paymentId"]
	if reason, due := fields["reason"]; due {
		var text string
		if err := json.Unmarshal(reason, &text); err != nil {
			return nil, err
		}
		fields["cause"], _ = json.Marshal(causeOf(text)) // a string always can
	}
	return json.Marshal(fields)
}

// causeOf returns the cause of a refund that became due before refunds had causes.
func causeOf(reason string) domain.RefundCause {
	if reason == domain.ReasonAmountMismatch {
		return domain.RefundAmountMismatch
	}
	return domain.RefundLate
}

func (p payloads) newest(eventType string) int {
	version := 1
	for p.upcasts[versionOf{eventType, version}] != nil {
		version++
	}
	return version
}

// trialBuffers hold values that are encoded on trial and discarded.
var trialBuffers = sync.Pool{New: func() any { return new([]byte) }}

// trialTime stands for the time of recording, which is not known when an
// event is encoded for the store.
var trialTime = time.UnixMilli(0)

// Encode returns the payload of e for the event store, with its type and schema
// version. It also encodes e as Avro on trial, so that the
// relay will be able to. The error is an *UnknownEventError or a *ValueError.
func Encode(e domain.Event) (eventType string, schemaVersion int, payload []byte, err error) {
	trial := trialBuffers.Get().(*[]byte)
	defer trialBuffers.Put(trial)
	value, err := Marshal((*trial)[:0], domain.Envelope{RecordedAt: trialTime, Event: e})
	if err != nil {
		return "", 0, nil, err
	}
	*trial = value

	eventType = e.EventType()
	payload, err = json.Marshal(e)
	if err != nil {
		return "", 0, nil, fmt.Errorf("encode the payload of %s: %w", eventType, err)
	}
	return eventType, stored.newest(eventType), payload, nil
}

// ReadStream returns the events of a stream after a version.
func ReadStream(ctx context.Context, r *eventstore.Reader, stream uuid.UUID, afterVersion int) ([]domain.Envelope, error) {
	recorded, err := r.Stream(ctx, stream, afterVersion)
	if err != nil {
		return nil, err
	}
	events := make([]domain.Envelope, len(recorded))
	for i, e := range recorded {
		if events[i], err = Decode(e); err != nil {
			return nil, fmt.Errorf("decode event %d: %w", e.Position, err)
		}
	}
	return events, nil
}

// Decode returns the envelope of a stored event of any schema
// version. The error is an *UnknownEventError or an *UnknownVersionError if a
// newer program wrote it, or describes what is wrong with the payload.
func Decode(r eventstore.Recorded) (domain.Envelope, error) { return stored.decode(r) }

func (p payloads) decode(r eventstore.Recorded) (domain.Envelope, error) {
	form, ok := forms[r.Type]
	if !ok {
		return domain.Envelope{}, &UnknownEventError{r.Type}
	}
	payload, err := p.upcast(r)
	if err != nil {
		return domain.Envelope{}, err
	}
	event, err := form.fromPayload(payload)
	if err != nil {
		return domain.Envelope{}, fmt.Errorf("decode the payload of %s at position %d: %w", r.Type, r.Position, err)
	}
	return domain.Envelope{
		Position:      r.Position,
		EventID:       r.ID,
		StreamID:      r.Stream,
		StreamVersion: r.Version,
		ProductID:     r.Key,
		RecordedAt:    r.RecordedAt.UTC(),
		Traceparent:   r.Meta.Traceparent,
		CorrelationID: r.Meta.CorrelationID,
		CausationID:   r.Meta.CausationID,
		Actor:         r.Meta.Actor,
		Event:         event,
	}, nil
}

func (p payloads) upcast(r eventstore.Recorded) ([]byte, error) {
	newest := p.newest(r.Type)
	if r.SchemaVersion < 1 || r.SchemaVersion > newest {
		return nil, &UnknownVersionError{r.Type, r.SchemaVersion, newest}
	}
	payload := r.Payload
	for v := r.SchemaVersion; v < newest; v++ {
		var err error
		if payload, err = p.upcasts[versionOf{r.Type, v}](payload); err != nil {
			return nil, fmt.Errorf("upcast %s at position %d from schema version %d: %w", r.Type, r.Position, v, err)
		}
	}
	return payload, nil
}
