package replay

import (
	"container/heap"
	"context"
	"fmt"
	"strconv"

	"github.com/google/uuid"

	"github.com/dopaminestore/dopamine/avsc"
	"github.com/dopaminestore/dopamine/domain"
	"github.com/dopaminestore/dopamine/eventstore"
	"github.com/dopaminestore/dopamine/internal/guard"
	"github.com/dopaminestore/dopamine/internal/kafka"
	"github.com/dopaminestore/dopamine/projections"
)

// Topic is the topic that a replay reads.
type Topic struct {
	Kafka   kafka.Cluster
	Name    string        // default kafka.Topic
	Decoder *avsc.Decoder // decodes records' values; nil if there is no schema registry
}

// The records of each partition form a chain: every record has the position of the one before it.
// Duplicates are skipped, a record that arrived early waits for its predecessor. A chain that lacks
// a link, or ends before what the relay has saved, is refused, because such a topic cannot yield
// the rows that the store yields. The chains are merged by position, up to what the relay had
// published at the beginning. The rest is read from the store, as at the end of every replay.

// comparePage is the number of records compared with the store at a time.
const comparePage = 500

// maxHeld is the number of records of a partition that may wait for a predecessor: far more than
// the relay sends at a time.
const maxHeld = 100_000

// link is an event read from the topic.
type link struct {
	recorded eventstore.Recorded // without payload
	event    domain.Envelope
	bad      error
}

// chain is one partition whose events are to be merged.
type chain struct {
	partition int32
	links     chan link
	head      link
}

