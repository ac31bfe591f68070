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

// Schema is the schema with which events of a type are written now.
type Schema struct {
	EventType string
	Name      string // of the record, with its namespace: the subject in a registry
	Text      string
}

// Schemas returns the schemas of all event types, by name.
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

// NewRegistered returns a Registered with the registry's id of each of Schemas, by event
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

// Marshal is like the function Marshal, with a schema id instead of a fingerprint.
func (r *Registered) Marshal(dst []byte, e domain.Envelope) ([]byte, error) {
	return marshal(dst, e, r.ids)
}

var errNoRegistry = errors.New("decode Avro value: its schema has an id in a schema registry, and none is configured")

// Source returns the text of the schema with an id: a schema registry.
type Source interface {
	SchemaText(ctx context.Context, id uint32) (string, error)
}

// retryInterval is how long an id that the registry did not return is not requested
// again.
const retryInterval = 5 * time.Second

// Decoder reads values of both framings: a topic keeps values from before
// there was a registry. It requests each id once. A nil Decoder reads only single-object
// encoding.
type Decoder struct {
	source Source
	byID   sync.Map   // uint32 -> *writerSchema
	asking sync.Mutex // held during requests: concurrent callers need the same few ids
	failed map[uint32]failure
}

type failure struct {
	err  error
	till time.Time
}

// NewDecoder returns a decoder that requests unknown ids from source.
func NewDecoder(source Source) *Decoder {
	return &Decoder{source: source, failed: map[uint32]failure{}}
}

// Unmarshal is like the function Unmarshal, for both framings. Errors of the registry
// are returned as such.
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

// writer returns the schema with the id. It must be one that this program has
// published, in whatever form the registry stores it.
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
			d.failed[id] = failure{err, time.Now().Add(retryInterval)}
		}
		return nil, err
	}
	d.byID.Store(id, w)
	return w, nil
}

func (d *Decoder) ask(ctx context.Context, id uint32) (*writerSchema, error) {
	text, err := d.source.SchemaText(ctx, id)
	if err != nil {
		return nil, fmt.Errorf("decode Avro value: request schema %d from the registry: %w", id, err)
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
