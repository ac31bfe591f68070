package query

import (
	"encoding/binary"
	"fmt"
	"strings"
	"time"

	"github.com/google/uuid"

	"github.com/dopaminestore/dopamine/internal/httpapi"
)

// sqlFilter collects the conditions of a list. Conditions are constant SQL, values are bound.
type sqlFilter struct {
	conditions []string
	args       []any
}

// and adds a condition in which each ? is replaced by a placeholder of the next value.
func (w *sqlFilter) and(condition string, values ...any) {
	for _, v := range values {
		w.args = append(w.args, v)
		condition = strings.Replace(condition, "?", fmt.Sprintf("$%d", len(w.args)), 1)
	}
	w.conditions = append(w.conditions, condition)
}

// last returns the placeholder of the last value.
func (w sqlFilter) last() string { return fmt.Sprintf("$%d", len(w.args)) }

// copy returns a copy to which conditions can be added.
func (w sqlFilter) copy() sqlFilter {
	return sqlFilter{append([]string(nil), w.conditions...), append([]any(nil), w.args...)}
}

func (w sqlFilter) String() string {
	if len(w.conditions) == 0 {
		return ""
	}
	return " WHERE " + strings.Join(w.conditions, " AND ")
}

// key identifies the filter, for cursors and caches.
func (w sqlFilter) key() string { return fmt.Sprint(w.conditions, w.args) }

func (w *sqlFilter) id(q *httpapi.Query, name, column string) (id uuid.UUID, given bool) {
	id, given = q.UUID(name)
	if given {
		w.and(column+" = ?", id)
	}
	return id, given
}

// moment reads the parameter as a bound on recorded times, which are whole milliseconds: a time
// between two of them is rounded up.
func moment(q *httpapi.Query, name string) (time.Time, bool) {
	t, given := q.Time(name)
	floor := t.Truncate(time.Millisecond)
	if floor.Before(t) {
		floor = floor.Add(time.Millisecond)
	}
	return floor, given
}

// Limits of the page size of a list with a cursor.
const (
	defaultLimit = 100
	maxLimit     = 1000
)

// listKey is the row after which a page of a list begins, newest first.
type listKey struct {
	created time.Time
	id      uuid.UUID
}

func (k listKey) bytes() []byte {
	return append(binary.BigEndian.AppendUint64(nil, uint64(k.created.UnixMicro())), k.id[:]...)
}

const listKeyLength = 8 + 16

func listKeyFrom(b []byte) *listKey {
	return &listKey{time.UnixMicro(int64(binary.BigEndian.Uint64(b))).UTC(), uuid.UUID(b[8:])}
}
