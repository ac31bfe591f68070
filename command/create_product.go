package command

import (
	"context"

	"github.com/google/uuid"

	"github.com/dopaminestore/dopamine/command/claims"
	"github.com/dopaminestore/dopamine/command/origin"
	"github.com/dopaminestore/dopamine/domain"
	"github.com/dopaminestore/dopamine/eventstore"
	"github.com/dopaminestore/dopamine/internal/apimodel"
)

// commandResult is the outcome of a command: the new state, and the position that
// a query must have reached to see it.
type commandResult[V any] struct {
	view     V
	product  uuid.UUID
	position int64
}

type createProductHandler struct{ command }

// Handle creates a product and builds its gate, so that it can be acquired
// once the response has been sent.
func (s createProductHandler) Handle(ctx context.Context, by *invocation, c domain.CreateProduct) (commandResult[apimodel.Product], error) {
	ctx, cancel := detached(ctx, appendTimeout)
	defer cancel()
	event, err := c.Decide(s.now())
	if err != nil {
		return commandResult[apimodel.Product]{}, err
	}
	reserved, err := s.store.Reserve()
	if err != nil {
		return commandResult[apimodel.Product]{}, err
	}
	defer reserved.Release()
	id := origin.NewID()
	created := claims.Create{Product: id, Stock: event.Stock, SaleDate: event.SaleDate, SaleEnd: event.SaleEndDate}
	result, err := s.commit(ctx, by, reserved, stream{product: id, id: id}, []domain.Event{event}, created.GuardItem())
	if err != nil {
		return commandResult[apimodel.Product]{}, err
	}
	p := fold(domain.Product{}, id, result, event)
	return commandResult[apimodel.Product]{apimodel.ProductOf(p, 0, s.now()), id, p.Position}, nil
}

// fold returns the product after events that were appended to its stream.
func fold(p domain.Product, id uuid.UUID, r eventstore.Result, events ...domain.Event) domain.Product {
	for i, e := range events {
		p = domain.EvolveProduct(p, domain.Envelope{
			StreamID: id, ProductID: id, StreamVersion: p.Version + 1,
			Position: r.Positions[i], RecordedAt: r.RecordedAt, Event: e,
		})
	}
	return p
}
