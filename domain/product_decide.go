package domain

import (
	"errors"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/shopspring/decimal"
)

// ErrNoProduct refuses a command for a product that does not exist, or no
// longer does.
var ErrNoProduct = errors.New("no such product")

// maxTime is the first time whose year has five digits, which RFC 3339
// cannot represent.
var maxTime = time.Date(10000, 1, 1, 0, 0, 0, 0, time.UTC)

// CreateProduct requests a new product.
type CreateProduct struct {
	Name        string
	Description string
	Price       Money
	Stock       int // units, 1..MaxStock
	SaleDate    time.Time
	SaleEndDate *time.Time // nil: the sale has no end
}

// Decide validates the command at the time now. The error is an
// *InvalidError.
func (c CreateProduct) Decide(now time.Time) (ProductCreated, error) {
	begin, end := millis(c.SaleDate), millisOf(c.SaleEndDate)
	var v invalid
	v.text("name", c.Name, MaxNameLength)
	v.text("description", c.Description, MaxDescriptionLength)
	v.check(c.Stock >= 1 && c.Stock <= MaxStock, "stock", "must be 1 to %d", MaxStock)
	v.moment("saleDate", begin, now)
	if end != nil {
		v.check(end.After(begin) && end.Before(maxTime), "saleEndDate", "must be after saleDate")
	}
	return ProductCreated{
		Name: c.Name, Description: c.Description, Price: c.Price, Stock: c.Stock,
		SaleDate: begin, SaleEndDate: end,
	}, v.err()
}

// ErrSaleBegun refuses a change of price or stock that is possible only before the
// sale begins.
var ErrSaleBegun = errors.New("the sale has begun")

// ErrSaleCancelled refuses a change of the sale after it was cancelled.
var ErrSaleCancelled = errors.New("the sale was cancelled")

// UpdateProduct requests changes of a product; a nil field stays unchanged.
type UpdateProduct struct {
	Name          *string
	Description   *string
	Price         *decimal.Decimal // in the product's currency
	Currency      *string          // only together with Price, and only the product's own
	StockIncrease *int             // units to add, 1 or more
	StockDecrease *int             // units to remove, 1 or more
	SaleDate      *time.Time
	SaleEndDate   *SaleEnd
	Paused        *bool
}

// SaleEnd is the new end of the sale.
type SaleEnd struct {
	At *time.Time // nil: the sale has no end
}

func (c UpdateProduct) empty() bool { return c == UpdateProduct{} }

// Update decides the events of the command: none if it changes
// nothing. The error is ErrNoProduct, an *InvalidError, ErrSaleCancelled or
// ErrSaleBegun. Whether the product has had a slot, which forbids another sale
// date, price or a smaller stock, must be checked by the caller in the same append:
// the slots are not part of the product.
func (p Product) Update(c UpdateProduct, now time.Time) ([]Event, error) {
	if err := c.Check(now); err != nil {
		return nil, err
	}
	if !p.Exists() {
		return nil, ErrNoProduct
	}
	begin, end := p.SaleDate, p.SaleEndDate
	if c.SaleDate != nil {
		begin = millis(*c.SaleDate)
	}
	if c.SaleEndDate != nil {
		end = millisOf(c.SaleEndDate.At)
	}
	var v invalid
	if end != nil && !end.After(begin) {
		if c.SaleEndDate != nil {
			v.check(false, "saleEndDate", "must be after the sale date")
		} else {
			v.check(false, "saleDate", "must be before the sale's end")
		}
	}
	if c.StockIncrease != nil {
		v.check(*c.StockIncrease <= MaxStock-p.TotalStock, "stockIncrease", "must leave the product with %d units or fewer in all", MaxStock)
	}
	if c.StockDecrease != nil {
		v.check(*c.StockDecrease < p.TotalStock, "stockDecrease", "must leave the product with at least one unit")
	}
	price := p.Price
	if c.Price != nil {
		var err error
		if price, err = NewMoney(*c.Price, p.Price.Currency()); err != nil {
			var m *MoneyError
			errors.As(err, &m)
			v.check(false, "price", "%s", m.Message)
		}
	}
	if c.Currency != nil {
		v.check(strings.EqualFold(*c.Currency, p.Price.Currency()), "currency", "must be the product's, %s", p.Price.Currency())
	}
	if err := v.err(); err != nil {
		return nil, err
	}
	events := p.changes(c, begin, end, price)
	for _, e := range events {
		switch e.(type) {
		case ProductDetailsChanged:
			continue
		case ProductPriceChanged, ProductStockDecreased:
			if !p.Cancelled && !now.Before(p.SaleDate) {
				return nil, ErrSaleBegun
			}
		}
		if p.Cancelled {
			return nil, ErrSaleCancelled
		}
	}
	if p.Cancelled && c.changesSale() {
		return nil, ErrSaleCancelled
	}
	return events, nil
}

