package command

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/getkin/kin-openapi/openapi3"
	"github.com/getkin/kin-openapi/openapi3filter"
	"github.com/getkin/kin-openapi/routers"
	"github.com/getkin/kin-openapi/routers/legacy"
	"github.com/google/uuid"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/stretchr/testify/require"

	"github.com/dopaminestore/dopamine/internal/auth"
	"github.com/dopaminestore/dopamine/internal/consistency"
	"github.com/dopaminestore/dopamine/internal/problem"
)

// user is a person with a token.
type user struct {
	id    uuid.UUID
	token string
}

// tokens signs for tests.
type tokens struct {
	file     string // with the key
	signer   *auth.Signer
	verifier *auth.Verifier
}

func newTokens(t testing.TB) tokens {
	t.Helper()
	file := filepath.Join(t.TempDir(), "jwt.key")
	require.NoError(t, os.WriteFile(file, []byte(strings.Repeat("k", 32)), 0o600))
	signer, err := auth.NewSigner(auth.SignerConfig{KeyFile: file})
	require.NoError(t, err)
	verifier, err := auth.New(context.Background(), auth.Config{KeyFile: file})
	require.NoError(t, err)
	return tokens{file, signer, verifier}
}

func (k tokens) user(t testing.TB, roles auth.Roles) user {
	t.Helper()
	id := uuid.New()
	return k.as(t, id, roles)
}

func (k tokens) as(t testing.TB, id uuid.UUID, roles auth.Roles) user {
	t.Helper()
	token, err := k.signer.Sign(id, roles, time.Hour)
	require.NoError(t, err)
	return user{id, token}
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
	handler http.Handler
	routes  routers.Router
}

func newClient(t testing.TB, h http.Handler) client {
	t.Helper()
	doc, err := openapi3.NewLoader().LoadFromData(openAPI)
	require.NoError(t, err)
	doc.Servers = nil
	routes, err := legacy.NewRouter(doc)
	require.NoError(t, err)
	return client{h, routes}
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
	return a, c.documented(ctx, r, w)
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
func (c client) documented(ctx context.Context, r *http.Request, w *httptest.ResponseRecorder) error {
	route, params, err := c.routes.FindRoute(r)
	if err != nil {
		return nil // 404 and 405 belong to no operation
	}
	if strings.HasPrefix(w.Header().Get("Content-Type"), problem.ContentType) {
		if err := hasExample(route.Operation.Responses.Status(w.Code), w.Body.Bytes()); err != nil {
			return fmt.Errorf("%s %s %d: %w", r.Method, route.Path, w.Code, err)
		}
	}
	return openapi3filter.ValidateResponse(ctx, &openapi3filter.ResponseValidationInput{
		RequestValidationInput: &openapi3filter.RequestValidationInput{Request: r, PathParams: params, Route: route},
		Status:                 w.Code,
		Header:                 w.Header(),
		Body:                   io.NopCloser(bytes.NewReader(w.Body.Bytes())),
		Options:                &openapi3filter.Options{IncludeResponseStatus: true},
	})
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
