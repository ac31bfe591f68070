package query

import (
	"strings"
	"time"

	"github.com/google/uuid"

	"github.com/dopaminestore/dopamine/internal/view"
)

// csvWriter appends records of RFC 4180 to a buffer. encoding/csv is not used
// because with CRLF it rewrites the line breaks inside of fields.
type csvWriter struct {
	b     []byte
	begun bool // the record has a field
}

func (w *csvWriter) separate() {
	if w.begun {
		w.b = append(w.b, ',')
	}
	w.begun = true
}

// text writes a field, quoted if it could not be read back otherwise. An empty field is
// null or no text. What a spreadsheet would run as a formula is prefixed with an
// apostrophe, which makes it text there.
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

// isFormula reports whether a spreadsheet takes the text for a formula
// (https://owasp.org/www-community/attacks/CSV_Injection). Numbers are not ours to
// write with a sign, so that none is changed.
func isFormula(s string) bool {
	return s != "" && strings.ContainsRune("=+-@\t\r\n", rune(s[0])) || strings.HasPrefix(s, "\uff1d") ||
		strings.HasPrefix(s, "\uff0b") || strings.HasPrefix(s, "\uff0d") || strings.HasPrefix(s, "\uff20")
}

// byteOrderMark lets Excel see that a file is in UTF-8.
const byteOrderMark = "\ufeff"

// csvHead returns the header record, after a byte order mark if ?bom=true asks for one.
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

func (w *csvWriter) time(t view.Time) { w.text(view.FormatTime(time.Time(t))) }

func (w *csvWriter) optionalTime(t *view.Time) {
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
