package domain

import (
	"errors"
	"regexp"
	"strconv"

	"github.com/shopspring/decimal"
)

// Bounds of numbers. They are far outside every valid amount; without them a comparison
// would expand "1e999999999" to all its
// digits.
const (
	maxDecimalText     = 1024
	maxDecimalExponent = 1000
)

// decimalText is the number syntax of JSON.
var decimalText = regexp.MustCompile(`^-?(?:0|[1-9][0-9]*)(?:\.[0-9]+)?(?:[eE]([+-]?[0-9]+))?$`)

var errDecimal = errors.New("must be a decimal number")

// ParseDecimal parses a number in JSON's form: "259000", "12.50", "1e3". It
// rejects text that is longer than 1,024 characters or has an exponent beyond
// ±1,000.
func ParseDecimal(s string) (decimal.Decimal, error) {
	if len(s) > maxDecimalText {
		return decimal.Decimal{}, errDecimal
	}
	m := decimalText.FindStringSubmatch(s)
	if m == nil {
		return decimal.Decimal{}, errDecimal
	}
	if m[1] != "" {
		if e, err := strconv.Atoi(m[1]); err != nil || e > maxDecimalExponent || e < -maxDecimalExponent {
			return decimal.Decimal{}, errDecimal
		}
	}
	d, err := decimal.NewFromString(s)
	if err != nil {
		return decimal.Decimal{}, errDecimal
	}
	return d, nil
}
