package domain

import (
	"time"

	"github.com/google/uuid"
)

// MaxStock is the maximum of a product's total stock.
const MaxStock = 10_000_000

// Limits of a product's texts, in characters (code points).
const (
	MaxNameLength        = 200
	MaxDescriptionLength = 2000
)

// Product is the state that a product's stream describes. The slots' streams determine
// which of its units are held, so that is not part of it. The zero value is a
// product that does not exist yet: rehydrate one with EvolveProduct.
type Product struct {
	ID           uuid.UUID
	Name         string
	Description  string
	Price        Money
	InitialStock int // units at its creation
	TotalStock   int // units now, including held ones
	SaleDate     time.Time
	SaleEndDate  *time.Time // nil: the sale has no end
	Paused       bool
	Cancelled    bool // the sale, for good
	Deleted      bool
	CreatedAt    time.Time
	UpdatedAt    time.Time
	Version      int   // of its stream
	Position     int64 // of the last event of its stream
	Revision     int64 // position of the last event by which an admin changed the product
}

// Exists reports whether the product was created and not deleted since.
func (p Product) Exists() bool { return p.ID != uuid.Nil && !p.Deleted }

// FoldProduct returns the state after the events of a product's stream.
func FoldProduct(events []Envelope) Product {
	var p Product
	for _, e := range events {
		p = EvolveProduct(p, e)
	}
	return p
}

// EvolveProduct folds the next event of a product's stream into its state.
func EvolveProduct(p Product, e Envelope) Product {
	p.Version, p.Position = e.StreamVersion, e.Position
	switch ev := e.Event.(type) {
	case ProductCreated:
		p.ID = e.StreamID
		p.Name, p.Description, p.Price = ev.Name, ev.Description, ev.Price
		p.InitialStock, p.TotalStock = ev.Stock, ev.Stock
		p.SaleDate, p.SaleEndDate = ev.SaleDate, ev.SaleEndDate
		p.CreatedAt = e.RecordedAt
	case ProductDetailsChanged:
		p.Name, p.Description = ev.Name, ev.Description
	case ProductPriceChanged:
		p.Price = ev.Price
	case ProductStockIncreased:
		p.TotalStock = ev.TotalStock
	case ProductStockDecreased:
		p.TotalStock = ev.TotalStock
		p.InitialStock = min(p.InitialStock, p.TotalStock)
	case ProductSaleCancelled:
		p.Cancelled = true
	case ProductSaleRescheduled:
		p.SaleDate, p.SaleEndDate = ev.SaleDate, ev.SaleEndDate
	case ProductSalePaused:
		p.Paused = true
	case ProductSaleResumed:
		p.Paused = false
	case ProductDeleted:
		p.Deleted = true
	default:
		// GrantWithdrawn, and events of newer versions, do not change UpdatedAt.
		return p
	}
	p.UpdatedAt, p.Revision = e.RecordedAt, e.Position
	return p
}

// ProductStatus is the product's current status for buyers.
type ProductStatus string

// The statuses of a product, in the order in which they are checked: the
// first that applies is the status.
const (
	ProductCancelled ProductStatus = "CANCELLED"
	ProductEnded     ProductStatus = "ENDED"
	ProductPaused    ProductStatus = "PAUSED"
	ProductUpcoming  ProductStatus = "UPCOMING"
	ProductSoldOut   ProductStatus = "SOLD_OUT"
	ProductOnSale    ProductStatus = "ON_SALE"
)

// StatusOf computes a product's status at a time. end is nil if the sale has no
// end; free is the number of units that no slot holds.
func StatusOf(now, begin time.Time, end *time.Time, paused, cancelled bool, free int) ProductStatus {
	switch {
	case cancelled:
		return ProductCancelled
	case end != nil && !now.Before(*end):
		return ProductEnded
	case paused:
		return ProductPaused
	case now.Before(begin):
		return ProductUpcoming
	case free <= 0:
		return ProductSoldOut
	default:
		return ProductOnSale
	}
}
