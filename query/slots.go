package query

import (
	"context"
	"net/http"
	"sync"
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
	"github.com/dopaminestore/dopamine/query/readmodel"
	"github.com/dopaminestore/dopamine/query/timetravel"
)

// slotList is the response of GET /v1/slots/my-slots.
type slotList struct {
	Slots      []apimodel.Slot `json:"slots"`
	TotalCount int64           `json:"totalCount"`
	NextCursor *string         `json:"nextCursor"`
}

// slotStatuses are the values of the parameter status.
var slotStatuses = []string{string(domain.ActiveSlot), string(domain.CompletedSlot), string(domain.ExpiredSlot), string(domain.ReturnedSlot)}

func (a *API) mySlots(c echo.Context) error {
	q := httpapi.QueryOf(c)
	who, _ := httpapi.IdentityOf(c)
	var filter sqlFilter
	filter.and("s.user_id = ?", who.Sub)
	if status := q.Enum("status", slotStatuses...); status != "" {
		filter.and("s.status = ?", status)
	}
	limit := q.Int("limit", defaultLimit, 1, maxLimit)
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
	var answer slotList
	counted := a.slotCounts.get(filter.key())
	err = a.models.Read(c.Request().Context(), readmodel.Snapshot{Projections: []string{readmodel.PurchaseSlots}, Min: min, Queue: func(b *pgx.Batch, g readmodel.Generations) {
		if counted == nil {
			b.Queue(`SELECT count(*) FROM `+g.Table(readmodel.PurchaseSlots)+` s`+filter.String(), filter.args...).
				QueryRow(func(row pgx.Row) error { return row.Scan(&answer.TotalCount) })
		} else {
			answer.TotalCount = *counted
		}
		w := filter.copy()
		if after != nil {
			w.and("(s.created_at, s.id) < (?, ?)", after.created, after.id)
		}
		w.args = append(w.args, limit+1)
		b.Queue(`SELECT `+readmodel.SlotColumns+` FROM `+readmodel.SlotsFrom(g)+w.String()+` ORDER BY s.created_at DESC, s.id DESC LIMIT `+w.last(), w.args...).
			Query(readmodel.All(&answer.Slots, readmodel.ScanSlot))
	}})
	if err != nil {
		return err
	}
	if counted == nil {
		a.slotCounts.keep(filter.key(), answer.TotalCount)
	}
	if len(answer.Slots) > limit {
		answer.Slots = answer.Slots[:limit]
		last := answer.Slots[limit-1]
		answer.NextCursor = cursor.Next(filter.key(), listKey{time.Time(last.CreatedAt), last.ID}.bytes())
	}
	return httpapi.JSON(c, http.StatusOK, answer)
}

// largeCounts caches expensive counts for a second: a buyer who keeps acquiring and releasing has
// an unbounded number of slots, and may request them fifty times a second.
type largeCounts struct {
	mu   sync.Mutex
	kept map[string]largeCount
}

type largeCount struct {
	n     int64
	until time.Time
}

const (
	// largeCountFrom is the count from which a count is cached; smaller ones are exact.
	largeCountFrom = 5000
	largeCountTTL  = time.Second
	// largeCountEntries is the maximum number of cached counts.
	largeCountEntries = 1000
)

func (l *largeCounts) get(key string) *int64 {
	l.mu.Lock()
	defer l.mu.Unlock()
	if c, ok := l.kept[key]; ok && time.Now().Before(c.until) {
		return &c.n
	}
	return nil
}

func (l *largeCounts) keep(key string, n int64) {
	if n < largeCountFrom {
		return
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.kept == nil || len(l.kept) >= largeCountEntries {
		l.kept = map[string]largeCount{}
	}
	l.kept[key] = largeCount{n, time.Now().Add(largeCountTTL)}
}

func (a *API) getSlot(c echo.Context) error {
	s, err := timetravel.NowOrAt(c, a.slot, a.past.Slot)
	if err != nil {
		return err
	}
	if err := ownerOrAdmin(c, s.UserID); err != nil {
		return err
	}
	return httpapi.JSON(c, http.StatusOK, s)
}

// slot reads the current state of a slot. It returns ErrNoSlot if there is none.
func (a *API) slot(ctx context.Context, id uuid.UUID, min []consistency.ProductPosition) (apimodel.Slot, error) {
	var s apimodel.Slot
	err := a.models.Read(ctx, readmodel.Snapshot{Projections: []string{readmodel.PurchaseSlots}, Min: min, Queue: func(b *pgx.Batch, g readmodel.Generations) {
		b.Queue(`SELECT `+readmodel.SlotColumns+` FROM `+readmodel.SlotsFrom(g)+` WHERE s.id = $1`, id).
			QueryRow(readmodel.One(&s, readmodel.ScanSlot, readmodel.ErrNoSlot))
	}})
	return s, err
}

var errNotYours = problem.New(problem.Forbidden, "it belongs to another user")

// ownerOrAdmin returns an error unless the caller is an admin or the owner.
func ownerOrAdmin(c echo.Context, owner uuid.UUID) error {
	who, _ := httpapi.IdentityOf(c)
	if who.Has(auth.Admin) || who.Has(auth.Buyer) && who.Sub == owner {
		return nil
	}
	return errNotYours
}
