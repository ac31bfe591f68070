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

// ProductDetailsChanged carries the texts as they are from now on.
type ProductDetailsChanged struct {
	Name        string `json:"name"`
	Description string `json:"description"`
}

// ProductPriceChanged has the price from now on. It is possible only before the
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

// ProductStockIncreased opens Increase more units; TotalStock is what there
// are then, so that telling it twice does no harm.
type ProductStockIncreased struct {
	Increase   int `json:"increase"`
	TotalStock int `json:"totalStock"`
}

// ProductSaleRescheduled carries begin and end of the sale as they are from
// now on; a nil end means that the sale has none.
type ProductSaleRescheduled struct {
	SaleDate    time.Time  `json:"saleDate"`
	SaleEndDate *time.Time `json:"saleEndDate,omitempty"`
}

// ProductSalePaused stops granting; slots that are held go on.
type ProductSalePaused struct{}

// ProductSaleResumed ends a pause.
type ProductSaleResumed struct{}

// ProductDeleted ends a product's stream.
type ProductDeleted struct{}

// GrantWithdrawn settles a grant whose append never came: its number can
// never be claimed again and its unit is free. It is not part of the audit and
// does not touch the product's updatedAt.
type GrantWithdrawn struct {
	ArrivalSequence int64     `json:"arrivalSequence"`
	Unit            int       `json:"unit"`
	SlotID          uuid.UUID `json:"slotId"` // the slot that it would have become
}

// EventType implements Event.
func (ProductCreated) EventType() string { return "ProductCreated" }

// EventType implements Event.
func (ProductDetailsChanged) EventType() string { return "ProductDetailsChanged" }

// EventType implements Event.
func (ProductPriceChanged) EventType() string { return "ProductPriceChanged" }

// EventType implements Event.
func (ProductStockDecreased) EventType() string { return "ProductStockDecreased" }

// EventType implements Event.
func (ProductSaleCancelled) EventType() string { return "ProductSaleCancelled" }

// EventType implements Event.
func (ProductStockIncreased) EventType() string { return "ProductStockIncreased" }

// EventType implements Event.
func (ProductSaleRescheduled) EventType() string { return "ProductSaleRescheduled" }

// EventType implements Event.
func (ProductSalePaused) EventType() string { return "ProductSalePaused" }

// EventType implements Event.
func (ProductSaleResumed) EventType() string { return "ProductSaleResumed" }

// EventType implements Event.
func (ProductDeleted) EventType() string { return "ProductDeleted" }

// EventType implements Event.
func (GrantWithdrawn) EventType() string { return "GrantWithdrawn" }
