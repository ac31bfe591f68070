package httpapi

import (
	"fmt"
	"hash/fnv"
	"net/http"
	"slices"
	"strconv"
	"strings"

	"github.com/go-json-experiment/json"
	"github.com/labstack/echo/v4"
)

// An entity tag names a representation: "<hash>", or "<version>-<hash>" if the
// resource has a version that clients can require with If-Match. The version has no
// hyphen. The hash changes with every change of the representation, the version only
// with what a client may change.

// Tagged is a response body with its entity tag. It can be cached and reused.
type Tagged struct {
	body []byte
	etag string
}

// NewTagged encodes v; version may be empty.
func NewTagged(v any, version string) (Tagged, error) {
	body, err := json.Marshal(v)
	if err != nil {
		return Tagged{}, fmt.Errorf("encode the response: %w", err)
	}
	h := fnv.New64a()
	_, _ = h.Write(body) // never fails
	const base16 = 16
	etag := strconv.FormatUint(h.Sum64(), base16)
	if version != "" {
		etag = version + "-" + etag
	}
	return Tagged{body, `"` + etag + `"`}, nil
}

// Send responds with the body and its ETag, or to a GET with 304 if If-None-Match has
// it.
func (t Tagged) Send(c echo.Context, status int) error {
	w := c.Response()
	w.Header().Set("Etag", t.etag)
	method := c.Request().Method
	if status == http.StatusOK && (method == http.MethodGet || method == http.MethodHead) && noneMatch(c.Request().Header, t.etag) {
		w.WriteHeader(http.StatusNotModified)
		return nil
	}
	w.Header()["Content-Type"] = jsonType
	w.WriteHeader(status)
	if _, err := w.Write(t.body); err != nil {
		return fmt.Errorf("write the response: %w", err)
	}
	return nil
}

// TaggedJSON is NewTagged and Send.
func TaggedJSON(c echo.Context, status int, v any, version string) error {
	t, err := NewTagged(v, version)
	if err != nil {
		return err
	}
	return t.Send(c, status)
}

// noneMatch reports whether If-None-Match names the tag, by weak comparison (RFC 9110,
// 13.1.2).
func noneMatch(h http.Header, etag string) bool {
	for _, tag := range entityTags(h["If-None-Match"]) {
		if tag == "*" || strings.TrimPrefix(tag, "W/") == etag {
			return true
		}
	}
	return false
}

// entityTags splits lists of entity tags. Commas inside of quotes are part of a tag.
func entityTags(headers []string) []string {
	var tags []string
	for _, header := range headers {
		quoted, begin := false, 0
		for i := 0; i <= len(header); i++ {
			switch {
			case i == len(header) || header[i] == ',' && !quoted:
				if tag := strings.TrimSpace(header[begin:i]); tag != "" {
					tags = append(tags, tag)
				}
				begin = i + 1
			case header[i] == '"':
				quoted = !quoted
			}
		}
	}
	return tags
}

// IfMatch is the header If-Match of a request. The zero value requires nothing.
type IfMatch struct {
	given    bool
	any      bool
	versions []string
}

// IfMatchOf reads the header. Weak tags match nothing (RFC 9110, 13.1.1).
func IfMatchOf(c echo.Context) IfMatch {
	headers := c.Request().Header["If-Match"]
	m := IfMatch{given: len(headers) > 0}
	for _, tag := range entityTags(headers) {
		if tag == "*" {
			m.any = true
			continue
		}
		inner, ok := strings.CutPrefix(tag, `"`)
		inner, closed := strings.CutSuffix(inner, `"`)
		if !ok || !closed {
			continue
		}
		version, _, _ := strings.Cut(inner, "-")
		m.versions = append(m.versions, version)
	}
	return m
}

// Matches reports whether a resource of this version may be changed.
func (m IfMatch) Matches(version string) bool {
	return !m.given || m.any || slices.Contains(m.versions, version)
}

// Cacheable sets headers that allow caches to keep the response for a second. If the request has
// X-Min-Position, caches must revalidate: a response from before the client's own write must not be
// reused.
func Cacheable(c echo.Context) {
	h := c.Response().Header()
	h.Add("Vary", MinPositionHeader)
	if len(c.Request().Header[MinPositionHeader]) > 0 {
		h.Set("Cache-Control", "no-cache")
	} else {
		h.Set("Cache-Control", "max-age=1")
	}
}
