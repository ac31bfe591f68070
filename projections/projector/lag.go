package projector

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/dopaminestore/dopamine/internal/sleep"
	"github.com/dopaminestore/dopamine/projections"
)

const (
	// lagInterval is the interval at which the lag is measured.
	lagInterval = time.Second
	// lostTailInterval is the interval at which partitions are compared with what the relay
	// published.
	lostTailInterval = time.Second
	// lostTailDelay is how long a partition may deliver nothing, although the relay published more,
	// before the missing events are read from the event store.
	lostTailDelay = 5 * time.Second
)

// measureLag sets the lag metrics until ctx ends, also while this process owns no partitions, is
// blocked or waits. While Postgres does not respond, the number of events keeps its last value and
// the time since the last progress continues to grow.
func (r *Runner) measureLag(ctx context.Context) {
	if r.cfg.Published == nil {
		return
	}
	moved := map[string]time.Time{} // when each projection last advanced or was not behind
	position := map[string]int64{}  // the position then
	behind := map[string]bool{}     // whether it was behind
	for _, p := range r.cfg.Projections {
		moved[p.Name()] = time.Now()
	}
	for range sleep.Every(ctx, lagInterval) {
		var waiting []string
		all, err := r.readLag(ctx)
		now := time.Now()
		for _, s := range all {
			if s.Lag == 0 || s.Position != position[s.Projection] {
				moved[s.Projection] = now
			}
			position[s.Projection], behind[s.Projection] = s.Position, s.Lag > 0
			r.metrics.lag.WithLabelValues(s.Projection).Set(float64(s.Lag))
		}
		for name, at := range moved {
			stalled := 0.0
			if behind[name] || err != nil {
				stalled = now.Sub(at).Seconds()
			}
			r.metrics.stalled.WithLabelValues(name).Set(stalled)
			if stalled > r.cfg.StallTimeout.Seconds() {
				waiting = append(waiting, name)
			}
		}
		r.noProgress.set(noProgress(waiting, r.cfg.StallTimeout))
		if err := r.measureParked(ctx); err != nil && ctx.Err() == nil {
			r.parkedLog.Do(func() { r.log.Warn("parked keys not counted, retrying", "error", err) })
		}
	}
}

// noProgress returns the reason why Health reports projections that are behind and do not move; "" if
// there are none.
func noProgress(waiting []string, limit time.Duration) string {
	if len(waiting) == 0 {
		return ""
	}
	slices.Sort(waiting)
	return fmt.Sprintf("no progress: events wait, and for more than %s none has been applied to %s; `dopamine status` and the logs of projector and relay have the reason",
		limit, strings.Join(waiting, ", "))
}

// measureParked sets the numbers of parked keys of the live read models. The index
// parked_events_heads has one entry for each.
func (r *Runner) measureParked(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, r.cfg.ReadTimeout)
	defer cancel()
	rows, _ := r.cfg.ReadPool.Query(ctx, `
		SELECT e.projection, count(*)::float8
		FROM parked_events e JOIN projection_generations g USING (projection, generation)
		WHERE NOT e.behind AND g.state = 'live' GROUP BY 1`) // ForEachRow returns its error
	parked := map[string]float64{}
	var name string
	var keys float64
	if _, err := pgx.ForEachRow(rows, []any{&name, &keys}, func() error { parked[name] = keys; return nil }); err != nil {
		return fmt.Errorf("count the parked keys: %w", err)
	}
	for _, p := range r.cfg.Projections {
		r.metrics.parkedKeys.WithLabelValues(p.Name()).Set(parked[p.Name()])
	}
	return nil
}

// readLag reads how far the projections of this process are behind the store.
func (r *Runner) readLag(ctx context.Context) ([]projections.Status, error) {
	ctx, cancel := context.WithTimeout(ctx, r.cfg.ReadTimeout)
	defer cancel()
	head, err := r.cfg.Published(ctx)
	if err != nil {
		return nil, fmt.Errorf("read from the event store how far the relay is: %w", err)
	}
	positions, err := projections.ReadPositions(ctx, r.cfg.ReadPool, r.cfg.Topic)
	if err != nil {
		return nil, err
	}
	all := make([]projections.Status, len(r.cfg.Projections))
	for i, p := range r.cfg.Projections {
		at := head.Reached(positions[p.Name()])
		all[i] = projections.Status{Projection: p.Name(), Position: at, Lag: max(0, head.Position-at)}
	}
	return all, nil
}

// fillLostTails reads from the event store what the relay published and the topic does not deliver:
// Kafka lost it, or retention deleted it before it was read and no record follows. received has the
// time of each partition's last delivery.
func (r *Runner) fillLostTails(s *session, received map[int32]time.Time) error {
	if r.cfg.Published == nil {
		return nil
	}
	ctx := s.kafka.Context()
	head, err := r.published(ctx)
	if err != nil {
		return err
	}
	if len(head.Last) != int(s.topic.Partitions) || head.TopicID != s.topic.TopicID {
		return nil // the relay does not use this topic yet
	}
	now := time.Now()
	for _, o := range s.attached() {
		for partition, c := range o.checkpoints {
			if received[partition].IsZero() {
				received[partition] = now
			}
			if c.position >= head.Last[partition] || now.Sub(received[partition]) < lostTailDelay {
				continue
			}
			if err := r.fillLostTail(ctx, o, partition, head.Last[partition]); err != nil {
				if err := r.detach(ctx, s, o, err); err != nil {
					return err
				}
				break
			}
		}
	}
	return nil
}

// fillLostTail applies one page of a partition's events up to last.
func (r *Runner) fillLostTail(ctx context.Context, o *assignment, partition int32, last int64) error {
	at := *o.checkpoints[partition]
	missing, _, err := r.readGap(ctx, o, partition, at.position, last+1)
	if err != nil || len(missing) == 0 {
		return err
	}
	p := newPlan()
	whole := p.add(&at, missing)
	if len(p.items) > 0 {
		r.log.Warn("published events missing in the topic, filled from the event store", "projection", o.projection.Name(),
			"partition", partition, "after", o.checkpoints[partition].position, "to", at.position, "events", len(p.items))
		r.metrics.gapEvents.WithLabelValues(o.projection.Name()).Add(float64(len(p.items)))
		p.from[partition], p.to[partition] = o.checkpoints[partition], &at
		if _, err := r.execute(ctx, o, p); err != nil {
			return err
		}
	}
	if !whole {
		return p.waiting
	}
	return nil
}
