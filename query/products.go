package query

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
	"github.com/labstack/echo/v4"
	"github.com/shopspring/decimal"

	"github.com/dopaminestore/dopamine/domain"
	"github.com/dopaminestore/dopamine/internal/httpapi"
	"github.com/dopaminestore/dopamine/internal/position"
	"github.com/dopaminestore/dopamine/internal/view"
)

const (
	defaultSize = 20
	maxSize     = 100
	maxPage     = 1_000_000_000
)

// productPage is the answer of GET /v1/products.
type productPage struct {
	Products      []view.Product `json:"products"`
	Page          int            `json:"page"`
	Size          int            `json:"size"`
	TotalElements int64          `json:"totalElements"`
	TotalPages    int64          `json:"totalPages"`
}

// productStatus computes a product's status by the snapshot's clock, as
// domain.StatusOf does.
const productStatus = `
CASE WHEN sale_end_date <= now() THEN 'ENDED'
     WHEN paused THEN 'PAUSED'
     WHEN sale_date > now() THEN 'UPCOMING'
     WHEN stock <= 0 THEN 'SOLD_OUT'
     ELSE 'ON_SALE' END`

const productColumns = `id, name, description, price::text, currency, stock, initial_stock, total_stock,
	sale_date, sale_end_date, paused,` + productStatus + `, created_at, updated_at`

// scanProduct reads productColumns and what follows them.
func scanProduct(row pgx.Row, more ...any) (view.Product, error) {
	var p view.Product
	var end *time.Time
	err := row.Scan(append([]any{&p.ID, &p.Name, &p.Description, &p.Price, &p.Currency, &p.Stock, &p.InitialStock, &p.TotalStock,
		(*time.Time)(&p.SaleDate), &end, &p.Paused, &p.Status, (*time.Time)(&p.CreatedAt), (*time.Time)(&p.UpdatedAt)}, more...)...)
	if err != nil {
		return p, err
	}
	p.SaleEndDate = view.At(end)
	p.Price, err = showMoney(p.Price, p.Currency)
	return p, err
}

// showMoney writes a stored number with its currency's decimal places.
func showMoney(number, currency string) (string, error) {
	amount, err := decimal.NewFromString(number)
	if err != nil {
		return "", fmt.Errorf("stored amount %q: %w", number, err)
	}
	money, err := domain.NewMoney(amount, currency)
	if err != nil {
		return "", fmt.Errorf("stored amount %s %s: %w", number, currency, err)
	}
	return money.String(), nil
}

func (a *API) listProducts(c echo.Context) error {
	q := httpapi.QueryOf(c)
	status := q.Enum("status", string(domain.ProductEnded), string(domain.ProductPaused), string(domain.ProductUpcoming),
		string(domain.ProductSoldOut), string(domain.ProductOnSale))
	page := q.Int("page", 0, 0, maxPage)
	size := q.Int("size", defaultSize, 1, maxSize)
	if err := q.Err(); err != nil {
		return err
	}
	min, err := httpapi.MinPositions(c)
	if err != nil {
		return err
	}
	answer := productPage{Page: page, Size: size}
	err = a.models.read(c.Request().Context(), snapshot{of: []string{products}, min: min, queue: func(b *pgx.Batch, g generations) {
		from := g.table(products)
		if status != "" { // of no use to the planner otherwise
			from += ` WHERE ` + productStatus + ` = '` + status + `'`
		}
		b.Queue(`SELECT count(*) FROM ` + from).QueryRow(func(row pgx.Row) error { return row.Scan(&answer.TotalElements) })
		b.Queue(`SELECT `+productColumns+` FROM `+from+` ORDER BY sale_date, id LIMIT $1 OFFSET $2`, size, int64(page)*int64(size)).
			Query(func(rows pgx.Rows) (err error) {
				answer.Products, err = pgx.CollectRows(rows, func(row pgx.CollectableRow) (view.Product, error) { return scanProduct(row) })
				return err
			})
	}})
	if err != nil {
		return err
	}
	answer.TotalPages = (answer.TotalElements + int64(size) - 1) / int64(size)
	return httpapi.JSON(c, http.StatusOK, answer)
}

func (a *API) getProduct(c echo.Context) error {
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
	var p view.Product
	if past {
		p, err = a.past.product(c.Request().Context(), id, at)
	} else {
		p, err = a.models.product(c.Request().Context(), id, min)
	}
	if err != nil {
		return err
	}
	return httpapi.JSON(c, http.StatusOK, p)
}

// product reads a product as it is now; errNoProduct where there is none.
func (r *readModels) product(ctx context.Context, id uuid.UUID, min []position.Position) (view.Product, error) {
	var p view.Product
	err := r.read(ctx, snapshot{of: []string{products}, min: min, queue: func(b *pgx.Batch, g generations) {
		b.Queue(`SELECT `+productColumns+` FROM `+g.table(products)+` WHERE id = $1`, id).QueryRow(func(row pgx.Row) (err error) {
			p, err = scanProduct(row)
			return notFound(err, errNoProduct)
		})
	}})
	return p, err
}

// notFound makes what says that there is no row.
func notFound(err, none error) error {
	if errors.Is(err, pgx.ErrNoRows) {
		return none
	}
	return err
}
