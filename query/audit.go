package query

import (
	"context"
	"encoding/binary"
	"encoding/json"
	"fmt"
	"math"
	"net/http"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
	"github.com/labstack/echo/v4"

	"github.com/dopaminestore/dopamine/domain"
	"github.com/dopaminestore/dopamine/internal/apimodel"
	"github.com/dopaminestore/dopamine/internal/consistency"
	"github.com/dopaminestore/dopamine/internal/httpapi"
	"github.com/dopaminestore/dopamine/query/cursor"
	"github.com/dopaminestore/dopamine/query/export"
	"github.com/dopaminestore/dopamine/query/readmodel"
)

// auditPage is the response of GET /v1/audit.
type auditPage struct {
	Entries    []apimodel.AuditEntry `json:"entries"`
	NextCursor *string               `json:"nextCursor"`
}

// auditRow is an entry with its position, which is shown as a token.
type auditRow struct {
	apimodel.AuditEntry
	position int64
}

const auditColumns = `event_id, type, slot_id, product_id, user_id, old_status, new_status, trace_id, actor, recorded_at, position, metadata::text`

func scanAudit(row pgx.Row, more ...any) (auditRow, error) {
	var e auditRow
	var metadata string
	err := row.Scan(append([]any{&e.EventID, &e.Type, &e.SlotID, &e.ProductID, &e.UserID, &e.OldStatus, &e.NewStatus, &e.TraceID, &e.Actor,
		(*time.Time)(&e.RecordedAt), &e.position, &metadata}, more...)...)
	e.Metadata = json.RawMessage(metadata)
	e.Position = consistency.Encode(e.ProductID, e.position)
	return e, err
}

// auditFilter is a filter with bounds in time. They are translated to bounds in position for the
// table that is read: both increase together, so every index that ends in position can be used.
type auditFilter struct {
	sqlFilter
	slot, product uuid.UUID // uuid.Nil: any
	from, to      *time.Time
}

func (f auditFilter) key() string {
	key := f.sqlFilter.key()
	for _, t := range []*time.Time{f.from, f.to} {
		key += "|"
		if t != nil {
			key += t.String()
		}
	}
	return key
}

// in returns the conditions on a table.
func (f auditFilter) in(table string, after int64) sqlFilter {
	w := f.copy()
	const first = `(SELECT position FROM %s WHERE recorded_at >= ? ORDER BY recorded_at, position LIMIT 1)`
	if f.from != nil {
		w.and("position >= "+fmt.Sprintf(first, table), *f.from)
	}
	if f.to != nil {
		w.and("position < coalesce("+fmt.Sprintf(first, table)+", ?)", *f.to, int64(math.MaxInt64))
	}
	if after > 0 {
		w.and("position > ?", after)
	}
	return w
}

const auditKeyLength = 8

func (a *API) listAudit(c echo.Context) error {
	q := httpapi.QueryOf(c)
	var filter auditFilter
	filter.slot, _ = filter.id(q, "slotId", "slot_id")
	filter.product, _ = filter.id(q, "productId", "product_id")
	filter.id(q, "userId", "user_id")
	if kind := q.Enum("type", domain.SlotEventTypes...); kind != "" {
		filter.and("type = ?", kind)
	}
	if from, given := moment(q, "from"); given {
		filter.from = &from
	}
	if to, given := moment(q, "to"); given {
		filter.to = &to
	}
	limit, bom := q.Int("limit", defaultLimit, 1, maxLimit), q.Flag("bom")
	var after int64
	if key := cursor.Param(q, filter.key(), auditKeyLength); key != nil {
		after = int64(binary.BigEndian.Uint64(key))
	}
	if err := q.Err(); err != nil {
		return err
	}
	min, err := httpapi.MinPositions(c)
	if err != nil {
		return err
	}
	switch export.Negotiate(c, export.TypeJSON, export.TypeCSV, export.TypeNDJSON) {
	case export.TypeCSV:
		return a.exportAudit(c, filter, min, export.ContentCSV, export.Header[apimodel.AuditEntry](bom), appendAuditCSV)
	case export.TypeNDJSON:
		return a.exportAudit(c, filter, min, export.TypeNDJSON, nil, appendAuditJSON)
	}
	page, err := a.audit(c.Request().Context(), auditQuery{filter: filter, after: after, limit: limit + 1, min: min, timeout: readmodel.Timeout})
	if err != nil {
		return err
	}
	answer := auditPage{}
	switch rows := page.rows; {
	case len(rows) > limit:
		page.rows = rows[:limit]
		answer.NextCursor = auditCursor(filter, rows[limit-1].position)
	case page.held && len(rows) > 0:
		answer.NextCursor = auditCursor(filter, rows[len(rows)-1].position)
	case page.held:
		answer.NextCursor = auditCursor(filter, after)
	}
	for _, row := range page.rows {
		answer.Entries = append(answer.Entries, row.AuditEntry)
	}
	return httpapi.JSON(c, http.StatusOK, answer)
}

