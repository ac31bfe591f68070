package command

import (
	"context"

	"github.com/google/uuid"

	"github.com/dopaminestore/dopamine/command/claims"
)

type nothing struct{}

type deleteProductHandler struct{ command }

// Handle deletes a product that has no active slot and no open refund of a
// cancelled sale, and closes its gate.
func (s deleteProductHandler) Handle(ctx context.Context, by *invocation, product uuid.UUID) (commandResult[nothing], error) {
	ctx, cancel := detached(ctx, appendTimeout)
	defer cancel()
	p, err := s.catalogue.product(ctx, product)
	if err != nil {
		return commandResult[nothing]{}, err
	}
	reserved, err := s.store.Reserve()
	if err != nil {
		return commandResult[nothing]{}, err
	}
	defer reserved.Release()
	events, err := p.Delete()
	if err != nil {
		return commandResult[nothing]{}, err
	}
	// All claims are read before the append, so that under its lock only later ones are read.
	active, at, err := s.claims.HasActive(ctx, p.ID)
	if err != nil {
		return commandResult[nothing]{}, err
	}
	if active {
		return commandResult[nothing]{}, errLiveSlots
	}
	if p.Cancelled {
		counts, err := s.payments.Cancellation(ctx, p.ID)
		if err != nil {
			return commandResult[nothing]{}, err
		}
		if counts.Open > 0 {
			return commandResult[nothing]{}, errOpenRefunds
		}
	}
	deleted := claims.Delete{Product: p.ID, NoneActiveAt: at}
	result, err := s.commit(ctx, by, reserved, streamOfProduct(p), events, deleted.GuardItem())
	if err != nil {
		return commandResult[nothing]{}, err
	}
	return commandResult[nothing]{product: p.ID, position: result.Position}, nil
}
