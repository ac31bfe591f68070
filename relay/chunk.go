package relay

import (
	"context"
	"fmt"
	"slices"
	"strconv"

	"github.com/ThreeDotsLabs/watermill/message"

	"github.com/dopaminestore/dopamine/avsc"
	"github.com/dopaminestore/dopamine/eventstore"
	"github.com/dopaminestore/dopamine/internal/kafka"
)

// chunk is what is sent at a time.
type chunk struct {
	messages []*message.Message
	end      Place // once all of it is acknowledged
	head     int64 // of the store when it was read, as far as that is known
}

// read makes chunks of what the store has beyond from.
func (r *Relay) read(ctx context.Context, from Place, out chan<- chunk) error {
	for {
		events, err := r.cfg.Store.All(ctx, from.Position, r.cfg.Chunk)
		if err != nil {
			return fmt.Errorf("read events after %d: %w", from.Position, err)
		}
		if len(events) == 0 {
			r.metrics.lag.Set(0)
			if err := r.cfg.Waker.Wait(ctx, from.Position); err != nil {
				return err
			}
			continue
		}
		c := r.encode(from, events)
		if len(events) == r.cfg.Chunk { // there is more: how much is worth a look
			if c.head, err = r.cfg.Store.Head(ctx); err != nil {
				return err
			}
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case out <- c:
		}
		from = c.end
	}
}

// encode makes the chunk of the events that follow a place.
func (r *Relay) encode(from Place, events []eventstore.Recorded) chunk {
	c := chunk{messages: make([]*message.Message, len(events)), end: from}
	c.end.Last = slices.Clone(from.Last)
	buf := make([]byte, 0, len(events)*256)
	for i, e := range events {
		p := kafka.Partition(e.Key, int32(len(c.end.Last)))
		var value []byte
		env, err := avsc.Decode(e)
		if err == nil {
			begin := len(buf)
			var grown []byte
			if grown, err = r.marshal(buf, env); err == nil {
				buf = grown
				value = buf[begin:len(buf):len(buf)]
			}
		}
		if err != nil {
			r.metrics.unencodable.Inc()
			r.log.Error("an event cannot be encoded; it is published without a value and will be set aside by the projectors",
				"position", e.Position, "eventId", e.ID, "type", e.Type, "error", err)
		}
		c.messages[i] = kafka.NewMessage(e.Key, r.headers(e, c.end.Last[p]), value)
		c.end.Last[p] = e.Position
	}
	last := events[len(events)-1]
	c.end.Position, c.end.EventID = last.Position, last.ID
	return c
}

// headers are the record's; previous is the position before it in its partition.
func (r *Relay) headers(e eventstore.Recorded, previous int64) map[string]string {
	h := make(map[string]string, 11)
	avsc.Headers{
		EventID: e.ID, EventType: e.Type, StreamID: e.Stream, StreamVersion: e.Version, Position: e.Position,
		Traceparent: e.Meta.Traceparent, CorrelationID: e.Meta.CorrelationID, CausationID: e.Meta.CausationID,
	}.Each(func(name, text string) { h[name] = text })
	h[kafka.HeaderPreviousPosition] = strconv.FormatInt(previous, 10)
	h[kafka.HeaderStore] = r.identity.String()
	return h
}
