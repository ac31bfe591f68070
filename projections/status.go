package projections

import (
	"context"
	"fmt"
	"math"

	"github.com/jackc/pgx/v5"
)

// Querier is a pgx connection, pool or transaction.
type Querier interface {
	Query(ctx context.Context, sql string, args ...any) (pgx.Rows, error)
}

// Head is how far the event store and the relay are.
type Head struct {
	Position  int64   // of the store's last event
	Published int64   // of the last event that the relay published
	Last      []int64 // the last published position of each partition
	Topic     string  // whose checkpoints count; "": those of all topics
	TopicID   string  // of the topic that the relay publishes to
}

// Status is the progress of one projection.
type Status struct {
	Projection  string
	Generations []Generation
	Position    int64 // every event at or below it is applied, parked or skipped
	Lag         int64 // number of events in the store after it
	Parked      int64 // number of parked events, in the live generation
	ParkedKeys  int64 // number of rows that they belong to
	Skipped     int64
}

// Generation is one copy of a projection's tables.
type Generation struct {
	Number int
	State  string // live, building or old
}

// ReadStatus reads the progress of each projection, ordered by name.
func ReadStatus(ctx context.Context, q Querier, head Head) ([]Status, error) {
	var all []Status
	byName := map[string]int{}
	rows, err := q.Query(ctx, `
		SELECT g.projection, g.generation, g.state,
		       (SELECT count(*) FROM parked_events e WHERE e.projection = g.projection AND e.generation = g.generation),
		       (SELECT count(*) FROM parked_events e WHERE e.projection = g.projection AND e.generation = g.generation AND NOT behind),
		       (SELECT count(*) FROM skipped_events s WHERE s.projection = g.projection)
		FROM projection_generations g ORDER BY g.projection, g.generation`)
	if err != nil {
		return nil, fmt.Errorf("read the generations: %w", err)
	}
	var name string
	var g Generation
	var parked, keys, skipped int64
	_, err = pgx.ForEachRow(rows, []any{&name, &g.Number, &g.State, &parked, &keys, &skipped}, func() error {
		at, known := byName[name]
		if !known {
			at = len(all)
			byName[name] = at
			all = append(all, Status{Projection: name, Skipped: skipped})
		}
		all[at].Generations = append(all[at].Generations, g)
		if g.State == "live" {
			all[at].Parked, all[at].ParkedKeys = parked, keys
		}
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("read the generations: %w", err)
	}
	positions, err := ReadPositions(ctx, q, head.Topic)
	if err != nil {
		return nil, err
	}
	for i := range all {
		all[i].Position = head.Reached(positions[all[i].Projection])
		all[i].Lag = max(0, head.Position-all[i].Position)
	}
	return all, nil
}

// ReadPositions reads the live position of each partition of each projection, for one topic, or for
// all topics if topic is "".
func ReadPositions(ctx context.Context, q Querier, topic string) (map[string]map[int32]int64, error) {
	rows, err := q.Query(ctx, `
		SELECT c.projection, c.partition, c.position
		FROM projection_checkpoints c JOIN projection_generations g USING (projection, generation) WHERE g.state = 'live' AND ($1 = '' OR c.topic = $1)`, topic)
	if err != nil {
		return nil, fmt.Errorf("read the checkpoints: %w", err)
	}
	positions := map[string]map[int32]int64{}
	var name string
	var partition int32
	var position int64
	_, err = pgx.ForEachRow(rows, []any{&name, &partition, &position}, func() error {
		if positions[name] == nil {
			positions[name] = map[int32]int64{}
		}
		positions[name][partition] = position
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("read the checkpoints: %w", err)
	}
	return positions, nil
}

// Reached returns the position up to which all partitions are done. If every partition has what was
// published for it, that is the last published position; otherwise it is the lowest position of the
// partitions that do not. After a replay all partitions may be ahead of the relay; then it is the
// lowest of all partitions.
func (h Head) Reached(partitions map[int32]int64) int64 {
	reached := h.Published
	lowest := int64(math.MaxInt64)
	for p, last := range h.Last {
		at := partitions[int32(p)]
		lowest = min(lowest, at)
		if at < last {
			reached = min(reached, at)
		}
	}
	if len(h.Last) == 0 {
		return reached
	}
	return max(reached, lowest)
}
