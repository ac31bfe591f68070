package avsc

import (
	"fmt"
	"math/big"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/google/uuid"
	"github.com/shopspring/decimal"

	"github.com/dopaminestore/dopamine/domain"
)

// Names that goavro uses for the members of unions. That of a uuid is the plain
// type's, since goavro does not know the logical type.
const (
	unionString = "string"
	unionMillis = "long.timestamp-millis"
)

// moneyScale and maxMoney are the schema's decimal: precision 19, scale 4.
// goavro silently changes an amount that does not fit.
const moneyScale = 4

var maxMoney = decimal.New(1, 19-moneyScale)

// fields is a goavro record that is being written or read; err keeps the first
// error of a field.
type fields struct {
	eventType string
	native    map[string]any
	err       error
}

func (f *fields) fail(name, format string, args ...any) {
	if f.err == nil {
		f.err = &ValueError{f.eventType, name, fmt.Sprintf(format, args...)}
	}
}

func (f *fields) setText(name, v string) {
	if !utf8.ValidString(v) || strings.IndexByte(v, 0) >= 0 {
		f.fail(name, "text must be UTF-8 without NUL")
		return
	}
	f.native[name] = v
}

func (f *fields) setID(name string, v uuid.UUID) { f.native[name] = v.String() }

func (f *fields) setOptionalID(name string, v *uuid.UUID) {
	if v == nil {
		f.native[name] = nil
		return
	}
	f.native[name] = map[string]any{unionString: v.String()}
}

func (f *fields) setInt(name string, v int) {
	if v != int(int32(v)) {
		f.fail(name, "%d does not fit into 32 bits", v)
		return
	}
	f.native[name] = int32(v)
}

func (f *fields) setLong(name string, v int64) { f.native[name] = v }

func (f *fields) setBytes(name string, v []byte) {
	if v == nil {
		v = []byte{}
	}
	f.native[name] = v
}

func (f *fields) setTime(name string, v time.Time) {
	if ms, ok := f.millis(name, v); ok {
		f.native[name] = ms
	}
}

func (f *fields) setOptionalTime(name string, v *time.Time) {
	if v == nil {
		f.native[name] = nil
		return
	}
	if ms, ok := f.millis(name, *v); ok {
		f.native[name] = map[string]any{unionMillis: ms}
	}
}

// millis rejects times that a projection would show differently if they came from
// Kafka than if they came from the store, whose payload has nanoseconds and
// four digits for the year.
func (f *fields) millis(name string, v time.Time) (int64, bool) {
	switch {
	case v.Nanosecond()%int(time.Millisecond) != 0:
		f.fail(name, "%s has a fraction of a millisecond", v.Format(time.RFC3339Nano))
	case v.Year() < 1 || v.Year() > 9999:
		f.fail(name, "the year %d is not in 1 to 9999", v.Year())
	default:
		return v.UnixMilli(), true
	}
	return 0, false
}

func (f *fields) setMoney(amount, currency string, v domain.Money) {
	if v.Currency() == "" {
		f.fail(currency, "no money at all")
		return
	}
	f.setDecimal(amount, v.Amount())
	f.native[currency] = v.Currency()
}

// setOptionalMoney writes a missing amount as 0 without a currency.
func (f *fields) setOptionalMoney(amount, currency string, v *domain.Money) {
	if v == nil {
		f.setDecimal(amount, decimal.Zero)
		f.native[currency] = ""
		return
	}
	f.setMoney(amount, currency, *v)
}

func (f *fields) setDecimal(name string, v decimal.Decimal) {
	switch {
	case v.Abs().GreaterThanOrEqual(maxMoney):
		f.fail(name, "%s has more than 15 digits before the point", v)
	case !v.Equal(v.Truncate(moneyScale)):
		f.fail(name, "%s has more than %d decimal places", v, moneyScale)
	default:
		f.native[name] = v.Rat()
	}
}

func value[T any](f *fields, name string) (v T) {
	v, ok := f.native[name].(T)
	if !ok {
		f.fail(name, "is a %T, not a %T", f.native[name], v)
	}
	return v
}

func (f *fields) text(name string) string { return value[string](f, name) }

func (f *fields) id(name string) uuid.UUID { return f.parseID(name, f.text(name)) }

// idOr returns the id, or another one if the field is empty.
func (f *fields) idOr(name string, other uuid.UUID) uuid.UUID {
	if text := f.text(name); text != "" {
		return f.parseID(name, text)
	}
	return other
}

func (f *fields) parseID(name, text string) uuid.UUID {
	id, err := uuid.Parse(text)
	if err != nil {
		f.fail(name, "%q is not a UUID", text)
	}
	return id
}

func (f *fields) optionalID(name string) *uuid.UUID {
	if f.native[name] == nil {
		return nil
	}
	text, _ := value[map[string]any](f, name)[unionString].(string)
	id := f.parseID(name, text)
	return &id
}

func (f *fields) int(name string) int    { return int(value[int32](f, name)) }
func (f *fields) long(name string) int64 { return value[int64](f, name) }

func (f *fields) bytes(name string) []byte {
	if b := value[[]byte](f, name); len(b) > 0 {
		return b
	}
	return nil
}

func (f *fields) time(name string) time.Time { return value[time.Time](f, name).UTC() }

func (f *fields) optionalTime(name string) *time.Time {
	if f.native[name] == nil {
		return nil
	}
	t, ok := value[map[string]any](f, name)[unionMillis].(time.Time)
	if !ok {
		f.fail(name, "is not a time")
	}
	t = t.UTC()
	return &t
}

func (f *fields) optionalMoney(amount, currency string) *domain.Money {
	if f.text(currency) == "" {
		return nil
	}
	m := f.money(amount, currency)
	return &m
}

func (f *fields) money(amount, currency string) domain.Money {
	r := value[*big.Rat](f, amount)
	code := f.text(currency)
	if f.err != nil {
		return domain.Money{}
	}
	n, err := decimal.NewFromString(r.FloatString(moneyScale))
	if err != nil {
		f.fail(amount, "%s is not a decimal", r)
		return domain.Money{}
	}
	m, err := domain.NewPaid(n, code)
	if err != nil {
		f.fail(amount, "%s %s: %s", n, code, err)
	}
	return m
}
