package relay

import (
	"context"
	"fmt"
	"time"

	"github.com/ThreeDotsLabs/watermill/message"
	"github.com/cenkalti/backoff/v5"
	"github.com/jackc/pgx/v5"
	"golang.org/x/sync/errgroup"
)

// abandonAfter is how long a publish under way may go on after the relay was
// told to stop.
const abandonAfter = 5 * time.Second

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
		return r.publish(ctx, conn, int32(len(from.Last)), chunks)
	})
	return group.Wait()
}

// publish sends the chunks and saves the place behind each.
func (r *Relay) publish(ctx context.Context, conn *pgx.Conn, partitions int32, chunks <-chan chunk) error {
	out := &sender{open: func() (message.Publisher, error) { return r.open(partitions) }}
	defer out.close()
	look := time.NewTicker(stillLeadingEvery)
	defer look.Stop()
	for {
		select {
		case <-look.C:
			if err := stillLeads(ctx, conn); err != nil {
				return err
			}
		case c, ok := <-chunks:
			if !ok {
				return ctx.Err()
			}
			began := time.Now()
			if err := r.send(ctx, conn, out, c); err != nil {
				return err
			}
			if err := c.end.save(ctx, conn); err != nil {
				return err
			}
			traceChunk(ctx, r.cfg.Topic, c, began)
			r.metrics.published.Add(float64(len(c.messages)))
			r.metrics.chunkSeconds.Observe(time.Since(began).Seconds())
			r.metrics.position.Set(float64(c.end.Position))
			r.metrics.lag.Set(float64(max(0, c.head-c.end.Position)))
		}
	}
}

// send sends the chunk again and again until all of it is acknowledged, for as
// long as this relay leads.
func (r *Relay) send(ctx context.Context, conn *pgx.Conn, out *sender, c chunk) error {
	wait := backoff.NewExponentialBackOff()
	wait.InitialInterval, wait.MaxInterval = 50*time.Millisecond, 2*time.Second
	for {
		err := out.publish(ctx, r.cfg.Topic, c.messages)
		if err == nil || ctx.Err() != nil {
			return ctx.Err()
		}
		r.metrics.failedChunks.Inc()
		r.log.Warn("publishing failed, the same chunk goes again", "events", len(c.messages), "to", c.end.Position, "error", err)
		if err := stillLeads(ctx, conn); err != nil {
			return err
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(wait.NextBackOff()):
		}
	}
}

// sender publishes with a new publisher after each failure: one that has
// failed may not know any more what the broker has of it.
type sender struct {
	open func() (message.Publisher, error)
	pub  message.Publisher
}

func (s *sender) publish(ctx context.Context, topic string, messages []*message.Message) error {
	if s.pub == nil {
		pub, err := s.open()
		if err != nil {
			return err
		}
		s.pub = pub
	}
	pub := s.pub
	done := make(chan error, 1)
	go func() { done <- pub.Publish(topic, messages...) }()
	var err error
	select {
	case err = <-done:
	case <-ctx.Done():
		select {
		case err = <-done:
		case <-time.After(abandonAfter):
			// It is left behind: closing would wait for it as long.
			s.pub = nil
			return fmt.Errorf("publish %d events: %w", len(messages), ctx.Err())
		}
	}
	if err != nil {
		s.close()
	}
	return err
}

func (s *sender) close() {
	if s.pub != nil {
		_ = s.pub.Close()
		s.pub = nil
	}
}
