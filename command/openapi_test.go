package command

import (
	"context"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/getkin/kin-openapi/openapi3"
	"github.com/stretchr/testify/require"

	"github.com/dopaminestore/dopamine/internal/httpapi"
	"github.com/dopaminestore/dopamine/internal/problem"
	"github.com/dopaminestore/dopamine/tools/apitest"
)

// TestOpenAPI compares the document with the routes: both have the same ones,
// and every example matches its schema.
func TestOpenAPI(t *testing.T) {
	doc := apitest.Load(t, openAPI)
	require.NoError(t, doc.Validate(context.Background(), openapi3.EnableExamplesValidation()))

	details := detailsInCode(t)
	var documented, served []string
	for path, item := range doc.Paths.Map() {
		for method, op := range item.Operations() {
			documented = append(documented, method+" "+path)
			for status, r := range op.Responses.Map() {
				requireExample(t, fmt.Sprintf("%s %s %s", method, path, status), r.Value, details)
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
// one with the status, title and detail that are actually returned. Each problem that the description
// names has an example.
func requireExample(t *testing.T, where string, r *openapi3.Response, details map[problem.Slug][]string) {
	t.Helper()
	for media, content := range r.Content {
		if media != "application/json" && media != problem.ContentType {
			continue
		}
		shown := map[problem.Slug]bool{}
		for _, e := range examplesOf(content) {
			require.NotNil(t, e, "%s has no example", where)
			if media == problem.ContentType {
				p := e.(map[string]any)
				slug := problem.Slug(p["type"].(string)[len(problem.TypeBase):])
				shown[slug] = true
				require.EqualValues(t, slug.Status(), p["status"], where)
				require.Equal(t, slug.Title(), p["title"], where)
				require.Contains(t, problem.Slugs(), slug, where)
				if details := details[slug]; len(details) > 0 && p["errors"] == nil {
					require.Contains(t, details, p["detail"], "%s: the detail of %s in the code", where, slug)
				}
			}
		}
		for _, m := range regexp.MustCompile("`([a-z-]+)`").FindAllStringSubmatch(*r.Description, -1) {
			if slug := problem.Slug(m[1]); slices.Contains(problem.Slugs(), slug) {
				require.True(t, shown[slug], "%s: %s has no example", where, slug)
			}
		}
	}
}

// detailsInCode returns the constant details of each problem, as this package and httpapi declare
// them.
func detailsInCode(t *testing.T) map[problem.Slug][]string {
	t.Helper()
	slugs := map[string]problem.Slug{}
	for _, m := range matches(t, `(\w+) +Slug = "([a-z-]+)"`, "../internal/problem/slugs.go") {
		slugs[m[1]] = problem.Slug(m[2])
	}
	details := map[problem.Slug][]string{}
	for _, m := range matches(t, `problem\.New\(problem\.(\w+), "([^"]+)"\)`, "*.go", "../internal/httpapi/*.go") {
		slug, known := slugs[m[1]]
		require.True(t, known, "slug %s", m[1])
		details[slug] = append(details[slug], m[2])
	}
	require.Greater(t, len(details), 25)
	return details
}

// matches returns the matches of a pattern in the files of this package's source, tests excluded.
func matches(t *testing.T, pattern string, globs ...string) (found [][]string) {
	t.Helper()
	for _, glob := range globs {
		files, err := filepath.Glob(glob)
		require.NoError(t, err)
		for _, file := range files {
			if strings.HasSuffix(file, "_test.go") {
				continue
			}
			text, err := os.ReadFile(file)
			require.NoError(t, err)
			found = append(found, regexp.MustCompile(pattern).FindAllStringSubmatch(string(text), -1)...)
		}
	}
	return found
}
