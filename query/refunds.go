package query

import (
	"net/http"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
	"github.com/labstack/echo/v4"

	"github.com/dopaminestore/dopamine/internal/apimodel"
	"github.com/dopaminestore/dopamine/internal/httpapi"
	"github.com/dopaminestore/dopamine/query/readmodel"
)

// refundList is the response of GET /v1/payments/{id}/refunds.
type refundList struct {
	Refunds []apimodel.Refund `json:"refunds"`
}

func (a *API) listRefunds(c echo.Context) error {
	id, min, err := httpapi.PathAndMinPositions(c)
	if err != nil {
		return err
	}
	var owner uuid.UUID
	var answer refundList
	err = a.models.Read(c.Request().Context(), readmodel.Snapshot{Projections: []string{readmodel.Purchases}, Min: min, Queue: func(b *pgx.Batch, g readmodel.Generations) {
		b.Queue(`SELECT user_id FROM `+g.Table(readmodel.Purchases)+` WHERE id = $1`, id).QueryRow(func(row pgx.Row) error {
			return readmodel.NotFound(row.Scan(&owner), errNoPayment)
		})
		b.Queue(`SELECT `+readmodel.RefundColumns+` FROM `+g.Refunds()+` WHERE payment_id = $1 ORDER BY created_at, id`, id).Query(readmodel.All(&answer.Refunds, readmodel.ScanRefund))
	}})
	if err != nil {
		return err
	}
	if err := ownerOrAdmin(c, owner); err != nil {
		return err
	}
	return httpapi.JSON(c, http.StatusOK, answer)
}
