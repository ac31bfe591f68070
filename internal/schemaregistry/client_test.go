package schemaregistry

import (
	"context"
	"fmt"
	"net/http"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
	"github.com/twmb/franz-go/pkg/sr"
	"github.com/twmb/franz-go/pkg/sr/srfake"
)

const (
	subject = "com.example.SoldEvent"
	schema  = `{"type":"record","name":"SoldEvent","namespace":"com.example","fields":[{"name":"id","type":"string"}]}`
)

func fake(t *testing.T, opts ...srfake.Option) (*srfake.Registry, *Client) {
	t.Helper()
	r := srfake.New(opts...)
	t.Cleanup(r.Close)
	c, err := New(Options{URL: r.URL() + "/"})
	require.NoError(t, err)
	return r, c
}

// level returns the compatibility level of the subject.
func level(c *Client) string {
	return c.client.Compatibility(context.Background(), subject)[0].Level.String()
}

func TestRegister_IsIdempotent(t *testing.T) {
	_, c := fake(t)
	id, err := c.Register(t.Context(), subject, schema)
	require.NoError(t, err)
	again, err := c.Register(t.Context(), subject, schema)
	require.NoError(t, err)
	require.Equal(t, id, again)
	text, err := c.SchemaText(t.Context(), uint32(id))
	require.NoError(t, err)
	require.JSONEq(t, schema, text)
	_, err = c.SchemaText(t.Context(), 4711)
	require.Error(t, err)
}

func TestRegister_RequiresBackwardCompatibilityUnlessStricter(t *testing.T) {
	_, c := fake(t, srfake.WithGlobalCompat(sr.CompatNone))
	_, err := c.Register(t.Context(), subject, schema)
	require.NoError(t, err)
	require.Equal(t, "BACKWARD", level(c))

	strict, c := fake(t, srfake.WithGlobalCompat(sr.CompatNone))
	_, err = c.Register(t.Context(), subject, schema)
	require.NoError(t, err)
	require.NoError(t, strict.SetCompat(subject, sr.CompatFullTransitive))
	_, err = c.Register(t.Context(), subject, schema)
	require.NoError(t, err)
	require.Equal(t, "FULL_TRANSITIVE", level(c), "a stricter level is kept")
}

func TestRegister_SetsTheLevelAfterwardsIfNecessary(t *testing.T) {
	r, c := fake(t, srfake.WithGlobalCompat(sr.CompatNone))
	r.Intercept(func(w http.ResponseWriter, q *http.Request) bool {
		if !strings.HasPrefix(q.URL.Path, "/config/") || r.SubjectExists(subject) {
			return false
		}
		w.WriteHeader(http.StatusNotFound)
		fmt.Fprint(w, `{"error_code":40401,"message":"no such subject"}`)
		return true
	})
	_, err := c.Register(t.Context(), subject, schema)
	require.NoError(t, err)
	require.Equal(t, "BACKWARD", level(c))
}

func TestRegister_RefusesIncompatibleSchemas(t *testing.T) {
	for name, refuse := range map[string]srfake.Interceptor{
		"by the check": func(w http.ResponseWriter, q *http.Request) bool {
			if !strings.HasPrefix(q.URL.Path, "/compatibility/") {
				return false
			}
			fmt.Fprint(w, `{"is_compatible":false,"messages":["field id has no default"]}`)
			return true
		},
		"at the registering": func(w http.ResponseWriter, q *http.Request) bool {
			if q.Method != http.MethodPost || !strings.HasSuffix(q.URL.Path, "/versions") {
				return false
			}
			w.WriteHeader(http.StatusConflict)
			fmt.Fprint(w, `{"error_code":409,"message":"field id has no default"}`)
			return true
		},
	} {
		r, c := fake(t)
		r.Intercept(refuse)
		_, err := c.Register(t.Context(), subject, schema)
		var incompatible *IncompatibleError
		require.ErrorAs(t, err, &incompatible, name)
		require.ErrorContains(t, err, "field id has no default", name)
		require.ErrorContains(t, err, subject, name)
		require.False(t, r.SubjectExists(subject), name)
	}
}

func TestRegister_WithPassword(t *testing.T) {
	r := srfake.New(srfake.WithAuth("Basic dXNlcjpwYXNz"))
	defer r.Close()
	c, err := New(Options{URL: strings.Replace(r.URL(), "http://", "http://user:pass@", 1)})
	require.NoError(t, err)
	_, err = c.Register(t.Context(), subject, schema)
	require.NoError(t, err)
	c, err = New(Options{URL: r.URL()})
	require.NoError(t, err)
	_, err = c.Register(t.Context(), subject, schema)
	require.Error(t, err)
}

func TestRegister_UnavailableIsNotIncompatible(t *testing.T) {
	c, err := New(Options{URL: "http://127.0.0.1:1"})
	require.NoError(t, err)
	_, err = c.Register(t.Context(), subject, schema)
	require.Error(t, err)
	require.NotErrorAs(t, err, new(*IncompatibleError))
}
