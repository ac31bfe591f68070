// Package table declares the tables of read models: each column once, with its type and the field
// of the row that it stores. The statements that read and write rows follow from it.
package table

import (
	"fmt"
	"strings"

	"github.com/jackc/pgx/v5"

	"github.com/dopaminestore/dopamine/internal/pgbinary"
)

// Column is a column of a table whose rows are an R in Go.
type Column[R any] struct {
	name, read, array string
	copy              func(w *pgbinary.Row, r *R)
	values            func(rows []*R) any
	// target returns what the column is scanned into, and what is to be called afterwards, if
	// anything. It is nil for a column that is not read.
	target func(r *R) (into any, then func() error)
}

// Of returns a column that stores a field of the row.
func Of[R, V any](name string, t Type[V], field func(r *R) *V) Column[R] {
	c := Derived(name, t, func(r *R) V { return *field(r) })
	c.target = func(r *R) (any, func() error) { return t.target(field(r)), nil }
	return c
}

// Parsed returns a column whose value is stored by get and read back by set. Columns are read in
// the order in which they are declared.
func Parsed[R, V any](name string, t Type[V], get func(r *R) V, set func(r *R, v V) error) Column[R] {
	c := Derived(name, t, get)
	c.target = func(r *R) (any, func() error) {
		v := new(V)
		return t.target(v), func() error { return set(r, *v) }
	}
	return c
}

// Derived returns a column that follows from the row's other columns: it is written for the query
// API and not read back.
func Derived[R, V any](name string, t Type[V], value func(r *R) V) Column[R] {
	return Column[R]{
		name: name, read: name + t.read, array: t.array,
		copy: func(w *pgbinary.Row, r *R) { t.copy(w, value(r)) },
		values: func(rows []*R) any {
			return t.values(len(rows), func(i int) V { return value(rows[i]) })
		},
	}
}

// Table reads and writes the rows of a table. The methods take its name, which contains the
// generation.
type Table[R any] struct {
	columns []Column[R]
	names   []string
	// Statements in which %s stands for the name of the table.
	selects, upserts string
}

// New returns the table with the columns. The first of the fixed columns is the key. An update of
// an existing row sets the changing columns.
func New[R any](fixed, changing []Column[R]) *Table[R] {
	t := &Table[R]{columns: append(fixed, changing...)}
	var read, arrays, updates []string
	for i, c := range t.columns {
		t.names = append(t.names, c.name)
		arrays = append(arrays, fmt.Sprintf("$%d::%s", i+1, c.array))
		if c.target != nil {
			read = append(read, c.read)
		}
	}
	for _, c := range changing {
		updates = append(updates, c.name+" = EXCLUDED."+c.name)
	}
	conflict := "NOTHING"
	if len(updates) > 0 {
		conflict = "UPDATE SET " + strings.Join(updates, ", ")
	}
	key := t.names[0]
	t.selects = "SELECT " + strings.Join(read, ", ") + " FROM %s WHERE " + key + " = ANY($1)"
	t.upserts = "INSERT INTO %s (" + strings.Join(t.names, ", ") + ") SELECT * FROM unnest(" + strings.Join(arrays, ", ") + ")" +
		" ON CONFLICT (" + key + ") DO " + conflict
	return t
}

// Load queues a query for the rows with the keys; found receives each row that exists.
func (t *Table[R]) Load(b *pgx.Batch, name string, keys pgbinary.IDs, found func(r *R)) {
	if len(keys) == 0 {
		return
	}
	b.Queue(fmt.Sprintf(t.selects, name), keys).Query(func(rows pgx.Rows) error {
		for rows.Next() {
			r := new(R)
			if err := t.scan(rows, r); err != nil {
				return err
			}
			found(r)
		}
		return rows.Err()
	})
}

func (t *Table[R]) scan(rows pgx.Rows, r *R) error {
	into := make([]any, 0, len(t.columns))
	var parse []func() error
	for _, c := range t.columns {
		if c.target == nil {
			continue
		}
		v, then := c.target(r)
		into = append(into, v)
		if then != nil {
			parse = append(parse, then)
		}
	}
	if err := rows.Scan(into...); err != nil {
		return err
	}
	for _, then := range parse {
		if err := then(); err != nil {
			return err
		}
	}
	return nil
}

// Upsert queues the statement that writes rows, new ones and changed ones.
func (t *Table[R]) Upsert(b *pgx.Batch, name string, rows []*R) {
	if len(rows) == 0 {
		return
	}
	args := make([]any, len(t.columns))
	for i, c := range t.columns {
		args[i] = c.values(rows)
	}
	b.Queue(fmt.Sprintf(t.upserts, name), args...)
}

// Copy returns rows that are not in the table yet, for COPY.
func (t *Table[R]) Copy(name string, rows []*R) pgbinary.Copy {
	return pgbinary.CopyRows(name, t.names, rows, func(w *pgbinary.Row, r *R) {
		for i := range t.columns {
			t.columns[i].copy(w, r)
		}
	})
}
