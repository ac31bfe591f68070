package avsc

import (
	"fmt"
	"math"
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

// record is a goavro record; err keeps the first error of a field.
type record struct {
	eventType string
	native    map[string]any
	err       error
}

func (r *record) fail(name, format string, args ...any) {
	if r.err == nil {
		r.err = &ValueError{r.eventType, name, fmt.Sprintf(format, args...)}
	}
}

// recordWriter copies fields to a record.
type recordWriter struct {
	record
	envelope domain.Envelope // of the event
}

// begin prepares the writer, which may have been used before for an event of the same type: all
// fields of its record are set again.
func (w *recordWriter) begin(eventType string, e domain.Envelope) {
	w.eventType, w.envelope, w.err = eventType, e, nil
}

func (w *recordWriter) text(name string, v *string) {
	if !utf8.ValidString(*v) || strings.IndexByte(*v, 0) >= 0 {
		w.fail(name, "text must be UTF-8 without NUL")
		return
	}
	w.native[name] = *v
}

func (w *recordWriter) id(name string, v *uuid.UUID) { w.native[name] = v.String() }

func (w *recordWriter) optionalID(name string, v **uuid.UUID) {
	if *v == nil {
		w.native[name] = nil
		return
	}
	w.native[name] = map[string]any{unionString: (*v).String()}
}

func (w *recordWriter) int(name string, v *int) {
	if *v != int(int32(*v)) {
		w.fail(name, "%d does not fit into 32 bits", *v)
		return
	}
	w.native[name] = int32(*v)
}

func (w *recordWriter) long(name string, v *int64) { w.native[name] = *v }
func (w *recordWriter) bool(name string, v *bool)  { w.native[name] = *v }

func (w *recordWriter) bytes(name string, v *[]byte) {
	if *v == nil {
		w.native[name] = []byte{}
		return
	}
	w.native[name] = *v
}

func (w *recordWriter) time(name string, v *time.Time) {
	if ms, ok := w.millis(name, *v); ok {
		w.native[name] = ms
	}
}

func (w *recordWriter) optionalTime(name string, v **time.Time) {
	if *v == nil {
		w.native[name] = nil
		return
	}
	if ms, ok := w.millis(name, **v); ok {
		w.native[name] = map[string]any{unionMillis: ms}
	}
}

// millis rejects times that a projection would show differently if they came from
// Kafka than if they came from the store, whose payload has nanoseconds and
// four digits for the year.
func (w *recordWriter) millis(name string, v time.Time) (int64, bool) {
	switch {
	case v.Nanosecond()%int(time.Millisecond) != 0:
		w.fail(name, "%s has a fraction of a millisecond", v.Format(time.RFC3339Nano))
	case v.Year() < 1 || v.Year() > 9999:
		w.fail(name, "the year %d is not in 1 to 9999", v.Year())
	default:
		return v.UnixMilli(), true
	}
	return 0, false
}

func (w *recordWriter) money(amount, currency string, v *domain.Money) {
	if v.Currency() == "" {
		w.fail(currency, "no money at all")
		return
	}
	w.decimal(amount, v.Amount())
	w.native[currency] = v.Currency()
}

// optionalMoney writes a missing amount as 0 without a currency.
func (w *recordWriter) optionalMoney(amount, currency string, v **domain.Money) {
	if *v == nil {
		w.decimal(amount, decimal.Zero)
		w.native[currency] = ""
		return
	}
	w.money(amount, currency, *v)
}

func (w *recordWriter) decimal(name string, v decimal.Decimal) {
	switch {
	case v.Abs().GreaterThanOrEqual(maxMoney):
		w.fail(name, "%s has more than 15 digits before the point", v)
	case !v.Equal(v.Truncate(moneyScale)):
		w.fail(name, "%s has more than %d decimal places", v, moneyScale)
	default:
		w.native[name] = v.Rat()
	}
}

func (w *recordWriter) life(begin, end string, millis *int64) {
	const longest = math.MaxInt64 / int64(time.Millisecond) // of a time.Duration, ms
	if *millis < 0 || *millis > longest {
		w.fail(end, "a life of %d ms is out of range", *millis)
		return
	}
	ends := w.envelope.RecordedAt.Add(time.Duration(*millis) * time.Millisecond)
	w.time(begin, &w.envelope.RecordedAt)
	w.time(end, &ends)
}

func (w *recordWriter) constant(name, v string) { w.text(name, &v) }
func (w *recordWriter) recorded(name string)    { w.time(name, &w.envelope.RecordedAt) }

// recordReader sets fields from a record.
type recordReader struct {
	record
	envelope domain.Envelope // of the event
}

func value[T any](r *recordReader, name string) (v T) {
	v, ok := r.native[name].(T)
	if !ok {
		r.fail(name, "is a %T, not a %T", r.native[name], v)
	}
	return v
}

func (r *recordReader) text(name string, v *string) { *v = value[string](r, name) }

func (r *recordReader) id(name string, v *uuid.UUID) { *v = r.parseID(name, value[string](r, name)) }

func (r *recordReader) parseID(name, text string) uuid.UUID {
	id, err := uuid.Parse(text)
	if err != nil {
		r.fail(name, "%q is not a UUID", text)
	}
	return id
}

func (r *recordReader) optionalID(name string, v **uuid.UUID) {
	if r.native[name] == nil {
		return
	}
	text, _ := value[map[string]any](r, name)[unionString].(string)
	id := r.parseID(name, text)
	*v = &id
}

func (r *recordReader) int(name string, v *int)    { *v = int(value[int32](r, name)) }
func (r *recordReader) long(name string, v *int64) { *v = value[int64](r, name) }
func (r *recordReader) bool(name string, v *bool)  { *v = value[bool](r, name) }

func (r *recordReader) bytes(name string, v *[]byte) {
	if b := value[[]byte](r, name); len(b) > 0 {
		*v = b
	}
}

func (r *recordReader) time(name string, v *time.Time) { *v = value[time.Time](r, name).UTC() }

func (r *recordReader) optionalTime(name string, v **time.Time) {
	if r.native[name] == nil {
		return
	}
	t, ok := value[map[string]any](r, name)[unionMillis].(time.Time)
	if !ok {
		r.fail(name, "is not a time")
	}
	t = t.UTC()
	*v = &t
}

func (r *recordReader) money(amount, currency string, v *domain.Money) {
	n, code := value[*big.Rat](r, amount), value[string](r, currency)
	if r.err != nil {
		return
	}
	number, err := decimal.NewFromString(n.FloatString(moneyScale))
	if err != nil {
		r.fail(amount, "%s is not a decimal", n)
		return
	}
	if *v, err = domain.NewPaid(number, code); err != nil {
		r.fail(amount, "%s %s: %s", number, code, err)
	}
}

func (r *recordReader) optionalMoney(amount, currency string, v **domain.Money) {
	if value[string](r, currency) != "" {
		*v = new(domain.Money)
		r.money(amount, currency, *v)
	}
}

func (r *recordReader) life(begin, end string, millis *int64) {
	*millis = value[time.Time](r, end).UnixMilli() - value[time.Time](r, begin).UnixMilli()
}

func (*recordReader) constant(string, string) {}
func (*recordReader) recorded(string)         {}
