package relay

import (
	"context"
	"errors"
	"sync"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/dopaminestore/dopamine/internal/sleep"
)

const (
	// lagInterval is the interval at which the lag is measured.
	lagInterval = time.Second
	// stallTimeout is how long events may wait without the checkpoint moving before Health reports it.
	stallTimeout = 30 * time.Second
)

// lag measures how far the topic is behind the store, whether or not this relay
// leads, is blocked, or waits for Kafka.
type lag struct {
	mu       sync.Mutex
	position int64
	movedAt  time.Time
}

// begin records that nothing has been measured yet.
func (l *lag) begin() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.movedAt = time.Now()
}

// saved records that the checkpoint is at a position.
func (l *lag) saved(position int64) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if position != l.position {
		l.position, l.movedAt = position, time.Now()
	}
}

// stalled returns how long events have been waiting without the checkpoint moving, at most the time
// since the measurement began.
func (l *lag) stalled(head int64) time.Duration {
	l.mu.Lock()
	defer l.mu.Unlock()
	if head <= l.position {
		l.movedAt = time.Now()
		return 0
	}
	return time.Since(l.movedAt)
}

// measureLag updates the metrics of lag until ctx ends. If Postgres does not answer
// they keep their last values, except that the stalled time grows.
func (r *Relay) measureLag(ctx context.Context) {
	r.lag.begin()
	head := int64(0)
	for range sleep.Every(ctx, lagInterval) {
		now, position, err := r.behind(ctx)
		if err == nil {
			head = now
			r.lag.saved(position)
			r.metrics.lag.Set(float64(max(0, head-position)))
		}
		stalled := r.lag.stalled(head)
		r.metrics.stalled.Set(stalled.Seconds())
		r.noProgress.Store(stalled > r.maxStall)
	}
}

// behind reads the store's head and the checkpoint's position, in that order, so
// that the difference is never too large.
func (r *Relay) behind(ctx context.Context) (head, position int64, err error) {
	ctx, cancel := context.WithTimeout(ctx, statementTimeout)
	defer cancel()
	if head, err = r.store().Head(ctx); err != nil {
		return 0, 0, err
	}
	checkpoint, err := ReadCheckpoint(ctx, r.cfg.Pool)
	if err != nil && !errors.Is(err, pgx.ErrNoRows) {
		return 0, 0, err
	}
	return head, checkpoint.Position, nil
}
