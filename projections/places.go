package projections

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/dopaminestore/dopamine/eventstore"
	"github.com/dopaminestore/dopamine/internal/kafka"
)

// place is what a process remembers of one checkpoint.
type place struct {
	offset   int64 // of the next record
	position int64
	eventID  *uuid.UUID // at position; nil at 0
	version  int64
}

// owned is what a process remembers of one projection for one session.
type owned struct {
	projection Projection
	partitions int32 // of the topic
	generation int
	places     map[int32]*place
}

// session is one assignment of partitions with the places to go on from.
type session struct {
	kafka *kafka.Session
	owned []*owned // one for each projection
}

// begin reads the places for an assignment. It is the kafka.SubscriberConfig's
// Begin.
func (r *Runner) begin(ctx context.Context, ks *kafka.Session, topic string, partitions []int32) (map[int32]int64, error) {
	info, err := kafka.DescribeTopic(ctx, r.cfg.Kafka, topic)
	if err != nil {
		return nil, err
	}
	s := &session{kafka: ks}
	if err := CheckSource(ctx, r.cfg.ReadPool, r.cfg.Store); err != nil {
		if refused := (*RefusedError)(nil); errors.As(err, &refused) {
			return nil, kafka.Fatal(refused)
		}
		return nil, err
	}
	for _, p := range r.cfg.Projections {
		o, err := r.takeOver(ctx, p, info, partitions)
		if err != nil {
			return nil, err
		}
		s.owned = append(s.owned, o)
	}
	if err := r.checkStore(ctx, s); err != nil {
		return nil, err
	}
	starts := make(map[int32]int64, len(partitions))
	for _, p := range partitions {
		for i, o := range s.owned {
			if at := o.places[p].offset; i == 0 || at < starts[p] {
				starts[p] = at
			}
		}
	}
	r.mu.Lock()
	r.session = s
	r.mu.Unlock()
	r.log.Info("partitions assigned", "partitions", partitions)
	return starts, nil
}

// takeOver makes the checkpoints that are missing, sets those of another topic
// to its beginning, and reads all.
func (r *Runner) takeOver(ctx context.Context, p Projection, topic kafka.TopicInfo, partitions []int32) (*owned, error) {
	o := &owned{projection: p, partitions: topic.Partitions}
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
			return kafka.Fatal(&RefusedError{fmt.Sprintf("topic %s has %d partitions, but %s was built from %d: products have changed their partition, and the checkpoints say nothing any more. "+
				"Rebuild it from the event store (replay %s)", r.cfg.Topic, topic.Partitions, p.Name(), recorded, p.Name())})
		}
		if !errors.Is(err, pgx.ErrNoRows) {
			return err
		}
		if _, err := tx.Exec(ctx, `
			INSERT INTO projection_checkpoints (projection, generation, topic, partition, partitions, topic_id, next_offset, position, event_id)
			SELECT $1, $2, $3, p, $4, $5, 0, g.position, g.event_id
			FROM unnest($6::int[]) p, projection_generations g WHERE g.projection = $1 AND g.generation = $2
			ON CONFLICT DO NOTHING`,
			p.Name(), o.generation, r.cfg.Topic, topic.Partitions, topic.TopicID, partitions); err != nil {
			return err
		}
		if _, err := tx.Exec(ctx, `
			UPDATE projection_checkpoints SET topic_id = $4, next_offset = 0, version = version + 1, updated_at = now()
			WHERE projection = $1 AND generation = $2 AND topic = $3 AND partition = ANY($5) AND topic_id <> $4`,
			p.Name(), o.generation, r.cfg.Topic, topic.TopicID, partitions); err != nil {
			return err
		}
		o.places, err = readPlaces(ctx, tx, p.Name(), o.generation, r.cfg.Topic, partitions)
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("read the checkpoints of %s: %w", p.Name(), err)
	}
	return o, nil
}

// liveGeneration reads which generation is live, and refuses one that was made
// by another definition of the projection.
func liveGeneration(ctx context.Context, tx pgx.Tx, p Projection, into *int) error {
	var definition int
	err := tx.QueryRow(ctx, `SELECT generation, definition FROM projection_generations WHERE projection = $1 AND state = 'live'`, p.Name()).
		Scan(into, &definition)
	if errors.Is(err, pgx.ErrNoRows) {
		return fmt.Errorf("projection %s has no live generation: is the read database migrated?", p.Name())
	}
	if ours := DefinitionOf(p); err == nil && definition != ours {
		return kafka.Fatal(&RefusedError{fmt.Sprintf("the live generation of %s has definition %d, this program writes definition %d. "+
			"Run the program that belongs to it; where this one is the newer, build the next generation with it first (replay %[1]s)", p.Name(), definition, ours)})
	}
	return err
}

