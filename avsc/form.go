package avsc

import (
	"encoding/json"
	"reflect"
	"strings"
	"sync"
	"time"

	"github.com/google/uuid"

	"github.com/dopaminestore/dopamine/domain"
)

// fields visits the fields of an event, each by the method for its type and with its name in the
// Avro schema. recordWriter copies the fields to a record; recordReader and flat set them from a
// record and from a payload. So each field is declared once, in forms.
type fields interface {
	text(name string, v *string)
	id(name string, v *uuid.UUID)
	optionalID(name string, v **uuid.UUID)
	int(name string, v *int)
	long(name string, v *int64)
	bool(name string, v *bool)
	bytes(name string, v *[]byte)
	time(name string, v *time.Time)
	optionalTime(name string, v **time.Time)
	money(amount, currency string, v *domain.Money)
	optionalMoney(amount, currency string, v **domain.Money)
	// life visits the life of a slot in milliseconds; a record has its begin and end instead.
	life(begin, end string, millis *int64)

	// constant and recorded are for fields that only a record has: a text that is not read back,
	// and the time of recording.
	constant(name, v string)
	recorded(name string)
}

// eventForm contains the codec of one event type.
type eventForm struct {
	eventType string
	slot      bool // of a slot's stream; otherwise of a product's
	// writers have a map to hand to goavro: built once and used again it encodes three times as
	// fast.
	writers *sync.Pool

	write    func(w *recordWriter, e domain.Event)
	read     func(r *recordReader) domain.Event
	fromFlat func(payload []byte) (e domain.Event, ok bool)
	fromJSON func(payload []byte) (domain.Event, error)
}

// fromPayload decodes a payload of the newest schema version.
func (form eventForm) fromPayload(payload []byte) (domain.Event, error) {
	if e, ok := form.fromFlat(payload); ok {
		return e, nil
	}
	return form.fromJSON(payload)
}

// envelope visits the fields that every record has.
func (form eventForm) envelope(f fields, e *domain.Envelope) {
	f.id("productId", &e.ProductID)
	if form.slot {
		f.id("slotId", &e.StreamID)
	}
	f.constant("traceId", e.TraceID())
	f.text("actor", &e.Actor)
	f.time("recordedAt", &e.RecordedAt)
}

// ofProduct returns the form of an event of a product's stream. visit visits the fields of the
// event in the order of its struct.
func ofProduct[E domain.Event](visit func(f fields, e *E)) eventForm { return formOf(visit, false) }

// ofSlot returns the form of an event of a slot's stream; see ofProduct.
func ofSlot[E domain.Event](visit func(f fields, e *E)) eventForm { return formOf(visit, true) }

func formOf[E domain.Event](visit func(f fields, e *E), slot bool) eventForm {
	// scratch is what a visit needs; it would otherwise be allocated for each event.
	type scratch struct {
		event E
		flat  flat
	}
	pool := sync.Pool{New: func() any { return new(scratch) }}
	release := func(s *scratch) {
		*s = scratch{}
		pool.Put(s)
	}
	names := payloadNames[E]()
	return eventForm{
		eventType: (*new(E)).EventType(),
		slot:      slot,
		writers:   &sync.Pool{New: func() any { return &recordWriter{record: record{native: map[string]any{}}} }},
		write: func(w *recordWriter, e domain.Event) {
			s := pool.Get().(*scratch)
			s.event = e.(E)
			visit(w, &s.event)
			release(s)
		},
		read: func(r *recordReader) domain.Event {
			s := pool.Get().(*scratch)
			visit(r, &s.event)
			e := s.event
			release(s)
			return e
		},
		fromFlat: func(payload []byte) (domain.Event, bool) {
			s := pool.Get().(*scratch)
			s.flat.begin(payload, names)
			visit(&s.flat, &s.event)
			e, ok := s.event, s.flat.complete()
			release(s)
			if !ok {
				return nil, false
			}
			return e, true
		},
		fromJSON: func(payload []byte) (domain.Event, error) {
			var v E
			err := json.Unmarshal(payload, &v)
			return v, err
		},
	}
}

// payloadNames returns the names of E's fields in the payload, in the order of the struct.
func payloadNames[E domain.Event]() (names []string) {
	for _, field := range reflect.VisibleFields(reflect.TypeFor[E]()) {
		name, _, _ := strings.Cut(field.Tag.Get("json"), ",")
		names = append(names, name)
	}
	return names
}

func byType(forms ...eventForm) map[string]eventForm {
	m := make(map[string]eventForm, len(forms))
	for _, form := range forms {
		m[form.eventType] = form
	}
	return m
}
