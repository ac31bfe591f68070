package payments

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/google/uuid"

	"github.com/dopaminestore/dopamine/command/claims"
	"github.com/dopaminestore/dopamine/command/origin"
	"github.com/dopaminestore/dopamine/domain"
	"github.com/dopaminestore/dopamine/eventstore"
	"github.com/dopaminestore/dopamine/internal/gateway"
)

const (
	// lastLookWithin bounds the last look at the gateway before a payment times
	// out: the slot's end does not wait for it.
	lastLookWithin = 750 * time.Millisecond
	// lastLookUntil is how late a slot's end may be for there to be a last look. A
	// gateway that answers nobody must not keep thousands of slots from ending; what
	// became of their payments is asked afterwards.
	lastLookUntil = 10 * time.Second
)

// TimeOut ends a slot that is due (claims.Store.TimedOut) although a payment of it
// is pending: the gateway is asked once more, and without its final word the
// payment fails and the slot expires, in one append. A slot whose payment has
// failed meanwhile just expires. It does nothing where the slot is not due any
// more.
func (s *Service) TimeOut(ctx context.Context, due claims.Due) error {
	by := origin.Origin{Actor: domain.ActorSystem}
	looked := false
	for range hearTries {
		slot, _, err := s.slot(ctx, due.SlotID)
		if err != nil {
			return err
		}
		now, err := s.Claims.StoreClock(ctx)
		if err != nil {
			return err
		}
		// How long it waits was settled when its payment began.
		events := slot.Expire(now, due.At.Sub(due.Deadline))
		if len(events) == 0 {
			return nil
		}
		pending, paying := slot.Pending()
		if paying && !looked && now.Sub(due.At) < lastLookUntil {
			looked = true
			if word, final := s.lastWord(ctx, pending.ID); final {
				if _, err := s.Hear(ctx, word); err != nil {
					return err
				}
				continue
			}
		}
		guards := []eventstore.Guarded{claims.Release{Product: slot.ProductID, SlotID: slot.ID}.Guarded()}
		if paying {
			guards = append(guards, change{payment: pending.ID, status: domain.FailedPayment, unsettled: true}.Guarded())
		}
		err = s.appendTo(ctx, slot, &by, events, guards...)
		if errors.Is(err, eventstore.ErrConflict) || errors.Is(err, claims.ErrNotActive) {
			continue
		}
		if err != nil {
			return fmt.Errorf("expire slot %s: %w", slot.ID, err)
		}
		if paying {
			s.metrics.heard.WithLabelValues("nobody", "timeout").Inc()
		}
		s.feed(ctx, slot.ProductID)
		return nil
	}
	return fmt.Errorf("expire slot %s: %w", due.SlotID, eventstore.ErrConflict)
}

// lastWord is what the gateway says of a payment that times out, and whether
// that is final.
func (s *Service) lastWord(ctx context.Context, payment uuid.UUID) (Heard, bool) {
	ctx, cancel := context.WithTimeout(ctx, lastLookWithin)
	defer cancel()
	state, err := s.Gateway.FindPayment(ctx, gateway.PaymentQuery{Reference: payment})
	if err != nil || !state.Status.Final() {
		return Heard{}, false
	}
	return wordOf(payment, state), true
}

// refunded records that a refund went through at the gateway.
func (s *Service) refunded(ctx context.Context, slotID, payment uuid.UUID, refundID string) error {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), hearWithin)
	defer cancel()
	by := origin.Origin{Actor: domain.ActorSystem}
	for range hearTries {
		slot, _, err := s.slot(ctx, slotID)
		if err != nil {
			return err
		}
		events := slot.RefundMade(payment, refundID)
		if len(events) == 0 {
			return nil
		}
		err = s.appendTo(ctx, slot, &by, events, change{payment: payment, refund: domain.RefundMade}.Guarded())
		if errors.Is(err, eventstore.ErrConflict) {
			continue
		}
		if err != nil {
			return fmt.Errorf("record the refund of payment %s: %w", payment, err)
		}
		return nil
	}
	return fmt.Errorf("record the refund of payment %s: %w", payment, eventstore.ErrConflict)
}

func (s *Service) appendTo(ctx context.Context, slot domain.Slot, by *origin.Origin, events []domain.Event, guards ...eventstore.Guarded) error {
	encoded, err := by.Encode(ctx, events...)
	if err != nil {
		return err
	}
	_, err = s.Store.Append(ctx, eventstore.Append{
		Key: slot.ProductID,
		Streams: []eventstore.StreamAppend{{
			Stream: slot.ID, Expected: eventstore.Expected(slot.Version), Events: encoded,
		}},
		Guards: guards,
	})
	return err
}
