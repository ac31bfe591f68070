package projector

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/ThreeDotsLabs/watermill/message"
	"github.com/cenkalti/backoff/v5"
	"golang.org/x/time/rate"

	"github.com/dopaminestore/dopamine/internal/guard"
	"github.com/dopaminestore/dopamine/internal/kafka"
	"github.com/dopaminestore/dopamine/internal/sleep"
	"github.com/dopaminestore/dopamine/projections"
)

const (
	// requestInterval is the interval at which the owner of a partition polls for requests to retry
	// or skip parked events.
	requestInterval = time.Second
	// viewInterval is the interval at which the views are compared with the live generations.
	viewInterval = 5 * time.Second
	// topicInterval is the interval at which a session checks that the topic is still the one that
	// it began with.
	topicInterval = 3 * time.Second
	// missingTopicInterval is the interval at which a missing topic is polled for. The relay
	// creates it.
	missingTopicInterval = 250 * time.Millisecond
	// missingTopicLogInterval is the interval at which a missing topic is logged.
	missingTopicLogInterval = time.Minute
	// missingTopicGrace is how long after the start a missing topic is not logged.
	missingTopicGrace = 5 * time.Second
)

// Runner is one projector process.
type Runner struct {
	cfg     Config
	log     *slog.Logger
	metrics *metrics
	health  health

	undecodableLog rate.Sometimes // a topic may have many such records; the metric counts all
	parkedLog      rate.Sometimes
	topicWarning   warning
	noProgress     warning // set while events wait and nothing has moved for StallTimeout
	// The maximum number of events per transaction of a batch and of a request, by projection. It is
	// lower after one that took too long. Batches do not raise the limit of requests.
	batchLimits, requestLimits map[string]*atomic.Int64

	catchingUp sync.WaitGroup // detached projections

	mu      sync.Mutex
	session *session // the newest
}

// NewRunner returns a projector; Run starts it.
func NewRunner(cfg Config) *Runner {
	cfg = cfg.withDefaults()
	r := &Runner{
		cfg: cfg, log: cfg.Logger.With("component", "projector"), metrics: newMetrics(cfg.Registerer, cfg.Projections),
		undecodableLog: rate.Sometimes{First: 10, Interval: time.Second}, parkedLog: rate.Sometimes{Interval: time.Minute},
		batchLimits: map[string]*atomic.Int64{}, requestLimits: map[string]*atomic.Int64{},
	}
	for _, p := range cfg.Projections {
		batch, request := &atomic.Int64{}, &atomic.Int64{}
		batch.Store(int64(cfg.MaxBatch))
		request.Store(requestPage)
		r.batchLimits[p.Name()], r.requestLimits[p.Name()] = batch, request
	}
	return r
}

// Run projects until ctx ends (nil) or it must refuse (*projections.RefusedError). All other
// errors are retried; Health reports what keeps it from applying events.
//
// While it cannot work it stays out of the consumer group, so that other processes take its
// partitions.
func (r *Runner) Run(ctx context.Context) error {
	var measuring sync.WaitGroup
	measured, stop := context.WithCancel(ctx)
	defer measuring.Wait()
	defer stop()
	guard.Go(&measuring, r.log, "measure the projections' lag", func() { r.measureLag(measured) })
	wait := newBackoff()
	// At a first start the relay creates the topic within a moment, so that is not logged.
	missingLogged := time.Now().Add(missingTopicGrace - missingTopicLogInterval)
	for {
		began := time.Now()
		err := guard.Run(r.log, "project events", func() error { return r.run(ctx) })
		if ctx.Err() != nil {
			return nil
		}
		if refused := (*projections.RefusedError)(nil); errors.As(err, &refused) {
			return refused
		}
		if time.Since(began) > wait.MaxInterval {
			wait.Reset()
		}
		pause := wait.NextBackOff()
		blocked := (*BlockedError)(nil)
		switch {
		case errors.As(err, &blocked):
			if r.health.block(blocked) {
				r.log.Error("blocked, no event is applied", "reason", blocked.Reason)
			}
			r.metrics.blocked.Set(1)
			r.recordBlocked(ctx, blocked.Reason)
			pause = blockedInterval
		case errors.Is(err, kafka.ErrNoTopic):
			pause = missingTopicInterval
			if time.Since(missingLogged) >= missingTopicLogInterval {
				missingLogged = time.Now()
				r.log.Warn("topic does not exist, waiting", "topic", r.cfg.Topic)
			}
		default:
			r.metrics.failed(err)
			r.log.Warn("projecting ended, retrying", "error", err)
		}
		if sleep.For(ctx, pause) != nil {
			return nil
		}
	}
}

