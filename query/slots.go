package query

import (
	"context"
	"net/http"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
	"github.com/labstack/echo/v4"

	"github.com/dopaminestore/dopamine/domain"
	"github.com/dopaminestore/dopamine/internal/auth"
	"github.com/dopaminestore/dopamine/internal/httpapi"
	"github.com/dopaminestore/dopamine/internal/position"
	"github.com/dopaminestore/dopamine/internal/view"
)

// slotList is the answer of GET /v1/slots/my-slots.
type slotList struct {
	Slots      []view.Slot `json:"slots"`
	TotalCount int         `json:"totalCount"`
}

// slotColumns are those of s, a slot, with n, its product's name as it is now.
const slotColumns = `s.id, s.product_id, coalesce(n.name, ''), s.user_id, s.unit, s.arrival_sequence, s.acquisition_timestamp,
	s.expiration_timestamp, s.status, s.created_at, s.regrant_of, s.ended_at, s.reclaim_status, now()`

func slotsFrom(g generations) string {
	return g.table(purchaseSlots) + ` s LEFT JOIN ` + g.names() + ` n ON n.product_id = s.product_id`
}

// scanSlot reads slotColumns and what follows them.
func scanSlot(row pgx.Row, more ...any) (view.Slot, error) {
	var s view.Slot
	var ended *time.Time
	var now time.Time
	err := row.Scan(append([]any{&s.ID, &s.ProductID, &s.ProductName, &s.UserID, &s.Unit, &s.ArrivalSequence,
		(*time.Time)(&s.AcquisitionTimestamp), (*time.Time)(&s.ExpirationTimestamp), &s.Status, (*time.Time)(&s.CreatedAt),
		&s.RegrantOf, &ended, &s.ReclaimStatus, &now}, more...)...)
	s.EndedAt = view.At(ended)
	s.RemainingTimeSeconds = view.Remaining(s.Status, time.Time(s.ExpirationTimestamp), now)
	return s, err
}

func (a *API) mySlots(c echo.Context) error {
	q := httpapi.QueryOf(c)
	status := q.Enum("status", string(domain.ActiveSlot), string(domain.CompletedSlot), string(domain.ExpiredSlot))
	if err := q.Err(); err != nil {
		return err
	}
	min, err := httpapi.MinPositions(c)
	if err != nil {
		return err
	}
	who, _ := httpapi.IdentityOf(c)
	var answer slotList
	err = a.models.read(c.Request().Context(), snapshot{of: []string{purchaseSlots}, min: min, queue: func(b *pgx.Batch, g generations) {
		b.Queue(`SELECT `+slotColumns+` FROM `+slotsFrom(g)+`
			WHERE s.user_id = $1 AND ($2 = '' OR s.status = $2) ORDER BY s.created_at DESC, s.id DESC`, who.Sub, status).
			Query(func(rows pgx.Rows) (err error) {
				answer.Slots, err = pgx.CollectRows(rows, func(row pgx.CollectableRow) (view.Slot, error) { return scanSlot(row) })
				return err
			})
	}})
	if err != nil {
		return err
	}
	answer.TotalCount = len(answer.Slots)
	return httpapi.JSON(c, http.StatusOK, answer)
}

func (a *API) getSlot(c echo.Context) error {
	id, err := httpapi.PathUUID(c, "id")
	if err != nil {
		return err
	}
	at, past, err := pastOf(c)
	if err != nil {
		return err
	}
	min, err := httpapi.MinPositions(c)
	if err != nil {
		return err
	}
	var s view.Slot
	if past {
		s, err = a.past.slot(c.Request().Context(), id, at)
	} else {
		s, err = a.models.slot(c.Request().Context(), id, min)
	}
	if err != nil {
		return err
	}
	if err := ownerOrAdmin(c, s.UserID); err != nil {
		return err
	}
	return httpapi.JSON(c, http.StatusOK, s)
}

// slot reads a slot as it is now; errNoSlot where there is none.
func (r *readModels) slot(ctx context.Context, id uuid.UUID, min []position.Position) (view.Slot, error) {
	var s view.Slot
	err := r.read(ctx, snapshot{of: []string{purchaseSlots}, min: min, queue: func(b *pgx.Batch, g generations) {
		b.Queue(`SELECT `+slotColumns+` FROM `+slotsFrom(g)+` WHERE s.id = $1`, id).QueryRow(func(row pgx.Row) (err error) {
			s, err = scanSlot(row)
			return notFound(err, errNoSlot)
		})
	}})
	return s, err
}

// ownerOrAdmin lets admins pass, and buyers to what is theirs.
func ownerOrAdmin(c echo.Context, owner uuid.UUID) error {
	who, _ := httpapi.IdentityOf(c)
	if who.Has(auth.Admin) || who.Has(auth.Buyer) && who.Sub == owner {
		return nil
	}
	return errNotYours
}
