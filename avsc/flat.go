package avsc

import (
	"bytes"
	"encoding/base64"
	"time"

	"github.com/google/uuid"
	"github.com/shopspring/decimal"

	"github.com/dopaminestore/dopamine/domain"
)

// flat sets fields from a payload in the form that Encode writes, several times as fast as
// encoding/json, which a replay needs. It gives up (ok is false) on anything else, such as a null,
// an escape, an unknown field or another order: then encoding/json parses the payload, so that
// encoding/json alone determines what is accepted and which errors are returned.
type flat struct {
	rest    []byte
	names   []string // of the fields to visit, in this order
	key     []byte   // of the payload's next field
	pending bool     // there is a next field, and rest begins with its value
	ok      bool
}

func (f *flat) begin(payload []byte, names []string) {
	*f = flat{rest: payload, names: names, ok: true}
	f.pending = f.open()
}

// complete reports whether the whole payload was parsed.
func (f *flat) complete() bool {
	f.space()
	return f.ok && !f.pending && len(f.rest) == 0
}

// set parses the value of the visited field, if it is the next one in the payload.
func set[T any](f *flat, v *T, parse func(*flat) T) {
	name := f.names[0]
	f.names = f.names[1:]
	if f.pending && string(f.key) == name {
		*v = parse(f)
		f.pending = f.more()
	}
}

func setOptional[T any](f *flat, v **T, parse func(*flat) T) {
	set(f, v, func(f *flat) *T {
		t := parse(f)
		return &t
	})
}

func (f *flat) text(_ string, v *string)                    { set(f, v, (*flat).parseText) }
func (f *flat) id(_ string, v *uuid.UUID)                   { set(f, v, (*flat).parseID) }
func (f *flat) optionalID(_ string, v **uuid.UUID)          { setOptional(f, v, (*flat).parseID) }
func (f *flat) int(_ string, v *int)                        { set(f, v, (*flat).parseInt) }
func (f *flat) long(_ string, v *int64)                     { set(f, v, (*flat).parseLong) }
func (f *flat) bool(_ string, v *bool)                      { set(f, v, (*flat).parseBool) }
func (f *flat) bytes(_ string, v *[]byte)                   { set(f, v, (*flat).parseBytes) }
func (f *flat) time(_ string, v *time.Time)                 { set(f, v, (*flat).parseTime) }
func (f *flat) optionalTime(_ string, v **time.Time)        { setOptional(f, v, (*flat).parseTime) }
func (f *flat) money(_, _ string, v *domain.Money)          { set(f, v, (*flat).parseMoney) }
func (f *flat) optionalMoney(_, _ string, v **domain.Money) { setOptional(f, v, (*flat).parseMoney) }
func (f *flat) life(_, _ string, millis *int64)             { set(f, millis, (*flat).parseLong) }
func (f *flat) constant(string, string)                     {}
func (f *flat) recorded(string)                             {}

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

func (f *flat) parseText() string { return string(f.quoted()) }

func (f *flat) parseInt() int { return int(f.parseLong()) }

// parseLong parses a number with at most as many digits as fit.
func (f *flat) parseLong() (n int64) {
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

func (f *flat) parseID() uuid.UUID {
	id, err := uuid.ParseBytes(f.quoted())
	if err != nil {
		f.giveUp()
	}
	return id
}

func (f *flat) parseBool() bool {
	f.space()
	rest, yes := bytes.CutPrefix(f.rest, []byte("true"))
	if !yes {
		var no bool
		if rest, no = bytes.CutPrefix(f.rest, []byte("false")); !no {
			f.giveUp()
			return false
		}
	}
	f.rest = rest
	return yes
}

func (f *flat) parseTime() (t time.Time) {
	if t.UnmarshalText(f.quoted()) != nil {
		f.giveUp()
	}
	return t
}

func (f *flat) parseBytes() []byte {
	text := f.quoted()
	b := make([]byte, base64.StdEncoding.DecodedLen(len(text)))
	n, err := base64.StdEncoding.Decode(b, text)
	if err != nil {
		f.giveUp()
	}
	return b[:n]
}

func (f *flat) parseMoney() domain.Money {
	var amount, currency string
	for more := f.open(); more; more = f.more() {
		switch string(f.key) {
		case "amount":
			amount = f.parseText()
		case "currency":
			currency = f.parseText()
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
