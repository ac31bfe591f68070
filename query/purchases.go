package query

import (
	"context"
	"net/http"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
	"github.com/labstack/echo/v4"

	"github.com/dopaminestore/dopamine/domain"
	"github.com/dopaminestore/dopamine/internal/apimodel"
	"github.com/dopaminestore/dopamine/internal/auth"
	"github.com/dopaminestore/dopamine/internal/consistency"
	"github.com/dopaminestore/dopamine/internal/httpapi"
	"github.com/dopaminestore/dopamine/internal/problem"
	"github.com/dopaminestore/dopamine/query/cursor"
	"github.com/dopaminestore/dopamine/query/export"
	"github.com/dopaminestore/dopamine/query/readmodel"
)

// purchasePage is the response of GET /v1/purchases.
type purchasePage struct {
	Purchases  []apimodel.Payment `json:"purchases"`
	NextCursor *string            `json:"nextCursor"`
}

var errNoPayment = problem.New(problem.PaymentNotFound, "there is no payment with this id")

func (a *API) getPayment(c echo.Context) error {
	id, min, err := httpapi.PathAndMinPositions(c)
	if err != nil {
		return err
	}
	p, err := a.payment(c.Request().Context(), id, min)
	if err != nil {
		return err
	}
	if err := ownerOrAdmin(c, p.UserID); err != nil {
		return err
	}
	shown := apimodel.PaymentWithAction{Payment: p}
	if who, _ := httpapi.IdentityOf(c); who.Sub == p.UserID && p.PaymentStatus == domain.PendingPayment {
		shown.NextAction = a.models.NextActions(c.Request().Context(), []uuid.UUID{id})[id]
	}
	return httpapi.JSON(c, http.StatusOK, shown)
}

// payment reads the current state of a payment. It returns errNoPayment if there is none.
func (a *API) payment(ctx context.Context, id uuid.UUID, min []consistency.ProductPosition) (apimodel.Payment, error) {
	var p apimodel.Payment
	err := a.models.Read(ctx, readmodel.Snapshot{Projections: []string{readmodel.Purchases}, Min: min, Queue: func(b *pgx.Batch, g readmodel.Generations) {
		b.Queue(`SELECT `+readmodel.PaymentColumns+` FROM `+g.Table(readmodel.Purchases)+` WHERE id = $1`, id).
			QueryRow(readmodel.One(&p, readmodel.ScanPayment, errNoPayment))
	}})
	return p, err
}

func keyOfPurchase(p *apimodel.Payment) *listKey {
	return &listKey{time.Time(p.CreatedAt), p.ID}
}

func (a *API) listPurchases(c echo.Context) error {
	who, _ := httpapi.IdentityOf(c)
	q := httpapi.QueryOf(c)
	var filter sqlFilter
	filter.id(q, "productId", "product_id")
	user, named := filter.id(q, "userId", "user_id")
	if status := q.Enum("status", string(domain.PendingPayment), string(domain.SuccessfulPayment), string(domain.FailedPayment)); status != "" {
		filter.and("payment_status = ?", status)
	}
	if from, given := moment(q, "from"); given {
		filter.and("created_at >= ?", from)
	}
	if to, given := moment(q, "to"); given {
		filter.and("created_at < ?", to)
	}
	if !who.Has(auth.Admin) && !named {
		filter.and("user_id = ?", who.Sub)
	}
	limit, bom := q.Int("limit", defaultLimit, 1, maxLimit), q.Flag("bom")
	var after *listKey
	if key := cursor.Param(q, filter.key(), listKeyLength); key != nil {
		after = listKeyFrom(key)
	}
	if err := q.Err(); err != nil {
		return err
	}
	min, err := httpapi.MinPositions(c)
	if err != nil {
		return err
	}
	if !who.Has(auth.Admin) && named && user != who.Sub {
		return errNotYours
	}
	ctx := c.Request().Context()
	if export.Negotiate(c, export.TypeJSON, export.TypeCSV) == export.TypeCSV {
		return a.exportPurchases(c, filter, min, bom)
	}
	rows, err := a.purchases(ctx, filter, after, limit+1, min, readmodel.Timeout)
	if err != nil {
		return err
	}
	answer := purchasePage{Purchases: rows}
	if len(rows) > limit {
		answer.Purchases = rows[:limit]
		answer.NextCursor = cursor.Next(filter.key(), keyOfPurchase(&rows[limit-1]).bytes())
	}
	return httpapi.JSON(c, http.StatusOK, answer)
}

func (a *API) exportPurchases(c echo.Context, filter sqlFilter, min []consistency.ProductPosition, bom bool) error {
	next := func(last *apimodel.Payment) ([]apimodel.Payment, error) {
		if last == nil {
			at, err := a.models.Complete(c.Request().Context(), readmodel.Purchases)
			if err != nil {
				return nil, err
			}
			if at.Known {
				export.Announce(c, at.Token())
			}
			return a.purchases(c.Request().Context(), filter, nil, export.PageSize, min, export.PageTimeout)
		}
		return a.purchases(c.Request().Context(), filter, keyOfPurchase(last), export.PageSize, nil, export.PageTimeout)
	}
	return export.Stream(c, export.ContentCSV, export.Header[apimodel.Payment](bom), next, export.Record[apimodel.Payment])
}

// purchases reads up to limit purchases after `after`, newest first.
func (a *API) purchases(ctx context.Context, filter sqlFilter, after *listKey, limit int, min []consistency.ProductPosition, timeout time.Duration) ([]apimodel.Payment, error) {
	if after != nil {
		filter = filter.copy()
		filter.and("(created_at, id) < (?, ?)", after.created, after.id)
	}
	var list []apimodel.Payment
	err := a.models.Read(ctx, readmodel.Snapshot{Projections: []string{readmodel.Purchases}, Min: min, Timeout: timeout, Queue: func(b *pgx.Batch, g readmodel.Generations) {
		w := filter.copy()
		w.args = append(w.args, limit)
		b.Queue(`SELECT `+readmodel.PaymentColumns+` FROM `+g.Table(readmodel.Purchases)+w.String()+` ORDER BY created_at DESC, id DESC LIMIT `+w.last(), w.args...).
			Query(readmodel.All(&list, readmodel.ScanPayment))
	}})
	return list, err
}
