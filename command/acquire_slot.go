package command

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/google/uuid"

	"github.com/dopaminestore/dopamine/command/claims"
	"github.com/dopaminestore/dopamine/command/grants"
	"github.com/dopaminestore/dopamine/domain"
	"github.com/dopaminestore/dopamine/eventstore"
	"github.com/dopaminestore/dopamine/internal/apimodel"
	"github.com/dopaminestore/dopamine/internal/telemetry"
	"github.com/dopaminestore/dopamine/redis"
)

// acquireSlot requests a unit of a product for the authenticated buyer.
type acquireSlot struct {
	product uuid.UUID
	key     string // the Idempotency-Key, "" for none
}

const (
	// acquireTimeout is after how long a request is no longer retried.
	acquireTimeout = 3 * time.Second
	// obstructedRetryAfter is the Retry-After of a product whose gate cannot
	// decide now.
	obstructedRetryAfter = time.Second
)

var (
	// errRetry reports that the gate was stale and has been corrected.
	errRetry = errors.New("the gate was stale")
	// errKeySpent reports that the slot of the request's key is no longer active:
	// the request is decided and numbered without the key.
	errKeySpent = errors.New("the key's slot is no longer active")
)

type acquireSlotHandler struct{ command }

// Handle waits for an entry in the append queue, decides with the gate, and appends the
// grant.
func (s acquireSlotHandler) Handle(ctx context.Context, by *invocation, c acquireSlot) (commandResult[apimodel.Slot], error) {
	admission, verdict := s.admission.enter(ctx, c.product)
	switch verdict {
	case overloaded:
		return commandResult[apimodel.Slot]{}, s.unlessNoProduct(ctx, c.product, errOverloaded)
	case obstructed:
		return commandResult[apimodel.Slot]{}, s.unlessNoProduct(ctx, c.product, errUnavailable.WithRetryAfter(obstructedRetryAfter))
	}
	defer admission.leave()
	start := time.Now()
	for try := 1; ; try++ {
		answer, err := s.acquireOnce(ctx, by, c)
		switch {
		case errors.Is(err, errKeySpent):
			c.key = ""
		case !errors.Is(err, errRetry):
			return answer, err
		}
		if try == grants.MaxDecisions || time.Since(start) > acquireTimeout {
			return commandResult[apimodel.Slot]{}, errUnavailable.Wrap(err)
		}
	}
}

func (s *services) acquireOnce(ctx context.Context, by *invocation, c acquireSlot) (commandResult[apimodel.Slot], error) {
	reserved, err := s.store.Reserve()
	if errors.Is(err, eventstore.ErrOverloaded) {
		return commandResult[apimodel.Slot]{}, s.unlessNoProduct(ctx, c.product, errOverloaded)
	}
	if err != nil {
		return commandResult[apimodel.Slot]{}, err
	}
	defer reserved.Release()
	// The client may leave while it waits, but not after the request was sent to the gate.
	start := time.Now()
	asking, span := telemetry.Start(ctx, "gate decide")
	d, err := s.gate.Decide(asking, redis.Request{Product: c.product, Buyer: by.user.Sub, Key: c.key})
	telemetry.End(span, err)
	observeSince(s.metrics.gate, start)
	if err != nil {
		return commandResult[apimodel.Slot]{}, err
	}
	switch d.Outcome {
	case redis.SoldOut:
		return commandResult[apimodel.Slot]{}, errSoldOut
	case redis.NotStarted:
		return commandResult[apimodel.Slot]{}, notStarted(d)
	case redis.Ended:
		return commandResult[apimodel.Slot]{}, errSaleEnded
	case redis.Paused:
		return commandResult[apimodel.Slot]{}, errSalePaused
	case redis.Held:
		reserved.Release()
		return s.held(ctx, d)
	case redis.Granted:
		return s.appendGrant(ctx, by, reserved, d)
	}
	return commandResult[apimodel.Slot]{}, fmt.Errorf("the gate decided %q, which acquire does not know", d.Outcome)
}

