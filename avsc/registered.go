package avsc

import (
	"cmp"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"math"
	"slices"
	"sync"
	"time"

	"github.com/dopaminestore/dopamine/domain"
)

// A value in the Confluent wire format begins with this byte and the schema's
// id in a registry, four bytes in big endian.
const (
	registeredMarker = 0x00
	registeredSize   = 1 + 4
)

// Schema is the schema by which events of a type are written now.
type Schema struct {
	EventType string
	Name      string // of the record, with its namespace: the subject in a registry
	Text      string
}

// Schemas returns the schema of every event type, by name.
func Schemas() []Schema {
	all := make([]Schema, 0, len(known.current))
	for _, s := range known.current {
		all = append(all, Schema{s.eventType, s.name, s.text})
	}
	slices.SortFunc(all, func(a, b Schema) int { return cmp.Compare(a.Name, b.Name) })
	return all
}

// Registered writes values in the Confluent wire format.
type Registered struct{ ids map[string]uint32 }

// NewRegistered takes the id that a registry gave to each of Schemas, by event
// type.
func NewRegistered(ids map[string]int) (*Registered, error) {
	r := &Registered{ids: make(map[string]uint32, len(known.current))}
	for eventType := range known.current {
		id, ok := ids[eventType]
		if !ok || id < 0 || id > math.MaxUint32 {
			return nil, fmt.Errorf("the schema of %s has no id of four bytes: %d", eventType, id)
		}
		r.ids[eventType] = uint32(id)
	}
	return r, nil
}

// Marshal is like the function of that name, with an id for a fingerprint.
func (r *Registered) Marshal(dst []byte, e domain.Envelope) ([]byte, error) {
	return marshal(dst, e, r.ids)
}

var errNoRegistry = errors.New("decode Avro value: its schema has an id in a schema registry, and none was named")

// Source gives the text of the schema with an id: a schema registry.
type Source interface {
	SchemaText(ctx context.Context, id uint32) (string, error)
}

// askAgainAfter is how long a registry is not asked again for an id that it did
// not tell.
const askAgainAfter = 5 * time.Second

// Decoder reads values of both framings: a topic keeps what was written before
// there was a registry. It asks for each id once. nil reads single-object encoding
// alone.
type Decoder struct {
	source Source
	byID   sync.Map   // uint32 -> *writerSchema
	asking sync.Mutex // held while the registry is asked: whoever comes wants the same few ids
	failed map[uint32]failure
}

type failure struct {
	err  error
	till time.Time
}

// NewDecoder makes a decoder that asks source for what it does not know.
func NewDecoder(source Source) *Decoder {
	return &Decoder{source: source, failed: map[uint32]failure{}}
}

// Unmarshal is like the function of that name, for both framings. What a registry
// says beyond that is an error of its own.
func (d *Decoder) Unmarshal(ctx context.Context, value []byte, h Headers) (domain.Envelope, error) {
	if len(value) < registeredSize || value[0] != registeredMarker {
		return known.unmarshal(value, h)
	}
	if d == nil {
		return domain.Envelope{}, errNoRegistry
	}
	writer, err := d.writer(ctx, binary.BigEndian.Uint32(value[1:]))
	if err != nil {
		return domain.Envelope{}, err
	}
	return known.read(writer, value[registeredSize:], h)
}

// writer finds the schema that has the id. Only ones that this program has ever
// published are known to it, however the registry writes them.
func (d *Decoder) writer(ctx context.Context, id uint32) (*writerSchema, error) {
	if w, ok := d.byID.Load(id); ok {
		return w.(*writerSchema), nil
	}
	d.asking.Lock()
	defer d.asking.Unlock()
	if w, ok := d.byID.Load(id); ok {
		return w.(*writerSchema), nil
	}
	if f, ok := d.failed[id]; ok && time.Now().Before(f.till) {
		return nil, f.err
	}
	w, err := d.ask(ctx, id)
	if err != nil {
		if ctx.Err() == nil {
			d.failed[id] = failure{err, time.Now().Add(askAgainAfter)}
		}
		return nil, err
	}
	d.byID.Store(id, w)
	return w, nil
}

func (d *Decoder) ask(ctx context.Context, id uint32) (*writerSchema, error) {
	text, err := d.source.SchemaText(ctx, id)
	if err != nil {
		return nil, fmt.Errorf("decode Avro value: ask the registry for schema %d: %w", id, err)
	}
	fp, err := fingerprint([]byte(text))
	if err != nil {
		return nil, fmt.Errorf("decode Avro value: schema %d of the registry: %w", id, err)
	}
	if w := known.written[fp]; w != nil {
		return w, nil
	}
	return nil, fmt.Errorf("decode Avro value: schema %d of the registry: %w", id, &UnknownSchemaError{fp})
}
