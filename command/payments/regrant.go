package payments

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/google/uuid"

	"github.com/dopaminestore/dopamine/command/claims"
	"github.com/dopaminestore/dopamine/domain"
	"github.com/dopaminestore/dopamine/eventstore"
	"github.com/dopaminestore/dopamine/redis"
)

const (
	// gateAttempts is how often the gate is asked for one unit because it had not
	// seen a slot's end.
	gateAttempts = 6
	// giveBackTimeout bounds giving back an unused grant; what is not given back is
	// withdrawn by the worker.
	giveBackTimeout = 500 * time.Millisecond
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
		if attempt == gateAttempts {
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
			_, holds, err := t.Claims.ByBuyer(ctx, slot.ProductID, slot.UserID)
			if err != nil || holds {
				return domain.GateAnswer{}, err
			}
			if err := t.Gate.Sync(ctx, slot.ProductID); err != nil {
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
	var (
		conflict *eventstore.ConflictError
		away     *eventstore.UnavailableError
		holds    *claims.BuyerHoldsError
		taken    *claims.UnitTakenError
	)
	if errors.Is(err, errRetry) {
		return errRetry
	}
	if !regrant {
		if errors.Is(err, eventstore.ErrConflict) || errors.Is(err, claims.ErrNotActive) {
			return errRetry
		}
		return err
	}
	grant := t.grant
	switch {
	case errors.As(err, &conflict) && conflict.Stream != grant.SlotID:
		return errRetry // the grant is as good as before
	case errors.As(err, &away) && !away.Sent, errors.Is(err, eventstore.ErrClosed), errors.Is(err, eventstore.ErrOverloaded),
		errors.Is(err, errSeen):
		return err // and the grant goes back
	}
	t.grant = nil
	switch {
	case errors.As(err, &holds):
		// If another process brought this outcome to its effect with the same grant,
		// the slot's stream contains it; otherwise the buyer holds another slot.
		if t.noUnit = true; holds.Claim.SlotID != grant.SlotID {
			t.rebuild(ctx, grant)
		}
		return errRetry
	case errors.Is(err, claims.ErrGone):
		t.noUnit = true
		return errRetry
	case errors.Is(err, claims.ErrEpoch), errors.Is(err, claims.ErrWithdrawn), errors.Is(err, claims.ErrSlotEnded), errors.As(err, &conflict):
		if failed := t.Gate.Sync(ctx, product); failed != nil {
			return errors.Join(ErrDelayed, failed, t.delay(ctx, t.payment))
		}
		return errRetry
	case errors.As(err, &taken), errors.Is(err, claims.ErrNoUnit):
		t.rebuild(ctx, grant)
		return errRetry
	}
	return fmt.Errorf("grant again for payment %s: %w", t.payment, err)
}

// rebuild replaces a gate that was found wrong. If that fails, its next answer
// reports it.
func (t *transition) rebuild(ctx context.Context, d *redis.Decision) {
	t.Logger.WarnContext(ctx, "gate contradicts the claims, rebuilding", "product", d.Product, "epoch", d.Epoch, "unit", d.Unit)
	if err := t.Gate.Rebuild(ctx, d.Product, d.Epoch); err != nil {
		t.Logger.WarnContext(ctx, "gate not rebuilt yet", "product", d.Product, "error", err)
	}
}

// giveBack frees the unit of a grant that was not needed, unless another
// request received it too.
func (t *transition) giveBack(ctx context.Context) {
	if t.grant == nil || t.grant.Deliveries != 1 {
		return
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), giveBackTimeout)
	defer cancel()
	if err := t.Gate.GiveBack(ctx, *t.grant); err != nil {
		t.Logger.WarnContext(ctx, "grant not given back, worker withdraws it", "product", t.grant.Product, "number", t.grant.Number, "error", err)
	}
}
