package kafka

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"time"

	"github.com/IBM/sarama"
	"github.com/ThreeDotsLabs/watermill/message"
	"github.com/cenkalti/backoff/v5"

	"github.com/dopaminestore/dopamine/internal/guard"
	"github.com/dopaminestore/dopamine/internal/sleep"
)

// Session is one assignment of partitions to this member of the group, from the assignment until
// the member loses or releases the first of them.
type Session struct {
	ctx    context.Context
	cancel context.CancelFunc
}

// Context ends with the session.
func (s *Session) Context() context.Context { return s.ctx }

// End releases all partitions; the member rejoins the group immediately.
func (s *Session) End() { s.cancel() }

// Assigned is an assigned partition with its oldest and newest offsets.
type Assigned struct {
	Partition int32
	Oldest    int64 // of the first record
	Newest    int64 // of the next record
}

// SubscriberConfig configures who consumes, and from where.
type SubscriberConfig struct {
	Cluster Cluster
	Group   string
	// Begin returns, at each assignment, the offset at which to start each
	// partition; it must be one that the partition has. An error ends the
	// subscription.
	Begin func(ctx context.Context, s *Session, topic string, partitions []Assigned) (map[int32]int64, error)
	// Unacked is the maximum number of delivered and unacknowledged messages per partition.
	// Default: 4096.
	Unacked int
	// SessionTimeout is how long a member may be silent before its partitions are reassigned.
	// Default: 6 s, the brokers' default minimum.
	SessionTimeout time.Duration
	// Failed is called with each failure of Kafka that is retried: consuming that ended with an
	// error, and errors of single partitions. It may be called by several goroutines. Default: none.
	Failed func(error)
	Logger *slog.Logger // default: slog.Default()
}

// Subscriber delivers the records of its partitions in order, many at a time. It is a Watermill
// message.Subscriber for one topic: call Subscribe once.
type Subscriber struct {
	cfg       SubscriberConfig
	group     sarama.ConsumerGroup
	client    sarama.Client
	marshaler marshaler

	closing   chan struct{}
	closeOnce sync.Once
	running   sync.WaitGroup

	mu  sync.Mutex
	err error
}

var _ message.Subscriber = (*Subscriber)(nil)

// NewSubscriber connects to the brokers.
func NewSubscriber(cfg SubscriberConfig) (*Subscriber, error) {
	if cfg.Unacked == 0 {
		cfg.Unacked = 4096
	}
	if cfg.SessionTimeout == 0 {
		cfg.SessionTimeout = 6 * time.Second
	}
	if cfg.Failed == nil {
		cfg.Failed = func(error) {}
	}
	if cfg.Logger == nil {
		cfg.Logger = slog.Default()
	}
	client, err := sarama.NewClient(cfg.Cluster.Brokers, groupConfig(cfg.Cluster, cfg.SessionTimeout))
	if err != nil {
		return nil, fmt.Errorf("connect a consumer to Kafka at %v: %w", cfg.Cluster.Brokers, err)
	}
	group, err := sarama.NewConsumerGroupFromClient(cfg.Group, client)
	if err != nil {
		_ = client.Close()
		return nil, fmt.Errorf("join consumer group %s: %w", cfg.Group, err)
	}
	return &Subscriber{cfg: cfg, group: group, client: client, marshaler: newMarshaler(), closing: make(chan struct{})}, nil
}

// Subscribe delivers until ctx ends, Close is called or Begin fails; then the
// member leaves the group, the channel is closed, and Err returns the reason.
func (s *Subscriber) Subscribe(ctx context.Context, topic string) (<-chan *message.Message, error) {
	out := make(chan *message.Message, s.cfg.Unacked)
	ctx, cancel := context.WithCancel(ctx)
	s.running.Go(func() {
		defer guard.Log("close a subscription")
		select {
		case <-s.closing:
			cancel()
		case <-ctx.Done():
		}
	})
	s.running.Go(func() {
		defer guard.Log("log consumer errors")
		for err := range s.group.Errors() {
			if !errors.Is(err, context.Canceled) {
				s.cfg.Logger.Warn("kafka consumer failed, retrying", "group", s.cfg.Group, "error", err)
				s.cfg.Failed(err)
			}
		}
	})
	s.running.Go(func() {
		defer guard.Log("consume")
		defer close(out)
		defer s.group.Close() //nolint:errcheck // leaving the group may fail; the broker then notices after the session timeout
		defer cancel()
		s.consume(ctx, topic, out)
	})
	return out, nil
}

