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
)

// Session is one assignment of partitions to this member of the group, from
// the moment they were given to it to the moment at which it lost or gave up
// the first of them.
type Session struct {
	ctx    context.Context
	cancel context.CancelFunc
}

// Context ends with the session.
func (s *Session) Context() context.Context { return s.ctx }

// End gives all partitions up; the member joins the group again at once.
func (s *Session) End() { s.cancel() }

// SubscriberConfig says who consumes, and from where.
type SubscriberConfig struct {
	Cluster Cluster
	Group   string
	// Begin is asked at each assignment where to start each partition: the
	// offset of the next record. An error is tried again, unless it is Fatal.
	Begin func(ctx context.Context, s *Session, topic string, partitions []int32) (map[int32]int64, error)
	// Unacked is how many messages of a partition may be out at a time; default 4096.
	Unacked int
	// SessionTimeout is after how long a dead member is noticed; default 6 s,
	// the least that a broker allows by default.
	SessionTimeout time.Duration
	Logger         *slog.Logger // default slog.Default()
}

// FatalError ends a subscription: trying again would not help.
type FatalError struct{ Err error }

// Fatal makes err end the subscription.
func Fatal(err error) error { return &FatalError{err} }

func (e *FatalError) Error() string { return e.Err.Error() }

func (e *FatalError) Unwrap() error { return e.Err }

// Subscriber delivers the records of its partitions in order, many at a time.
// It is a Watermill message.Subscriber for one topic: Subscribe once.
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

// Subscribe delivers until ctx ends, Close is called or a FatalError comes up;
// then the channel is closed, and Err says why.
func (s *Subscriber) Subscribe(ctx context.Context, topic string) (<-chan *message.Message, error) {
	out := make(chan *message.Message, s.cfg.Unacked)
	ctx, cancel := context.WithCancel(ctx)
	s.running.Go(func() {
		select {
		case <-s.closing:
			cancel()
		case <-ctx.Done():
		}
	})
	s.running.Go(func() {
		for err := range s.group.Errors() {
			if !errors.Is(err, context.Canceled) {
				s.cfg.Logger.Warn("kafka consumer", "group", s.cfg.Group, "error", err)
			}
		}
	})
	s.running.Go(func() {
		defer close(out)
		defer s.group.Close() //nolint:errcheck // leaving the group may fail, the broker then notices by itself
		defer cancel()
		s.consume(ctx, topic, out)
	})
	return out, nil
}

// consume joins the group again and again.
func (s *Subscriber) consume(ctx context.Context, topic string, out chan<- *message.Message) {
	wait := backoff.NewExponentialBackOff()
	wait.InitialInterval, wait.MaxInterval = 100*time.Millisecond, 5*time.Second
	for ctx.Err() == nil {
		h := &groupHandler{s: s, topic: topic, out: out, begun: wait.Reset}
		err := s.group.Consume(ctx, []string{topic}, h)
		if h.fatal != nil {
			s.mu.Lock()
			s.err = h.fatal
			s.mu.Unlock()
			return
		}
		if err == nil || ctx.Err() != nil {
			continue
		}
		s.cfg.Logger.Warn("kafka consumer: joining again", "group", s.cfg.Group, "error", err)
		select {
		case <-ctx.Done():
		case <-time.After(wait.NextBackOff()):
		}
	}
}

// Err is the FatalError's inner error that ended the subscription, if one did.
func (s *Subscriber) Err() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.err
}

// Close ends the subscription and waits for its end. Twice is fine.
func (s *Subscriber) Close() error {
	s.closeOnce.Do(func() { close(s.closing) })
	_ = s.group.Close()
	s.running.Wait()
	if s.client.Closed() {
		return nil
	}
	return s.client.Close()
}

// groupHandler is one session at most.
type groupHandler struct {
	s     *Subscriber
	topic string
	out   chan<- *message.Message
	begun func()

	session *Session
	fatal   error
}

// Setup implements sarama.ConsumerGroupHandler: the claims start where Begin
// says. MarkOffset only raises and ResetOffset only lowers, so both are needed.
func (h *groupHandler) Setup(sess sarama.ConsumerGroupSession) error {
	ctx, cancel := context.WithCancel(sess.Context())
	h.session = &Session{ctx: ctx, cancel: cancel}
	partitions := sess.Claims()[h.topic]
	if len(partitions) == 0 {
		h.begun()
		return nil
	}
	places, err := h.places(ctx, partitions)
	if err != nil {
		cancel()
		var fatal *FatalError
		if errors.As(err, &fatal) {
			h.fatal = fatal.Err
		}
		return fmt.Errorf("begin partitions %v of %s: %w", partitions, h.topic, err)
	}
	for _, p := range partitions {
		sess.MarkOffset(h.topic, p, places[p], "")
		sess.ResetOffset(h.topic, p, places[p], "")
	}
	h.begun()
	return nil
}

func (h *groupHandler) places(ctx context.Context, partitions []int32) (map[int32]int64, error) {
	places, err := h.s.cfg.Begin(ctx, h.session, h.topic, partitions)
	if err != nil {
		return nil, err
	}
	for _, p := range partitions {
		place, ok := places[p]
		if !ok {
			return nil, fmt.Errorf("no place for partition %d", p)
		}
		oldest, err := h.s.client.GetOffset(h.topic, p, sarama.OffsetOldest)
		if err != nil {
			return nil, fmt.Errorf("first offset of partition %d: %w", p, err)
		}
		if place < oldest {
			return nil, Fatal(fmt.Errorf("partition %d of topic %s begins at offset %d, but the next one to read is %d: records were deleted from the topic before they were read; rebuild the projections from the event store (replay all)", p, h.topic, oldest, place))
		}
		newest, err := h.s.client.GetOffset(h.topic, p, sarama.OffsetNewest)
		if err != nil {
			return nil, fmt.Errorf("end of partition %d: %w", p, err)
		}
		if place > newest {
			return nil, Fatal(fmt.Errorf("partition %d of topic %s ends at offset %d, but the next one to read is %d: Kafka lost records that were read before; make the topic anew (the relay publishes all of it again) or restore it", p, h.topic, newest, place))
		}
	}
	return places, nil
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
	acks.Go(func() { h.awaitAcks(pending) })
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

// awaitAcks waits for the answers of one partition in the order of offsets.
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
