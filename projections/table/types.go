package table

import (
	"time"

	"github.com/jackc/pgx/v5/pgtype"
	"github.com/jackc/pgx/v5/pgtype/zeronull"

	"github.com/dopaminestore/dopamine/internal/pgbinary"
)

// Type is the type of columns whose values are a V in Go.
type Type[V any] struct {
	read   string                               // what a SELECT adds to the column's name
	array  string                               // the type of a parameter with the values of all rows
	copy   func(w *pgbinary.Row, v V)           // writes a value for COPY
	values func(n int, value func(i int) V) any // returns a parameter with n values
	target func(v *V) any                       // returns what a row's value is scanned into
}

// The types of columns. A nil pointer or slice is null.
var (
	ID           = typeOf("uuid[]", (*pgbinary.Row).ID, pgbinary.ID)
	OptionalID   = typeOf("uuid[]", orNull((*pgbinary.Row).ID), pgbinary.OptionalID)
	Text         = typeOf("text[]", (*pgbinary.Row).Text, same)
	Int          = typeOf("int[]", (*pgbinary.Row).Int, same)
	Long         = typeOf("bigint[]", (*pgbinary.Row).Long, same)
	OptionalLong = typeOf("bigint[]", orNull((*pgbinary.Row).Long), same)
	Bool         = typeOf("bool[]", (*pgbinary.Row).Bool, same)
	Time         = typeOf("timestamptz[]", (*pgbinary.Row).Time, same)
	OptionalTime = typeOf("timestamptz[]", orNull((*pgbinary.Row).Time), same)
	Decimal      = decimal()
	JSON         = typeOf("text[]::jsonb[]", copyJSON, textOf)
	// TextOrNull and TimeOrNull are null if the value is the zero value.
	TextOrNull = textOrNull()
	TimeOrNull = timeOrNull()
)

// typeOf returns a type; element converts a value to what pgx encodes without a detour, see
// pgbinary.IDs.
func typeOf[V, E any](array string, copy func(*pgbinary.Row, V), element func(V) E) Type[V] {
	return Type[V]{
		array: array,
		copy:  copy,
		values: func(n int, value func(i int) V) any {
			elements := make(pgtype.FlatArray[E], n)
			for i := range elements {
				elements[i] = element(value(i))
			}
			return elements
		},
		target: func(v *V) any { return v },
	}
}

func same[V any](v V) V { return v }

func decimal() Type[string] {
	t := typeOf("text[]::numeric[]", (*pgbinary.Row).Decimal, same)
	t.read = "::text"
	return t
}

func textOrNull() Type[string] {
	optional := func(v string) *string {
		if v == "" {
			return nil
		}
		return &v
	}
	t := typeOf("text[]", func(w *pgbinary.Row, v string) { pgbinary.Optional(w, optional(v), (*pgbinary.Row).Text) }, optional)
	t.target = func(v *string) any { return (*zeronull.Text)(v) }
	return t
}

func timeOrNull() Type[time.Time] {
	optional := func(v time.Time) *time.Time {
		if v.IsZero() {
			return nil
		}
		return &v
	}
	t := typeOf("timestamptz[]", func(w *pgbinary.Row, v time.Time) { pgbinary.Optional(w, optional(v), (*pgbinary.Row).Time) }, optional)
	t.target = func(v *time.Time) any { return (*zeronull.Timestamptz)(v) }
	return t
}

func orNull[V any](write func(*pgbinary.Row, V)) func(*pgbinary.Row, *V) {
	return func(w *pgbinary.Row, v *V) { pgbinary.Optional(w, v, write) }
}

func copyJSON(w *pgbinary.Row, v []byte) {
	if v == nil {
		w.Null()
		return
	}
	w.JSON(v)
}

func textOf(v []byte) *string {
	if v == nil {
		return nil
	}
	text := string(v)
	return &text
}
