package relay

import (
	"context"
	"time"

	"github.com/ThreeDotsLabs/watermill/message"
)

// abandonAfter is how long a publish under way may go on after the relay was
// told to stop.
const abandonAfter = 5 * time.Second

// sender publishes with a new publisher after each failure: one that has
// failed may not know any more what the broker has of it.
type sender struct {
	open func() (message.Publisher, error)
	pub  message.Publisher
}

// publish publishes the messages as one batch. While that lasts it asks fit
// every now and then, and returns at once where that says no.
func (s *sender) publish(ctx context.Context, topic string, messages []*message.Message, fit func() error) error {
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
	look := time.NewTicker(stillLeadingEvery)
	defer look.Stop()
	told := ctx.Done()
	var abandon <-chan time.Time
	for {
		select {
		case err := <-done:
			if err != nil {
				s.close()
			}
			return err
		case <-look.C:
			if ctx.Err() != nil {
				continue
			}
			if err := fit(); err != nil {
				s.leave(done)
				return err
			}
		case <-told:
			told, abandon = nil, time.After(abandonAfter)
		case <-abandon:
			s.leave(done)
			return ctx.Err()
		}
	}
}

// leave lets a publish that is under way end by itself; closing waits as long.
func (s *sender) leave(done <-chan error) {
	pub := s.pub
	s.pub = nil
	go func() {
		<-done
		_ = pub.Close()
	}()
}

func (s *sender) close() {
	if s.pub != nil {
		_ = s.pub.Close()
		s.pub = nil
	}
}
