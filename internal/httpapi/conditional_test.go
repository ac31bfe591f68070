package httpapi_test

import (
	"net/http"
	"testing"

	"github.com/labstack/echo/v4"
	"github.com/stretchr/testify/require"

	"github.com/dopaminestore/dopamine/internal/httpapi"
)

func TestEntityTags(t *testing.T) {
	body := map[string]int{"stock": 1}
	var match httpapi.IfMatch
	a := start(t, nil,
		httpapi.Route{Method: http.MethodGet, Path: "/thing", Access: httpapi.Public, Handler: func(c echo.Context) error {
			httpapi.Cacheable(c)
			return httpapi.TaggedJSON(c, http.StatusOK, body, "v1")
		}},
		httpapi.Route{Method: http.MethodPut, Path: "/thing", Access: httpapi.Public, Handler: func(c echo.Context) error {
			match = httpapi.IfMatchOf(c)
			return httpapi.TaggedJSON(c, http.StatusOK, body, "v1")
		}})
	first := a.send("GET", "/thing", nil)
	etag := first.Header.Get("ETag")
	require.Regexp(t, `^"v1-[0-9a-f]+"$`, etag)
	require.Equal(t, "max-age=1", first.Header.Get("Cache-Control"))
	require.Contains(t, first.Header.Values("Vary"), "X-Min-Position")
	require.Equal(t, "no-cache", a.send("GET", "/thing", nil, "X-Min-Position", "x").Header.Get("Cache-Control"))

	for header, status := range map[string]int{
		etag: 304, "W/" + etag: 304, `"other", ` + etag: 304, "*": 304, `"a,b",` + etag: 304,
		`"other"`: 200, "": 200, "v1": 200, `"v1"`: 200,
	} {
		for _, method := range []string{"GET", "HEAD"} {
			res := a.send(method, "/thing", nil, "If-None-Match", header)
			require.Equal(t, status, res.StatusCode, "%s %s", method, header)
			require.Equal(t, etag, res.Header.Get("ETag"))
			require.Equal(t, "max-age=1", res.Header.Get("Cache-Control"))
			if status == 304 {
				require.Empty(t, res.body)
			}
		}
	}
	require.Equal(t, 200, a.send("PUT", "/thing", nil, "If-None-Match", etag).StatusCode)
	body["stock"] = 0
	changed := a.send("GET", "/thing", nil, "If-None-Match", etag)
	require.Equal(t, 200, changed.StatusCode)
	require.NotEqual(t, etag, changed.Header.Get("ETag"))

	for header, matches := range map[string]bool{
		etag: true, "*": true, `"other", ` + etag: true, `"v1-anything"`: true,
		"W/" + etag: false, `"v2-1"`: false, "v1": false, `"v1`: false, "": false, `"`: false,
	} {
		a.send("PUT", "/thing", nil, "If-Match", header)
		require.Equal(t, matches, match.Matches("v1"), header)
	}
	a.send("PUT", "/thing", nil)
	require.True(t, match.Matches("v1"), "no header requires nothing")
}
