package stripe

import (
	"strings"

	"github.com/bojanz/currency"
	"github.com/shopspring/decimal"

	"github.com/dopaminestore/dopamine/domain"
	"github.com/dopaminestore/dopamine/internal/gateway"
)

// exponents are the decimal places of Stripe's minor units for the currencies for
// which they are not two (https://docs.stripe.com/currencies): most zero-decimal
// currencies of ISO 4217, and MGA. ISK and UGX have two, for compatibility, and
// accept whole units only.
var exponents = map[string]int32{
	"BIF": 0, "CLP": 0, "DJF": 0, "GNF": 0, "JPY": 0, "KMF": 0, "KRW": 0, "MGA": 0, "PYG": 0, "RWF": 0, "VND": 0, "VUV": 0,
	"XAF": 0, "XOF": 0, "XPF": 0,
	"BHD": 3, "JOD": 3, "KWD": 3, "OMR": 3, "TND": 3,
}

// steps are the multiples in which minor units come, if that is not one.
var steps = map[string]int64{
	"ISK": 100, "UGX": 100,
	"BHD": 10, "JOD": 10, "KWD": 10, "OMR": 10, "TND": 10,
}

// units returns the exponent and the step of a currency. Stripe does not document
// a currency of three or more decimal places that is not listed above.
func units(code string) (exponent int32, step int64, ok bool) {
	step = steps[code]
	if step == 0 {
		step = 1
	}
	if exponent, ok := exponents[code]; ok {
		return exponent, step, true
	}
	digits, known := currency.GetDigits(code)
	return 2, step, known && digits <= 2
}

// minor returns an amount in Stripe's minor units. The error is a
// *gateway.Rejected with AMOUNT_NOT_SUPPORTED if there is no such amount.
func minor(m domain.Money) (int64, error) {
	exponent, step, ok := units(m.Currency())
	scaled := m.Amount().Shift(exponent)
	if !ok || !scaled.IsInteger() || scaled.IntPart()%step != 0 {
		return 0, &gateway.Rejected{Reason: gateway.ReasonAmountNotSupported}
	}
	return scaled.IntPart(), nil
}

// paid returns minor units as an amount.
func paid(minor int64, code string) *gateway.Paid {
	code = strings.ToUpper(code)
	exponent, _, ok := units(code)
	if !ok {
		exponent = 2
	}
	return gateway.Report(decimal.New(minor, -exponent), code)
}
