package avsc

import (
	"bytes"
	"encoding/base64"
	"time"

	"github.com/google/uuid"
	"github.com/shopspring/decimal"

	"github.com/dopaminestore/dopamine/domain"
)

// flat parses a payload in the form that Encode writes, several times as fast as
// encoding/json, which a replay needs. It gives up (ok is false) on anything
// else, such as a null, an escape or an unknown field: then
// encoding/json parses the payload, so that encoding/json alone determines what is
// accepted and which errors are returned.
//
//	for more := f.open(); more; more = f.more() {
//		switch string(f.key) {
//		case "unit":
//			e.Unit = f.int()
//		default:
//			f.giveUp()
//		}
//	}
type flat struct {
	rest []byte
	key  []byte // of the field whose value is next
	ok   bool
}

// readFlat parses a complete payload.
func readFlat(payload []byte, read func(*flat) domain.Event) (domain.Event, bool) {
	f := flat{rest: payload, ok: true}
	e := read(&f)
	f.space()
	return e, f.ok && len(f.rest) == 0
}

func (f *flat) giveUp() { f.ok, f.rest = false, nil }

func (f *flat) space() {
	for len(f.rest) > 0 && (f.rest[0] == ' ' || f.rest[0] == '\n' || f.rest[0] == '\t' || f.rest[0] == '\r') {
		f.rest = f.rest[1:]
	}
}

// mark consumes the next byte that is not white space; 0 at the end.
func (f *flat) mark() byte {
	f.space()
	if len(f.rest) == 0 {
		return 0
	}
	c := f.rest[0]
	f.rest = f.rest[1:]
	return c
}

// open begins an object; it returns false if the object has no fields.
func (f *flat) open() bool {
	if f.mark() != '{' {
		f.giveUp()
		return false
	}
	f.space()
	if len(f.rest) > 0 && f.rest[0] == '}' {
		f.rest = f.rest[1:]
		return false
	}
	return f.field()
}

// more advances to the next field; false at the object's end.
func (f *flat) more() bool {
	switch f.mark() {
	case ',':
		return f.field()
	case '}':
	default:
		f.giveUp()
	}
	return false
}

func (f *flat) field() bool {
	f.key = f.quoted()
	if f.mark() != ':' {
		f.giveUp()
	}
	return f.ok
}

// quoted returns the content of a string, as part of the payload.
func (f *flat) quoted() []byte {
	if f.mark() != '"' {
		f.giveUp()
		return nil
	}
	for i, c := range f.rest {
		if c == '"' {
			text := f.rest[:i]
			f.rest = f.rest[i+1:]
			return text
		}
		if c < ' ' || c > '~' || c == '\\' {
			break
		}
	}
	f.giveUp()
	return nil
}

func (f *flat) text() string { return string(f.quoted()) }

func (f *flat) int() int { return int(f.long()) }

// long parses a number with at most as many digits as fit.
func (f *flat) long() (n int64) {
	const digits = 18
	f.space()
	negative := len(f.rest) > 0 && f.rest[0] == '-'
	if negative {
		f.rest = f.rest[1:]
	}
	i := 0
	for i < len(f.rest) && f.rest[i] >= '0' && f.rest[i] <= '9' {
		n = n*10 + int64(f.rest[i]-'0')
		i++
		if i > digits {
			break
		}
	}
	if i == 0 || i > digits || i > 1 && f.rest[0] == '0' {
		f.giveUp()
		return 0
	}
	f.rest = f.rest[i:]
	if negative {
		return -n
	}
	return n
}

func (f *flat) id() uuid.UUID {
	id, err := uuid.ParseBytes(f.quoted())
	if err != nil {
		f.giveUp()
	}
	return id
}

func (f *flat) optionalID() *uuid.UUID {
	id := f.id()
	return &id
}

func (f *flat) bool() bool {
	f.space()
	for text, v := range map[string]bool{"true": true, "false": false} {
		if rest, ok := bytes.CutPrefix(f.rest, []byte(text)); ok {
			f.rest = rest
			return v
		}
	}
	f.giveUp()
	return false
}

func (f *flat) time() (t time.Time) {
	if t.UnmarshalText(f.quoted()) != nil {
		f.giveUp()
	}
	return t
}

func (f *flat) bytes() []byte {
	text := f.quoted()
	b := make([]byte, base64.StdEncoding.DecodedLen(len(text)))
	n, err := base64.StdEncoding.Decode(b, text)
	if err != nil {
		f.giveUp()
	}
	return b[:n]
}

func (f *flat) money() domain.Money {
	var amount, currency string
	for more := f.open(); more; more = f.more() {
		switch string(f.key) {
		case "amount":
			amount = f.text()
		case "currency":
			currency = f.text()
		default:
			f.giveUp()
		}
	}
	if !f.ok {
		return domain.Money{}
	}
	n, err := decimal.NewFromString(amount)
	if err != nil {
		f.giveUp()
		return domain.Money{}
	}
	m, err := domain.NewPaid(n, currency)
	if err != nil {
		f.giveUp()
	}
	return m
}