func auditCursor(filter auditFilter, after int64) *string {
	return cursor.Next(filter.key(), binary.BigEndian.AppendUint64(nil, uint64(after)))
}

// exportAudit streams the entries up to the position where they were complete at the start of the
// export.
func (a *API) exportAudit(c echo.Context, filter auditFilter, min []consistency.ProductPosition, contentType string, head []byte, add func([]byte, *auditRow) ([]byte, error)) error {
	query := auditQuery{filter: filter, limit: export.PageSize, min: min, timeout: export.PageTimeout}
	next := func(last *auditRow) ([]auditRow, error) {
		if last != nil {
			query.after, query.min = last.position, nil
		}
		page, err := a.audit(c.Request().Context(), query)
		if err == nil && last == nil {
			query.upTo = page.Mark
			if page.Known {
				export.Announce(c, page.Token())
			}
		}
		return page.rows, err
	}
	return export.Stream(c, contentType, head, next, add)
}

func appendAuditCSV(b []byte, e *auditRow) ([]byte, error) { return export.Record(b, &e.AuditEntry) }

func appendAuditJSON(b []byte, e *auditRow) ([]byte, error) {
	line, err := json.Marshal(e.AuditEntry)
	if err != nil {
		return b, err
	}
	return append(append(b, line...), '\n'), nil
}

// auditQuery describes a page of entries, oldest first.
type auditQuery struct {
	filter  auditFilter
	after   int64 // the position before the page
	upTo    int64 // the last position to read; 0: up to where the entries are complete
	limit   int
	min     []consistency.ProductPosition
	timeout time.Duration
}

// auditRows is such a page. Entries after its low-water mark are held back, because earlier entries
// may not have been applied yet; held reports whether there are any.
type auditRows struct {
	readmodel.Completeness
	rows []auditRow
	held bool
}

func (a *API) audit(ctx context.Context, query auditQuery) (auditRows, error) {
	var page auditRows
	err := a.models.Read(ctx, readmodel.Snapshot{Projections: []string{readmodel.AuditLog}, Min: query.min, Timeout: query.timeout, Queue: func(b *pgx.Batch, g readmodel.Generations) {
		page = auditRows{Completeness: readmodel.Completeness{Mark: query.upTo}}
		table := g.Table(readmodel.AuditLog)
		w := query.filter.in(table, query.after)
		if query.upTo > 0 {
			w.and("position <= ?", query.upTo)
		} else {
			a.models.QueueComplete(b, g, readmodel.AuditLog, query.filter.product, query.filter.slot, query.min, &page.Completeness)
		}
		w.args = append(w.args, query.limit)
		b.Queue(`SELECT `+auditColumns+` FROM `+table+w.String()+` ORDER BY position LIMIT `+w.last(), w.args...).
			Query(readmodel.All(&page.rows, scanAudit))
	}})
	for i, row := range page.rows {
		if row.position > page.Mark {
			page.rows, page.held = page.rows[:i], true
			break
		}
	}
	return page, err
}
