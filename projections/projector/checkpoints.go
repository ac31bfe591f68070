package projector

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"

	"github.com/dopaminestore/dopamine/eventstore"
	"github.com/dopaminestore/dopamine/internal/failpoint"
	"github.com/dopaminestore/dopamine/internal/kafka"
	"github.com/dopaminestore/dopamine/projections"
)

// checkpoint is this process's copy of a row of projection_checkpoints.
type checkpoint struct {
	offset   int64 // of the next record
	position int64
	eventID  *uuid.UUID // at position; nil at 0
	version  int64
}

// assignment is what this process remembers of one projection during a session.
type assignment struct {
	projection  projections.Projection
	topicID     string
	partitions  int32 // of the topic
	generation  int
	checkpoints map[int32]*checkpoint
	// detached is set while the read model cannot be written or catches up: records are not applied
	// to it then, and only its own goroutine uses the other fields.
	detached bool
	// quiet has, for partitions whose last events are old, a position up to which all their events are
	// applied, although the checkpoint is lower: catching up does not read the store from there.
	quiet map[int32]int64
	// requested is set after a request for parked events failed, until requests are served again.
	requested bool
}

// session is one assignment of partitions and the checkpoints from which to continue.
type session struct {
	kafka       *kafka.Session
	topic       kafka.TopicInfo
	identity    eventstore.Identity
	assignments []*assignment // one per projection
	caughtUp    chan caughtUp // results of the detached ones
	began       time.Time
}

// begin reads the checkpoints for an assignment. It implements kafka.SubscriberConfig.Begin. Its
// errors name the part that failed, because the subscription returns them among Kafka's own.
func (r *Runner) begin(ctx context.Context, ks *kafka.Session, _ string, assigned []kafka.Assigned) (map[int32]int64, error) {
	starts, err := r.readStarts(ctx, ks, assigned)
	return starts, failedIn(partReadModels, err)
}

func (r *Runner) readStarts(ctx context.Context, ks *kafka.Session, assigned []kafka.Assigned) (map[int32]int64, error) {
	info, err := r.describe(ctx)
	if err != nil {
		return nil, err
	}
	s := &session{kafka: ks, topic: info, caughtUp: make(chan caughtUp, len(r.cfg.Projections)), began: time.Now()}
	if s.identity, err = r.checkSource(ctx); err != nil {
		return nil, err
	}
	for _, p := range r.cfg.Projections {
		o, err := r.ensureCheckpoints(ctx, p, info, assigned)
		if err != nil {
			return nil, err
		}
		s.assignments = append(s.assignments, o)
	}
	if err := r.checkStore(ctx, s); err != nil {
		return nil, err
	}
	if err := r.detachFarBehind(ctx, s); err != nil {
		return nil, err
	}
	starts := make(map[int32]int64, len(assigned))
	partitions := make([]int32, 0, len(assigned))
	for _, a := range assigned {
		partitions = append(partitions, a.Partition)
		for i, o := range s.attached() {
			if at := o.checkpoints[a.Partition].offset; i == 0 || at < starts[a.Partition] {
				starts[a.Partition] = at
			}
		}
	}
	for _, o := range s.assignments {
		if o.detached {
			r.startCatchUp(ks.Context(), s, o)
		}
	}
	r.mu.Lock()
	r.session = s
	r.mu.Unlock()
	r.unblock(false)
	r.log.Info("partitions assigned", "partitions", partitions)
	return starts, nil
}

// describe reads the topic's id and partition count. It refuses a topic whose partition count
// differs from the configured one, because the partition of a product depends on it.
func (r *Runner) describe(ctx context.Context) (kafka.TopicInfo, error) {
	ctx, cancel := context.WithTimeout(ctx, r.cfg.ReadTimeout)
	defer cancel()
	info, err := kafka.DescribeTopic(ctx, r.cfg.Kafka, r.cfg.Topic)
	if err != nil {
		return info, failedIn(partKafka, err)
	}
	r.topicWarning.set(r.cfg.TopicSettings.ShortRetention(r.cfg.Topic, info))
	if reason := r.cfg.TopicSettings.Mismatch(r.cfg.Topic, info); reason != "" {
		return info, &BlockedError{Reason: reason}
	}
	return info, nil
}

// checkSource checks that the event store is the one that the rows were built from.
func (r *Runner) checkSource(ctx context.Context) (eventstore.Identity, error) {
	ctx, cancel := context.WithTimeout(ctx, r.cfg.ReadTimeout)
	defer cancel()
	id, err := r.cfg.Store.Identity(ctx)
	if err != nil {
		return id, failedIn(partEventStore, fmt.Errorf("read the event store's id: %w", err))
	}
	if err := projections.CheckSource(ctx, r.cfg.ReadPool, id); err != nil {
		return id, err
	}
	var incarnation int64
	if err := r.cfg.ReadPool.QueryRow(ctx, `SELECT incarnation FROM projection_source`).Scan(&incarnation); err != nil {
		return id, fmt.Errorf("read the incarnation that the projections were built from: %w", err)
	}
	if incarnation != id.Incarnation {
		return id, &BlockedError{Reason: fmt.Sprintf("the read models are of incarnation %d, the event store is in incarnation %d: run `dopamine recover`", incarnation, id.Incarnation)}
	}
	return id, nil
}

