package projector

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"sync"

	"github.com/ThreeDotsLabs/watermill/message"
	"github.com/google/uuid"

	"github.com/dopaminestore/dopamine/avsc"
	"github.com/dopaminestore/dopamine/domain"
	"github.com/dopaminestore/dopamine/eventstore"
	"github.com/dopaminestore/dopamine/internal/kafka"
	"github.com/dopaminestore/dopamine/projections"
)

// record is one record of the topic.
type record struct {
	msg       *message.Message
	partition int32
	offset    int64
	previous  int64  // position of the partition's event before it
	store     string // header: the history that it belongs to
	skip      bool   // it changes nothing: a mark, or an event of a lost history

	mu      sync.Mutex // projections decode on demand
	decoded bool
	item    item
}

// item is one event that a projection is to apply, or a record that takes its place.
type item struct {
	partition int32
	offset    int64 // -1 if it was read from the store
	position  int64 // 0 if it is no event of the store
	eventID   uuid.UUID
	eventType string
	product   uuid.UUID
	stream    uuid.UUID
	env       domain.Envelope
	err       error            // the reason if env is missing
	raw       *message.Message // nil if it was read from the store
}

// isEvent reports whether a record is an event of the store.
func (i item) isEvent() bool { return i.position > 0 }

// key returns the row key of the item in a projection, false if it changes no row.
func (i item) key(p projections.Projection) (uuid.UUID, bool) {
	switch {
	case !i.isEvent():
		return i.recordKey(), true
	case i.err != nil:
		return p.RawKey(i.eventType, i.product, i.stream)
	default:
		return p.Key(i.env)
	}
}

// newer reports whether only a newer program can apply the item.
func (i item) newer() bool { return avsc.IsNewer(i.err) }

// recordNamespace is the namespace of the row keys of records that are not events.
var recordNamespace = uuid.MustParse("0d5c9d0e-59f2-5c0f-8f0c-2d7f2a7b9b11")

func (i item) recordKey() uuid.UUID {
	return uuid.NewSHA1(recordNamespace, fmt.Appendf(nil, "%d/%d/%s", i.partition, i.offset, i.raw.Payload))
}

// newRecord reads the headers of a message, not its value.
func newRecord(m *message.Message, partition int32, offset int64) *record {
	r := &record{msg: m, partition: partition, offset: offset, store: m.Metadata[kafka.HeaderStore]}
	r.item = item{partition: partition, offset: offset, raw: m}
	h, err := avsc.ParseHeaders(func(name string) string { return m.Metadata[name] })
	var previous int64
	if err == nil {
		previous, err = strconv.ParseInt(m.Metadata[kafka.HeaderPreviousPosition], 10, 64)
	}
	product, keyErr := uuid.Parse(kafka.Key(m))
	switch {
	case err != nil:
		r.item.err = fmt.Errorf("the record is not an event: %w", err)
	case keyErr != nil:
		r.item.err = fmt.Errorf("the record is not an event: its key: %w", keyErr)
	case h.Position < 1 || previous < 0 || previous >= h.Position:
		r.item.err = fmt.Errorf("the record is not an event: position %d with previous-position %d", h.Position, previous)
	default:
		r.previous = previous
		r.item.position, r.item.eventID, r.item.eventType = h.Position, h.EventID, h.EventType
		r.item.product, r.item.stream = product, h.StreamID
	}
	return r
}

// decode decodes the value, once. If that fails it uses the store's copy. An error comes from the
// store and may be retried.
func (r *Runner) decode(ctx context.Context, rec *record) error {
	rec.mu.Lock()
	defer rec.mu.Unlock()
	if rec.decoded || rec.skip || !rec.item.isEvent() {
		return nil
	}
	h, err := avsc.ParseHeaders(func(name string) string { return rec.msg.Metadata[name] })
	if err == nil {
		rec.item.env, err = r.cfg.Decoder.Unmarshal(ctx, rec.msg.Payload, h)
	}
	if err == nil {
		rec.decoded = true
		return nil
	}
	r.metrics.undecodable.Inc()
	r.undecodableLog.Do(func() {
		r.log.Warn("record cannot be decoded, reading the event store's copy",
			"partition", rec.partition, "offset", rec.offset, "position", rec.item.position, "type", rec.item.eventType, "error", err)
	})
	ctx, cancel := context.WithTimeout(ctx, r.cfg.ReadTimeout)
	defer cancel()
	at, atErr := r.cfg.Store.At(ctx, rec.item.position)
	switch {
	case errors.Is(atErr, eventstore.ErrNoEvent), atErr == nil && at.ID != rec.item.eventID:
		rec.item = rec.notEvent(fmt.Errorf("the record is not an event of the store, which has another one or none at position %d: %w", rec.item.position, err))
	case atErr != nil:
		return failedIn(partEventStore, fmt.Errorf("read event %d from the event store: %w", rec.item.position, atErr))
	default:
		env, storeErr := avsc.Decode(at)
		rec.item.env = env
		if storeErr != nil {
			rec.item.err = fmt.Errorf("the record: %w; the event store's copy: %w", err, storeErr)
		}
	}
	rec.decoded = true
	return nil
}

// notEvent returns the item of a record that is no event of the store, with the reason.
func (rec *record) notEvent(reason error) item {
	return item{partition: rec.partition, offset: rec.offset, raw: rec.msg, eventType: rec.item.eventType, err: reason}
}

// fromStore returns an event of the store as an item.
func fromStore(e eventstore.Recorded, partition int32) item {
	i := item{partition: partition, offset: -1, position: e.Position, eventID: e.ID, eventType: e.Type, product: e.Key, stream: e.Stream}
	i.env, i.err = avsc.Decode(e)
	return i
}