// readTopic reads pages from the topic, as read does from the store.
func (r *runner) readTopic(ctx context.Context, pages chan<- *page) error {
	head, err := r.Published(ctx)
	if err != nil {
		return err
	}
	if head.Published == 0 {
		return nil // nothing was published: all events are read from the store
	}
	name := r.Topic.Name
	if name == "" {
		name = kafka.Topic
	}
	topic, err := kafka.DescribeTopic(ctx, r.Topic.Kafka, name)
	if err != nil {
		return err
	}
	if int(topic.Partitions) != len(head.Last) || head.TopicID != "" && topic.TopicID != head.TopicID {
		return &projections.RefusedError{Reason: fmt.Sprintf("the topic %s (%d partitions, id %s) is not the one that the relay has published to (%d partitions, id %s); replay from the store",
			name, topic.Partitions, topic.TopicID, len(head.Last), head.TopicID)}
	}
	histories, err := r.Store.Incarnations(ctx)
	if err != nil {
		return err
	}
	chains := make([]*chain, len(head.Last))
	for i := range chains {
		chains[i] = &chain{partition: int32(i), links: make(chan link, 1024)}
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	reading := make(chan error, 1)
	go func() {
		defer guard.Log("read the topic")
		err := kafka.ReadTopic(ctx, r.Topic.Kafka, name, func(ctx context.Context, p int32, records func(func(kafka.Record) bool)) error {
			if int(p) >= len(chains) {
				return &projections.RefusedError{Reason: fmt.Sprintf("the topic %s has more partitions than the %d that the relay knows; replay from the store", name, len(chains))}
			}
			return r.follow(ctx, chains[p], head.Last[p], histories, records)
		})
		for _, c := range chains {
			close(c.links)
		}
		reading <- err
	}()
	err = r.merge(ctx, chains, head, pages)
	if err != nil {
		cancel()
	}
	if readErr := <-reading; readErr != nil && (err == nil || ctx.Err() != nil) {
		return readErr
	}
	return err
}

// follow sorts a partition's records into the order of their chain, up to the position last, and
// decodes them.
func (r *runner) follow(ctx context.Context, c *chain, last int64, histories []eventstore.Incarnation, records func(func(kafka.Record) bool)) error {
	at := int64(0)
	waiting := map[int64]link{} // by the predecessor's position
	var failed error
	var page []kafka.Record // not yet compared with the store
	pass := func(l link) bool {
		select {
		case c.links <- l:
			at = l.recorded.Position
			return true
		case <-ctx.Done():
			failed = ctx.Err()
			return false
		}
	}
	take := func(rec kafka.Record) bool {
		l, previous, ok := r.link(ctx, rec)
		if !ok || l.recorded.Position <= at || l.recorded.Position > last {
			return true // not an event of this store, a duplicate, or to be read from the store later
		}
		if previous != at {
			if waiting[previous] = l; len(waiting) > maxHeld {
				failed = c.broken(at)
			}
			return failed == nil
		}
		for ok := true; ok; l, ok = waiting[at] {
			delete(waiting, previous)
			previous = l.recorded.Position
			if !pass(l) {
				return false
			}
		}
		return at < last
	}
	// A record that the store does not have belongs to a history that a restore lost. It must not
	// replace the event that now has its position. A relay that ran during the restore may have sent
	// an event of the store with a predecessor of the lost history: the recovery published it again.
	flush := func() bool {
		ids, err := r.idsOf(ctx, page)
		if err != nil {
			failed = err
			return false
		}
		for _, rec := range page {
			if !r.storeHas(rec, ids, histories) {
				continue
			}
			if !take(rec) {
				page = nil
				return false
			}
		}
		page = page[:0]
		return true
	}
	if last > 0 {
		records(func(rec kafka.Record) bool {
			if page = append(page, rec); len(page) < comparePage {
				return true
			}
			return flush()
		})
		if failed == nil && at < last && len(page) > 0 {
			flush()
		}
	}
	if failed == nil && at < last {
		failed = c.broken(at)
	}
	return failed
}

// idsOf reads the store's event ids at the records' positions.
func (r *runner) idsOf(ctx context.Context, page []kafka.Record) (map[int64]uuid.UUID, error) {
	positions := make([]int64, 0, len(page))
	for _, rec := range page {
		if position, err := strconv.ParseInt(rec.Header(avsc.HeaderPosition), 10, 64); err == nil {
			positions = append(positions, position)
		}
	}
	return r.Store.IDs(ctx, positions)
}

// storeHas reports whether the record is the event that the store has at its position, published by
// the newest incarnation that assigned the position.
func (r *runner) storeHas(rec kafka.Record, ids map[int64]uuid.UUID, histories []eventstore.Incarnation) bool {
	h, err := avsc.ParseHeaders(rec.Header)
	if err != nil || h.EventType == kafka.TypeIncarnation || ids[h.Position] != h.EventID {
		return false
	}
	var incarnation int64 // 0: of a relay that did not write the identity yet
	if named, err := eventstore.ParseIdentity(rec.Header(kafka.HeaderStore)); err == nil {
		incarnation = named.Incarnation
	}
	return !eventstore.Superseded(histories, incarnation, h.Position)
}

func (c *chain) broken(at int64) error {
	return &projections.RefusedError{Reason: fmt.Sprintf("partition %d of the topic lacks what followed position %d; replay from the store", c.partition, at)}
}

// link decodes a record. If its value cannot be decoded, the event is read from the store. A record
// without a position is not an event.
func (r *runner) link(ctx context.Context, rec kafka.Record) (l link, previous int64, ok bool) {
	h, err := avsc.ParseHeaders(rec.Header)
	if err != nil {
		return l, 0, false
	}
	if previous, err = strconv.ParseInt(rec.Header(kafka.HeaderPreviousPosition), 10, 64); err != nil {
		return l, 0, false
	}
	key, err := uuid.Parse(rec.Key)
	if err != nil {
		return l, 0, false
	}
	l.recorded = eventstore.Recorded{Position: h.Position, ID: h.EventID, Stream: h.StreamID, Version: h.StreamVersion, Key: key, Type: h.EventType}
	if l.event, l.bad = r.Topic.Decoder.Unmarshal(ctx, rec.Value, h); l.bad != nil {
		if stored, err := r.Store.At(ctx, h.Position); err == nil {
			l.event, l.bad = avsc.Decode(stored)
		}
	}
	return l, previous, true
}

// merge merges the chains by position and cuts the result into pages.
func (r *runner) merge(ctx context.Context, chains []*chain, head projections.Head, pages chan<- *page) error {
	var open byPosition
	advance := func(c *chain) error {
		select {
		case l, more := <-c.links:
			if more {
				c.head = l
				heap.Push(&open, c)
			}
			return nil
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	for _, c := range chains {
		if head.Last[c.partition] == 0 {
			continue
		}
		if err := advance(c); err != nil {
			return err
		}
	}
	for open.Len() > 0 {
		p := &page{head: head.Position, decoded: make(chan struct{})}
		close(p.decoded)
		for open.Len() > 0 && len(p.recorded) < r.page() {
			c := heap.Pop(&open).(*chain)
			if c.head.bad != nil {
				if p.bad == nil {
					p.bad = map[int]error{}
				}
				p.bad[len(p.recorded)] = c.head.bad
			}
			p.recorded = append(p.recorded, c.head.recorded)
			p.events = append(p.events, c.head.event)
			if c.head.recorded.Position == head.Last[c.partition] {
				continue // the chain has ended
			}
			if err := advance(c); err != nil {
				return err
			}
		}
		if err := r.limit.WaitN(ctx, len(p.recorded)); err != nil {
			return err
		}
		select {
		case pages <- p:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	return nil
}

// byPosition is a heap of chains, ordered by their next event.
type byPosition []*chain

func (h byPosition) Len() int { return len(h) }
func (h byPosition) Less(i, j int) bool {
	return h[i].head.recorded.Position < h[j].head.recorded.Position
}
func (h byPosition) Swap(i, j int) { h[i], h[j] = h[j], h[i] }

// Push implements heap.Interface.
func (h *byPosition) Push(x any) { *h = append(*h, x.(*chain)) }

// Pop implements heap.Interface.
func (h *byPosition) Pop() any {
	last := (*h)[len(*h)-1]
	*h = (*h)[:len(*h)-1]
	return last
}