// consume joins the group until ctx ends or Begin fails.
func (s *Subscriber) consume(ctx context.Context, topic string, out chan<- *message.Message) {
	wait := backoff.NewExponentialBackOff()
	wait.InitialInterval, wait.MaxInterval = 100*time.Millisecond, 5*time.Second
	for ctx.Err() == nil {
		h := &groupHandler{s: s, topic: topic, out: out, begun: wait.Reset}
		err := s.group.Consume(ctx, []string{topic}, h)
		if h.failed != nil {
			s.mu.Lock()
			s.err = h.failed
			s.mu.Unlock()
			return
		}
		if err == nil || ctx.Err() != nil {
			continue
		}
		if auth := (*AuthError)(nil); errors.As(Explain(err), &auth) {
			s.mu.Lock()
			s.err = auth
			s.mu.Unlock()
			return
		}
		s.cfg.Logger.Warn("consume failed, rejoining the group", "group", s.cfg.Group, "error", err)
		s.cfg.Failed(err)
		_ = sleep.For(ctx, wait.NextBackOff())
	}
}

// Err returns the error that ended the subscription, nil if it was closed.
func (s *Subscriber) Err() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.err
}

// Close leaves the group and waits until everything has ended. It is idempotent.
func (s *Subscriber) Close() error {
	s.closeOnce.Do(func() { close(s.closing) })
	_ = s.group.Close()
	s.running.Wait()
	if s.client.Closed() {
		return nil
	}
	return s.client.Close()
}

// groupHandler handles at most one session.
type groupHandler struct {
	s     *Subscriber
	topic string
	out   chan<- *message.Message
	begun func()

	session *Session
	failed  error // of Begin
}

// Setup implements sarama.ConsumerGroupHandler: the claims start at the offsets that Begin returns.
// MarkOffset only raises and ResetOffset only lowers an offset, so both are needed.
func (h *groupHandler) Setup(sess sarama.ConsumerGroupSession) error {
	ctx, cancel := context.WithCancel(sess.Context())
	h.session = &Session{ctx: ctx, cancel: cancel}
	partitions := sess.Claims()[h.topic]
	if len(partitions) == 0 {
		h.begun()
		return nil
	}
	starts, err := h.starts(ctx, partitions)
	if err != nil {
		cancel()
		if sess.Context().Err() == nil {
			h.failed = fmt.Errorf("begin partitions %v of %s: %w", partitions, h.topic, err)
		}
		return err
	}
	for _, p := range partitions {
		sess.MarkOffset(h.topic, p, starts[p], "")
		sess.ResetOffset(h.topic, p, starts[p], "")
	}
	h.begun()
	return nil
}

// starts returns the offset at which each partition starts.
func (h *groupHandler) starts(ctx context.Context, partitions []int32) (map[int32]int64, error) {
	assigned := make([]Assigned, len(partitions))
	for i, p := range partitions {
		oldest, err := h.s.client.GetOffset(h.topic, p, sarama.OffsetOldest)
		if err != nil {
			return nil, fmt.Errorf("first offset of partition %d: %w", p, err)
		}
		newest, err := h.s.client.GetOffset(h.topic, p, sarama.OffsetNewest)
		if err != nil {
			return nil, fmt.Errorf("end of partition %d: %w", p, err)
		}
		assigned[i] = Assigned{p, oldest, newest}
	}
	starts, err := h.s.cfg.Begin(ctx, h.session, h.topic, assigned)
	if err != nil {
		return nil, err
	}
	for _, a := range assigned {
		start, ok := starts[a.Partition]
		if !ok || start < a.Oldest {
			return nil, fmt.Errorf("partition %d cannot start at offset %d: it has %d to %d", a.Partition, start, a.Oldest, a.Newest)
		}
	}
	return starts, nil
}

// Cleanup implements sarama.ConsumerGroupHandler.
func (h *groupHandler) Cleanup(sarama.ConsumerGroupSession) error {
	h.session.cancel()
	return nil
}

// ConsumeClaim implements sarama.ConsumerGroupHandler. Returning ends the
// session for all partitions.
func (h *groupHandler) ConsumeClaim(_ sarama.ConsumerGroupSession, claim sarama.ConsumerGroupClaim) error {
	done := h.session.ctx.Done()
	pending := make(chan *message.Message, h.s.cfg.Unacked)
	var acks sync.WaitGroup
	acks.Go(func() {
		defer guard.Log("await acknowledgements")
		h.awaitAcks(pending)
	})
	defer acks.Wait()
	defer close(pending)
	for {
		select {
		case <-done:
			return nil
		case in, ok := <-claim.Messages():
			if !ok {
				return nil
			}
			m, err := h.s.marshaler.Unmarshal(in)
			if err != nil {
				return fmt.Errorf("offset %d of partition %d: %w", in.Offset, in.Partition, err)
			}
			m.SetContext(&deliveryContext{h.session.ctx, Delivery{h.session, in.Partition, in.Offset}})
			select {
			case <-done:
				return nil
			case pending <- m:
			}
			select {
			case <-done:
				return nil
			case h.out <- m:
			}
		}
	}
}

// awaitAcks waits for the acknowledgements of one partition in the order of offsets.
func (h *groupHandler) awaitAcks(pending <-chan *message.Message) {
	for m := range pending {
		select {
		case <-m.Acked():
		case <-m.Nacked():
			h.session.cancel()
			return
		case <-h.session.ctx.Done():
			return
		}
	}
}
