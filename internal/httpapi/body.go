package httpapi

import (
	"errors"
	"io"
	"mime"
	"net/http"
	"strings"

	"github.com/labstack/echo/v4"

	"github.com/dopaminestore/dopamine/internal/problem"
)

// MaxBody is the maximum length of a body in bytes.
const MaxBody = 64 << 10

// trustedLength is the maximum size of a buffer allocated for a declared length before any byte has
// arrived.
const trustedLength = 4 << 10

var (
	errTooLarge  = problem.New(problem.PayloadTooLarge, "a body has 64 KiB at most")
	errMediaType = problem.New(problem.UnsupportedMediaType, "the body must be application/json in UTF-8, not encoded further")
	errBodyCut   = problem.New(problem.InvalidRequest, "the body ended early")
)

// takeBody reads what the route wants: size before media type, both before any value.
func (rt *route) takeBody(r *http.Request, rc *request) error {
	if r.ContentLength > MaxBody {
		return errTooLarge
	}
	if rt.Body == NoBody {
		return nil
	}
	body, err := readBody(r)
	if err != nil {
		return err
	}
	if rt.Body == JSONBody && !jsonBody(r.Header, len(body) == 0) {
		return errMediaType
	}
	rc.body = body
	return nil
}

func readBody(r *http.Request) ([]byte, error) {
	room := r.ContentLength
	if room < 0 || room > trustedLength {
		room = trustedLength
	}
	// One byte more than declared, so that the end is found without growing.
	body := make([]byte, 0, room+1)
	for {
		n, err := r.Body.Read(body[len(body):cap(body)])
		body = body[:len(body)+n]
		switch {
		case len(body) > MaxBody:
			return nil, errTooLarge
		case errors.Is(err, io.EOF):
			return body, nil
		case err != nil:
			return nil, errBodyCut.Wrap(err)
		}
		if len(body) == cap(body) {
			body = append(body, 0)[:len(body)]
		}
	}
}

// jsonBody reports whether the headers declare JSON in UTF-8. A request without a body need not
// declare a type.
func jsonBody(h http.Header, empty bool) bool {
	if encoding := h.Get("Content-Encoding"); encoding != "" && !strings.EqualFold(encoding, "identity") {
		return false
	}
	values := h["Content-Type"]
	switch {
	case len(values) == 1 && values[0] == "application/json":
		return true
	case len(values) == 0:
		return empty
	case len(values) > 1:
		return false
	}
	media, params, err := mime.ParseMediaType(values[0])
	if err != nil || media != "application/json" {
		return false
	}
	charset, given := params["charset"]
	return !given || strings.EqualFold(charset, "utf-8") || strings.EqualFold(charset, "utf8")
}

// ReadBody returns the request's body, on a route with RawBody or JSONBody.
func ReadBody(c echo.Context) []byte { return requestOf(c).body }
