package failpoint

import (
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"
)

// action is what an armed point does.
type action struct {
	kind  string        // kill, stop, error, delay
	delay time.Duration // of delay
	nth   int           // which hit strikes, from 1; 0: every one
}

func (a action) String() string {
	if a.kind == "delay" {
		return "delay(" + a.delay.String() + ")"
	}
	return a.kind
}

// parse reads a specification.
func parse(spec string) (map[Point]action, error) {
	armed := map[Point]action{}
	for _, entry := range strings.FieldsFunc(spec, func(r rune) bool { return r == ';' || r == '\n' }) {
		entry = strings.TrimSpace(entry)
		if entry == "" {
			continue
		}
		name, text, ok := strings.Cut(entry, "=")
		if !ok || !slices.Contains(points, Point(name)) {
			return nil, fmt.Errorf("failpoint: %q: want <point>=<action>, with a declared point", entry)
		}
		a, err := parseAction(text)
		if err != nil {
			return nil, fmt.Errorf("failpoint: %q: %w", entry, err)
		}
		armed[Point(name)] = a
	}
	return armed, nil
}

func parseAction(text string) (a action, err error) {
	kind, nth, numbered := strings.Cut(text, "@")
	a.nth = 1
	switch {
	case numbered && nth == "*":
		a.nth = 0
	case numbered:
		if a.nth, err = strconv.Atoi(nth); err != nil || a.nth < 1 {
			return a, fmt.Errorf("hit %q: want a number from 1, or *", nth)
		}
	}
	switch {
	case kind == "kill" || kind == "stop" || kind == "error":
		a.kind = kind
	case strings.HasPrefix(kind, "delay(") && strings.HasSuffix(kind, ")"):
		a.kind = "delay"
		a.delay, err = time.ParseDuration(strings.TrimSuffix(strings.TrimPrefix(kind, "delay("), ")"))
	default:
		err = fmt.Errorf("action %q: want kill, stop, error or delay(<duration>)", kind)
	}
	return a, err
}
