package httpapi

import "net/http"

// What a page of another origin may send, read and do.
const (
	corsMethods = "GET, HEAD, POST, PUT, DELETE"
	corsAllowed = "Authorization, Content-Type, Accept, Idempotency-Key, X-Min-Position, X-Trace-ID, traceparent, tracestate, baggage, sentry-trace, " +
		"If-Match, If-None-Match, Last-Event-ID"
	corsExposed = "X-Trace-ID, X-Position, Location, Retry-After, Content-Disposition, ETag, X-Complete-Position"
	// corsMaxAge is how long a browser may cache a preflight, in seconds.
	corsMaxAge = "600"
)

// cors answers preflight requests of pages from other origins. Tokens come in a header that the
// page sets, never as a cookie, so CORS credentials are not allowed.
type cors struct {
	any     bool
	origins map[string]bool
}

// newCORS returns nil if there are no origins.
func newCORS(origins []string) *cors {
	if len(origins) == 0 {
		return nil
	}
	c := &cors{origins: map[string]bool{}}
	for _, o := range origins {
		if o == "*" {
			c.any = true
		}
		c.origins[o] = true
	}
	return c
}

// handle sets the headers and reports whether it has responded, which it does for a preflight of an
// allowed origin.
func (c *cors) handle(w http.ResponseWriter, r *http.Request) bool {
	h := w.Header()
	h.Add("Vary", "Origin")
	origin := r.Header.Get("Origin")
	if origin == "" || !(c.any || c.origins[origin]) {
		return false
	}
	h.Set("Access-Control-Allow-Origin", origin)
	h.Set("Access-Control-Expose-Headers", corsExposed)
	if r.Method != http.MethodOptions || r.Header.Get("Access-Control-Request-Method") == "" {
		return false
	}
	h.Set("Access-Control-Allow-Methods", corsMethods)
	h.Set("Access-Control-Allow-Headers", corsAllowed)
	h.Set("Access-Control-Max-Age", corsMaxAge)
	w.WriteHeader(http.StatusNoContent)
	return true
}