// appendGrant makes a grant final, or determines why it cannot be.
func (s *services) appendGrant(ctx context.Context, by *invocation, reserved *eventstore.Reservation, d redis.Decision) (commandResult[apimodel.Slot], error) {
	ctx, cancel := detached(ctx, appendTimeout)
	defer cancel()
	name := s.catalogue.join(d.Product) // reads during the append
	event := domain.SlotAcquired{
		UserID: d.Buyer, Unit: d.Unit, ArrivalSequence: d.Number, KeyHash: d.KeyHash,
		TTLMillis: s.grants.SlotTTL.Milliseconds(), WarningMillis: s.grants.SlotWarning.Milliseconds(),
	}
	encoded, err := by.Encode(ctx, event)
	if err != nil {
		return commandResult[apimodel.Slot]{}, err
	}
	start := time.Now()
	appending, span := telemetry.Start(ctx, "store append")
	result, err := reserved.Append(appending, eventstore.Append{
		Key:     d.Product,
		Streams: []eventstore.StreamAppend{{Stream: d.SlotID, Expected: eventstore.None, Events: encoded}},
		Guards:  []eventstore.GuardItem{s.grants.Claim(d, d.KeyHash, false)},
	})
	telemetry.End(span, err)
	observeSince(s.metrics.append, start)
	if err != nil {
		return s.notAppended(ctx, d, err)
	}
	slot := domain.EvolveSlot(domain.Slot{}, domain.Envelope{
		StreamID: d.SlotID, ProductID: d.Product, StreamVersion: 1,
		Position: result.Position, RecordedAt: result.RecordedAt, Event: event,
	})
	return commandResult[apimodel.Slot]{apimodel.SlotOf(slot, s.nameFrom(ctx, name, d.Product), s.now()), d.Product, result.Position}, nil
}

// notAppended answers the request of a grant whose append was refused with err, or returns errRetry
// once the gate was corrected.
func (s *services) notAppended(ctx context.Context, d redis.Decision, err error) (commandResult[apimodel.Slot], error) {
	fate, claim, failed := s.grants.Refused(ctx, d, err)
	switch fate {
	case grants.BuyerHolds:
		return s.holding(ctx, claim, d)
	case grants.Appended:
		return s.held(ctx, d)
	case grants.Corrected:
		return commandResult[apimodel.Slot]{}, cmp.Or(failed, errRetry)
	case grants.NotWritten:
		s.grants.GiveBack(ctx, d)
	}
	return commandResult[apimodel.Slot]{}, err
}

// held answers if the gate knows a slot of the buyer, after reading the claim.
func (s *services) held(ctx context.Context, d redis.Decision) (commandResult[apimodel.Slot], error) {
	ctx, cancel := detached(ctx, appendTimeout)
	defer cancel()
	claim, found, err := s.grants.Holder(ctx, d.Product, d.Buyer)
	if !found {
		return commandResult[apimodel.Slot]{}, cmp.Or(err, errRetry)
	}
	return s.holding(ctx, claim, d)
}

// holding answers a buyer who holds a slot: with the slot, if the request has
// the key of its acquisition and the slot is active, otherwise with the refusal.
func (s *services) holding(ctx context.Context, c claims.Record, d redis.Decision) (commandResult[apimodel.Slot], error) {
	switch {
	case len(d.KeyHash) == 0 || !bytes.Equal(d.KeyHash, c.KeyHash):
		return commandResult[apimodel.Slot]{}, withPosition(errDuplicate.With("slotId", c.SlotID), c.Product, c.Position)
	case c.Status != claims.Active: // paid: the gate accepts the key without a decision
		return commandResult[apimodel.Slot]{}, errKeySpent
	}
	// The claim is visible, but it may not be on the standby yet.
	if err := s.store.Confirm(ctx); err != nil {
		return commandResult[apimodel.Slot]{}, err
	}
	slot := domain.Slot{
		ID: c.SlotID, ProductID: c.Product, UserID: c.Buyer, Unit: c.Unit, ArrivalSequence: c.Number,
		AcquiredAt: c.AcquiredAt, Deadline: c.Deadline, Status: domain.ActiveSlot,
	}
	name := s.nameFrom(ctx, s.catalogue.join(c.Product), c.Product)
	return commandResult[apimodel.Slot]{apimodel.SlotOf(slot, name, s.now()), c.Product, c.Position}, nil
}

// nameFrom returns the product's name from l. The slot is durable by now: if the
// name cannot be read, the last known one is used.
func (s *services) nameFrom(ctx context.Context, l *lookup, product uuid.UUID) string {
	select {
	case <-l.done:
		return l.product.Name
	case <-ctx.Done():
		p, _ := s.catalogue.remembered(product)
		return p.Name
	}
}

// unlessNoProduct returns the refusal, or errNoProduct if there is no such product: 404 comes first,
// also for a request that cannot be decided now.
func (s *services) unlessNoProduct(ctx context.Context, product uuid.UUID, refusal error) error {
	if _, known := s.catalogue.remembered(product); known {
		return refusal
	}
	if _, err := s.catalogue.product(ctx, product); errors.Is(err, domain.ErrNoProduct) {
		return errNoProduct
	}
	return refusal
}
