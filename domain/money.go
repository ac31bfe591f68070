package domain

import (
	"encoding/json"
	"fmt"

	"github.com/bojanz/currency"
	"github.com/shopspring/decimal"
)

// DefaultCurrency is the currency of a price that names none.
const DefaultCurrency = "KRW"

// maxAmount is the first amount that is too large: 10^15, so
// that every amount with four decimal places fits into 19 digits.
var maxAmount = decimal.New(1, 15)

// paidPlaces is how many decimal places of a paid amount are stored, in every
// currency.
const paidPlaces = 4

// Money is an amount, 0 or more and below 10^15, of an ISO 4217 currency with
// no more decimal places than that currency has, except amounts made by NewPaid. Its
// zero value is no money at all.
type Money struct {
	amount   decimal.Decimal
	currency string
	digits   int32 // decimal places that are displayed
}

// MoneyError is the reason why an amount or a currency is invalid. Field is
// "amount" or "currency".
type MoneyError struct {
	Field   string
	Message string
}

func (e *MoneyError) Error() string { return e.Field + ": " + e.Message }

// NewMoney creates Money from a decimal amount; trailing zeros are dropped. The
// error is a *MoneyError.
func NewMoney(amount decimal.Decimal, code string) (Money, error) {
	return newMoney(amount, code, 0)
}

// NewPaid creates Money from an amount that the gateway reports as paid, or from a stored
// one. It may have more decimal places than its currency, at most four, because a refund
// must equal what was paid. The error is a *MoneyError.
func NewPaid(amount decimal.Decimal, code string) (Money, error) {
	return newMoney(amount, code, paidPlaces)
}

// newMoney allows the decimal places of the currency, or most if that
// is more.
func newMoney(amount decimal.Decimal, code string, most int32) (Money, error) {
	places, ok := currency.GetDigits(code)
	if !ok {
		return Money{}, &MoneyError{"currency", fmt.Sprintf("%q is not an ISO 4217 currency code", code)}
	}
	digits := int32(places)
	for digits < most && !amount.Equal(amount.Truncate(digits)) {
		digits++
	}
	switch {
	case amount.IsNegative():
		return Money{}, &MoneyError{"amount", "must be 0 or more"}
	case amount.GreaterThanOrEqual(maxAmount):
		return Money{}, &MoneyError{"amount", "must be below 10^15"}
	case !amount.Equal(amount.Truncate(digits)):
		return Money{}, &MoneyError{"amount", fmt.Sprintf("%s has %d decimal places", code, digits)}
	}
	return Money{amount: amount.Truncate(digits), currency: code, digits: digits}, nil
}

// Amount returns the number.
func (m Money) Amount() decimal.Decimal { return m.amount }

// Currency returns the ISO 4217 code.
func (m Money) Currency() string { return m.currency }

// IsZero reports whether the amount is zero.
func (m Money) IsZero() bool { return m.amount.IsZero() }

// Equal compares currency and number: "12.5" equals "12.50".
func (m Money) Equal(o Money) bool { return m.currency == o.currency && m.amount.Equal(o.amount) }

// plus adds an amount of the same currency.
func (m Money) plus(o Money) Money {
	return Money{amount: m.amount.Add(o.amount), currency: m.currency, digits: max(m.digits, o.digits)}
}

// less subtracts an amount of the same currency; the result is 0 or more.
func (m Money) less(o Money) Money {
	rest := m.amount.Sub(o.amount)
	if rest.IsNegative() {
		rest = decimal.Zero
	}
	return Money{amount: rest, currency: m.currency, digits: max(m.digits, o.digits)}
}

// Exceeds reports whether m is more than o; amounts of different currencies do
// not exceed each other.
func (m Money) Exceeds(o Money) bool {
	return m.currency == o.currency && m.amount.GreaterThan(o.amount)
}

// String returns the amount with the decimal places of its currency, as
// JSON and CSV show it: "259000", "12.50".
func (m Money) String() string { return m.amount.StringFixed(m.digits) }

type moneyJSON struct {
	Amount   string `json:"amount"`
	Currency string `json:"currency"`
}

// MarshalJSON returns the stored form.
func (m Money) MarshalJSON() ([]byte, error) {
	return json.Marshal(moneyJSON{m.String(), m.currency})
}

// UnmarshalJSON parses the stored form.
func (m *Money) UnmarshalJSON(b []byte) error {
	var v moneyJSON
	if err := json.Unmarshal(b, &v); err != nil {
		return fmt.Errorf("money: %w", err)
	}
	amount, err := decimal.NewFromString(v.Amount)
	if err != nil {
		return fmt.Errorf("money: amount: %w", err)
	}
	*m, err = NewPaid(amount, v.Currency)
	return err
}
