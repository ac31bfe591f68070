package export

import (
	"strings"
	"time"

	"github.com/google/uuid"

	"github.com/dopaminestore/dopamine/internal/apimodel"
)

// Record appends a CSV record (RFC 4180) to a buffer. encoding/csv is not used because with CRLF it
// rewrites line breaks inside fields.
type Record struct {
	b     []byte
	begun bool // the record has at least one field
}

// NewRecord returns a record without fields, which is appended to b.
func NewRecord(b []byte) *Record { return &Record{b: b} }

func (w *Record) separate() {
	if w.begun {
		w.b = append(w.b, ',')
	}
	w.begun = true
}

// Text writes a field, quoted if necessary. An empty field means null or an empty text. If a
// spreadsheet would run the text as a formula, it is prefixed with an apostrophe, which marks it as
// text.
func (w *Record) Text(s string) {
	w.separate()
	if isFormula(s) {
		s = "'" + s
	}
	if !strings.ContainsAny(s, "\",\r\n") && !strings.HasPrefix(s, " ") && !strings.HasSuffix(s, " ") {
		w.b = append(w.b, s...)
		return
	}
	w.b = append(w.b, '"')
	w.b = append(w.b, strings.ReplaceAll(s, `"`, `""`)...)
	w.b = append(w.b, '"')
}

// isFormula reports whether a spreadsheet would interpret the text as a formula
// (https://owasp.org/www-community/attacks/CSV_Injection). Amounts are never negative, so none
// begins with one of these characters.
func isFormula(s string) bool {
	return s != "" && strings.ContainsRune("=+-@\t\r\n", rune(s[0])) || strings.HasPrefix(s, "\uff1d") ||
		strings.HasPrefix(s, "\uff0b") || strings.HasPrefix(s, "\uff0d") || strings.HasPrefix(s, "\uff20")
}

// byteOrderMark makes Excel read a file as UTF-8.
const byteOrderMark = "\ufeff"

// Header returns the header record, after a byte order mark if bom is set.
func Header(bom bool, names ...string) []byte {
	w := NewRecord(nil)
	if bom {
		w.b = append(w.b, byteOrderMark...)
	}
	for _, n := range names {
		w.Text(n)
	}
	return w.End()
}

// Optional writes a text, or an empty field if s is nil.
func (w *Record) Optional(s *string) {
	if s == nil {
		w.separate()
		return
	}
	w.Text(*s)
}

// ID writes a UUID.
func (w *Record) ID(id uuid.UUID) { w.Text(id.String()) }

// Time writes a time in the format of the APIs.
func (w *Record) Time(t apimodel.Time) { w.Text(apimodel.FormatTime(time.Time(t))) }

// OptionalTime writes a time, or an empty field if t is nil.
func (w *Record) OptionalTime(t *apimodel.Time) {
	if t == nil {
		w.separate()
		return
	}
	w.Time(*t)
}

// End ends the record and returns the buffer.
func (w *Record) End() []byte { return append(w.b, "\r\n"...) }
