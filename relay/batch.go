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

// chunk is a batch of events that is sent at once.
type chunk struct {
	messages []*message.Message
	end      Checkpoint // once the whole chunk is acknowledged
	then     error      // what ends the term once it is saved; nil: the next chunk follows
}

// read sends chunks of the events after from.
func (r *Relay) read(ctx context.Context, from Checkpoint, out chan<- chunk) error {
	for {
		events, err := r.after(ctx, from)
		if err != nil {
			return err
		}
		if len(events) == 0 {
			if err := r.cfg.Notifier.Wait(ctx, from.Position); err != nil {
				return context.Cause(ctx)
			}
			continue
		}
		c := r.encode(from, events)
		select {
		case <-ctx.Done():
			return context.Cause(ctx)
		case out <- c:
		}
		if c.then != nil {
			return nil // publish ends the term
		}
		from = c.end
	}
}

// after returns the events that follow a checkpoint. One statement reads them with the event at the
// checkpoint: a store that was restored meanwhile may have assigned that position again, and what
// follows it would be published with a predecessor of the lost history.
func (r *Relay) after(ctx context.Context, from Checkpoint) ([]eventstore.Recorded, error) {
	limit := int(r.chunk.Load())
	if from.Position == 0 {
		events, err := r.store().ReadAll(ctx, 0, limit)
		if err != nil {
			return nil, fmt.Errorf("read the first events: %w", err)
		}
		return events, nil
	}
	events, err := r.store().ReadAll(ctx, from.Position-1, limit+1)
	if err != nil {
		return nil, fmt.Errorf("read the events from position %d: %w", from.Position, err)
	}
	if len(events) == 0 || events[0].ID != from.EventID {
		return nil, lacks(from)
	}
	return events[1:], nil
}

// encode returns the chunk of the events that follow a checkpoint, up to the first
// one that only a newer relay can publish.
func (r *Relay) encode(from Checkpoint, events []eventstore.Recorded) chunk {
	c := chunk{messages: make([]*message.Message, 0, len(events)), end: from}
	c.end.Last = slices.Clone(from.Last)
	c.end.Incarnation = r.identity.Incarnation
	buf := make([]byte, 0, len(events)*256)
	for _, e := range events {
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
		if avsc.IsNewer(err) {
			c.then = &BlockedError{fmt.Sprintf("event %d (%s) was recorded by a newer version: %v. A relay of that version publishes it; this one stands by", e.Position, e.Type, err)}
			break
		}
		if err != nil {
			r.metrics.unencodable.Inc()
			r.log.Error("event cannot be encoded, publishing it without a value", "position", e.Position, "eventId", e.ID, "type", e.Type, "error", err)
		}
		c.messages = append(c.messages, kafka.NewMessage(e.Key, r.headers(e, c.end.Last[p]), value))
		c.end.Last[p] = e.Position
		c.end.Position, c.end.EventID = e.Position, e.ID
	}
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
