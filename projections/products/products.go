// Package products is the read model of products: one row for each existing product, with its free
// units.
//
// stock is the total minus the units of ACTIVE and COMPLETED slots, so it changes with
// SlotAcquired, SlotExpired and SlotReturned. updated_at concerns the product itself: events of its
// slots, and the withdrawal of a grant, do not change it. revision is the position of the event
// that set it, last_position that of the last change of any column. If a product is deleted its row
// is deleted, and later events of its slots are ignored.
package products

import (
	"fmt"
	"maps"
	"slices"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"

	"github.com/dopaminestore/dopamine/domain"
	"github.com/dopaminestore/dopamine/projections"
	"github.com/dopaminestore/dopamine/projections/table"
)

// Projection implements projections.Projection.
type Projection struct{}

var _ projections.Projection = Projection{}

// New returns the projection.
func New() Projection { return Projection{} }

// Name implements projections.Projection.
func (Projection) Name() string { return "products" }

// Key implements projections.Projection.
func (Projection) Key(e domain.Envelope) (uuid.UUID, bool) {
	return Projection{}.RawKey(e.Event.EventType(), e.ProductID, e.StreamID)
}

// RawKey implements projections.Projection.
func (Projection) RawKey(eventType string, product, _ uuid.UUID) (uuid.UUID, bool) {
	switch eventType {
	case "ProductCreated", "ProductDetailsChanged", "ProductPriceChanged", "ProductStockIncreased", "ProductStockDecreased",
		"ProductSaleRescheduled", "ProductSalePaused", "ProductSaleResumed", "ProductSaleCancelled", "ProductDeleted",
		"SlotAcquired", "SlotExpired", "SlotReturned":
		return product, true
	}
	return uuid.Nil, false
}

// NewFold implements projections.Projection.
func (Projection) NewFold(generation int) projections.Fold {
	return &fold{table: projections.Table("products", generation), rows: map[uuid.UUID]*Row{}, gone: map[uuid.UUID]bool{}}
}

// Row is one row of the table.
type Row struct {
	ID           uuid.UUID
	Name         string
	Description  string
	Price        string // decimal
	Currency     string
	Stock        int32 // free units
	InitialStock int32
	TotalStock   int32
	SaleDate     time.Time
	SaleEndDate  *time.Time
	Paused       bool
	CreatedAt    time.Time
	UpdatedAt    time.Time
	LastPosition int64
	Cancelled    bool
	Revision     *int64 // position of the last change by an admin; nil if it was made before this column existed
}

var rows = table.New([]table.Column[Row]{
	table.Of("id", table.ID, func(r *Row) *uuid.UUID { return &r.ID }),
}, []table.Column[Row]{
	table.Of("name", table.Text, func(r *Row) *string { return &r.Name }),
	table.Of("description", table.Text, func(r *Row) *string { return &r.Description }),
	table.Of("price", table.Decimal, func(r *Row) *string { return &r.Price }),
	table.Of("currency", table.Text, func(r *Row) *string { return &r.Currency }),
	table.Of("stock", table.Int, func(r *Row) *int32 { return &r.Stock }),
	table.Of("initial_stock", table.Int, func(r *Row) *int32 { return &r.InitialStock }),
	table.Of("total_stock", table.Int, func(r *Row) *int32 { return &r.TotalStock }),
	table.Of("sale_date", table.Time, func(r *Row) *time.Time { return &r.SaleDate }),
	table.Of("sale_end_date", table.OptionalTime, func(r *Row) **time.Time { return &r.SaleEndDate }),
	table.Of("paused", table.Bool, func(r *Row) *bool { return &r.Paused }),
	table.Of("created_at", table.Time, func(r *Row) *time.Time { return &r.CreatedAt }),
	table.Of("updated_at", table.Time, func(r *Row) *time.Time { return &r.UpdatedAt }),
	table.Of("last_position", table.Long, func(r *Row) *int64 { return &r.LastPosition }),
	table.Of("cancelled", table.Bool, func(r *Row) *bool { return &r.Cancelled }),
	table.Of("revision", table.OptionalLong, func(r *Row) **int64 { return &r.Revision }),
})

type fold struct {
	table string
	rows  map[uuid.UUID]*Row
	gone  map[uuid.UUID]bool
}

func (f *fold) Load(b *pgx.Batch, events []domain.Envelope) {
	rows.Load(b, f.table, projections.KeysToLoad(events, Projection{}.Key, creates), func(r *Row) { f.rows[r.ID] = r })
}

func (f *fold) Apply(e domain.Envelope) error {
	if c, ok := e.Event.(domain.ProductCreated); ok {
		stock := int32(c.Stock)
		f.rows[e.ProductID] = &Row{
			ID: e.ProductID, Name: c.Name, Description: c.Description,
			Price: c.Price.Amount().String(), Currency: c.Price.Currency(),
			Stock: stock, InitialStock: stock, TotalStock: stock,
			SaleDate: c.SaleDate, SaleEndDate: c.SaleEndDate,
			CreatedAt: e.RecordedAt, UpdatedAt: e.RecordedAt, LastPosition: e.Position, Revision: &e.Position,
		}
		delete(f.gone, e.ProductID)
		return nil
	}
	row := f.rows[e.ProductID]
	if _, returned := e.Event.(domain.SlotReturned); returned && row == nil {
		return nil // a deleted product has no stock
	}
	if row == nil {
		return fmt.Errorf("product %s has no row", e.ProductID)
	}
	row.LastPosition = e.Position
	switch c := e.Event.(type) {
	case domain.SlotAcquired:
		row.Stock--
		return nil
	case domain.SlotExpired, domain.SlotReturned:
		row.Stock++
		return nil
	case domain.ProductDeleted:
		delete(f.rows, e.ProductID)
		f.gone[e.ProductID] = true
		return nil
	case domain.ProductDetailsChanged:
		row.Name, row.Description = c.Name, c.Description
	case domain.ProductPriceChanged:
		row.Price, row.Currency = c.Price.Amount().String(), c.Price.Currency()
	case domain.ProductStockDecreased:
		total := int32(c.TotalStock)
		row.Stock += total - row.TotalStock
		row.TotalStock, row.InitialStock = total, min(row.InitialStock, total)
	case domain.ProductSaleCancelled:
		row.Cancelled = true
	case domain.ProductStockIncreased:
		total := int32(c.TotalStock)
		row.Stock += total - row.TotalStock
		row.TotalStock = total
	case domain.ProductSaleRescheduled:
		row.SaleDate, row.SaleEndDate = c.SaleDate, c.SaleEndDate
	case domain.ProductSalePaused:
		row.Paused = true
	case domain.ProductSaleResumed:
		row.Paused = false
	default:
		return fmt.Errorf("no rule for %T", e.Event)
	}
	row.UpdatedAt, row.Revision = e.RecordedAt, &e.Position
	return nil
}

func (f *fold) Write(b *pgx.Batch) {
	if len(f.gone) > 0 {
		b.Queue(fmt.Sprintf(`DELETE FROM %s WHERE id = ANY($1)`, f.table), slices.Collect(maps.Keys(f.gone)))
	}
	rows.Upsert(b, f.table, slices.Collect(maps.Values(f.rows)))
}
