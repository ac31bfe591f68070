package projector

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/dopaminestore/dopamine/internal/kafka"
	"github.com/dopaminestore/dopamine/internal/sleep"
)

// blockedInterval is how long a blocked projector waits, outside of the group, before it retries.
const blockedInterval = 2 * time.Second

// lastingSession is the age of a session that no blocked member has interrupted: it is much longer
// than blockedInterval.
const lastingSession = 15 * time.Second

// BlockedError is the reason why a projector applies nothing for now, with what to do about it. The
// projector continues when the reason is gone.
type BlockedError struct {
	Reason   string
	byRecord bool        // found in a record, not at the start of a session
	newer    *newerEvent // the event that it waits for, if any

	partition int32 // of the record
}

func (e *BlockedError) Error() string { return "projections: " + e.Reason }

// newerEvent is an event that only a newer program can apply.
type newerEvent struct {
	partition int32
	position  int64
}

// errTopicChanged ends a session because the topic is not the one that it began with.
var errTopicChanged = failedIn(partKafka, errors.New("the topic was recreated or repartitioned"))

// health is the state that Health reports.
type health struct {
	mu      sync.Mutex
	blocked *BlockedError
	newer   *newerEvent
}

// block records the reason. It returns true if it differs from the recorded one.
func (h *health) block(e *BlockedError) bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	changed := h.blocked == nil || h.blocked.Reason != e.Reason
	h.blocked = e
	if e.newer != nil {
		h.newer = e.newer
	}
	return changed
}

// unblock removes the reason. A reason found in a record is removed only if a batch was applied
// since. It returns true if it removed one.
func (h *health) unblock(applied bool) bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.blocked == nil || h.blocked.byRecord && !applied {
		return false
	}
	h.blocked = nil
	return true
}

// foundIn returns the partition of the record that the reason was found in, if it was found in one.
func (h *health) foundIn() (partition int32, found bool) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.blocked == nil || !h.blocked.byRecord {
		return 0, false
	}
	return h.blocked.partition, true
}

func (h *health) reason() string {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.blocked == nil {
		return ""
	}
	return h.blocked.Reason
}

func (h *health) setNewer(n *newerEvent) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.newer = n
}

func (h *health) awaited() *newerEvent {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.newer
}

// unblock records that the projector works again.
func (r *Runner) unblock(applied bool) {
	if r.health.unblock(applied) {
		r.log.Info("not blocked any more")
		r.metrics.blocked.Set(0)
		r.recordUnblocked()
	}
}

// unblockWithout removes a reason that was found in a record of a partition that this process does
// not own any more. A blocked owner leaves the group, which begins new sessions for all members, so
// a session that lasts shows that the new owner is not blocked.
func (r *Runner) unblockWithout(s *session) {
	partition, found := r.health.foundIn()
	if !found || s == nil || time.Since(s.began) < lastingSession {
		return
	}
	for _, o := range s.attached() {
		if o.checkpoints[partition] != nil {
			return
		}
	}
	r.unblock(true)
}

// warning is a reason that stops nothing.
type warning struct {
	mu   sync.Mutex
	text string
}

func (w *warning) set(text string) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.text = text
}

func (w *warning) get() string {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.text
}

// Health returns the reasons why the projector does not work as it should: what blocks it,
// projections that are behind and do not move, and a topic that keeps its records for less time than
// configured. It returns none if all is well.
func (r *Runner) Health() []string {
	var reasons []string
	for _, reason := range []string{r.health.reason(), r.noProgress.get(), r.topicWarning.get()} {
		if reason != "" {
			reasons = append(reasons, reason)
		}
	}
	return reasons
}

// newerApplied returns a *BlockedError while there is an event that only a newer program can apply.
// Until that event is applied this process stays out of the group, so that a newer one keeps the
// partition.
func (r *Runner) newerApplied(ctx context.Context) error {
	n := r.health.awaited()
	if n == nil {
		return nil
	}
	ctx, cancel := context.WithTimeout(ctx, r.cfg.ReadTimeout)
	defer cancel()
	names := make([]string, len(r.cfg.Projections))
	for i, p := range r.cfg.Projections {
		names[i] = p.Name()
	}
	var behind bool
	err := r.cfg.ReadPool.QueryRow(ctx, `
		SELECT EXISTS (SELECT FROM projection_checkpoints c JOIN projection_generations g USING (projection, generation)
		WHERE g.state = 'live' AND c.projection = ANY($1) AND c.topic = $2 AND c.partition = $3 AND c.position < $4)`,
		names, r.cfg.Topic, n.partition, n.position).Scan(&behind)
	if err != nil {
		return fmt.Errorf("check for a newer projector: %w", err)
	}
	if behind {
		return &BlockedError{Reason: r.health.reason(), byRecord: true, partition: n.partition, newer: n}
	}
	r.health.setNewer(nil)
	r.unblock(true)
	return nil
}

// watchTopic ends the subscription if the topic is no longer the session's: sarama would continue
// to read by name, with the old offsets.
func (r *Runner) watchTopic(ctx context.Context, end context.CancelCauseFunc) {
	for range sleep.After(ctx, topicInterval) {
		s := r.current()
		if s == nil {
			continue
		}
		info, err := r.describe(ctx)
		var blocked *BlockedError
		switch {
		case errors.Is(err, kafka.ErrNoTopic), errors.As(err, &blocked):
			end(err)
			return
		case err == nil && (info.TopicID != s.topic.TopicID || info.Partitions != s.topic.Partitions || info.ClusterID != s.topic.ClusterID):
			end(errTopicChanged)
			return
		}
	}
}

// databaseFailed closes the connections of the read side if a statement did not return in time,
// because the host may have disappeared without closing them.
func (r *Runner) databaseFailed(err error) error {
	if failedPart(err) == partSlow {
		r.cfg.ReadPool.Reset()
	}
	return err
}
