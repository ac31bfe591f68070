package command

import (
	"encoding/json"
	"errors"
	"time"

	"github.com/shopspring/decimal"

	"github.com/dopaminestore/dopamine/domain"
	"github.com/dopaminestore/dopamine/internal/httpapi"
	"github.com/dopaminestore/dopamine/internal/problem"
)

// field is one member of a request's body. It records a value of the wrong
// type instead of failing, so that all invalid fields are reported at once.
type field[T any] struct {
	given bool
	null  bool
	wrong bool
	value T
}

// UnmarshalJSON implements json.Unmarshaler; it never fails.
func (f *field[T]) UnmarshalJSON(b []byte) error {
	f.given = true
	if string(b) == "null" {
		f.null = true
		return nil
	}
	f.wrong = json.Unmarshal(b, &f.value) != nil
	return nil
}

// moment is a point in time in RFC 3339, with any offset and precision.
type moment struct{ time.Time }

// UnmarshalJSON implements json.Unmarshaler.
func (m *moment) UnmarshalJSON(b []byte) error {
	var s string
	if err := json.Unmarshal(b, &s); err != nil {
		return err
	}
	var err error
	m.Time, err = httpapi.ParseTime(s)
	return err
}

// number is a decimal, as a JSON number or as a string of one.
type number struct{ decimal.Decimal }

// UnmarshalJSON implements json.Unmarshaler.
func (n *number) UnmarshalJSON(b []byte) error {
	s := string(b)
	if len(b) > 0 && b[0] == '"' {
		if err := json.Unmarshal(b, &s); err != nil {
			return err
		}
	}
	var err error
	n.Decimal, err = domain.ParseDecimal(s)
	return err
}

// fieldErrors collects the invalid fields of one request.
type fieldErrors []problem.FieldError

func (v *fieldErrors) add(name, message string) { *v = append(*v, problem.Field(name, message)) }

func (v fieldErrors) err() error {
	if len(v) == 0 {
		return nil
	}
	return problem.Invalid(v...)
}

// value returns the field's value, and whether it was present; errors
// are added to v. kind continues "must be".
func value[T any](v *fieldErrors, name, kind string, f field[T]) (T, bool) {
	var none T
	switch {
	case !f.given:
		return none, false
	case f.null || f.wrong:
		v.add(name, "must be "+kind)
		return none, false
	}
	return f.value, true
}

// required is like value but records an error if the field is missing.
func required[T any](v *fieldErrors, name, kind string, f field[T]) T {
	if !f.given {
		v.add(name, "is missing")
	}
	given, _ := value(v, name, kind, f)
	return given
}

// optional is like value but returns nil if the field is absent.
func optional[T any](v *fieldErrors, name, kind string, f field[T]) *T {
	given, ok := value(v, name, kind, f)
	if !ok {
		return nil
	}
	return &given
}

const (
	aText    = "a text"
	aNumber  = "a whole number"
	aDecimal = "a decimal number"
	aTime    = "a time in RFC 3339"
	aBool    = "true or false"
)

// createProductRequest is the body of POST /v1/products.
type createProductRequest struct {
	Name        field[string] `json:"name"`
	Description field[string] `json:"description"`
	Price       field[number] `json:"price"`
	Currency    field[string] `json:"currency"`
	Stock       field[int]    `json:"stock"`
	SaleDate    field[moment] `json:"saleDate"`
	SaleEndDate field[moment] `json:"saleEndDate"`
}

func (r createProductRequest) command() (domain.CreateProduct, error) {
	var v fieldErrors
	c := domain.CreateProduct{
		Name:        required(&v, "name", aText, r.Name),
		Description: required(&v, "description", aText, r.Description),
		Stock:       required(&v, "stock", aNumber, r.Stock),
		SaleDate:    required(&v, "saleDate", aTime, r.SaleDate).Time,
	}
	if !r.SaleEndDate.null {
		if end := optional(&v, "saleEndDate", aTime, r.SaleEndDate); end != nil {
			c.SaleEndDate = &end.Time
		}
	}
	code, ok := value(&v, "currency", "an ISO 4217 code", r.Currency)
	if !ok {
		code = domain.DefaultCurrency
	}
	amount := required(&v, "price", aDecimal, r.Price)
	var err error
	if c.Price, err = domain.NewMoney(amount.Decimal, code); err != nil {
		v.money("price", err)
	}
	return c, v.err()
}

// money returns the field of an invalid amount or currency.
func (v *fieldErrors) money(amountField string, err error) {
	var m *domain.MoneyError
	switch {
	case !errors.As(err, &m):
		v.add(amountField, "must be an amount of money")
	case m.Field == "currency":
		v.add("currency", "must be an ISO 4217 code in upper case, such as KRW")
	default:
		v.add(amountField, m.Message)
	}
}

// updateProductRequest is the body of PUT /v1/products/{id}.
type updateProductRequest struct {
	Name          field[string] `json:"name"`
	Description   field[string] `json:"description"`
	Price         field[number] `json:"price"`
	Currency      field[string] `json:"currency"`
	StockIncrease field[int]    `json:"stockIncrease"`
	StockDecrease field[int]    `json:"stockDecrease"`
	SaleDate      field[moment] `json:"saleDate"`
	SaleEndDate   field[moment] `json:"saleEndDate"`
	Paused        field[bool]   `json:"paused"`
}

func (r updateProductRequest) command() (domain.UpdateProduct, error) {
	var v fieldErrors
	c := domain.UpdateProduct{
		Name:          optional(&v, "name", aText, r.Name),
		Description:   optional(&v, "description", aText, r.Description),
		StockIncrease: optional(&v, "stockIncrease", aNumber, r.StockIncrease),
		StockDecrease: optional(&v, "stockDecrease", aNumber, r.StockDecrease),
		Currency:      optional(&v, "currency", "an ISO 4217 code", r.Currency),
		Paused:        optional(&v, "paused", aBool, r.Paused),
	}
	if price := optional(&v, "price", aDecimal, r.Price); price != nil {
		c.Price = &price.Decimal
	}
	if at := optional(&v, "saleDate", aTime, r.SaleDate); at != nil {
		c.SaleDate = &at.Time
	}
	if r.SaleEndDate.null {
		c.SaleEndDate = &domain.SaleEnd{}
	} else if at := optional(&v, "saleEndDate", aTime, r.SaleEndDate); at != nil {
		c.SaleEndDate = &domain.SaleEnd{At: &at.Time}
	}
	return c, v.err()
}
