package command

import (
	"context"
	"errors"

	"github.com/google/uuid"

	"github.com/dopaminestore/dopamine/command/claims"
	"github.com/dopaminestore/dopamine/domain"
)

type releaseSlotHandler struct{ command }

// Handle ends an active slot before its time: its owner releases it, or an
// admin reclaims it. An admin also returns the unit of a purchase whose money is
// gone. The response follows once the gate has the unit on sale again.
func (s releaseSlotHandler) Handle(ctx context.Context, by *invocation, id uuid.UUID) (commandResult[nothing], error) {
	ctx, cancel := detached(ctx, appendTimeout)
	defer cancel()
	// The owner is checked first: a foreign request must not cost a read of the
	// slot's whole history.
	owner, err := s.payments.Owner(ctx, id)
	if err != nil {
		return commandResult[nothing]{}, err
	}
	if by := callerOf(by.user); !by.Admin && !(by.Buyer && by.User == owner) {
		return commandResult[nothing]{}, &domain.NotOwnerError{Slot: id}
	}
	slot, last, err := s.payments.Slot(ctx, id)
	if err != nil {
		return commandResult[nothing]{}, err
	}
	events, refused := slot.Release(callerOf(by.user))
	var (
		stranger *domain.NotOwnerError
		ended    *domain.SlotNotActiveError
		paying   *domain.PaymentInProgressError
	)
	if errors.As(refused, &stranger) {
		return commandResult[nothing]{}, refused
	}
	reserved, err := s.store.Reserve()
	if err != nil {
		return commandResult[nothing]{}, err
	}
	defer reserved.Release()
	switch {
	case errors.As(refused, &ended):
		return commandResult[nothing]{}, withPosition(errNotActive.Wrap(refused), slot.ProductID, last)
	case errors.As(refused, &paying):
		return commandResult[nothing]{}, withPosition(errPaying.Wrap(refused), slot.ProductID, last)
	case refused != nil:
		return commandResult[nothing]{}, refused
	}
	guard := claims.Release{Product: slot.ProductID, SlotID: id}.GuardItem()
	if _, returns := events[0].(domain.SlotReturned); returns {
		guard = claims.Return{Product: slot.ProductID, SlotID: id}.GuardItem()
	}
	result, err := s.commit(ctx, by, reserved, stream{product: slot.ProductID, id: id, version: slot.Version}, events, guard)
	if err != nil {
		return commandResult[nothing]{}, err
	}
	return commandResult[nothing]{product: slot.ProductID, position: result.Position}, nil
}
