package command

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/getkin/kin-openapi/openapi3"
	"github.com/google/uuid"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/stretchr/testify/require"

	"github.com/dopaminestore/dopamine/internal/auth"
	"github.com/dopaminestore/dopamine/internal/consistency"
	"github.com/dopaminestore/dopamine/internal/problem"
	"github.com/dopaminestore/dopamine/tools/apitest"
)

// user is a person with a token.
type user struct {
	id    uuid.UUID
	token string
}

// tokens makes users.
type tokens struct{ apitest.Tokens }

func newTokens(t testing.TB) tokens { return tokens{apitest.NewTokens(t)} }

func (k tokens) user(t testing.TB, roles auth.Roles) user {
	t.Helper()
	id := uuid.New()
	return user{id, k.Sign(t, id, roles)}
}

// answered is a response whose body was JSON, or empty.
type answered struct {
	status int
	header http.Header
	body   map[string]any
}

// slug returns the problem's slug, or "" if the response is not a problem.
func (a answered) slug() string {
	typ, _ := a.body["type"].(string)
	return strings.TrimPrefix(typ, "https://dopaminestore.dev/problems/")
}

// requireProblem requires the status and the problem of a response.
func requireProblem(t testing.TB, status int, slug string, a answered, why ...any) {
	t.Helper()
	if len(why) == 0 {
		why = []any{"%v", a.body}
	}
	require.Equal(t, []any{status, slug}, []any{a.status, a.slug()}, why...)
}

func (a answered) text(name string) string {
	s, _ := a.body[name].(string)
	return s
}

func (a answered) number(name string) int64 {
	n, _ := a.body[name].(float64)
	return int64(n)
}

// fields returns the names in the problem's errors.
func (a answered) fields() []string {
	names := []string{}
	list, _ := a.body["errors"].([]any)
	for _, e := range list {
		names = append(names, e.(map[string]any)["field"].(string))
	}
	return names
}

// place returns the value of X-Position.
func (a answered) place(t testing.TB) consistency.ProductPosition {
	t.Helper()
	p, err := consistency.Parse(a.header.Get("X-Position"))
	require.NoError(t, err, "X-Position of %v", a.body)
	return p
}

// client sends requests to one API and validates every response against its document.
type client struct {
	handler  http.Handler
	document apitest.Document
}

func newClient(t testing.TB, h http.Handler) client {
	t.Helper()
	return client{h, apitest.Load(t, openAPI)}
}

// send sends a request; body is JSON text, or any other value to encode.
func (c client) send(ctx context.Context, u user, method, path string, body any, headers ...string) (answered, error) {
	var text []byte
	switch b := body.(type) {
	case nil:
	case string:
		text = []byte(b)
	default:
		var err error
		if text, err = json.Marshal(b); err != nil {
			return answered{}, err
		}
	}
	r := httptest.NewRequestWithContext(ctx, method, path, bytes.NewReader(text))
	if u.token != "" {
		r.Header.Set("Authorization", "Bearer "+u.token)
	}
	if body != nil {
		r.Header.Set("Content-Type", "application/json")
	}
	for i := 0; i+1 < len(headers); i += 2 {
		r.Header.Set(headers[i], headers[i+1])
	}
	w := httptest.NewRecorder()
	c.handler.ServeHTTP(w, r)
	a := answered{status: w.Code, header: w.Header()}
	if w.Body.Len() > 0 {
		if err := json.Unmarshal(w.Body.Bytes(), &a.body); err != nil {
			return a, err
		}
	}
	return a, c.documented(r, w)
}

// do is like send, and fails the test if the response is not as documented.
func (c client) do(t testing.TB, u user, method, path string, body any, headers ...string) answered {
	t.Helper()
	a, err := c.send(context.Background(), u, method, path, body, headers...)
	require.NoError(t, err)
	return a
}

// documented validates a response against openapi.yaml: status, headers and body. A problem must be
// among the examples of its status.
func (c client) documented(r *http.Request, w *httptest.ResponseRecorder) error {
	operation := c.document.Operation(r)
	if operation == nil {
		return nil // 404 and 405 belong to no operation
	}
	if strings.HasPrefix(w.Header().Get("Content-Type"), problem.ContentType) {
		if err := hasExample(operation.Responses.Status(w.Code), w.Body.Bytes()); err != nil {
			return fmt.Errorf("%s %s %d: %w", r.Method, r.URL.Path, w.Code, err)
		}
	}
	return c.document.Check(r, w.Code, w.Header(), w.Body.Bytes())
}

// hasExample returns an error if none of the documented examples has the type of the problem.
func hasExample(documented *openapi3.ResponseRef, body []byte) error {
	var answered struct{ Type string }
	if err := json.Unmarshal(body, &answered); err != nil {
		return err
	}
	if documented == nil {
		return nil // the validation of the status reports it
	}
	for _, e := range examplesOf(documented.Value.Content[problem.ContentType]) {
		if p, ok := e.(map[string]any); ok && p["type"] == answered.Type {
			return nil
		}
	}
	return fmt.Errorf("openapi.yaml has no example of %s", answered.Type)
}

// examplesOf returns the examples of a response's body.
func examplesOf(content *openapi3.MediaType) []any {
	if content == nil {
		return nil
	}
	if len(content.Examples) == 0 {
		return []any{content.Example}
	}
	var examples []any
	for _, e := range content.Examples {
		examples = append(examples, e.Value.Value)
	}
	return examples
}

func registry() *prometheus.Registry { return prometheus.NewRegistry() }