func newBackoff() *backoff.ExponentialBackOff {
	wait := backoff.NewExponentialBackOff()
	wait.InitialInterval, wait.MaxInterval = 100*time.Millisecond, 5*time.Second
	return wait
}

// run joins the group and applies the records that it receives, until something fails.
func (r *Runner) run(ctx context.Context) error {
	// Check what a member needs before it takes partitions from others.
	if _, err := r.describe(ctx); err != nil {
		return err
	}
	if _, err := r.checkSource(ctx); err != nil {
		return r.databaseFailed(err)
	}
	if err := r.newerApplied(ctx); err != nil {
		return r.databaseFailed(err)
	}
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	sub, err := kafka.NewSubscriber(kafka.SubscriberConfig{
		Cluster: r.cfg.Kafka, Group: r.cfg.Group, Begin: r.begin, SessionTimeout: r.cfg.SessionTimeout,
		Failed: func(err error) { r.metrics.failed(failedIn(partKafka, err)) }, Logger: r.log,
	})
	if err != nil {
		return failedIn(partKafka, err)
	}
	defer r.catchingUp.Wait()
	defer sub.Close() //nolint:errcheck // nothing is lost with it
	messages, err := sub.Subscribe(ctx, r.cfg.Topic)
	if err != nil {
		return failedIn(partKafka, err)
	}
	var watching sync.WaitGroup
	defer watching.Wait()
	defer cancel(nil)
	guard.Go(&watching, r.log, "watch the topic", func() { r.watchTopic(ctx, cancel) })
	err = r.loop(ctx, sub, messages)
	if cause := context.Cause(ctx); cause != nil && !errors.Is(cause, context.Canceled) {
		return cause
	}
	return r.databaseFailed(err)
}

// loop applies batches and requests, one after the other.
func (r *Runner) loop(ctx context.Context, sub *kafka.Subscriber, messages <-chan *message.Message) error {
	requests := time.NewTicker(requestInterval)
	defer requests.Stop()
	views := time.NewTicker(viewInterval)
	defer views.Stop()
	gaps := time.NewTicker(lostTailInterval)
	defer gaps.Stop()
	always := make(chan time.Time)
	close(always)
	var open <-chan time.Time // ready if a request has further pages
	received := map[int32]time.Time{}
	moved := newBackoff()
	for {
		s := r.current()
		var err error
		var caught <-chan caughtUp
		if s != nil {
			caught = s.caughtUp
		}
		select {
		case done := <-caught:
			err = r.attach(s.kafka.Context(), s, done)
		case <-requests.C:
			open = always
		case <-open:
			var more bool
			if open = nil; s != nil {
				more, err = r.serveRequests(s.kafka.Context(), s)
			}
			if more {
				open = always
			}
		case <-views.C:
			r.followViews(ctx)
			r.unblockWithout(s)
		case <-gaps.C:
			if s != nil && len(messages) == 0 {
				err = r.fillLostTails(s, received)
			}
		case first, ok := <-messages:
			if !ok {
				if err := sub.Err(); err != nil {
					return failedIn(partKafka, err)
				}
				return failedIn(partKafka, errors.New("the subscription ended"))
			}
			batch := collect(first, messages, r.cfg.MaxBatch)
			if s = r.current(); s != nil {
				err = r.apply(s, batch, received)
			}
		}
		switch {
		case err == nil:
			moved.Reset()
		case s.kafka.Context().Err() != nil: // the session ended
		case errors.Is(err, errMoved):
			r.log.Warn("checkpoint moved by another owner, rejoining the group", "error", err)
			s.kafka.End()
			_ = sleep.For(ctx, moved.NextBackOff())
		default:
			return err
		}
	}
}

