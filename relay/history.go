package relay

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strconv"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"

	"github.com/dopaminestore/dopamine/avsc"
	"github.com/dopaminestore/dopamine/eventstore"
	"github.com/dopaminestore/dopamine/internal/kafka"
)

// tailSizes are how many records at a partition's end are compared with the
// store, one size after the other until the records covered by the checkpoint are reached. One
// is enough to find a restore; a crash leaves at most a chunk or two after the
// checkpoint.
var tailSizes = []int64{1, 100, 10_000}

// resume returns the checkpoint to continue from: the saved one if it is this
// topic's, and the store has what it names.
func (r *Relay) resume(ctx context.Context, conn *pgx.Conn, topic kafka.TopicInfo) (Checkpoint, error) {
	histories, err := eventstore.Incarnations(ctx, conn)
	if err != nil {
		return Checkpoint{}, err
	}
	current := histories[len(histories)-1]
	if !current.Marked {
		return Checkpoint{}, &BlockedError{fmt.Sprintf("incarnation %d was begun, but not completed: run `dopamine recover` again", current.Number)}
	}
	if r.identity, err = r.store().Identity(ctx); err != nil {
		return Checkpoint{}, err
	}
	from := Checkpoint{ClusterID: topic.ClusterID, TopicID: topic.TopicID, Last: make([]int64, topic.Partitions), Incarnation: r.identity.Incarnation}
	saved, err := ReadCheckpoint(ctx, conn)
	switch {
	case errors.Is(err, pgx.ErrNoRows): // nothing was ever published, or nothing that this store knows
	case err != nil:
		return Checkpoint{}, err
	default:
		if err := r.checkSaved(ctx, saved); err != nil {
			return Checkpoint{}, err
		}
		if saved.TopicID != topic.TopicID || saved.ClusterID != topic.ClusterID {
			r.log.Info("topic or cluster changed, publishing from the beginning", "topic", r.cfg.Topic, "topicId", topic.TopicID, "clusterId", topic.ClusterID)
			break
		}
		if len(saved.Last) != int(topic.Partitions) {
			return Checkpoint{}, &RefusedError{fmt.Sprintf("topic %s has %d partitions, it had %d: products would change their partition and lose their order: %s",
				r.cfg.Topic, topic.Partitions, len(saved.Last), kafka.RecreateTopic(int32(len(saved.Last))))}
		}
		from = saved
	}
	return from, nil
}

// checkSaved compares the checkpoint with the store. Both are usually part of one
// backup, so this finds little; checkTopic finds the rest.
func (r *Relay) checkSaved(ctx context.Context, saved Checkpoint) error {
	if saved.Position == 0 {
		return nil
	}
	ids, err := r.store().IDs(ctx, []int64{saved.Position})
	if err != nil {
		return err
	}
	if ids[saved.Position] != saved.EventID {
		return lacks(saved)
	}
	return nil
}

// lacks is the error of a store without the event at a checkpoint.
func lacks(at Checkpoint) error {
	return restored("the store does not have event %s at position %d, which was published", at.EventID, at.Position)
}

// restored is the error of a store that lacks what others have seen.
func restored(format string, args ...any) error {
	return &BlockedError{fmt.Sprintf(format, args...) + ": it was restored to an earlier moment. Run `dopamine recover` (docs/restore.md)"}
}

// checkTopic compares the end of each partition with the store. The topic is
// not restored with Postgres, so it has the records that the store lost.
//
// The checkpoint that it returns is lower than from if Kafka lost records that it
// had acknowledged: they are published again.
func (r *Relay) checkTopic(ctx context.Context, from Checkpoint) (Checkpoint, error) {
	lost := from.Position
	compared, done := map[int32]bool{}, map[int32]bool{}
	for _, size := range tailSizes {
		tails, err := kafka.ReadTails(ctx, r.cfg.Kafka, r.cfg.Topic, size)
		if err != nil {
			return Checkpoint{}, &kafkaError{fmt.Errorf("read the end of the topic: %w", err)}
		}
		for p, tail := range tails {
			if done[p] || int(p) >= len(from.Last) {
				continue
			}
			// The last offsets may be those of another program's transaction markers.
			if !compared[p] && (len(tail.Records) > 0 || tail.Begin <= tail.Oldest) {
				compared[p] = true
				lost = min(lost, r.lostTail(tail, from, p))
			}
			if done[p], err = r.checkTail(ctx, p, tail, from.Last[p]); err != nil {
				return Checkpoint{}, err
			}
		}
	}
	if lost == from.Position {
		return from, nil
	}
	r.log.Error("kafka lost acknowledged records, publishing them again", "topic", r.cfg.Topic, "after", lost, "to", from.Position)
	return CheckpointAt(ctx, r.store(), from, lost)
}

