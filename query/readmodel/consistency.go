package readmodel

import (
	"context"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
	"golang.org/x/sync/singleflight"

	"github.com/dopaminestore/dopamine/internal/consistency"
	"github.com/dopaminestore/dopamine/internal/kafka"
	"github.com/dopaminestore/dopamine/internal/sleep"
)

const (
	// waitLimit is how long a request waits for the positions that it specifies.
	waitLimit = 2 * time.Second
	// pollPause is the pause between two queries for the checkpoints. One query serves all waiting
	// requests, so it can be short compared with the 250 ms within which a grant must be visible.
	pollPause = 10 * time.Millisecond
)

// progress is how far each projection's live generation is: the store position of the last applied
// event, by partition.
type progress map[string]map[int32]checkpoint

type checkpoint struct {
	partitions  int32 // of the topic
	position    int64
	incarnation int64 // of the store's history that the rows were built from
}

func (p progress) add(projection string, partition int32, c checkpoint) {
	if p[projection] == nil {
		p[projection] = map[int32]checkpoint{}
	}
	p[projection][partition] = c
}

// partitions returns the topic's partition count, 0 if no event was ever applied.
func (p progress) partitions(projection string) int32 {
	for _, c := range p[projection] {
		return c.partitions
	}
	return 0
}

// reached reports whether every projection is at or past every position.
func (p progress) reached(of []string, min []consistency.ProductPosition) bool {
	for _, projection := range of {
		partitions := p.partitions(projection)
		if partitions == 0 {
			return false // no event was ever applied
		}
		for _, m := range min {
			c, ok := p[projection][kafka.Partition(m.Product, partitions)]
			switch {
			case !ok || m.Incarnation > c.incarnation:
				return false
			case m.Incarnation < c.incarnation:
				// Assigned in a history that was lost: there is nothing to wait for.
			case c.position < m.Position:
				return false
			}
		}
	}
	return true
}

const checkpointsSQL = `
SELECT c.projection, c.partition, c.partitions, c.position, coalesce((SELECT incarnation FROM projection_source), 1)
FROM projection_generations g
JOIN projection_checkpoints c USING (projection, generation)
WHERE g.state = 'live' AND c.topic = $1 AND g.projection = ANY($2)`

func collectProgress(rows pgx.Rows) (progress, error) {
	p := progress{}
	var projection string
	var partition int32
	var c checkpoint
	_, err := pgx.ForEachRow(rows, []any{&projection, &partition, &c.partitions, &c.position, &c.incarnation}, func() error {
		p.add(projection, partition, c)
		return nil
	})
	return p, err
}

// positionWaiter lets requests wait for checkpoints. However many wait, one query for the
// checkpoints runs at a time.
type positionWaiter struct {
	pool  *pgxpool.Pool
	topic string
	reads singleflight.Group
}

func newPositionWaiter(pool *pgxpool.Pool, topic string) *positionWaiter {
	return &positionWaiter{pool: pool, topic: topic}
}

// until returns when the projections have reached the positions. It returns errBehind if they have
// not at the deadline.
func (w *positionWaiter) until(ctx context.Context, deadline time.Time, of []string, min []consistency.ProductPosition) error {
	ctx, cancel := context.WithDeadlineCause(ctx, deadline, errBehind)
	defer cancel()
	ended := func() error {
		if context.Cause(ctx) == error(errBehind) {
			return errBehind
		}
		return ctx.Err()
	}
	for {
		select {
		case seen := <-w.reads.DoChan("", w.now):
			if seen.Err != nil {
				return DatabaseError("read the checkpoints", seen.Err)
			}
			if seen.Val.(progress).reached(of, min) {
				return nil
			}
		case <-ctx.Done():
			return ended()
		}
		if sleep.For(ctx, pollPause) != nil {
			return ended()
		}
	}
}

// now reads the checkpoints for all waiting requests, so the end of one request does not end it.
func (w *positionWaiter) now() (any, error) {
	ctx, cancel := context.WithTimeout(context.Background(), Timeout)
	defer cancel()
	rows, err := w.pool.Query(ctx, checkpointsSQL, w.topic, allProjections)
	if err != nil {
		return nil, err
	}
	return collectProgress(rows)
}

// queueProgress reads how far the projections are, in the batch's snapshot.
func queueProgress(b *pgx.Batch, topic string, of []string, then func(progress) error) {
	b.Queue(checkpointsSQL, topic, of).Query(func(rows pgx.Rows) error {
		p, err := collectProgress(rows)
		if err != nil {
			return err
		}
		return then(p)
	})
}

// queueReached makes a snapshot fail with errBehind unless it includes the positions: the
// checkpoints are past them and no event at or below them is parked.
func queueReached(b *pgx.Batch, topic string, of []string, min []consistency.ProductPosition) {
	queueProgress(b, topic, of, func(p progress) error {
		if !p.reached(of, min) {
			return errBehind
		}
		return nil
	})
	ids, places, incarnations := make([]uuid.UUID, len(min)), make([]int64, len(min)), make([]int64, len(min))
	for i, m := range min {
		ids[i], places[i], incarnations[i] = m.Product, m.Position, m.Incarnation
	}
	b.Queue(`
SELECT EXISTS (
    SELECT FROM projection_generations g
    JOIN parked_events p USING (projection, generation)
    JOIN unnest($2::uuid[], $3::bigint[], $4::bigint[]) AS m (product_id, place, incarnation) ON p.product_id = m.product_id AND p.position <= m.place
    WHERE g.state = 'live' AND g.projection = ANY($1) AND m.incarnation >= coalesce((SELECT incarnation FROM projection_source), 1))`,
		of, ids, places, incarnations).QueryRow(func(row pgx.Row) error {
		var parked bool
		err := row.Scan(&parked)
		if err == nil && parked {
			err = errBehind
		}
		return err
	})
}
