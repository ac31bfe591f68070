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
	// gateTries is how often the gate is asked for one unit because it had not
	// heard of a slot's end.
	gateTries = 6
	// giveBackWithin bounds giving back an unused grant; what is not given back is
	// withdrawn by the worker.
	giveBackWithin = 500 * time.Millisecond
)

// hold is the grant that a word may need.
type hold struct {
	grant  *redis.Decision // nil for none, or where it became a slot or void
	noUnit bool            // the product is gone, or the buyer holds another slot
}

// anotherUnit asks the gate for a unit, like any request, unless it gave one
// already that is still good. An error means that the gate cannot answer now.
func (l *listening) anotherUnit(ctx context.Context, slot domain.Slot) (domain.GateAnswer, error) {
	for try := 0; l.grant == nil && !l.noUnit; try++ {
		if try == gateTries {
			return domain.GateAnswer{}, errors.New("the gate keeps a slot that has ended")
		}
		d, err := l.Gate.Decide(ctx, redis.Request{Product: slot.ProductID, Buyer: slot.UserID})
		if errors.Is(err, redis.ErrUnknownProduct) {
			return domain.GateAnswer{}, nil
		}
		if err != nil {
			return domain.GateAnswer{}, err
		}
		switch d.Outcome {
		case redis.Granted:
			l.grant = &d
		case redis.Held:
			_, holds, err := l.Claims.ByBuyer(ctx, slot.ProductID, slot.UserID)
			if err != nil || holds {
				return domain.GateAnswer{}, err
			}
			if err := l.Gate.Feed(ctx, slot.ProductID); err != nil {
				return domain.GateAnswer{}, err
			}
		default:
			return domain.GateAnswer{}, nil
		}
	}
	if l.noUnit {
		return domain.GateAnswer{}, nil
	}
	return domain.GateAnswer{
		Granted: true, Unit: l.grant.Unit, ArrivalSequence: l.grant.Number, TTL: l.SlotTTL, Warning: l.SlotWarning,
	}, nil
}

// refused puts right what an append was refused for, and answers errAgain then.
// Where the gate knew less than Postgres, its grant is void.
func (l *listening) refused(ctx context.Context, product uuid.UUID, regrant bool, err error) error {
	var (
		conflict *eventstore.ConflictError
		away     *eventstore.UnavailableError
		holds    *claims.BuyerHoldsError
		taken    *claims.UnitTakenError
	)
	if !regrant {
		if errors.Is(err, eventstore.ErrConflict) || errors.Is(err, claims.ErrNotActive) {
			return errAgain
		}
		return err
	}
	grant := l.grant
	switch {
	case errors.As(err, &conflict) && conflict.Stream != grant.SlotID:
		return errAgain // the grant is as good as before
	case errors.As(err, &away) && !away.Sent, errors.Is(err, eventstore.ErrClosed), errors.Is(err, eventstore.ErrOverloaded),
		errors.Is(err, errSeen):
		return err // and the grant goes back
	}
	l.grant = nil
	switch {
	case errors.As(err, &holds):
		// Where another process brought this word to its effect with the same
		// grant, the slot's stream says so; else the buyer holds what they got.
		if l.noUnit = true; holds.Claim.SlotID != grant.SlotID {
			l.rebuild(ctx, grant)
		}
		return errAgain
	case errors.Is(err, claims.ErrGone):
		l.noUnit = true
		return errAgain
	case errors.Is(err, claims.ErrEpoch), errors.Is(err, claims.ErrWithdrawn), errors.Is(err, claims.ErrSlotEnded), errors.As(err, &conflict):
		if fed := l.Gate.Feed(ctx, product); fed != nil {
			return errors.Join(ErrDelayed, fed, l.delay(ctx))
		}
		return errAgain
	case errors.As(err, &taken), errors.Is(err, claims.ErrNoUnit):
		l.rebuild(ctx, grant)
		return errAgain
	}
	return fmt.Errorf("grant again for payment %s: %w", l.PaymentID, err)
}

// rebuild replaces a gate that was found wrong. Where that fails, its next
// answer says so.
func (l *listening) rebuild(ctx context.Context, d *redis.Decision) {
	l.Logger.WarnContext(ctx, "the gate was wrong and is rebuilt", "product", d.Product, "epoch", d.Epoch, "unit", d.Unit)
	if err := l.Gate.Rebuild(ctx, d.Product, d.Epoch); err != nil {
		l.Logger.WarnContext(ctx, "the gate was not rebuilt yet", "product", d.Product, "error", err)
	}
}

// giveBack frees the unit of a grant that was not needed, unless somebody else
// was told of it too.
func (l *listening) giveBack(ctx context.Context) {
	if l.grant == nil || l.grant.HandedOut != 1 {
		return
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), giveBackWithin)
	defer cancel()
	if err := l.Gate.GiveBack(ctx, *l.grant); err != nil {
		l.Logger.WarnContext(ctx, "a grant was not given back; the worker withdraws it", "product", l.grant.Product, "number", l.grant.Number, "error", err)
	}
}
