package payments

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/google/uuid"

	"github.com/dopaminestore/dopamine/command/claims"
	"github.com/dopaminestore/dopamine/command/deadlines"
	"github.com/dopaminestore/dopamine/command/origin"
	"github.com/dopaminestore/dopamine/domain"
	"github.com/dopaminestore/dopamine/eventstore"
)

const (
	// lastQueryTimeout bounds the last query before a payment times out: the slot's
	// end does not wait for it.
	lastQueryTimeout = 750 * time.Millisecond
	// maxLastQueryDelay is how late a slot's end may be for there to be a last query.
	// A gateway that does not answer must not keep thousands of slots from ending;
	// what became of their payments is queried afterwards.
	maxLastQueryDelay = 10 * time.Second
)

// TimeOut ends a slot that is due (deadlines.Store.DueForTimeout) although a payment of it
// is pending: the gateway is queried once more, and without a final status the
// payment fails and the slot expires, in one append. A slot whose payment has
// failed meanwhile just expires. It does nothing if the slot is not due any more.
func (s *Service) TimeOut(ctx context.Context, due deadlines.Slot) error {
	by := origin.Origin{Actor: domain.ActorSystem}
	queried := false
	for range maxAttempts {
		slot, _, err := s.Slot(ctx, due.SlotID)
		if err != nil {
			return err
		}
		now, err := s.Reader.Clock(ctx)
		if err != nil {
			return err
		}
		// How long it waits was decided when its payment began.
		events := slot.Expire(now, due.At.Sub(due.Deadline))
		if len(events) == 0 {
			return nil
		}
		pending, paying := slot.Pending()
		if paying && !queried && now.Sub(due.At) < maxLastQueryDelay {
			queried = true
			if report, final := s.lastReport(ctx, pending.ID); final {
				if _, err := s.ApplyReport(ctx, report); err != nil {
					return err
				}
				continue
			}
		}
		err = s.expire(ctx, slot, &by, events)
		if errors.Is(err, eventstore.ErrConflict) || errors.Is(err, claims.ErrNotActive) {
			continue
		}
		if err != nil {
			return fmt.Errorf("expire slot %s: %w", slot.ID, err)
		}
		if paying {
			s.metrics.outcomes.WithLabelValues("timeout", "failed").Inc()
		}
		s.sync(ctx, slot.ProductID)
		return nil
	}
	return fmt.Errorf("expire slot %s: %w", due.SlotID, eventstore.ErrConflict)
}

// lastReport is what the gateway reports of a payment that times out, and whether
// that is final.
func (s *Service) lastReport(ctx context.Context, payment uuid.UUID) (Report, bool) {
	ctx, cancel := context.WithTimeout(ctx, lastQueryTimeout)
	defer cancel()
	q, err := s.paymentQuery(ctx, payment)
	if err != nil {
		return Report{}, false
	}
	answer, err := s.Gateway.FindPayment(ctx, q)
	if err != nil || !answer.Status.Final() {
		return Report{}, false
	}
	return Report{Reference: payment, Payment: answer}, true
}

// expire appends the end of a slot. A payment that fails with it is cancelled at
// the gateway, and queried further.
func (s *Service) expire(ctx context.Context, slot domain.Slot, by *origin.Origin, events []domain.Event) error {
	encoded, err := by.Encode(ctx, events...)
	if err != nil {
		return err
	}
	guards := claimsOf(slot, events)
	if pending, paying := slot.Pending(); paying {
		after := pending
		for _, e := range events {
			after = domain.EvolvePayment(after, domain.Envelope{StreamID: slot.ID, Event: e})
		}
		guards = append(guards, ledgerChange{
			change: change{plan: planQuery, cancel: true}, before: pending, after: after, product: slot.ProductID,
		}.GuardItem())
	}
	_, err = s.Store.Append(ctx, eventstore.Append{
		Key:     slot.ProductID,
		Streams: []eventstore.StreamAppend{{Stream: slot.ID, Expected: eventstore.Expected(slot.Version), Events: encoded}},
		Guards:  guards,
	})
	return err
}
