package query

import (
	"strings"
	"time"

	"github.com/google/uuid"

	"github.com/dopaminestore/dopamine/internal/apimodel"
)

// csvWriter appends records of RFC 4180 to a buffer. encoding/csv is not used because with CRLF it
// rewrites line breaks inside fields.
type csvWriter struct {
	b     []byte
	begun bool // the record has at least one field
}

func (w *csvWriter) separate() {
	if w.begun {
		w.b = append(w.b, ',')
	}
	w.begun = true
}

// text writes a field, quoted if necessary. An empty field means null or an empty text. If a
// spreadsheet would run the text as a formula, it is prefixed with an apostrophe, which marks it as
// text.
func (w *csvWriter) text(s string) {
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

// csvHead returns the header record, after a byte order mark if bom is set.
func csvHead(bom bool, names ...string) []byte {
	var w csvWriter
	if bom {
		w.b = append(w.b, byteOrderMark...)
	}
	w.header(names...)
	return w.b
}

func (w *csvWriter) optional(s *string) {
	if s == nil {
		w.separate()
		return
	}
	w.text(*s)
}

func (w *csvWriter) id(id uuid.UUID) { w.text(id.String()) }

func (w *csvWriter) time(t apimodel.Time) { w.text(apimodel.FormatTime(time.Time(t))) }

func (w *csvWriter) optionalTime(t *apimodel.Time) {
	if t == nil {
		w.separate()
		return
	}
	w.time(*t)
}

func (w *csvWriter) end() {
	w.b = append(w.b, "\r\n"...)
	w.begun = false
}

func (w *csvWriter) header(names ...string) {
	for _, n := range names {
		w.text(n)
	}
	w.end()
}
