package projector

import (
	"context"
	"fmt"
	"math"
	"slices"
	"time"

	"github.com/ThreeDotsLabs/watermill/message"
	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
	"github.com/prometheus/client_golang/prometheus/testutil"

	"github.com/dopaminestore/dopamine/internal/kafka"
	"github.com/dopaminestore/dopamine/projections"
)

// ErrMoved is the error that a deposed owner gets, ErrTopicChanged that of a recreated topic.
var ErrMoved, ErrTopicChanged = errMoved, errTopicChanged

// FailedPart returns the part that an error is counted for.
func FailedPart(err error) string { return failedPart(err) }

// BatchLimit returns the current batch size of a projection.
func (r *Runner) BatchLimit(p projections.Projection) int { return r.batchLimit(p) }

// AdjustBatch adapts the batch size to the outcome of a transaction.
func (r *Runner) AdjustBatch(p projections.Projection, err error, took time.Duration) {
	r.adjust(r.batchLimits[p.Name()], r.cfg.MaxBatch, err, took)
}

// FollowViews compares the views with the live generations once.
func (r *Runner) FollowViews(ctx context.Context) { r.followViews(ctx) }

// Delivered is a message with its partition and offset.
type Delivered struct {
	Message   *message.Message
	Partition int32
	Offset    int64
}

// Owner owns all partitions, without a consumer group.
type Owner struct {
	r *Runner
	s *session
}

// TakeAllPartitions reads the checkpoints of all partitions, as an assignment does.
func (r *Runner) TakeAllPartitions(ctx context.Context, partitions int32) (*Owner, error) {
	identity, err := r.checkSource(ctx)
	if err != nil {
		return nil, err
	}
	w := &Owner{r: r, s: &session{topic: kafka.TopicInfo{TopicID: "test", Partitions: partitions}, identity: identity,
		caughtUp: make(chan caughtUp, len(r.cfg.Projections))}}
	var assigned []kafka.Assigned
	for p := range partitions {
		assigned = append(assigned, kafka.Assigned{Partition: p, Newest: math.MaxInt64})
	}
	for _, p := range r.cfg.Projections {
		o, err := r.ensureCheckpoints(ctx, p, w.s.topic, assigned)
		if err != nil {
			return nil, err
		}
		w.s.assignments = append(w.s.assignments, o)
	}
	if err := r.detachFarBehind(ctx, w.s); err != nil {
		return nil, err
	}
	return w, nil
}

// Apply applies the delivered records.
func (w *Owner) Apply(ctx context.Context, batch []Delivered) error {
	records := map[int32][]*record{}
	for _, d := range batch {
		records[d.Partition] = append(records[d.Partition], newRecord(d.Message, d.Partition, d.Offset))
	}
	return w.r.applyRecords(ctx, w.s, records)
}

// ServeRequests serves all requests to retry or skip.
func (w *Owner) ServeRequests(ctx context.Context) error {
	for {
		more, err := w.r.serveRequests(ctx, w.s)
		if err != nil || !more {
			return err
		}
	}
}

// ParkedKeys returns the gauge of a projection's parked keys.
func (w *Owner) ParkedKeys(ctx context.Context, projection string) (float64, error) {
	err := w.r.measureParked(ctx)
	return testutil.ToFloat64(w.r.metrics.parkedKeys.WithLabelValues(projection)), err
}

// ServePage serves one page of each request. It returns true if there is more to do.
func (w *Owner) ServePage(ctx context.Context) (bool, error) {
	return w.r.serveRequests(ctx, w.s)
}

// Detach applies no records to a projection until CatchUp.
func (w *Owner) Detach(projection string) { w.assignment(projection).detached = true }

// Detached returns the detached projections.
func (w *Owner) Detached() (names []string) {
	for _, o := range w.s.assignments {
		if o.detached {
			names = append(names, o.projection.Name())
		}
	}
	return names
}

// CatchUp catches a detached projection up with the others, and attaches it.
func (w *Owner) CatchUp(ctx context.Context, projection string) error {
	o := w.assignment(projection)
	err := w.r.catchUp(ctx, o, w.s.reached())
	o.detached = err != nil
	return err
}

// Attach waits until a detached projection, if any, has caught up, and attaches it if it may be. It
// returns whether it is attached.
func (w *Owner) Attach(ctx context.Context) (bool, error) {
	if len(w.s.attached()) == len(w.s.assignments) {
		return true, nil
	}
	done := <-w.s.caughtUp
	err := w.r.attach(ctx, w.s, done)
	return !done.o.detached, err
}

func (w *Owner) assignment(projection string) *assignment {
	i := slices.IndexFunc(w.s.assignments, func(o *assignment) bool { return o.projection.Name() == projection })
	return w.s.assignments[i]
}

// SetTopic sets the topic id and partition count that the owner remembers.
func (w *Owner) SetTopic(id string, partitions int32) {
	w.s.topic = kafka.TopicInfo{TopicID: id, Partitions: partitions}
}

// Offset returns the offset at which a projection continues in a partition.
func (w *Owner) Offset(projection string, partition int32) int64 {
	return w.assignment(projection).checkpoints[partition].offset
}

// Reached reports whether the live generation of each of the projections has applied every event of
// the product up to and including position. A parked event of the product at or below it counts as
// not applied. Inside a REPEATABLE READ transaction the result belongs to the same snapshot as the
// rows.
func Reached(ctx context.Context, q projections.Querier, models []string, product uuid.UUID, position int64) (bool, error) {
	rows, err := q.Query(ctx, `
		SELECT c.projection, c.partition, c.partitions,
		       c.position >= $3 AND NOT EXISTS (
		           SELECT FROM parked_events e
		           WHERE e.projection = c.projection AND e.generation = c.generation AND e.product_id = $2 AND e.position BETWEEN 1 AND $3)
		FROM projection_checkpoints c JOIN projection_generations g USING (projection, generation)
		WHERE c.projection = ANY($1) AND g.state = 'live'`, models, product, position)
	if err != nil {
		return false, fmt.Errorf("read how far projections are: %w", err)
	}
	reached := map[string]bool{}
	var name string
	var partition, partitions int32
	var there bool
	_, err = pgx.ForEachRow(rows, []any{&name, &partition, &partitions, &there}, func() error {
		if there && kafka.Partition(product, partitions) == partition {
			reached[name] = true
		}
		return nil
	})
	if err != nil {
		return false, fmt.Errorf("read how far projections are: %w", err)
	}
	for _, p := range models {
		if !reached[p] {
			return false, nil
		}
	}
	return true, nil
}

// StaysBlocked blocks the projector by a record of the partition, and returns whether it is still
// blocked in a session of that age.
func (w *Owner) StaysBlocked(partition int32, age time.Duration) bool {
	w.r.health.block(&BlockedError{Reason: "a record", byRecord: true, partition: partition})
	w.s.began = time.Now().Add(-age)
	w.r.unblockWithout(w.s)
	return w.r.health.reason() != ""
}
