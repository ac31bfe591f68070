package query

import (
	"context"
	"encoding/json"
	"net/http"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/labstack/echo/v4"

	"github.com/dopaminestore/dopamine/internal/apimodel"
	"github.com/dopaminestore/dopamine/internal/httpapi"
)

// nextActions reads what buyers have to do next for their pending payments. Only the write side has
// this; it is in no event. If that database cannot be read, there are none.
type nextActions struct{ pool *pgxpool.Pool }

// actionTimeout bounds the read of the write database that accompanies one of the read models.
const actionTimeout = 500 * time.Millisecond

// of returns the next actions of the payments that are pending and have one.
func (n *nextActions) of(ctx context.Context, payments []uuid.UUID) map[uuid.UUID]json.RawMessage {
	if n == nil || n.pool == nil || len(payments) == 0 {
		return nil
	}
	ctx, cancel := context.WithTimeout(ctx, actionTimeout)
	defer cancel()
	rows, err := n.pool.Query(ctx, `
SELECT payment_id, next_action FROM payments WHERE payment_id = ANY($1) AND status = 'PENDING' AND next_action IS NOT NULL`, payments)
	if err != nil {
		return nil
	}
	found := map[uuid.UUID]json.RawMessage{}
	var id uuid.UUID
	var action json.RawMessage
	if _, err := pgx.ForEachRow(rows, []any{&id, &action}, func() error {
		found[id] = append(json.RawMessage(nil), action...)
		return nil
	}); err != nil {
		return nil
	}
	return found
}

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
