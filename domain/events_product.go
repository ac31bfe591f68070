package domain

import (
	"time"

	"github.com/google/uuid"
)

// ProductCreated begins a product's stream.
type ProductCreated struct {
	Name        string     `json:"name"`
	Description string     `json:"description"`
	Price       Money      `json:"price"`
	Stock       int        `json:"stock"`
	SaleDate    time.Time  `json:"saleDate"`
	SaleEndDate *time.Time `json:"saleEndDate,omitempty"`
}

// ProductDetailsChanged contains the new texts.
type ProductDetailsChanged struct {
	Name        string `json:"name"`
	Description string `json:"description"`
}

// ProductPriceChanged contains the new price. It is possible only before the
// sale begins and before the product has had a slot.
type ProductPriceChanged struct {
	Price Money `json:"price"`
}

// ProductStockDecreased removes Decrease units; TotalStock is what remains. It is
// possible only before the sale begins and before the product has had a slot.
type ProductStockDecreased struct {
	Decrease   int `json:"decrease"`
	TotalStock int `json:"totalStock"`
}

// ProductSaleCancelled ends the sale for good; its purchases are refunded.
type ProductSaleCancelled struct{}

// ProductStockIncreased adds Increase units; TotalStock is the new total,
// so that applying it twice does no harm.
type ProductStockIncreased struct {
	Increase   int `json:"increase"`
	TotalStock int `json:"totalStock"`
}

// ProductSaleRescheduled contains the new begin and end of the sale;
// a nil end means that the sale has none.
type ProductSaleRescheduled struct {
	SaleDate    time.Time  `json:"saleDate"`
	SaleEndDate *time.Time `json:"saleEndDate,omitempty"`
}

// ProductSalePaused stops granting; slots that are held are not affected.
type ProductSalePaused struct{}

// ProductSaleResumed ends a pause.
type ProductSaleResumed struct{}

// ProductDeleted ends a product's stream.
type ProductDeleted struct{}

// GrantWithdrawn ends a grant that was never appended: its number can
// never be claimed any more and its unit is free. It is not part of the audit and
// does not change the product's updatedAt.
type GrantWithdrawn struct {
	ArrivalSequence int64     `json:"arrivalSequence"`
	Unit            int       `json:"unit"`
	SlotID          uuid.UUID `json:"slotId"` // the slot that it would have become
}

// EventType implements Event.
func (ProductCreated) EventType() string         { return "ProductCreated" }
func (ProductDetailsChanged) EventType() string  { return "ProductDetailsChanged" }
func (ProductPriceChanged) EventType() string    { return "ProductPriceChanged" }
func (ProductStockDecreased) EventType() string  { return "ProductStockDecreased" }
func (ProductSaleCancelled) EventType() string   { return "ProductSaleCancelled" }
func (ProductStockIncreased) EventType() string  { return "ProductStockIncreased" }
func (ProductSaleRescheduled) EventType() string { return "ProductSaleRescheduled" }
func (ProductSalePaused) EventType() string      { return "ProductSalePaused" }
func (ProductSaleResumed) EventType() string     { return "ProductSaleResumed" }
func (ProductDeleted) EventType() string         { return "ProductDeleted" }
func (GrantWithdrawn) EventType() string         { return "GrantWithdrawn" }
