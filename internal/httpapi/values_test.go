package httpapi_test

import (
	"errors"
	"net/http"
	"net/url"
	"strings"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/labstack/echo/v4"
	"github.com/stretchr/testify/require"

	"github.com/dopaminestore/dopamine/internal/consistency"
	"github.com/dopaminestore/dopamine/internal/httpapi"
)

func TestParseTime(t *testing.T) {
	for in, want := range map[string]string{
		"2026-11-24T10:00:00Z":                     "2026-11-24T10:00:00.000Z",
		"2026-11-24T10:00:00.1Z":                   "2026-11-24T10:00:00.100Z",
		"2026-11-24T10:00:00.999999999999Z":        "2026-11-24T10:00:00.999Z",
		"2026-11-24T19:00:00+09:00":                "2026-11-24T10:00:00.000Z",
		"2026-11-24t10:00:00.123456-00:00":         "2026-11-24T10:00:00.123Z",
		"2026-11-24T10:00:00":                      "",
		"2026-11-24 10:00:00Z":                     "",
		"2026-11-24":                               "",
		"2026-02-30T10:00:00Z":                     "",
		"2026-11-24T24:00:00Z":                     "",
		"2026-11-24T1:00:00Z":                      "",
		"2026-11-24T10:00:00,5Z":                   "",
		"2026-11-24T10:00:00+25:00":                "",
		"9999-12-31T23:59:59-10:00":                "",
		"1764000000":                               "",
		"":                                         "",
		" 2026-11-24T10:00:00Z":                    "",
		"2026-11-24T10:00:00Z" + "\x00":            "",
		"2026-11-24T10:00:00." + "Z":               "",
		"2026-11-24T10:00:00.5" + "\u0660" + "Z":   "",
		"2026-11-24T10:00:00+0900":                 "",
		"Tue, 24 Nov 2026 10:00:00 GMT":            "",
		"2026-11-24T10:00:00.123+09:00[Asia/Seoul": "",
	} {
		got, err := httpapi.ParseTime(in)
		if want == "" {
			require.Error(t, err, in)
			continue
		}
		require.NoError(t, err, in)
		require.Equal(t, want, got.Format("2006-01-02T15:04:05.000Z"))
		require.Equal(t, time.UTC, got.Location())
	}
}

type seenQuery struct {
	page   int
	status string
	id     uuid.UUID
	from   time.Time
	given  bool
	cursor string
}

func TestQuery(t *testing.T) {
	var seen seenQuery
	a := start(t, nil, httpapi.Route{Method: http.MethodGet, Path: "/q", Access: httpapi.Public, Handler: func(c echo.Context) error {
		q := httpapi.QueryOf(c)
		seen = seenQuery{}
		seen.page = q.Int("page", 20, 0, 100)
		seen.status = q.Enum("status", "ACTIVE", "EXPIRED")
		seen.id, _ = q.UUID("id")
		seen.from, seen.given = q.Time("from")
		seen.cursor, _ = q.String("cursor")
		if err := q.Err(); err != nil {
			return err
		}
		return c.NoContent(http.StatusNoContent)
	}})
	id := uuid.New()
	for query, want := range map[string]seenQuery{
		"":                                    {page: 20},
		"?page=0&status=EXPIRED&other=1":      {status: "EXPIRED"},
		"?id=" + strings.ToUpper(id.String()): {page: 20, id: id},
		"?from=2026-11-24T19:00:00%2B09:00":   {page: 20, given: true, from: time.Date(2026, 11, 24, 10, 0, 0, 0, time.UTC)},
		"?from=2026-11-24T19:00:00+09:00":     {page: 20, given: true, from: time.Date(2026, 11, 24, 10, 0, 0, 0, time.UTC)},
		"?cursor=" + url.QueryEscape("a&b=é"): {page: 20, cursor: "a&b=é"},
	} {
		require.Equal(t, 204, a.send("GET", "/q"+query, nil).StatusCode, query)
		require.Equal(t, want, seen, query)
	}
	for query, fields := range map[string][]string{
		"?page=&status=&from=": {"page", "status", "from"},
		"?page=-1":             {"page"}, "?page=101": {"page"}, "?page=x": {"page"}, "?page=1.0": {"page"}, "?page=99999999999999999999": {"page"},
		"?page=1&page=2": {"page"}, "?status=active": {"status"}, "?status=ACTIVE&status=ACTIVE": {"status"},
		"?id=1": {"id"}, "?from=now": {"from"}, "?cursor=%00": {"cursor"}, "?cursor=%ff": {"cursor"},
		"?page=x&id=x": {"page", "id"}, "?page=%zz": {}, "?a;b": {},
	} {
		res := a.send("GET", "/q"+query, nil)
		require.Equal(t, 400, res.StatusCode, query)
		require.Equal(t, "invalid-request", res.slug())
		got := []string{}
		for _, e := range res.problem["errors"].([]any) {
			got = append(got, e.(map[string]any)["field"].(string))
		}
		require.Equal(t, fields, got, query)
	}
}

