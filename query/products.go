package query

import (
	"context"
	"encoding/binary"
	"fmt"
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
	"github.com/dopaminestore/dopamine/query/readmodel"
	"github.com/dopaminestore/dopamine/query/timetravel"
)

const (
	defaultSize = 20
	maxSize     = 100
	maxPage     = 1_000_000_000
)

// productPage is the response of GET /v1/products.
type productPage struct {
	Products      []apimodel.Product `json:"products"`
	Page          int                `json:"page"`
	Size          int                `json:"size"`
	TotalElements int64              `json:"totalElements"`
	TotalPages    int64              `json:"totalPages"`
	NextCursor    *string            `json:"nextCursor"`
}

// productStatuses are the values of the parameter status.
var productStatuses = []string{string(domain.ProductCancelled), string(domain.ProductEnded), string(domain.ProductPaused), string(domain.ProductUpcoming),
	string(domain.ProductSoldOut), string(domain.ProductOnSale)}

// productKey is the product after which a page of products begins, in the order of the list. The
// page number is only for display.
type productKey struct {
	page int
	sale time.Time
	id   uuid.UUID
}

const productKeyLength = 4 + 8 + 16

func (k productKey) bytes() []byte {
	b := binary.BigEndian.AppendUint32(nil, uint32(k.page))
	b = binary.BigEndian.AppendUint64(b, uint64(k.sale.UnixMicro()))
	return append(b, k.id[:]...)
}

func productKeyFrom(b []byte) *productKey {
	return &productKey{int(binary.BigEndian.Uint32(b)), time.UnixMicro(int64(binary.BigEndian.Uint64(b[4:]))).UTC(), uuid.UUID(b[12:])}
}

// productQuery describes a list of products.
type productQuery struct {
	status     string
	page, size int
	after      *productKey // nil: the page number counts from the beginning
}

func (p productQuery) key() string {
	return fmt.Sprintf("%s|%d|%d|%v", p.status, p.page, p.size, p.after)
}

func (a *API) listProducts(c echo.Context) error {
	q := httpapi.QueryOf(c)
	query := productQuery{
		status: q.Enum("status", productStatuses...),
		page:   q.Int("page", 0, 0, maxPage),
		size:   q.Int("size", defaultSize, 1, maxSize),
	}
	if key := cursor.Param(q, "products|"+query.status, productKeyLength); key != nil {
		query.after = productKeyFrom(key)
		if _, both := q.String("page"); both {
			q.Refuse("page", "must not be given together with cursor")
		}
		query.page = query.after.page
	}
	if err := q.Err(); err != nil {
		return err
	}
	min, err := httpapi.MinPositions(c)
	if err != nil {
		return err
	}
	var answer httpapi.Tagged
	if len(min) > 0 {
		answer, err = a.products(c.Request().Context(), query, min)
	} else {
		// The same list for all clients, requested by every open page of the shop: one read per
		// second.
		answer, err = a.lists.Get(c.Request().Context(), query.key(), func(ctx context.Context) (httpapi.Tagged, error) {
			return a.products(ctx, query, nil)
		})
	}
	if err != nil {
		return err
	}
	httpapi.Cacheable(c)
	return answer.Send(c, http.StatusOK)
}

// products reads a page of products. The count and the order need narrow rows only; the page's rows
// are joined to them.
func (a *API) products(ctx context.Context, query productQuery, min []consistency.ProductPosition) (httpapi.Tagged, error) {
	answer := productPage{Page: query.page, Size: query.size}
	err := a.models.Read(ctx, readmodel.Snapshot{Projections: []string{readmodel.Products}, Min: min, Queue: func(b *pgx.Batch, g readmodel.Generations) {
		table := g.Table(readmodel.Products)
		var w sqlFilter
		if query.status != "" { // otherwise the condition would not help the planner
			w.and(readmodel.ProductStatus + " = '" + query.status + "'")
		}
		b.Queue(`SELECT count(*) FROM ` + table + w.String()).QueryRow(func(row pgx.Row) error { return row.Scan(&answer.TotalElements) })
		offset := int64(query.page) * int64(query.size)
		if query.after != nil {
			w.and("(sale_date, id) > (?, ?)", query.after.sale, query.after.id)
			offset = 0
		}
		w.args = append(w.args, offset, query.size+1)
		page := fmt.Sprintf(`SELECT sale_date, id FROM %s%s ORDER BY sale_date, id OFFSET $%d LIMIT $%d`, table, w, len(w.args)-1, len(w.args))
		b.Queue(`SELECT `+readmodel.ProductColumns+` FROM (`+page+`) page JOIN `+table+` USING (sale_date, id) ORDER BY sale_date, id`, w.args...).
			Query(readmodel.All(&answer.Products, readmodel.ScanProduct))
	}})
	if err != nil {
		return httpapi.Tagged{}, err
	}
	if len(answer.Products) > query.size {
		answer.Products = answer.Products[:query.size]
		last := answer.Products[query.size-1]
		answer.NextCursor = cursor.Next("products|"+query.status, productKey{query.page + 1, time.Time(last.SaleDate), last.ID}.bytes())
	}
	answer.TotalPages = (answer.TotalElements + int64(query.size) - 1) / int64(query.size)
	return httpapi.NewTagged(answer, "")
}

func (a *API) getProduct(c echo.Context) error {
	p, err := timetravel.NowOrAt(c, a.product, a.past.Product)
	if err != nil {
		return err
	}
	httpapi.Cacheable(c)
	return httpapi.TaggedJSON(c, http.StatusOK, p, p.Version())
}

// product reads the current state of a product. It returns ErrNoProduct if there is none.
func (a *API) product(ctx context.Context, id uuid.UUID, min []consistency.ProductPosition) (apimodel.Product, error) {
	var p apimodel.Product
	err := a.models.Read(ctx, readmodel.Snapshot{Projections: []string{readmodel.Products}, Min: min, Queue: func(b *pgx.Batch, g readmodel.Generations) {
		b.Queue(`SELECT `+readmodel.ProductColumns+` FROM `+g.Table(readmodel.Products)+` WHERE id = $1`, id).
			QueryRow(readmodel.One(&p, readmodel.ScanProduct, readmodel.ErrNoProduct))
	}})
	return p, err
}
