package command

import (
	"context"
	"net/http"

	"github.com/google/uuid"
	"github.com/labstack/echo/v4"

	"github.com/dopaminestore/dopamine/command/claims"
	"github.com/dopaminestore/dopamine/eventstore"
	"github.com/dopaminestore/dopamine/internal/apimodel"
	"github.com/dopaminestore/dopamine/internal/httpapi"
)

// cancelSale ends a product's sale for good. The worker then expires its slots and
// refunds its purchases. cancelSale is idempotent.
func (s *services) cancelSale(ctx context.Context, by *invocation, product uuid.UUID) (commandResult[apimodel.Product], error) {
	ctx, cancel := detached(ctx, appendTimeout)
	defer cancel()
	p, err := s.catalogue.product(ctx, product)
	if err != nil {
		return commandResult[apimodel.Product]{}, err
	}
	place, err := s.store.Reserve()
	if err != nil {
		return commandResult[apimodel.Product]{}, err
	}
	defer place.Release()
	// Read before the append: after it, nothing may delay the response.
	held := s.countHeld(ctx, p)
	counts, err := s.payments.Cancellation(ctx, p.ID)
	if err != nil {
		return commandResult[apimodel.Product]{}, err
	}
	events, err := p.Cancel()
	if err != nil {
		return commandResult[apimodel.Product]{}, err
	}
	if len(events) > 0 {
		encoded, err := by.Encode(ctx, events...)
		if err != nil {
			return commandResult[apimodel.Product]{}, err
		}
		sale := claims.Sale{Product: p.ID, SaleDate: p.SaleDate, SaleEnd: p.SaleEndDate, Paused: p.Paused, Cancelled: true}
		result, err := s.append(ctx, place, eventstore.Append{
			Key:     p.ID,
			Streams: []eventstore.StreamAppend{{Stream: p.ID, Expected: eventstore.Expected(p.Version), Events: encoded}},
			Guards:  []eventstore.GuardItem{sale.GuardItem()},
		})
		if err != nil {
			return commandResult[apimodel.Product]{}, err
		}
		p = fold(p, p.ID, result, events...)
		s.sync(ctx, p.ID)
	}
	shown := apimodel.ProductOf(p, held(), s.now())
	shown.Cancellation = &counts
	return commandResult[apimodel.Product]{shown, p.ID, p.Position}, nil
}

func (a *API) postCancelSale(c echo.Context) error {
	id, err := httpapi.PathUUID(c, "id")
	if err != nil {
		return err
	}
	r, err := a.cancelSale(c.Request().Context(), caller(c), id)
	return answerProduct(c, http.StatusAccepted, "", id, r, err)
}
