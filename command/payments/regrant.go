package payments

import (
	"context"
	"errors"
	"fmt"

	"github.com/google/uuid"

	"github.com/dopaminestore/dopamine/command/claims"
	"github.com/dopaminestore/dopamine/command/grants"
	"github.com/dopaminestore/dopamine/domain"
	"github.com/dopaminestore/dopamine/eventstore"
	"github.com/dopaminestore/dopamine/redis"
)

// reservedGrant is the grant that a transition may need.
type reservedGrant struct {
	grant  *redis.Decision // nil for none, or once it became a slot or void
	noUnit bool            // the product is gone, or the buyer holds another slot
}

// anotherUnit asks the gate for a unit, like any request, unless it gave one
// already that is still good. An error means that the gate cannot respond now.
func (t *transition) anotherUnit(ctx context.Context, slot domain.Slot) (domain.GateAnswer, error) {
	for attempt := 0; t.grant == nil && !t.noUnit; attempt++ {
		if attempt == grants.MaxDecisions {
			return domain.GateAnswer{}, errors.New("the gate keeps a slot that has ended")
		}
		d, err := t.Gate.Decide(ctx, redis.Request{Product: slot.ProductID, Buyer: slot.UserID})
		if errors.Is(err, redis.ErrUnknownProduct) {
			return domain.GateAnswer{}, nil
		}
		if err != nil {
			return domain.GateAnswer{}, err
		}
		switch d.Outcome {
		case redis.Granted:
			t.grant = &d
		case redis.Held:
			_, holds, err := t.grants.Holder(ctx, slot.ProductID, slot.UserID)
			if err != nil || holds {
				return domain.GateAnswer{}, err
			}
		default:
			return domain.GateAnswer{}, nil
		}
	}
	if t.noUnit {
		return domain.GateAnswer{}, nil
	}
	return domain.GateAnswer{
		Granted: true, Unit: t.grant.Unit, ArrivalSequence: t.grant.Number, TTL: t.SlotTTL, Warning: t.SlotWarning,
	}, nil
}

// refused corrects what an append was refused for, and returns errRetry then. If
// the gate knew less than Postgres, its grant is void.
func (t *transition) refused(ctx context.Context, product uuid.UUID, regrant bool, err error) error {
	if errors.Is(err, errRetry) {
		return errRetry
	}
	if !regrant {
		if errors.Is(err, eventstore.ErrConflict) || errors.Is(err, claims.ErrNotActive) {
			return errRetry
		}
		return err
	}
	var conflict *eventstore.ConflictError
	switch {
	case errors.As(err, &conflict) && conflict.Stream != t.grant.SlotID:
		return errRetry // the grant is as good as before
	case errors.Is(err, errSeen):
		return err // and the grant goes back
	}
	fate, _, failed := t.grants.Refused(ctx, *t.grant, err)
	if fate == grants.NotWritten {
		return err // and the grant goes back
	}
	t.grant = nil
	switch fate {
	case grants.BuyerHolds, grants.ProductGone:
		// If another process brought this outcome to its effect with the same grant,
		// the slot's stream contains it; otherwise the buyer holds another slot.
		t.noUnit = true
		return errRetry
	case grants.Appended:
		failed = t.Gate.Sync(ctx, product)
		fallthrough
	case grants.Corrected:
		if failed != nil {
			return errors.Join(ErrDelayed, failed, t.delay(ctx, t.payment))
		}
		return errRetry
	}
	return fmt.Errorf("grant again for payment %s: %w", t.payment, err)
}

// giveBack frees the unit of a grant that was not needed.
func (t *transition) giveBack(ctx context.Context) {
	if t.grant != nil {
		t.grants.GiveBack(ctx, *t.grant)
	}
}
