package httpapi

import (
	"slices"
	"strings"
	"unicode"
	"unicode/utf8"

	"github.com/google/uuid"
	"github.com/labstack/echo/v4"

	"github.com/dopaminestore/dopamine/internal/consistency"
	"github.com/dopaminestore/dopamine/internal/problem"
)

// The names of the headers that both APIs use.
const (
	PositionHeader       = "X-Position"
	MinPositionHeader    = "X-Min-Position"
	IdempotencyKeyHeader = "Idempotency-Key"
	// maxIdempotencyKey is in characters.
	maxIdempotencyKey = 255
)

// SetPosition puts the position of an event of the product into X-Position.
func SetPosition(c echo.Context, product uuid.UUID, position int64) {
	c.Response().Header().Set(PositionHeader, consistency.Encode(product, position))
}

// MinPositions returns the positions of X-Min-Position, none if it is absent. Those of
// an earlier incarnation of the store are left out: the events that they name are gone,
// or have other positions.
func MinPositions(c echo.Context) ([]consistency.ProductPosition, error) {
	values := c.Request().Header[MinPositionHeader]
	if len(values) == 0 {
		return nil, nil
	}
	list, err := consistency.ParseList(strings.Join(values, ","))
	if err != nil {
		return nil, problem.Invalid(problem.Field(MinPositionHeader,
			"must hold 1 to 100 values of X-Position, comma-separated")).Wrap(err)
	}
	return slices.DeleteFunc(list, func(p consistency.ProductPosition) bool { return p.Incarnation < consistency.Incarnation() }), nil
}

// PathAndMinPositions returns what a read of one object is about: the UUID of the path parameter
// "id", and the positions of X-Min-Position.
func PathAndMinPositions(c echo.Context) (id uuid.UUID, min []consistency.ProductPosition, err error) {
	if id, err = PathUUID(c, "id"); err == nil {
		min, err = MinPositions(c)
	}
	return id, min, err
}

// IdempotencyKey returns the Idempotency-Key, "" if there is none.
func IdempotencyKey(c echo.Context) (string, error) {
	values := c.Request().Header[IdempotencyKeyHeader]
	if len(values) == 0 {
		return "", nil
	}
	key := values[0]
	if len(values) > 1 || !printable(key) {
		return "", problem.Invalid(problem.Field(IdempotencyKeyHeader, "must be 1 to 255 printable characters"))
	}
	return key, nil
}

func printable(s string) bool {
	if n := utf8.RuneCountInString(s); n < 1 || n > maxIdempotencyKey || !utf8.ValidString(s) {
		return false
	}
	for _, r := range s {
		if !unicode.IsPrint(r) {
			return false
		}
	}
	return true
}
