package stripetest

import (
	"bytes"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"sync"

	"github.com/stripe/stripe-mock/embedded"
	"github.com/stripe/stripe-mock/server"
)

// Mock is stripe-mock in process: it checks each request against Stripe's OpenAPI description and
// responds with fixed content, without any state. It records what it accepted and refused.
type Mock struct {
	stub *server.StubServer

	mu                sync.Mutex
	accepted, refused []string
}

// NewMock loads the description.
func NewMock() (*Mock, error) {
	spec, err := server.LoadSpec(embedded.OpenAPISpec, "")
	if err != nil {
		return nil, fmt.Errorf("load Stripe's description: %w", err)
	}
	fixtures, err := server.LoadFixtures(embedded.OpenAPIFixtures, "")
	if err != nil {
		return nil, fmt.Errorf("load Stripe's fixtures: %w", err)
	}
	stub, err := server.NewStubServer(fixtures, spec, false, false)
	if err != nil {
		return nil, fmt.Errorf("start stripe-mock: %w", err)
	}
	return &Mock{stub: stub}, nil
}

// Accepted returns method and path of the requests that the mock accepted, in their order.
func (m *Mock) Accepted() []string {
	m.mu.Lock()
	defer m.mu.Unlock()
	return append([]string(nil), m.accepted...)
}

// Refused returns method, path, status and response of the others.
func (m *Mock) Refused() []string {
	m.mu.Lock()
	defer m.mu.Unlock()
	return append([]string(nil), m.refused...)
}

// ServeHTTP implements http.Handler.
func (m *Mock) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	body, err := io.ReadAll(r.Body)
	if err != nil {
		return
	}
	rec := m.check(r, body)
	for name, values := range rec.Header() {
		w.Header()[name] = values
	}
	w.WriteHeader(rec.Code)
	_, _ = w.Write(rec.Body.Bytes())
}

// check passes a request to the mock and records its status.
func (m *Mock) check(r *http.Request, body []byte) *httptest.ResponseRecorder {
	checked := r.Clone(r.Context())
	checked.Body = io.NopCloser(bytes.NewReader(body))
	rec := httptest.NewRecorder()
	m.stub.HandleRequest(rec, checked)
	m.mu.Lock()
	defer m.mu.Unlock()
	if what := r.Method + " " + r.URL.Path; rec.Code == http.StatusOK {
		m.accepted = append(m.accepted, what)
	} else {
		m.refused = append(m.refused, fmt.Sprintf("%s: %d %s", what, rec.Code, rec.Body))
	}
	return rec
}
