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

// text quotes where a field would not be read back otherwise; what an empty field
// means, null or no text, is not told apart.
func (w *csvWriter) text(s string) {
	w.separate()
	if !strings.ContainsAny(s, "\",\r\n") && !strings.HasPrefix(s, " ") && !strings.HasSuffix(s, " ") {
		w.b = append(w.b, s...)
		return
	}
	w.b = append(w.b, '"')
	w.b = append(w.b, strings.ReplaceAll(s, `"`, `""`)...)
	w.b = append(w.b, '"')
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
