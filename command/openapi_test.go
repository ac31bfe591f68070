package command

import (
	"context"
	"fmt"
	"net/http"
	"net/http/httptest"
	"slices"
	"testing"

	"github.com/getkin/kin-openapi/openapi3"
	"github.com/stretchr/testify/require"

	"github.com/dopaminestore/dopamine/internal/httpapi"
	"github.com/dopaminestore/dopamine/internal/problem"
)

// TestOpenAPI compares the document with the routes: both have the same ones,
// and every example matches its schema.
func TestOpenAPI(t *testing.T) {
	doc, err := openapi3.NewLoader().LoadFromData(openAPI)
	require.NoError(t, err)
	require.NoError(t, doc.Validate(context.Background(), openapi3.EnableExamplesValidation()))

	var documented, served []string
	for path, item := range doc.Paths.Map() {
		for method, op := range item.Operations() {
			documented = append(documented, method+" "+path)
			for status, r := range op.Responses.Map() {
				requireExample(t, fmt.Sprintf("%s %s %s", method, path, status), r.Value)
			}
		}
	}
	c := refusing(t, newTokens(t))
	for _, r := range c.handler.(*httpapi.Server).Routes() {
		served = append(served, r.Method+" "+r.Path)
	}
	slices.Sort(documented)
	slices.Sort(served)
	require.Equal(t, documented, served)

	w := httptest.NewRecorder()
	c.handler.ServeHTTP(w, httptest.NewRequest(http.MethodGet, "/openapi.yaml", nil))
	require.Equal(t, string(openAPI), w.Body.String())
}

// requireExample requires an example of every JSON response, and for every problem
// one with the status and title that are actually returned.
func requireExample(t *testing.T, where string, r *openapi3.Response) {
	t.Helper()
	for media, content := range r.Content {
		if media != "application/json" && media != problem.ContentType {
			continue
		}
		examples := []any{content.Example}
		if len(content.Examples) > 0 {
			examples = nil
			for _, e := range content.Examples {
				examples = append(examples, e.Value.Value)
			}
		}
		for _, e := range examples {
			require.NotNil(t, e, "%s has no example", where)
			if media == problem.ContentType {
				p := e.(map[string]any)
				slug := problem.Slug(p["type"].(string)[len(problem.TypeBase):])
				require.EqualValues(t, slug.Status(), p["status"], where)
				require.Equal(t, slug.Title(), p["title"], where)
				require.Contains(t, problem.Slugs(), slug, where)
			}
		}
	}
}
