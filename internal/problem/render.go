package problem

import (
	"encoding/json"
	"net/http"
	"strconv"
	"unicode/utf8"
)

// ContentType is the media type of problems.
const ContentType = "application/problem+json"

// Shared header values; net/http only reads them.
var (
	contentType = []string{ContentType}
	bearer      = []string{"Bearer"}
	noStore     = []string{"no-store"}
)

// Write responds with the problem. instance is the request's path, traceID the 32 hex digits of its
// trace. It is the only function that renders a problem, and avoids encoding/json because a rush
// causes a hundred thousand of these responses per second.
func Write(w http.ResponseWriter, e *Error, instance, traceID string) error {
	_, k := lookup(e.slug)
	h := w.Header()
	h["Content-Type"] = contentType
	h["Cache-Control"] = noStore
	if k.status == http.StatusUnauthorized && e.slug == Unauthenticated {
		h["Www-Authenticate"] = bearer
	}
	if s := e.RetryAfter(); s > 0 {
		h.Set("Retry-After", strconv.Itoa(s))
	}
	body := Append(make([]byte, 0, 512), e, instance, traceID)
	w.WriteHeader(k.status)
	_, err := w.Write(body)
	return err
}

// Append appends the problem's JSON body to b.
func Append(b []byte, e *Error, instance, traceID string) []byte {
	slug, k := lookup(e.slug)
	b = append(b, k.head...)
	b = append(b, `,"detail":`...)
	b = appendString(b, e.detail)
	b = append(b, `,"instance":`...)
	b = appendString(b, instance)
	b = append(b, `,"traceId":`...)
	b = appendString(b, traceID)
	if slug == InvalidRequest {
		b = append(b, `,"errors":`...)
		b = appendValue(b, append([]FieldError{}, e.fields...))
	}
	for _, m := range e.extras {
		b = append(b, ',')
		b = appendString(b, m.name)
		b = append(b, ':')
		b = appendValue(b, m.value)
	}
	return append(b, '}')
}

func appendHead(b []byte, slug Slug, k *kind) []byte {
	b = append(b, `{"type":`...)
	b = appendString(b, TypeBase+string(slug))
	b = append(b, `,"title":`...)
	b = appendString(b, k.title)
	b = append(b, `,"status":`...)
	return strconv.AppendInt(b, int64(k.status), 10)
}

func appendValue(b []byte, v any) []byte {
	out, err := json.Marshal(v)
	if err != nil {
		return append(b, "null"...)
	}
	return append(b, out...)
}

// appendString writes plain ASCII directly and passes everything else to encoding/json.
func appendString(b []byte, s string) []byte {
	for i := range len(s) {
		if c := s[i]; c < ' ' || c == '"' || c == '\\' || c >= utf8.RuneSelf {
			return appendValue(b, s)
		}
	}
	b = append(b, '"')
	b = append(b, s...)
	return append(b, '"')
}
