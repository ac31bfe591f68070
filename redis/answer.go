package redis

import (
	"errors"
	"fmt"
	"strconv"
	"strings"
)

// errAnswer: a script's answer is not of the form that is read here, as where
// another version of this program wrote the gate.
var errAnswer = errors.New("redis: a script's answer cannot be read")

// answer reads a script's answer and keeps the first thing that was wrong.
type answer struct {
	items []any
	err   error
}

func answerOf(reply any, least int) (*answer, error) {
	items, ok := reply.([]any)
	if !ok || len(items) < least {
		return nil, fmt.Errorf("%w: %v", errAnswer, reply)
	}
	return &answer{items: items}, nil
}

func (r *answer) text(i int) string {
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

func (r *answer) number(i int) int64 {
	n, err := parseInt(r.text(i))
	if err != nil {
		r.wrong(i)
	}
	return n
}

// fields reads n whole numbers with blanks between them.
func (r *answer) fields(i, n int) []int64 {
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

func (r *answer) wrong(i int) {
	if r.err == nil {
		r.err = fmt.Errorf("%w: item %d of %q", errAnswer, i, r.items)
	}
}

func parseInt(text string) (int64, error) { return strconv.ParseInt(text, 10, 64) }