// collect takes the records that are available, without waiting for more.
func collect(first *message.Message, more <-chan *message.Message, limit int) []*message.Message {
	batch := append(make([]*message.Message, 0, 64), first)
	for len(batch) < limit {
		select {
		case m, open := <-more:
			if !open {
				return batch
			}
			batch = append(batch, m)
		default:
			return batch
		}
	}
	return batch
}

// current returns the newest session, nil if it has ended.
func (r *Runner) current() *session {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.session == nil || r.session.kafka.Context().Err() != nil {
		return nil
	}
	return r.session
}

// apply applies a batch to every projection and acknowledges it.
func (r *Runner) apply(s *session, batch []*message.Message, received map[int32]time.Time) error {
	records := map[int32][]*record{}
	kept := batch[:0]
	for _, m := range batch {
		d := kafka.DeliveryOf(m)
		if d.Session != s.kafka {
			continue // of a session that has ended
		}
		kept = append(kept, m)
		rec := newRecord(m, d.Partition, d.Offset)
		records[d.Partition] = append(records[d.Partition], rec)
	}
	if err := r.applyRecords(s.kafka.Context(), s, records); err != nil {
		return err
	}
	for _, m := range kept {
		m.Ack()
	}
	now := time.Now()
	for p := range records {
		received[p] = now
	}
	r.unblock(true)
	return nil
}

// applyRecords applies records to every projection, by partition and in the order of offsets.
func (r *Runner) applyRecords(ctx context.Context, s *session, records map[int32][]*record) error {
	if err := r.inspect(ctx, s, records); err != nil {
		return err
	}
	attached := s.attached()
	for _, rs := range records {
		for _, rec := range rs {
			if wanted(attached, rec) {
				if err := r.decode(ctx, rec); err != nil {
					return err
				}
			}
		}
	}
	errs := make([]error, len(attached))
	var group sync.WaitGroup
	for i, o := range attached {
		group.Go(func() {
			defer guard.Log("apply a batch")
			errs[i] = guard.Run(r.log, "apply a batch to "+o.projection.Name(), func() error { return r.project(ctx, o, records) })
		})
	}
	group.Wait()
	failed := slices.IndexFunc(errs, func(err error) bool { return err != nil && !detachable(err) }) // e.g. blocked
	if failed < 0 && !slices.Contains(errs, nil) {
		failed = 0
	}
	if failed >= 0 {
		return fmt.Errorf("%s: %w", attached[failed].projection.Name(), errs[failed])
	}
	for i, o := range attached {
		if errs[i] != nil {
			if err := r.detach(ctx, s, o, errs[i]); err != nil {
				return err
			}
		}
	}
	return nil
}

// wanted reports whether any of the projections has not applied the record yet.
func wanted(all []*assignment, rec *record) bool {
	for _, o := range all {
		if c := o.checkpoints[rec.partition]; c != nil && rec.offset >= c.offset && rec.item.position > c.position {
			return true
		}
	}
	return false
}

// followViews updates the views periodically: a replay that was to do so may have been killed. One
// timeout bounds all of them, because events wait meanwhile.
func (r *Runner) followViews(ctx context.Context) {
	bounded, cancel := context.WithTimeout(ctx, r.cfg.ReadTimeout)
	defer cancel()
	for _, p := range r.cfg.Projections {
		if err := projections.FollowView(bounded, r.cfg.ReadPool, p.Name()); err != nil && !projections.LockedOut(err) && ctx.Err() == nil {
			r.log.Warn("the view may not show the live generation", "view", p.Name(), "error", err)
		}
	}
}