const liveGenerationSQL = `SELECT generation FROM projection_generations WHERE projection = $1 AND state = 'live'`

func readPlaces(ctx context.Context, tx pgx.Tx, projection string, generation int, topic string, partitions []int32) (map[int32]*place, error) {
	rows, err := tx.Query(ctx, `
		SELECT partition, next_offset, position, event_id, version FROM projection_checkpoints
		WHERE projection = $1 AND generation = $2 AND topic = $3 AND partition = ANY($4)`, projection, generation, topic, partitions)
	if err != nil {
		return nil, err
	}
	places := make(map[int32]*place, len(partitions))
	var partition int32
	var at place
	_, err = pgx.ForEachRow(rows, []any{&partition, &at.offset, &at.position, &at.eventID, &at.version}, func() error {
		p := at
		places[partition] = &p
		return nil
	})
	if err == nil && len(places) != len(partitions) {
		err = fmt.Errorf("%d of %d checkpoints are there", len(places), len(partitions))
	}
	return places, err
}

// CheckSource refuses, with a *RefusedError, another event store than the rows
// were made of; where there are none yet it notes that they are made of this one.
func CheckSource(ctx context.Context, readPool *pgxpool.Pool, store interface {
	Identity(ctx context.Context) (eventstore.Identity, error)
}) error {
	id, err := store.Identity(ctx)
	if err != nil {
		return fmt.Errorf("read the event store's id: %w", err)
	}
	var recorded uuid.UUID
	err = readPool.QueryRow(ctx, `
		WITH made AS (INSERT INTO projection_source (store_id) VALUES ($1) ON CONFLICT DO NOTHING RETURNING store_id)
		SELECT store_id FROM made UNION ALL SELECT store_id FROM projection_source LIMIT 1`, id.Store).Scan(&recorded)
	if err != nil {
		return fmt.Errorf("read which event store the projections were made of: %w", err)
	}
	if recorded != id.Store {
		return &RefusedError{fmt.Sprintf("the read side was built from event store %s, this one is %s. Point both at the same system, or begin with an empty read database", recorded, id.Store)}
	}
	return nil
}

// checkStore refuses a store that does not have what was applied.
func (r *Runner) checkStore(ctx context.Context, s *session) error {
	seen := map[int64]bool{}
	for _, o := range s.owned {
		for partition, p := range o.places {
			if p.position == 0 || seen[p.position] {
				continue
			}
			seen[p.position] = true
			at, err := r.cfg.Store.At(ctx, p.position)
			if err != nil && !errors.Is(err, eventstore.ErrNoEvent) {
				return fmt.Errorf("read event %d from the store: %w", p.position, err)
			}
			if err != nil || at.ID != *p.eventID {
				return kafka.Fatal(&RefusedError{fmt.Sprintf("the event store does not have event %s at position %d, which %s has applied in partition %d: it was restored to an earlier moment. "+
					"Restore a store that has it, or rebuild the read side from the store as it is (replay all)", p.eventID, p.position, o.projection.Name(), partition)})
			}
		}
	}
	return nil
}

// adopt reads the places again where a checkpoint did not move. It says true
// where a replay has swapped generations and nothing else is different: this
// process still owns the partitions and may go on.
func (r *Runner) adopt(ctx context.Context, o *owned) (bool, error) {
	partitions := slices.Collect(maps.Keys(o.places))
	var generation int
	var places map[int32]*place
	err := pgx.BeginTxFunc(ctx, r.cfg.ReadPool, pgx.TxOptions{IsoLevel: pgx.RepeatableRead, AccessMode: pgx.ReadOnly}, func(tx pgx.Tx) (err error) {
		if err = liveGeneration(ctx, tx, o.projection, &generation); err != nil {
			return err
		}
		places, err = readPlaces(ctx, tx, o.projection.Name(), generation, r.cfg.Topic, partitions)
		return err
	})
	if err != nil {
		return false, fmt.Errorf("read the checkpoints of %s again: %w", o.projection.Name(), err)
	}
	if generation == o.generation {
		return false, nil
	}
	for p, now := range places {
		if now.offset != o.places[p].offset {
			return false, nil
		}
	}
	o.generation, o.places = generation, places
	return true, nil
}
