// Package authmatrix tests the access to the routes of an API: every route with every kind of
// token. The tests of both APIs use it.
package authmatrix

import (
	"crypto/hmac"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/getkin/kin-openapi/openapi3"
	"github.com/google/uuid"
	"github.com/stretchr/testify/require"

	"github.com/dopaminestore/dopamine/internal/auth"
	"github.com/dopaminestore/dopamine/internal/httpapi"
)

// Rows have the access of each route, keyed by "METHOD /path" as in OpenAPI: open, public, or
// roles, comma-separated.
type Rows map[string]string

// API is the API under test.
type API struct {
	Handler http.Handler
	Routes  []httpapi.RouteInfo
	OpenAPI []byte
	Secret  []byte // that verifies HS256 tokens
}

// kinds of tokens, and the roles of those that are valid.
var kinds = []struct {
	name  string
	token func(secret []byte) string // "": none
	valid bool
	roles []string
}{
	{name: "no token", token: func([]byte) string { return "" }},
	{name: "not a token", token: func([]byte) string { return "Bearer x.y.z" }},
	{name: "another scheme", token: func(s []byte) string { return "Basic " + sign(s, "HS256", claims("admin", "buyer")) }},
	{name: "another key", token: func([]byte) string {
		return "Bearer " + sign([]byte(strings.Repeat("x", 32)), "HS256", claims("admin", "buyer"))
	}},
	{name: "no signature", token: func(s []byte) string { return "Bearer " + sign(nil, "none", claims("admin", "buyer")) }},
	{name: "another algorithm", token: func(s []byte) string { return "Bearer " + sign(s, "HS512", claims("admin", "buyer")) }},
	{name: "expired", token: func(s []byte) string {
		c := claims("admin", "buyer")
		c["exp"] = time.Now().Add(-time.Minute).Unix()
		return "Bearer " + sign(s, "HS256", c)
	}},
	{name: "without exp", token: func(s []byte) string {
		c := claims("admin", "buyer")
		delete(c, "exp")
		return "Bearer " + sign(s, "HS256", c)
	}},
	{name: "without sub", token: func(s []byte) string {
		c := claims("admin", "buyer")
		delete(c, "sub")
		return "Bearer " + sign(s, "HS256", c)
	}},
	{name: "no role", valid: true, token: func(s []byte) string { return "Bearer " + sign(s, "HS256", claims()) }},
	{name: "unknown role", valid: true, token: func(s []byte) string { return "Bearer " + sign(s, "HS256", claims("root", "Admin")) }},
	{name: "buyer", valid: true, roles: []string{"buyer"}, token: func(s []byte) string { return "Bearer " + sign(s, "HS256", claims("buyer")) }},
	{name: "admin", valid: true, roles: []string{"admin"}, token: func(s []byte) string { return "Bearer " + sign(s, "HS256", claims("admin")) }},
	{name: "buyer and admin", valid: true, roles: []string{"buyer", "admin"}, token: func(s []byte) string {
		return "Bearer " + sign(s, "HS256", claims("buyer", "admin"))
	}},
}

func claims(roles ...string) map[string]any {
	return map[string]any{"sub": uuid.NewString(), "roles": append([]string{}, roles...), "exp": time.Now().Add(time.Hour).Unix()}
}

func sign(secret []byte, alg string, claims map[string]any) string {
	part := func(v any) string {
		b, err := json.Marshal(v)
		if err != nil {
			panic(err) // of texts and numbers
		}
		return base64.RawURLEncoding.EncodeToString(b)
	}
	text := part(map[string]string{"alg": alg, "typ": "JWT"}) + "." + part(claims)
	if secret == nil {
		return text + "."
	}
	mac := hmac.New(sha256.New, secret)
	mac.Write([]byte(text))
	return text + "." + base64.RawURLEncoding.EncodeToString(mac.Sum(nil))
}

// Run fails for a route without a row, a row without a route, a route whose access differs from its
// row, a response to any kind of token that does not follow from it, and an OpenAPI description
// whose security differs.
func Run(t *testing.T, api API, rows Rows) {
	t.Helper()
	doc, err := openapi3.NewLoader().LoadFromData(api.OpenAPI)
	require.NoError(t, err)
	for _, role := range auth.RoleNames() {
		require.Contains(t, doc.Components.SecuritySchemes["bearer"].Value.Description, "`"+role+"`", "roles in the OpenAPI description")
	}
	seen := map[string]bool{}
	for _, route := range api.Routes {
		name := route.Method + " " + route.Path
		seen[name] = true
		want, ok := rows[name]
		if !ok {
			t.Errorf("%s has no row: add its access", name)
			continue
		}
		require.Equal(t, want, route.Access.String(), name)
		t.Run(name, func(t *testing.T) {
			if item := doc.Paths.Find(route.Path); item != nil && item.GetOperation(route.Method) != nil {
				require.Equal(t, securityOf(want), documented(doc, item.GetOperation(route.Method)), "security in the OpenAPI description")
			}
			for _, kind := range kinds {
				status, slug := call(api, route, kind.token(api.Secret))
				switch {
				case want == "open":
					require.NotContains(t, []string{"unauthenticated", "forbidden"}, slug, kind.name)
				case kind.name == "no token" && want == "public", kind.valid && want == "public",
					kind.valid && slices.ContainsFunc(kind.roles, func(r string) bool { return slices.Contains(strings.Split(want, ","), r) }):
					require.NotContains(t, []int{401, 403, 404, 405}, status, kind.name)
				case kind.valid:
					require.Equal(t, "forbidden", slug, kind.name)
				default:
					require.Equal(t, "unauthenticated", slug, kind.name)
				}
			}
		})
	}
	for name := range rows {
		require.True(t, seen[name], "%s is no longer a route", name)
	}
}

// call sends a request that every handler refuses if the caller is admitted: invalid ids,
// parameters and body.
func call(api API, route httpapi.RouteInfo, token string) (status int, slug string) {
	path := strings.NewReplacer("{id}", "x", "{file}", "board.js", "{name}", "board.js").Replace(route.Path)
	r := httptest.NewRequest(route.Method, path+"?page=x&limit=x&at=x&cursor=x", strings.NewReader("{"))
	r.Header.Set("Content-Type", "application/json")
	r.Header.Set("X-Min-Position", "x")
	if token != "" {
		r.Header.Set("Authorization", token)
	}
	w := httptest.NewRecorder()
	api.Handler.ServeHTTP(w, r)
	var problem struct {
		Type string `json:"type"`
	}
	_ = json.Unmarshal(w.Body.Bytes(), &problem) // without a problem there is no slug
	return w.Code, problem.Type[strings.LastIndexByte(problem.Type, '/')+1:]
}

// securityOf returns an access in OpenAPI's form.
func securityOf(access string) string {
	switch access {
	case "open":
		return "none"
	case "public":
		return "optional"
	}
	return "required"
}

func documented(doc *openapi3.T, op *openapi3.Operation) string {
	security := doc.Security
	if op.Security != nil {
		security = *op.Security
	}
	none, bearer := false, false
	for _, s := range security {
		none = none || len(s) == 0
		bearer = bearer || len(s) > 0
	}
	switch {
	case !bearer:
		return "none"
	case none:
		return "optional"
	}
	return "required"
}
