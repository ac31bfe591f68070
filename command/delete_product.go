package command

import (
	"context"

	"github.com/google/uuid"

	"github.com/dopaminestore/dopamine/command/claims"
	"github.com/dopaminestore/dopamine/eventstore"
)

type nothing struct{}

// deleteProduct deletes a product that has no active slot and no open refund of a
// cancelled sale, and closes its gate.
func (s *services) deleteProduct(ctx context.Context, by *invocation, product uuid.UUID) (commandResult[nothing], error) {
	ctx, cancel := detached(ctx, appendTimeout)
	defer cancel()
	p, err := s.catalogue.product(ctx, product)
	if err != nil {
		return commandResult[nothing]{}, err
	}
	place, err := s.store.Reserve()
	if err != nil {
		return commandResult[nothing]{}, err
	}
	defer place.Release()
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
	encoded, err := by.Encode(ctx, events...)
	if err != nil {
		return commandResult[nothing]{}, err
	}
	result, err := s.append(ctx, place, eventstore.Append{
		Key:     p.ID,
		Streams: []eventstore.StreamAppend{{Stream: p.ID, Expected: eventstore.Expected(p.Version), Events: encoded}},
		Guards:  []eventstore.GuardItem{claims.Delete{Product: p.ID, NoneActiveAt: at}.GuardItem()},
	})
	if err != nil {
		return commandResult[nothing]{}, err
	}
	s.sync(ctx, p.ID)
	return commandResult[nothing]{product: p.ID, place: result.Position}, nil
}
