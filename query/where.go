package query

import (
	"fmt"
	"strings"
	"time"

	"github.com/google/uuid"

	"github.com/dopaminestore/dopamine/internal/httpapi"
)

// where collects the conditions of a list. Conditions are ours, values are bound.
type where struct {
	conditions []string
	args       []any
}

// and adds a condition in which each ? stands for the next of the values.
func (w *where) and(condition string, values ...any) {
	for _, v := range values {
		w.args = append(w.args, v)
		condition = strings.Replace(condition, "?", fmt.Sprintf("$%d", len(w.args)), 1)
	}
	w.conditions = append(w.conditions, condition)
}

// last is the placeholder of the last value.
func (w where) last() string { return fmt.Sprintf("$%d", len(w.args)) }

// copy is w with room for conditions of its own.
func (w where) copy() where {
	return where{append([]string(nil), w.conditions...), append([]any(nil), w.args...)}
}

func (w where) String() string {
	if len(w.conditions) == 0 {
		return ""
	}
	return " WHERE " + strings.Join(w.conditions, " AND ")
}

// key tells lists with other filters apart.
func (w where) key() string { return fmt.Sprint(w.conditions, w.args) }

func (w *where) id(q *httpapi.Query, name, column string) (id uuid.UUID, given bool) {
	id, given = q.UUID(name)
	if given {
		w.and(column+" = ?", id)
	}
	return id, given
}

// moment is the parameter as a bound over recorded times, which have whole
// milliseconds: one that lies between two of them means the later one.
func moment(q *httpapi.Query, name string) (time.Time, bool) {
	t, given := q.Time(name)
	floor := t.Truncate(time.Millisecond)
	if floor.Before(t) {
		floor = floor.Add(time.Millisecond)
	}
	return floor, given
}