// ensureCheckpoints inserts missing checkpoints, moves those whose offsets the topic does not have, and
// reads all of them.
//
// Offsets belong to one topic, identified by its id: in another topic they start at its first
// record. If a checkpoint's offset is below the first record, retention deleted records; if it is
// above the end, Kafka lost them. In both cases positions decide what is applied: the
// previous-position of the first record reveals what is missing, and the event store has it.
func (r *Runner) ensureCheckpoints(ctx context.Context, p projections.Projection, topic kafka.TopicInfo, assigned []kafka.Assigned) (*assignment, error) {
	ctx, cancel := context.WithTimeout(ctx, r.cfg.ReadTimeout)
	defer cancel()
	o := &assignment{projection: p, topicID: topic.TopicID, partitions: topic.Partitions}
	partitions, oldest, newest := make([]int32, len(assigned)), make([]int64, len(assigned)), make([]int64, len(assigned))
	for i, a := range assigned {
		partitions[i], oldest[i], newest[i] = a.Partition, a.Oldest, a.Newest
	}
	err := pgx.BeginFunc(ctx, r.cfg.ReadPool, func(tx pgx.Tx) error {
		if err := liveGeneration(ctx, tx, p, &o.generation); err != nil {
			return err
		}
		var recorded int32
		err := tx.QueryRow(ctx, `
			SELECT partitions FROM projection_checkpoints
			WHERE projection = $1 AND generation = $2 AND topic = $3 AND partitions <> $4 LIMIT 1`,
			p.Name(), o.generation, r.cfg.Topic, topic.Partitions).Scan(&recorded)
		if err == nil {
			return &BlockedError{Reason: fmt.Sprintf("topic %s has %d partitions, but %s was built from %d: products changed their partition, so its checkpoints are void. "+
				"Rebuild it from the event store (`dopamine replay %s`)", r.cfg.Topic, topic.Partitions, p.Name(), recorded, p.Name())}
		}
		if !errors.Is(err, pgx.ErrNoRows) {
			return err
		}
		failpoint.Hit(failpoint.ProjectTakeOver)
		if _, err := tx.Exec(ctx, `
			INSERT INTO projection_checkpoints (projection, generation, topic, partition, partitions, topic_id, next_offset, position, event_id)
			SELECT $1, $2, $3, a.partition, $4, $5, a.oldest, g.position, g.event_id
			FROM unnest($6::int[], $7::bigint[]) AS a(partition, oldest), projection_generations g WHERE g.projection = $1 AND g.generation = $2
			ON CONFLICT DO NOTHING`,
			p.Name(), o.generation, r.cfg.Topic, topic.Partitions, topic.TopicID, partitions, oldest); err != nil {
			return err
		}
		rows, err := tx.Query(ctx, `
			UPDATE projection_checkpoints c
			SET topic_id = $4, version = c.version + 1, updated_at = now(),
			    next_offset = CASE WHEN c.topic_id <> $4 THEN a.oldest ELSE least(greatest(c.next_offset, a.oldest), a.newest) END
			FROM unnest($5::int[], $6::bigint[], $7::bigint[]) AS a(partition, oldest, newest), projection_checkpoints was
			WHERE c.projection = $1 AND c.generation = $2 AND c.topic = $3 AND c.partition = a.partition
			  AND (was.projection, was.generation, was.topic, was.partition) = (c.projection, c.generation, c.topic, c.partition)
			  AND (c.topic_id <> $4 OR c.next_offset NOT BETWEEN a.oldest AND a.newest)
			RETURNING c.partition, was.next_offset, c.next_offset, was.topic_id = $4`,
			p.Name(), o.generation, r.cfg.Topic, topic.TopicID, partitions, oldest, newest)
		if err != nil {
			return err
		}
		var partition int32
		var before, after int64
		var sameTopic bool
		_, err = pgx.ForEachRow(rows, []any{&partition, &before, &after, &sameTopic}, func() error {
			r.log.Warn("topic does not have the checkpoint's offset, continuing at another", "projection", p.Name(), "partition", partition,
				"offset", before, "continue", after, "sameTopic", sameTopic)
			return nil
		})
		if err != nil {
			return err
		}
		o.checkpoints, err = readCheckpoints(ctx, tx, p.Name(), o.generation, r.cfg.Topic, partitions)
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("read the checkpoints of %s: %w", p.Name(), err)
	}
	return o, nil
}

// liveGeneration reads the number of the live generation. It refuses one that was built with
// another schema version of the projection.
func liveGeneration(ctx context.Context, tx pgx.Tx, p projections.Projection, into *int) error {
	var definition int
	err := tx.QueryRow(ctx, `SELECT generation, definition FROM projection_generations WHERE projection = $1 AND state = 'live'`, p.Name()).
		Scan(into, &definition)
	if errors.Is(err, pgx.ErrNoRows) {
		return fmt.Errorf("projection %s has no live generation: is the read database migrated?", p.Name())
	}
	if ours := projections.SchemaVersionOf(p); err == nil && definition != ours {
		return &projections.RefusedError{Reason: fmt.Sprintf("the live generation of %s has definition %d, this program writes definition %d. "+
			"Run the program that belongs to it; if this one is the newer, build the next generation with it first (replay %[1]s)", p.Name(), definition, ours)}
	}
	return err
}

const liveGenerationSQL = `SELECT generation FROM projection_generations WHERE projection = $1 AND state = 'live'`

func readCheckpoints(ctx context.Context, tx pgx.Tx, projection string, generation int, topic string, partitions []int32) (map[int32]*checkpoint, error) {
	rows, err := tx.Query(ctx, `
		SELECT partition, next_offset, position, event_id, version FROM projection_checkpoints
		WHERE projection = $1 AND generation = $2 AND topic = $3 AND partition = ANY($4)`, projection, generation, topic, partitions)
	if err != nil {
		return nil, err
	}
	all := make(map[int32]*checkpoint, len(partitions))
	var partition int32
	var at checkpoint
	_, err = pgx.ForEachRow(rows, []any{&partition, &at.offset, &at.position, &at.eventID, &at.version}, func() error {
		c := at
		all[partition] = &c
		return nil
	})
	if err == nil && len(all) != len(partitions) {
		err = fmt.Errorf("%d of %d checkpoints exist", len(all), len(partitions))
	}
	return all, err
}

// checkStore refuses a store that lacks events which were already applied.
func (r *Runner) checkStore(ctx context.Context, s *session) error {
	applied := map[int64]uuid.UUID{}
	for _, o := range s.assignments {
		for _, c := range o.checkpoints {
			if c.position > 0 {
				applied[c.position] = *c.eventID
			}
		}
	}
	return r.requireEvents(ctx, applied)
}

// requireEvents refuses a store that lacks one of the events, given by position.
func (r *Runner) requireEvents(ctx context.Context, applied map[int64]uuid.UUID) error {
	ids, err := r.storeIDs(ctx, slices.Collect(maps.Keys(applied)))
	if err != nil {
		return err
	}
	for position, id := range applied {
		if ids[position] != id {
			return &BlockedError{Reason: fmt.Sprintf(lostEvent, id, position)}
		}
	}
	return nil
}

// storeIDs reads the ids of the events at the given positions.
func (r *Runner) storeIDs(ctx context.Context, positions []int64) (map[int64]uuid.UUID, error) {
	if len(positions) == 0 {
		return nil, nil
	}
	ctx, cancel := context.WithTimeout(ctx, r.cfg.ReadTimeout)
	defer cancel()
	ids, err := r.cfg.Store.IDs(ctx, positions)
	if err != nil {
		return nil, failedIn(partEventStore, fmt.Errorf("compare %d records with the event store: %w", len(positions), err))
	}
	return ids, nil
}

// reload reads the checkpoints after one could not be advanced. It returns true if the only
// difference is that a replay has swapped generations: this process still owns the partitions and
// may continue.
func (r *Runner) reload(ctx context.Context, o *assignment) (bool, error) {
	generation, now, err := r.readOwn(ctx, o)
	if err != nil {
		return false, err
	}
	if generation == o.generation {
		return false, nil
	}
	for p, c := range now {
		if c.offset != o.checkpoints[p].offset {
			return false, nil
		}
	}
	o.generation, o.checkpoints = generation, now
	return true, nil
}

// readOwn reads the live generation of o's projection and its checkpoints of o's partitions.
func (r *Runner) readOwn(ctx context.Context, o *assignment) (generation int, now map[int32]*checkpoint, err error) {
	ctx, cancel := context.WithTimeout(ctx, r.cfg.ReadTimeout)
	defer cancel()
	partitions := slices.Collect(maps.Keys(o.checkpoints))
	err = pgx.BeginTxFunc(ctx, r.cfg.ReadPool, pgx.TxOptions{IsoLevel: pgx.RepeatableRead, AccessMode: pgx.ReadOnly}, func(tx pgx.Tx) (err error) {
		if err = liveGeneration(ctx, tx, o.projection, &generation); err != nil {
			return err
		}
		now, err = readCheckpoints(ctx, tx, o.projection.Name(), generation, r.cfg.Topic, partitions)
		return err
	})
	if err != nil {
		return 0, nil, fmt.Errorf("reload the checkpoints of %s: %w", o.projection.Name(), err)
	}
	return generation, now, nil
}