func TestHeaders(t *testing.T) {
	var key string
	var positions []consistency.ProductPosition
	product := uuid.New()
	a := start(t, nil, httpapi.Route{Method: http.MethodGet, Path: "/h", Access: httpapi.Public, Handler: func(c echo.Context) (err error) {
		if key, err = httpapi.IdempotencyKey(c); err != nil {
			return err
		}
		if positions, err = httpapi.MinPositions(c); err != nil {
			return err
		}
		httpapi.SetPosition(c, product, 7)
		return c.NoContent(http.StatusNoContent)
	}})
	res := a.send("GET", "/h", nil)
	require.Equal(t, 204, res.StatusCode)
	require.Empty(t, key)
	require.Empty(t, positions)
	token := res.Header.Get("X-Position")

	require.Equal(t, 204, a.send("GET", "/h", nil, "Idempotency-Key", "a key é", "X-Min-Position", token+","+token, "X-Min-Position", token).StatusCode)
	require.Equal(t, "a key é", key)
	require.Equal(t, consistency.ProductPosition{Product: product, Position: 7, Incarnation: 1}, positions[2])

	for _, bad := range [][]string{
		{"Idempotency-Key", ""}, {"Idempotency-Key", strings.Repeat("k", 256)}, {"Idempotency-Key", "a", "Idempotency-Key", "a"},
		{"Idempotency-Key", "a\tb"}, {"Idempotency-Key", "\xff"},
		{"X-Min-Position", ""}, {"X-Min-Position", "7"}, {"X-Min-Position", strings.Repeat(token+",", 100) + token},
	} {
		require.Equal(t, "invalid-request", a.send("GET", "/h", nil, bad...).slug(), bad)
	}
	require.Equal(t, 204, a.send("GET", "/h", nil, "Idempotency-Key", strings.Repeat("k", 255)).StatusCode)
}

// TestMinPositions_EarlierIncarnation has tokens from before a restore.
func TestMinPositions_EarlierIncarnation(t *testing.T) {
	var got []consistency.ProductPosition
	a := start(t, nil, httpapi.Route{Method: http.MethodGet, Path: "/q", Access: httpapi.Public, Handler: func(c echo.Context) (err error) {
		got, err = httpapi.MinPositions(c)
		return errors.Join(err, c.NoContent(http.StatusNoContent))
	}})
	before := consistency.Encode(uuid.New(), 900)
	consistency.SetIncarnation(2)
	defer consistency.SetIncarnation(1)
	product := uuid.New()
	a.send("GET", "/q", nil, "X-Min-Position", before+","+consistency.Encode(product, 7))
	require.Equal(t, []consistency.ProductPosition{{Product: product, Position: 7, Incarnation: 2}}, got, "the earlier one is not waited for")
}
