package projections

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"time"

	"github.com/ThreeDotsLabs/watermill/message"
	"github.com/cenkalti/backoff/v5"
	"golang.org/x/sync/errgroup"
	"golang.org/x/time/rate"

	"github.com/dopaminestore/dopamine/internal/kafka"
)

// ordersEvery is how often the owner of a partition looks for orders about
// parked events.
const ordersEvery = time.Second

// viewsEvery is how often it is looked whether the views show the live generations.
const viewsEvery = 5 * time.Second

// topicEvery is how often a missing topic is looked for: the relay makes it.
const topicEvery = 250 * time.Millisecond

// Runner is one projector process.
type Runner struct {
	cfg     Config
	log     *slog.Logger
	metrics *metrics

	tellUndecodable rate.Sometimes // a topic may be full of such records; the metric counts all

	mu      sync.Mutex
	session *session // the newest
}

// NewRunner makes a projector; Run starts it.
func NewRunner(cfg Config) *Runner {
	cfg = cfg.withDefaults()
	return &Runner{
		cfg: cfg, log: cfg.Logger.With("component", "projector"), metrics: newMetrics(cfg.Registerer),
		tellUndecodable: rate.Sometimes{First: 10, Interval: time.Second},
	}
}

// Run projects until ctx ends (nil) or it has to refuse (*RefusedError, or
// what the topic lost). Everything else is tried again.
func (r *Runner) Run(ctx context.Context) error {
	wait := newBackoff()
	for {
		err := r.run(ctx, wait)
		if ctx.Err() != nil {
			return nil
		}
		if fatal := (*kafka.FatalError)(nil); errors.As(err, &fatal) {
			return fatal.Err
		}
		pause := wait.NextBackOff()
		if errors.Is(err, kafka.ErrNoTopic) {
			pause = topicEvery
		} else {
			r.log.Warn("projecting ended, beginning again", "error", err)
		}
		select {
		case <-ctx.Done():
			return nil
		case <-time.After(pause):
		}
	}
}

func newBackoff() *backoff.ExponentialBackOff {
	wait := backoff.NewExponentialBackOff()
	wait.InitialInterval, wait.MaxInterval = 100*time.Millisecond, 5*time.Second
	return wait
}

// run subscribes and applies what comes.
func (r *Runner) run(ctx context.Context, wait *backoff.ExponentialBackOff) error {
	if _, err := kafka.DescribeTopic(ctx, r.cfg.Kafka, r.cfg.Topic); err != nil {
		return err
	}
	sub, err := kafka.NewSubscriber(kafka.SubscriberConfig{
		Cluster: r.cfg.Kafka, Group: r.cfg.Group, Begin: r.begin, SessionTimeout: r.cfg.SessionTimeout, Logger: r.log,
	})
	if err != nil {
		return err
	}
	defer sub.Close() //nolint:errcheck // nothing is lost with it
	messages, err := sub.Subscribe(ctx, r.cfg.Topic)
	if err != nil {
		return err
	}
	orders := time.NewTicker(ordersEvery)
	defer orders.Stop()
	views := time.NewTicker(viewsEvery)
	defer views.Stop()
	for {
		var s *session
		var err error
		select {
		case <-orders.C:
			if s = r.current(); s != nil {
				err = r.carryOutOrders(s.kafka.Context(), s.owned)
			}
		case <-views.C:
			r.followViews(ctx)
		case first, open := <-messages:
			if !open {
				if err := sub.Err(); err != nil {
					return kafka.Fatal(err)
				}
				return errors.New("the subscription ended")
			}
			batch := collect(first, messages, r.cfg.MaxBatch)
			if s = r.current(); s != nil {
				err = r.apply(s, batch)
			}
		}
		switch {
		case err == nil:
			wait.Reset()
		case s.kafka.Context().Err() != nil: // the session ended by itself
		default:
			r.log.Warn("giving up the partitions to begin again from the checkpoints", "error", err)
			s.kafka.End()
			select {
			case <-ctx.Done():
			case <-time.After(wait.NextBackOff()):
			}
		}
	}
}

// collect takes what is there, without waiting for more.
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

// current is the newest session, where it has not ended.
func (r *Runner) current() *session {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.session == nil || r.session.kafka.Context().Err() != nil {
		return nil
	}
	return r.session
}

// apply applies a batch to every projection and acknowledges it.
func (r *Runner) apply(s *session, batch []*message.Message) error {
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
	if err := r.applyRecords(s.kafka.Context(), s.owned, records); err != nil {
		return err
	}
	for _, m := range kept {
		m.Ack()
	}
	return nil
}

// applyRecords applies records, by partition and in the order of offsets, to
// every projection.
func (r *Runner) applyRecords(ctx context.Context, all []*owned, records map[int32][]*record) error {
	for _, rs := range records {
		for _, rec := range rs {
			if wanted(all, rec) {
				if err := r.decode(ctx, rec); err != nil {
					return err
				}
			}
		}
	}
	group, ctx := errgroup.WithContext(ctx)
	for _, o := range all {
		group.Go(func() error {
			if err := r.project(ctx, o, records); err != nil {
				return fmt.Errorf("%s: %w", o.projection.Name(), err)
			}
			return nil
		})
	}
	return group.Wait()
}

// wanted says whether any projection has not applied the record yet.
func wanted(all []*owned, rec *record) bool {
	for _, o := range all {
		if p := o.places[rec.partition]; p != nil && rec.offset >= p.offset && rec.item.position > p.position {
			return true
		}
	}
	return false
}
