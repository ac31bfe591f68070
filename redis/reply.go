package redis

import (
	"errors"
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/google/uuid"
)

// errReply: a script's reply does not have the expected form, for example because
// another version of this program wrote the gate.
var errReply = errors.New("redis: unexpected reply of a script")

// reply reads a script's reply and keeps the first error.
type reply struct {
	items []any
	err   error
}

func parseReply(raw any, least int) (*reply, error) {
	items, ok := raw.([]any)
	if !ok || len(items) < least {
		return nil, fmt.Errorf("%w: %v", errReply, raw)
	}
	return &reply{items: items}, nil
}

func (r *reply) text(i int) string {
	if i >= len(r.items) {
		r.wrong(i)
		return ""
	}
	text, ok := r.items[i].(string)
	if !ok {
		r.wrong(i)
	}
	return text
}

func (r *reply) number(i int) int64 {
	n, err := parseInt(r.text(i))
	if err != nil {
		r.wrong(i)
	}
	return n
}

// fields returns the n space-separated integers of an item.
func (r *reply) fields(i, n int) []int64 {
	numbers := make([]int64, n)
	rest := r.text(i)
	for at := range numbers {
		var field string
		field, rest, _ = strings.Cut(rest, " ")
		number, err := parseInt(field)
		if err != nil {
			r.wrong(i)
		}
		numbers[at] = number
	}
	return numbers
}

// basis returns what gate.lua's function basis put at the beginning of the reply, as far as
// it knows a gate's state.
func (r *reply) basis(on callTarget) State {
	now := r.number(2)
	return State{
		Exists: true, Epoch: r.number(1), Position: r.number(4), rebuild: r.id(6), now: now, on: on,
		LeaseLeft: max(0, time.Duration(r.number(3)-now)*time.Millisecond),
		at:        LogPosition{Position: r.number(4), Event: r.id(5)},
	}
}

// id returns an id, zero for an empty item.
func (r *reply) id(i int) (id uuid.UUID) {
	if text := r.text(i); text != "" {
		var err error
		if id, err = uuid.FromBytes([]byte(text)); err != nil {
			r.wrong(i)
		}
	}
	return id
}

func (r *reply) wrong(i int) {
	if r.err == nil {
		r.err = fmt.Errorf("%w: item %d of %q", errReply, i, r.items)
	}
}

func parseInt(text string) (int64, error) { return strconv.ParseInt(text, 10, 64) }
