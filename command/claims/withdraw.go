package claims

import (
	"context"
	"errors"
	"fmt"

	"github.com/dopaminestore/dopamine/eventstore"
	"github.com/dopaminestore/dopamine/redis"
)

// Appender appends events; *eventstore.Store implements it.
type Appender interface {
	Append(ctx context.Context, a eventstore.Append) (eventstore.Result, error)
}

// WithdrawGrant withdraws a grant whose event was not appended: afterwards it cannot be
// appended any more. event is the encoded domain.GrantWithdrawn. If the grant was
// claimed or withdrawn meanwhile, if its product is gone, or if it is void because it was made
// in another epoch or by a gate of a lost history, WithdrawGrant returns false and no error. Sync
// the gate afterwards in each case.
func WithdrawGrant(ctx context.Context, store Appender, grant redis.PendingGrant, event eventstore.NewEvent) (withdrawn bool, err error) {
	_, err = store.Append(ctx, eventstore.Append{
		Key: grant.Product,
		Streams: []eventstore.StreamAppend{{
			Stream: grant.Product, Expected: eventstore.Any, Events: []eventstore.NewEvent{event},
		}},
		Guards: []eventstore.GuardItem{Withdraw{Product: grant.Product, Number: grant.Number, Unit: grant.Unit, Rebuild: grant.Rebuild}.GuardItem()},
	})
	switch {
	case err == nil:
		return true, nil
	case errors.Is(err, ErrClaimed), errors.Is(err, ErrWithdrawn), errors.Is(err, ErrGone), errors.Is(err, ErrEpoch):
		return false, nil
	}
	return false, fmt.Errorf("withdraw number %d of product %s: %w", grant.Number, grant.Product, err)
}
