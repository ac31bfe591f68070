package relay

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/ThreeDotsLabs/watermill/message"
	"github.com/cenkalti/backoff/v5"
	"golang.org/x/sync/errgroup"

	"github.com/dopaminestore/dopamine/internal/failpoint"
	"github.com/dopaminestore/dopamine/internal/kafka"
	"github.com/dopaminestore/dopamine/internal/sleep"
)

// topicInterval is the interval at which a leader checks that the topic is still
// the one with which its term began.
const topicInterval = 5 * time.Second

const (
	// acknowledgementTimeout is how long a chunk may wait for Kafka before the leader gives up its
	// lead: it may be the only relay that is cut off from Kafka, while its pings to Postgres keep
	// the lock.
	acknowledgementTimeout = 15 * time.Second
	// minChunk is the lower limit of the chunk size, which is reduced after a chunk that was not
	// acknowledged in time: otherwise a slow Kafka would never acknowledge one.
	minChunk = 50
)

// publishChunks publishes chunk after chunk. The next one is read and encoded while one
// is being published.
func (r *Relay) publishChunks(ctx context.Context, lead *leadership, from Checkpoint) error {
	group, ctx := errgroup.WithContext(ctx)
	chunks := make(chan chunk)
	group.Go(func() error {
		defer close(chunks)
		return r.read(ctx, from, chunks)
	})
	group.Go(func() error { return r.publish(ctx, lead, from, chunks) })
	group.Go(func() error { return r.watchTopic(ctx, from) })
	return group.Wait()
}

// publish sends the chunks and saves the checkpoint after each.
func (r *Relay) publish(ctx context.Context, lead *leadership, from Checkpoint, chunks <-chan chunk) error {
	out := &sender{open: func() (message.Publisher, error) { return r.open(int32(len(from.Last))) }}
	defer out.close()
	for c := range chunks {
		if len(c.messages) > 0 {
			began := time.Now()
			err := r.send(ctx, out, c)
			r.adjustChunk(err, time.Since(began))
			if err != nil {
				return err
			}
			failpoint.Hit(failpoint.RelayCheckpointBefore)
			if err := lead.do(ctx, c.end.save); err != nil {
				return err
			}
			failpoint.Hit(failpoint.RelayCheckpointAfter)
			traceChunk(ctx, r.cfg.Topic, c, began)
			r.metrics.published.Add(float64(len(c.messages)))
			r.metrics.chunkSeconds.Observe(time.Since(began).Seconds())
			r.metrics.position.Set(float64(c.end.Position))
			r.lag.saved(c.end.Position)
		}
		if c.then != nil {
			return c.then
		}
	}
	return context.Cause(ctx)
}

// adjustChunk reduces the chunk size after a chunk that was not acknowledged in time, and increases
// it after one that took far less.
func (r *Relay) adjustChunk(err error, took time.Duration) {
	limit, most := r.chunk.Load(), int64(r.cfg.Chunk)
	failed := (*kafkaError)(nil)
	switch {
	case errors.As(err, &failed):
		r.chunk.Store(max(min(minChunk, most), limit/4))
	case err == nil && took < r.ackTimeout/4:
		r.chunk.Store(min(most, 2*limit))
	}
}

// send sends the chunk until all of it is acknowledged, or ctx ends because the relay
// stops, no longer leads, or the topic was replaced. It fails with a *kafkaError after
// acknowledgementTimeout. What is in progress then may still arrive, as it may from a deposed
// leader: it only repeats.
func (r *Relay) send(ctx context.Context, out *sender, c chunk) error {
	ctx, cancel := context.WithTimeoutCause(ctx, r.ackTimeout, &kafkaError{fmt.Errorf("no acknowledgement from Kafka for %s", r.ackTimeout)})
	defer cancel()
	wait := backoff.NewExponentialBackOff()
	wait.InitialInterval, wait.MaxInterval = 50*time.Millisecond, 2*time.Second
	for {
		failpoint.Hit(failpoint.PublishBefore)
		err := out.publish(ctx, r.cfg.Topic, c.messages)
		if err == nil {
			err = failpoint.Error(failpoint.PublishAfter)
		}
		if err == nil || ctx.Err() != nil {
			return context.Cause(ctx)
		}
		r.metrics.failedChunks.Inc()
		r.log.Warn("publish failed, retrying the same chunk", "events", len(c.messages), "to", c.end.Position, "error", err)
		if sleep.For(ctx, wait.NextBackOff()) != nil {
			return context.Cause(ctx)
		}
	}
}

// watchTopic fails once the topic no longer exists, or is another one: the
// next term creates it, or starts with it. An unreachable Kafka is not an error
// here.
func (r *Relay) watchTopic(ctx context.Context, from Checkpoint) error {
	for range sleep.After(ctx, topicInterval) {
		topic, err := r.describe(ctx)
		switch {
		case errors.Is(err, kafka.ErrNoTopic):
			return err
		case err == nil && (topic.TopicID != from.TopicID || topic.ClusterID != from.ClusterID):
			return fmt.Errorf("topic %s was recreated", r.cfg.Topic)
		case err == nil:
			if reason := r.cfg.TopicSettings.Mismatch(r.cfg.Topic, topic); reason != "" {
				return &BlockedError{reason} // partitions were added
			}
			r.checkRetention(topic)
		}
	}
	return context.Cause(ctx)
}

// ensureTopic creates the topic if it is missing. It is bounded, so that a relay that cannot do
// that does not keep the lead.
func (r *Relay) ensureTopic(ctx context.Context) (kafka.TopicInfo, error) {
	ctx, cancel := context.WithTimeout(ctx, acknowledgementTimeout)
	defer cancel()
	info, err := kafka.EnsureTopic(ctx, r.cfg.Kafka, r.cfg.Topic, r.cfg.TopicSettings)
	if err != nil {
		return info, &kafkaError{err}
	}
	return info, nil
}

func (r *Relay) describe(ctx context.Context) (kafka.TopicInfo, error) {
	ctx, cancel := context.WithTimeout(ctx, statementTimeout)
	defer cancel()
	return kafka.DescribeTopic(ctx, r.cfg.Kafka, r.cfg.Topic)
}
