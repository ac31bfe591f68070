package query

import (
	"net/http"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
	"github.com/labstack/echo/v4"

	"github.com/dopaminestore/dopamine/internal/apimodel"
	"github.com/dopaminestore/dopamine/internal/httpapi"
)

// refundList is the response of GET /v1/payments/{id}/refunds.
type refundList struct {
	Refunds []apimodel.Refund `json:"refunds"`
}

const refundColumns = `id, payment_id, amount::text, currency, cause, status, return_unit, reason, failure_reason, created_at, updated_at`

func scanRefund(row pgx.Row) (apimodel.Refund, error) {
	var r apimodel.Refund
	if err := row.Scan(&r.ID, &r.PaymentID, &r.Amount, &r.Currency, &r.Cause, &r.Status, &r.ReturnUnit, &r.Reason, &r.FailureReason,
		(*time.Time)(&r.CreatedAt), (*time.Time)(&r.UpdatedAt)); err != nil {
		return r, err
	}
	var err error
	r.Amount, err = showMoney(r.Amount, r.Currency)
	return r, err
}

func (a *API) listRefunds(c echo.Context) error {
	id, err := httpapi.PathUUID(c, "id")
	if err != nil {
		return err
	}
	min, err := httpapi.MinPositions(c)
	if err != nil {
		return err
	}
	var owner uuid.UUID
	var answer refundList
	err = a.models.read(c.Request().Context(), snapshot{of: []string{purchases}, min: min, queue: func(b *pgx.Batch, g generations) {
		b.Queue(`SELECT user_id FROM `+g.table(purchases)+` WHERE id = $1`, id).QueryRow(func(row pgx.Row) error {
			return notFound(row.Scan(&owner), errNoPayment)
		})
		b.Queue(`SELECT `+refundColumns+` FROM `+g.refunds()+` WHERE payment_id = $1 ORDER BY created_at, id`, id).Query(func(rows pgx.Rows) (err error) {
			answer.Refunds, err = pgx.CollectRows(rows, func(row pgx.CollectableRow) (apimodel.Refund, error) { return scanRefund(row) })
			return err
		})
	}})
	if err != nil {
		return err
	}
	if err := ownerOrAdmin(c, owner); err != nil {
		return err
	}
	return httpapi.JSON(c, http.StatusOK, answer)
}