// lostTail returns the position after which the partition lacks acknowledged
// records; the checkpoint's position if it lacks nothing, or if retention has
// deleted all of it.
func (r *Relay) lostTail(tail kafka.Tail, from Checkpoint, p int32) int64 {
	switch {
	case from.Last[p] == 0:
		return from.Position
	case tail.Newest == 0: // never had a record
		return 0
	case len(tail.Records) == 0:
		return from.Position
	}
	last := tail.Records[len(tail.Records)-1]
	if r.identity.OriginOf(last.Header(kafka.HeaderStore)) == eventstore.Foreign {
		return from.Position // checkTail returns the error
	}
	if at, err := strconv.ParseInt(last.Header(avsc.HeaderPosition), 10, 64); err == nil && at < from.Last[p] {
		return at
	}
	return from.Position
}

// checkTail compares the last records of a partition with the store. It reports
// whether the records reach back to what the checkpoint covers.
func (r *Relay) checkTail(ctx context.Context, p int32, tail kafka.Tail, last int64) (whole bool, err error) {
	type published struct {
		position int64
		id       uuid.UUID
	}
	var check []published
	whole = tail.Begin <= tail.Oldest
	for _, rec := range slices.Backward(tail.Records) {
		origin := r.identity.OriginOf(rec.Header(kafka.HeaderStore))
		switch origin {
		case eventstore.Foreign:
			return false, &ForeignError{r.cfg.Topic, rec.Header(kafka.HeaderStore), r.identity.Store}
		case eventstore.Later:
			return false, restored("partition %d has a record of %s, the store is in incarnation %d", p, rec.Header(kafka.HeaderStore), r.identity.Incarnation)
		case eventstore.Earlier:
			continue // of a relay that was deposed by a recovery: readers skip events that the store does not have
		}
		if rec.Header(avsc.HeaderEventType) == kafka.TypeIncarnation {
			whole = true // earlier records were compared by the recovery that wrote it
			break
		}
		h, err := avsc.ParseHeaders(rec.Header)
		if err != nil || h.Position < 1 {
			continue // not an event
		}
		check = append(check, published{h.Position, h.EventID})
		if h.Position <= last {
			whole = true
			break
		}
	}
	positions := make([]int64, len(check))
	for i, c := range check {
		positions[i] = c.position
	}
	ids, err := r.store().IDs(ctx, positions)
	if err != nil {
		return false, err
	}
	for _, c := range check {
		if ids[c.position] != c.id {
			return false, restored("partition %d has event %s at position %d, the store does not", p, c.id, c.position)
		}
	}
	return whole, nil
}

// downPage is how many keys are read at a time to find a partition's last event.
const downPage = 5000

// CheckpointAt returns the checkpoint of from's topic at another position, at or
// below from's. A partition's last position is taken from from if it still holds,
// and searched for in the store otherwise.
func CheckpointAt(ctx context.Context, store Store, from Checkpoint, position int64) (Checkpoint, error) {
	to := from
	to.Position, to.EventID, to.Last = position, uuid.Nil, slices.Clone(from.Last)
	missing := 0
	for p, last := range to.Last {
		if last > position {
			to.Last[p] = 0
			missing++
		}
	}
	if position == 0 {
		return to, nil
	}
	ids, err := store.IDs(ctx, []int64{position})
	if err != nil {
		return Checkpoint{}, err
	}
	to.EventID = ids[position]
	for at := position; at > 0 && missing > 0; {
		keys, err := store.KeysDown(ctx, at, downPage)
		if err != nil {
			return Checkpoint{}, err
		}
		if len(keys) == 0 {
			break
		}
		for _, k := range keys {
			p := kafka.Partition(k.Key, int32(len(to.Last)))
			if from.Last[p] > position && to.Last[p] == 0 {
				to.Last[p] = k.Position
				missing--
			}
			at = k.Position - 1
		}
	}
	return to, nil
}

// CheckTopic returns a *ForeignError if the last record of a partition names
// another store, for processes that start. A topic that does not exist yet belongs to
// no store.
func CheckTopic(ctx context.Context, cluster kafka.Cluster, topic string, own eventstore.Identity) error {
	if _, err := kafka.DescribeTopic(ctx, cluster, topic); errors.Is(err, kafka.ErrNoTopic) {
		return nil
	} else if err != nil {
		return err
	}
	tails, err := kafka.ReadTails(ctx, cluster, topic, 1)
	if err != nil {
		return fmt.Errorf("read the end of the topic: %w", err)
	}
	for _, tail := range tails {
		for _, rec := range tail.Records {
			if named := rec.Header(kafka.HeaderStore); own.OriginOf(named) == eventstore.Foreign {
				return &ForeignError{topic, named, own.Store}
			}
		}
	}
	return nil
}
