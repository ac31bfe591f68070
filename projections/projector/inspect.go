package projector

import (
	"context"
	"fmt"
	"maps"
	"slices"

	"github.com/google/uuid"

	"github.com/dopaminestore/dopamine/avsc"
	"github.com/dopaminestore/dopamine/eventstore"
	"github.com/dopaminestore/dopamine/internal/kafka"
)

// inspect decides, before anything is written, which records belong to this store and this topic.
// It fails with errTopicChanged if the topic was repartitioned. It fails with a *BlockedError if
// the topic has records of another store, or events that the store lacks.
//
// Every record that may be applied is compared with the store, by one index lookup each, because
// the topic still has what a restore or a failover lost.
func (r *Runner) inspect(ctx context.Context, s *session, records map[int32][]*record) error {
	applied := map[int64]uuid.UUID{} // by the checkpoints' positions
	var check []int64
	attached := s.attached()
	for partition, rs := range records {
		for _, o := range attached {
			if c := o.checkpoints[partition]; c != nil && c.position > 0 {
				applied[c.position] = *c.eventID
			}
		}
		for _, rec := range rs {
			if err := r.inspectHeaders(ctx, s, rec); err != nil {
				return err
			}
			if !rec.skip && rec.item.isEvent() && wanted(attached, rec) {
				check = append(check, rec.item.position)
			}
		}
	}
	for position := range applied {
		check = append(check, position)
	}
	ids, err := r.storeIDs(ctx, check)
	if err != nil {
		return err
	}
	for position, id := range applied {
		if ids[position] != id {
			// The checks at the start of a session repeat this one.
			return &BlockedError{Reason: fmt.Sprintf(lostEvent, id, position)}
		}
	}
	for _, rs := range records {
		for _, rec := range rs {
			if rec.skip || !rec.item.isEvent() || !wanted(attached, rec) || ids[rec.item.position] == rec.item.eventID {
				continue
			}
			if s.identity.OriginOf(rec.store) == eventstore.Current {
				return restored(rec.partition, "partition %d has event %s at position %d, which the event store does not have", rec.partition, rec.item.eventID, rec.item.position)
			}
			rec.skip = true
			r.metrics.foreign.Inc()
			r.undecodableLog.Do(func() {
				r.log.Warn("record of a lost history or not of this store, skipping it", "partition", rec.partition, "offset", rec.offset,
					"position", rec.item.position, "eventId", rec.item.eventID, "store", rec.store)
			})
		}
	}
	return nil
}

// compareAgain compares the records that o has not applied with the store, after a swap of
// generations. `dopamine recover` may have made that swap, after the store was restored, while this
// process was paused between inspect and the transaction. It fails with errMoved, so that the next
// session inspects the records with the store's identity of then.
func (r *Runner) compareAgain(ctx context.Context, o *assignment, records map[int32][]*record) error {
	inspected := map[int64]uuid.UUID{}
	for partition, rs := range records {
		for _, rec := range rs {
			rec.mu.Lock() // another projection may be decoding it
			if !rec.skip && rec.item.isEvent() && rec.item.position > o.checkpoints[partition].position {
				inspected[rec.item.position] = rec.item.eventID
			}
			rec.mu.Unlock()
		}
	}
	ids, err := r.storeIDs(ctx, slices.Collect(maps.Keys(inspected)))
	if err != nil {
		return err
	}
	for position, id := range inspected {
		if id != ids[position] {
			return fmt.Errorf("%w: the event store does not have event %s at position %d any more", errMoved, id, position)
		}
	}
	return nil
}

// inspectHeaders checks the record's headers.
func (r *Runner) inspectHeaders(ctx context.Context, s *session, rec *record) error {
	switch s.identity.OriginOf(rec.store) {
	case eventstore.Foreign:
		return &BlockedError{byRecord: true, partition: rec.partition, Reason: ForeignTopic(r.cfg.Topic, rec.store, s.identity)}
	case eventstore.Later:
		return restored(rec.partition, "partition %d has a record of %s, the event store is in incarnation %d", rec.partition, rec.store, s.identity.Incarnation)
	}
	if rec.msg.Metadata[avsc.HeaderEventType] == kafka.TypeIncarnation {
		rec.skip = true
		return nil
	}
	if !rec.item.isEvent() || kafka.Partition(rec.item.product, s.topic.Partitions) == rec.partition {
		return nil
	}
	info, err := r.describe(ctx)
	if err != nil {
		return err
	}
	if info.TopicID != s.topic.TopicID || info.Partitions != s.topic.Partitions {
		return errTopicChanged
	}
	rec.item = rec.notEvent(fmt.Errorf("the record is not an event: its key belongs to partition %d", kafka.Partition(rec.item.product, s.topic.Partitions)))
	return nil
}

// ForeignTopic returns the message about a topic that has a record of another store.
func ForeignTopic(topic, named string, own eventstore.Identity) string {
	return fmt.Sprintf("topic %s has records of another event store (%s, this one is %s): give each installation a separate topic with --kafka-topic", topic, named, own)
}

// lostEvent is the reason for a checkpoint beyond the store's history.
const lostEvent = "the event store does not have event %s at position %d, which was applied" + restoreHint

const restoreHint = ": it was restored to an earlier moment. Run `dopamine recover`"

// restored returns the reason for a record that the store lacks.
func restored(partition int32, format string, args ...any) error {
	return &BlockedError{byRecord: true, partition: partition, Reason: fmt.Sprintf(format, args...) + restoreHint}
}
