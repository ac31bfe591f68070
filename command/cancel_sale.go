package command

import (
	"context"
	"net/http"

	"github.com/google/uuid"
	"github.com/labstack/echo/v4"

	"github.com/dopaminestore/dopamine/command/claims"
	"github.com/dopaminestore/dopamine/internal/apimodel"
	"github.com/dopaminestore/dopamine/internal/httpapi"
)

type cancelSaleHandler struct{ command }

// Handle ends a product's sale for good. The worker then expires its slots and
// refunds its purchases. cancelSale is idempotent.
func (s cancelSaleHandler) Handle(ctx context.Context, by *invocation, product uuid.UUID) (commandResult[apimodel.Product], error) {
	ctx, cancel := detached(ctx, appendTimeout)
	defer cancel()
	p, err := s.catalogue.product(ctx, product)
	if err != nil {
		return commandResult[apimodel.Product]{}, err
	}
	reserved, err := s.store.Reserve()
	if err != nil {
		return commandResult[apimodel.Product]{}, err
	}
	defer reserved.Release()
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
		sale := claims.Sale{Product: p.ID, SaleDate: p.SaleDate, SaleEnd: p.SaleEndDate, Paused: p.Paused, Cancelled: true}
		result, err := s.commit(ctx, by, reserved, streamOfProduct(p), events, sale.GuardItem())
		if err != nil {
			return commandResult[apimodel.Product]{}, err
		}
		p = fold(p, p.ID, result, events...)
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
	r, err := execute(c, a.commands.cancelSale, id)
	return answerProduct(c, http.StatusAccepted, "", id, r, err)
}
