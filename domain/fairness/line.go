package fairness

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"strconv"
)

// NumbersPerEpoch is how many arrival numbers an epoch has: the first is
// epoch × NumbersPerEpoch + 1.
const NumbersPerEpoch = 10_000_000_000

const (
	maxSafe = 1<<53 - 1  // the largest integer that JSON parsers and Redis represent exactly
	maxUnit = 10_000_000 // the maximum number of units of a product
)

// Type is the type of a line.
type Type string

// The types of lines.
const (
	Opened   Type = "opened"   // units came on sale
	Granted  Type = "granted"  // a request got a unit
	Returned Type = "returned" // a unit was returned
	Refused  Type = "refused"  // a run of refused requests
)

// Reason is why a unit was returned.
type Reason string

// The reasons for which a unit is returned.
const (
	AutoExpired     Reason = "AUTO_EXPIRED"
	ManualReclaimed Reason = "MANUAL_RECLAIMED"
	BuyerReleased   Reason = "BUYER_RELEASED"
	Withdrawn       Reason = "WITHDRAWN" // the grant never became a slot
	Refunded        Reason = "REFUNDED"  // its slot's purchase was refunded
)

// Counts are the refused requests, by reason.
type Counts struct {
	SoldOut    int64 `json:"soldOut"`
	Duplicate  int64 `json:"duplicate"`
	NotStarted int64 `json:"notStarted"`
	Closed     int64 `json:"closed"` // paused, ended or cancelled
}

// Total returns the sum of the counts.
func (c Counts) Total() int64 { return c.SoldOut + c.Duplicate + c.NotStarted + c.Closed }

func (c Counts) plus(o Counts) Counts {
	return Counts{
		SoldOut: c.SoldOut + o.SoldOut, Duplicate: c.Duplicate + o.Duplicate,
		NotStarted: c.NotStarted + o.NotStarted, Closed: c.Closed + o.Closed,
	}
}

// Line is one line of a decision log. The Type determines which fields are used.
type Line struct {
	Epoch    int64
	Type     Type
	Units    int64  // Opened
	Sequence int64  // Granted: the request's number
	Unit     int    // Granted, Returned: 1 or more
	Reason   Reason // Returned
	From, To int64  // Refused: the numbers of the first and last request of the run
	Refused  Counts // Refused
}

// AppendJSON appends the line's JSON object to dst, without a newline.
func (l Line) AppendJSON(dst []byte) []byte {
	field := func(name string, value int64) {
		dst = append(dst, `,"`...)
		dst = append(dst, name...)
		dst = append(dst, `":`...)
		dst = strconv.AppendInt(dst, value, 10)
	}
	dst = append(dst, `{"epoch":`...)
	dst = strconv.AppendInt(dst, l.Epoch, 10)
	dst = append(dst, `,"type":"`...)
	dst = append(dst, l.Type...)
	dst = append(dst, '"')
	switch l.Type {
	case Opened:
		field("units", l.Units)
	case Granted:
		field("sequence", l.Sequence)
		field("unit", int64(l.Unit))
	case Returned:
		field("unit", int64(l.Unit))
		dst = append(dst, `,"reason":"`...)
		dst = append(dst, l.Reason...)
		dst = append(dst, '"')
	case Refused:
		field("from", l.From)
		field("to", l.To)
		field("soldOut", l.Refused.SoldOut)
		field("duplicate", l.Refused.Duplicate)
		field("notStarted", l.Refused.NotStarted)
		field("closed", l.Refused.Closed)
	}
	return append(dst, '}')
}

// MarshalJSON implements json.Marshaler with AppendJSON.
func (l Line) MarshalJSON() ([]byte, error) { return l.AppendJSON(nil), nil }

// ParseLine parses one JSON object. It requires exactly the members of the line's
// type, by their exact names; the error names the invalid one.
func ParseLine(b []byte) (Line, error) {
	members, err := object(b)
	if err != nil {
		return Line{}, err
	}
	var l Line
	l.Epoch = members.integer("epoch", 0, maxSafe/NumbersPerEpoch)
	l.Type = Type(members.text("type"))
	switch l.Type {
	case Opened:
		l.Units = members.integer("units", 0, maxUnit)
	case Granted:
		l.Sequence = members.integer("sequence", 1, maxSafe)
		l.Unit = int(members.integer("unit", 1, maxUnit))
	case Returned:
		l.Unit = int(members.integer("unit", 1, maxUnit))
		l.Reason = Reason(members.text("reason"))
		switch l.Reason {
		case AutoExpired, ManualReclaimed, BuyerReleased, Withdrawn, Refunded:
		default:
			members.wrong("reason: unknown reason %q", l.Reason)
		}
	case Refused:
		l.From = members.integer("from", 1, maxSafe)
		l.To = members.integer("to", 1, maxSafe)
		l.Refused = Counts{
			SoldOut:    members.integer("soldOut", 0, maxSafe),
			Duplicate:  members.integer("duplicate", 0, maxSafe),
			NotStarted: members.integer("notStarted", 0, maxSafe),
			Closed:     members.integer("closed", 0, maxSafe),
		}
	default:
		members.wrong("type: unknown type %q", l.Type)
	}
	if err := members.end(); err != nil {
		return Line{}, err
	}
	return l, nil
}

// objectReader reads the members of a JSON object and keeps the first
// error.
type objectReader struct {
	members map[string]json.RawMessage
	err     error
}

func object(b []byte) (*objectReader, error) {
	r := &objectReader{members: make(map[string]json.RawMessage, 8)}
	d := json.NewDecoder(bytes.NewReader(b))
	if t, err := d.Token(); err != nil || t != json.Delim('{') {
		return nil, errors.New("not a JSON object")
	}
	for d.More() {
		name, err := d.Token()
		if err != nil {
			return nil, fmt.Errorf("not a JSON object: %w", err)
		}
		var value json.RawMessage
		if err := d.Decode(&value); err != nil {
			return nil, fmt.Errorf("not a JSON object: %w", err)
		}
		key := name.(string)
		if _, twice := r.members[key]; twice {
			return nil, fmt.Errorf("%s: duplicate member", key)
		}
		r.members[key] = value
	}
	if _, err := d.Token(); err != nil {
		return nil, fmt.Errorf("not a JSON object: %w", err)
	}
	if d.More() {
		return nil, errors.New("unexpected data after the JSON object")
	}
	return r, nil
}

func (r *objectReader) wrong(format string, args ...any) {
	if r.err == nil {
		r.err = fmt.Errorf(format, args...)
	}
}

func (r *objectReader) take(name string) (json.RawMessage, bool) {
	value, ok := r.members[name]
	if !ok {
		r.wrong("%s: missing", name)
	}
	delete(r.members, name)
	return value, ok
}

func (r *objectReader) integer(name string, low, high int64) int64 {
	raw, ok := r.take(name)
	if !ok {
		return 0
	}
	n, err := strconv.ParseInt(string(raw), 10, 64)
	if err != nil || n < low || n > high {
		r.wrong("%s: %s is not an integer from %d to %d", name, raw, low, high)
	}
	return n
}

func (r *objectReader) text(name string) string {
	raw, ok := r.take(name)
	if !ok {
		return ""
	}
	var s string
	if err := json.Unmarshal(raw, &s); err != nil {
		r.wrong("%s: not a string", name)
	}
	return s
}

func (r *objectReader) end() error {
	for name := range r.members {
		r.wrong("%s: a line of this type has no such member", name)
	}
	return r.err
}