// changesSale reports whether the command changes more than the texts.
func (c UpdateProduct) changesSale() bool {
	c.Name, c.Description = nil, nil
	return !c.empty()
}

// changes compares the requested state with the current one.
func (p Product) changes(c UpdateProduct, begin time.Time, end *time.Time, price Money) []Event {
	var events []Event
	name, description := p.Name, p.Description
	if c.Name != nil {
		name = *c.Name
	}
	if c.Description != nil {
		description = *c.Description
	}
	if name != p.Name || description != p.Description {
		events = append(events, ProductDetailsChanged{Name: name, Description: description})
	}
	if !price.Equal(p.Price) {
		events = append(events, ProductPriceChanged{Price: price})
	}
	if c.StockDecrease != nil {
		events = append(events, ProductStockDecreased{Decrease: *c.StockDecrease, TotalStock: p.TotalStock - *c.StockDecrease})
	}
	if c.StockIncrease != nil {
		events = append(events, ProductStockIncreased{Increase: *c.StockIncrease, TotalStock: p.TotalStock + *c.StockIncrease})
	}
	if !begin.Equal(p.SaleDate) || !sameMoment(end, p.SaleEndDate) {
		events = append(events, ProductSaleRescheduled{SaleDate: begin, SaleEndDate: end})
	}
	if c.Paused != nil && *c.Paused != p.Paused {
		if *c.Paused {
			events = append(events, ProductSalePaused{})
		} else {
			events = append(events, ProductSaleResumed{})
		}
	}
	return events
}

// Check is the part of the decision that needs no product, so that an invalid
// command is reported before a missing product. The error is an *InvalidError.
func (c UpdateProduct) Check(now time.Time) error {
	if c.empty() {
		return &InvalidError{}
	}
	var v invalid
	if c.Name != nil {
		v.text("name", *c.Name, MaxNameLength)
	}
	if c.Description != nil {
		v.text("description", *c.Description, MaxDescriptionLength)
	}
	if c.StockIncrease != nil {
		v.check(*c.StockIncrease >= 1 && *c.StockIncrease <= MaxStock, "stockIncrease", "must be 1 or more, with %d units in all", MaxStock)
	}
	if c.StockDecrease != nil {
		v.check(*c.StockDecrease >= 1 && *c.StockDecrease <= MaxStock, "stockDecrease", "must be 1 or more")
		v.check(c.StockIncrease == nil, "stockDecrease", "must not be together with stockIncrease")
	}
	if c.Price != nil {
		v.check(!c.Price.IsNegative() && c.Price.LessThan(maxAmount), "price", "must be 0 or more and below 10^15")
	}
	if c.Currency != nil {
		v.check(c.Price != nil, "currency", "must be together with price")
	}
	if c.SaleDate != nil {
		v.moment("saleDate", millis(*c.SaleDate), now)
	}
	if c.SaleEndDate != nil && c.SaleEndDate.At != nil {
		v.moment("saleEndDate", millis(*c.SaleEndDate.At), now)
	}
	return v.err()
}

// Cancel ends the sale for good. There are no events if it was
// cancelled before. The error is ErrNoProduct.
func (p Product) Cancel() ([]Event, error) {
	switch {
	case !p.Exists():
		return nil, ErrNoProduct
	case p.Cancelled:
		return nil, nil
	}
	return []Event{ProductSaleCancelled{}}, nil
}

// Delete ends the product. The error is ErrNoProduct. Whether an
// active slot prevents it must be checked by the caller in the same append.
func (p Product) Delete() ([]Event, error) {
	if !p.Exists() {
		return nil, ErrNoProduct
	}
	return []Event{ProductDeleted{}}, nil
}

// text checks the length of a text in characters. NUL is rejected because Postgres
// cannot store it.
func (v *invalid) text(field, s string, most int) {
	n := utf8.RuneCountInString(s)
	v.check(n >= 1 && n <= most, field, "must be 1 to %d characters", most)
	v.check(utf8.ValidString(s) && !strings.ContainsRune(s, 0), field, "must be UTF-8 text without NUL")
}

func (v *invalid) moment(field string, at, now time.Time) {
	v.check(at.After(now) && at.Before(maxTime), field, "must be in the future, before the year 10000")
}

// millis returns the stored form of a time: UTC, whole milliseconds.
func millis(t time.Time) time.Time { return t.UTC().Truncate(time.Millisecond) }

func millisOf(t *time.Time) *time.Time {
	if t == nil {
		return nil
	}
	m := millis(*t)
	return &m
}

func sameMoment(a, b *time.Time) bool {
	if a == nil || b == nil {
		return a == b
	}
	return a.Equal(*b)
}
