package relay

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/ThreeDotsLabs/watermill/message"
	"github.com/cenkalti/backoff/v5"
	"github.com/jackc/pgx/v5"
	"golang.org/x/sync/errgroup"

	"github.com/dopaminestore/dopamine/internal/failpoint"
	"github.com/dopaminestore/dopamine/internal/kafka"
)

// sameTopicEvery is how often a leader looks whether the topic is still the one
// that it began with.
const sameTopicEvery = 5 * time.Second

// carry publishes chunk after chunk. The next one is read and encoded while
// one is on its way.
func (r *Relay) carry(ctx context.Context, conn *pgx.Conn, from Place) error {
	group, ctx := errgroup.WithContext(ctx)
	chunks := make(chan chunk)
	group.Go(func() error {
		defer close(chunks)
		return r.read(ctx, from, chunks)
	})
	group.Go(func() error {
		return r.publish(ctx, conn, from, chunks)
	})
	return group.Wait()
}

// publish sends the chunks and saves the place behind each.
func (r *Relay) publish(ctx context.Context, conn *pgx.Conn, from Place, chunks <-chan chunk) error {
	out := &sender{open: func() (message.Publisher, error) { return r.open(int32(len(from.Last))) }}
	defer out.close()
	look := time.NewTicker(stillLeadingEvery)
	defer look.Stop()
	fit := r.fit(ctx, conn, from)
	for {
		select {
		case <-look.C:
			if err := fit(); err != nil {
				return err
			}
		case c, ok := <-chunks:
			if !ok {
				return ctx.Err()
			}
			began := time.Now()
			if err := r.send(ctx, fit, out, c); err != nil {
				return err
			}
			failpoint.Hit(failpoint.RelayCheckpointBefore)
			if err := c.end.save(ctx, conn); err != nil {
				return err
			}
			failpoint.Hit(failpoint.RelayCheckpointAfter)
			traceChunk(ctx, r.cfg.Topic, c, began)
			r.metrics.published.Add(float64(len(c.messages)))
			r.metrics.chunkSeconds.Observe(time.Since(began).Seconds())
			r.metrics.position.Set(float64(c.end.Position))
			r.metrics.lag.Set(float64(max(0, c.head-c.end.Position)))
		}
	}
}

// send sends the chunk again and again until all of it is acknowledged, for as
// long as this relay leads and the topic is the same.
func (r *Relay) send(ctx context.Context, fit func() error, out *sender, c chunk) error {
	wait := backoff.NewExponentialBackOff()
	wait.InitialInterval, wait.MaxInterval = 50*time.Millisecond, 2*time.Second
	for {
		failpoint.Hit(failpoint.PublishBefore)
		err := out.publish(ctx, r.cfg.Topic, c.messages, fit)
		if err == nil {
			err = failpoint.Error(failpoint.PublishAfter)
		}
		if err == nil || ctx.Err() != nil {
			return ctx.Err()
		}
		if unfit := (*unfitError)(nil); errors.As(err, &unfit) {
			return err
		}
		r.metrics.failedChunks.Inc()
		r.log.Warn("publishing failed, the same chunk goes again", "events", len(c.messages), "to", c.end.Position, "error", err)
		if err := fit(); err != nil {
			return err
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(wait.NextBackOff()):
		}
	}
}

// unfitError ends a term: this relay does not lead any more, or the topic is
// another one.
type unfitError struct{ err error }

func (e *unfitError) Error() string { return e.err.Error() }

func (e *unfitError) Unwrap() error { return e.err }

// fit makes a check whether this relay may go on: it leads, and every now and
// then whether the topic is still the one of its place.
func (r *Relay) fit(ctx context.Context, conn *pgx.Conn, place Place) func() error {
	seen := time.Now()
	return func() error {
		if err := stillLeads(ctx, conn); err != nil {
			return &unfitError{err}
		}
		if time.Since(seen) < sameTopicEvery {
			return nil
		}
		seen = time.Now()
		if err := r.sameTopic(ctx, place); err != nil {
			return &unfitError{err}
		}
		return nil
	}
}

// sameTopic fails where the topic is not there any more, or is another one: the
// next term makes it, or begins with it. That Kafka cannot be asked is no
// reason.
func (r *Relay) sameTopic(ctx context.Context, place Place) error {
	ctx, cancel := context.WithTimeout(ctx, answerWithin)
	defer cancel()
	topic, err := kafka.DescribeTopic(ctx, r.cfg.Kafka, r.cfg.Topic)
	switch {
	case errors.Is(err, kafka.ErrNoTopic):
		return err
	case err == nil && (topic.TopicID != place.TopicID || topic.ClusterID != place.ClusterID):
		return fmt.Errorf("topic %s was made anew", r.cfg.Topic)
	}
	return nil
}
