package relay

import (
	"context"
	"time"

	"github.com/ThreeDotsLabs/watermill/message"

	"github.com/dopaminestore/dopamine/internal/guard"
)

// shutdownTimeout is how long a publish in progress may continue after the relay
// was asked to stop.
const shutdownTimeout = 5 * time.Second

// sender publishes with a new publisher after each failure, because a failed one
// may no longer know what the broker has received from it.
type sender struct {
	open func() (message.Publisher, error)
	pub  message.Publisher
}

// publish publishes the messages as one batch. It returns at once if ctx ends for
// another reason than a shutdown, and within shutdownTimeout of a shutdown, even
// while it connects; what was in progress then ends on its own.
func (s *sender) publish(ctx context.Context, topic string, messages []*message.Message) error {
	type sent struct {
		pub message.Publisher
		err error
	}
	done := make(chan sent, 1)
	go func(pub message.Publisher) {
		defer guard.Log("close a publisher")
		if pub == nil {
			var err error
			if pub, err = s.open(); err != nil {
				done <- sent{err: err}
				return
			}
		}
		done <- sent{pub, pub.Publish(topic, messages...)}
	}(s.pub)
	s.pub = nil // it belongs to the goroutine until that has ended
	ended := ctx.Done()
	var abandon <-chan time.Time
	for {
		select {
		case d := <-done:
			if d.err != nil && d.pub != nil {
				_ = d.pub.Close()
			} else {
				s.pub = d.pub
			}
			return d.err
		case <-ended:
			wait := time.Duration(0)
			if context.Cause(ctx) == context.Canceled {
				wait = shutdownTimeout
			}
			ended, abandon = nil, time.After(wait)
		case <-abandon:
			go func() {
				defer guard.Log("publish")
				if d := <-done; d.pub != nil {
					_ = d.pub.Close()
				}
			}()
			return context.Cause(ctx)
		}
	}
}

func (s *sender) close() {
	if s.pub != nil {
		_ = s.pub.Close()
		s.pub = nil
	}
}
