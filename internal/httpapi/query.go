package httpapi

import (
	"fmt"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/google/uuid"
	"github.com/labstack/echo/v4"

	"github.com/dopaminestore/dopamine/internal/problem"
)

// Query reads the query parameters of a request and collects the errors. A parameter that is empty,
// repeated, not valid UTF-8 or contains NUL is refused; unknown ones are ignored. Call Err after
// the last.
type Query struct {
	values url.Values
	fields []problem.FieldError
	bad    error
}

// QueryOf begins to read the request's query.
func QueryOf(c echo.Context) *Query {
	raw := c.Request().URL.RawQuery
	if raw == "" {
		return &Query{}
	}
	values, err := url.ParseQuery(raw)
	q := &Query{values: values}
	if err != nil {
		q.bad = problem.New(problem.InvalidRequest, "the query cannot be read").Wrap(err)
	}
	return q
}

// Err returns an invalid-request problem with every wrong parameter, nil if there is none.
func (q *Query) Err() error {
	switch {
	case q.bad != nil:
		return q.bad
	case len(q.fields) > 0:
		return problem.Invalid(q.fields...)
	}
	return nil
}

// Refuse notes a fault that the caller has found.
func (q *Query) Refuse(name, message string) {
	q.fields = append(q.fields, problem.Field(name, message))
}

// String returns the parameter's text.
func (q *Query) String(name string) (value string, given bool) {
	values := q.values[name]
	switch {
	case len(values) == 0:
		return "", false
	case len(values) > 1:
		q.Refuse(name, "must be given once")
		return "", false
	case !utf8.ValidString(values[0]) || strings.ContainsRune(values[0], 0):
		q.Refuse(name, "must be text in UTF-8 without NUL")
		return "", false
	case values[0] == "":
		q.Refuse(name, "must not be empty")
		return "", false
	}
	return values[0], true
}

// Flag returns whether the parameter is true; false if none is given.
func (q *Query) Flag(name string) bool { return q.Enum(name, "true", "false") == "true" }

// Int returns a whole number from low to high, fallback if none is given.
func (q *Query) Int(name string, fallback, low, high int) int {
	s, given := q.String(name)
	if !given {
		return fallback
	}
	n, err := strconv.Atoi(s)
	if err != nil || n < low || n > high {
		q.Refuse(name, fmt.Sprintf("must be a whole number from %d to %d", low, high))
		return fallback
	}
	return n
}

// Enum returns one of the allowed values, "" if none is given.
func (q *Query) Enum(name string, allowed ...string) string {
	s, given := q.String(name)
	if given && !slices.Contains(allowed, s) {
		q.Refuse(name, "must be one of "+strings.Join(allowed, ", "))
		return ""
	}
	return s
}

// UUID returns the id that the parameter holds.
func (q *Query) UUID(name string) (id uuid.UUID, given bool) {
	return queryValue(q, name, ParseUUID)
}

// Time returns the parameter's time in UTC. An unescaped plus sign in the offset is accepted,
// although in a query it means a blank.
func (q *Query) Time(name string) (t time.Time, given bool) {
	return queryValue(q, name, func(s string) (time.Time, error) {
		return ParseTime(strings.ReplaceAll(s, " ", "+"))
	})
}

func queryValue[T any](q *Query, name string, parse func(string) (T, error)) (T, bool) {
	var zero T
	s, given := q.String(name)
	if !given {
		return zero, false
	}
	v, err := parse(s)
	if err != nil {
		q.Refuse(name, err.Error())
		return zero, false
	}
	return v, true
}

// PathUUID returns the path parameter, which must be a UUID.
func PathUUID(c echo.Context, name string) (uuid.UUID, error) {
	id, err := ParseUUID(c.Param(name))
	if err != nil {
		return uuid.Nil, problem.Invalid(problem.Field(name, err.Error()))
	}
	return id, nil
}
