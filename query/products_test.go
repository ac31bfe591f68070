package query_test

import (
	"fmt"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/stretchr/testify/require"

	"github.com/dopaminestore/dopamine/tools/testkit"
)

func idsOf(t *testing.T, a response, list string) []string {
	t.Helper()
	require.Equal(t, http.StatusOK, a.StatusCode, "%s", a.body)
	found := []string{}
	for _, v := range a.json(t)[list].([]any) {
		m := v.(map[string]any)
		if id, ok := m["id"]; ok {
			found = append(found, id.(string))
		} else {
			found = append(found, m["eventId"].(string))
		}
	}
	return found
}

// The product of contract 7.
func TestProduct_MatchesTheContract(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	end := day.Add(365 * 24 * time.Hour)
	id := w.product(1, product{name: "Schuhe \"Größe 42\"", price: "12.5", currency: "USD", stock: 3, total: 5, end: &end})
	a := w.get("/v1/products/"+id.String(), "")
	require.Equal(t, http.StatusOK, a.StatusCode)
	require.JSONEq(t, fmt.Sprintf(`{"id":"%s","name":"Schuhe \"Größe 42\"","description":"made of air","price":"12.50","currency":"USD",
		"stock":3,"initialStock":5,"totalStock":5,"saleDate":"2026-11-01T10:00:00.000Z","saleEndDate":"2027-11-01T10:00:00.000Z",
		"paused":false,"status":"ON_SALE","createdAt":"2026-11-01T09:00:00.000Z","updatedAt":"2026-11-01T09:00:00.000Z","cancellation":null}`, id), string(a.body))
	require.Equal(t, "product-not-found", w.get("/v1/products/"+uuid.NewString(), "").slug(t))
	require.Equal(t, "invalid-request", w.get("/v1/products/42", "").slug(t))
	require.Equal(t, "unauthenticated", w.get("/v1/products/"+id.String(), "nonsense").slug(t))
}

// The product's status (contract 4.2).
func TestProduct_StatusPrecedence(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	now := time.Now()
	past, future, later := now.Add(-time.Hour), now.Add(time.Hour), now.Add(2*time.Hour)
	want := map[string]string{}
	add := func(status string, p product) { want[w.product(1, p).String()] = status }
	add("ENDED", product{end: &past, paused: true, begin: past.Add(-time.Hour)})
	add("ENDED", product{end: &past, stock: 1, begin: past.Add(-time.Hour)})
	add("PAUSED", product{paused: true, begin: future, end: &later})
	add("UPCOMING", product{begin: future})
	add("SOLD_OUT", product{begin: past})
	add("ON_SALE", product{begin: past, stock: 1, end: &future})
	for id, status := range want {
		require.Equal(t, status, w.get("/v1/products/"+id, "").json(t)["status"])
	}
	for _, status := range []string{"ENDED", "PAUSED", "UPCOMING", "SOLD_OUT", "ON_SALE"} {
		var expected []string
		for id, s := range want {
			if s == status {
				expected = append(expected, id)
			}
		}
		a := w.get("/v1/products?status="+status, "")
		require.ElementsMatch(t, expected, idsOf(t, a, "products"))
		require.EqualValues(t, len(expected), a.json(t)["totalElements"])
	}
}

// GET /v1/products (contract 7).
func TestProducts_PagedBySaleDateThenID(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	var want []string
	for i := range 7 {
		id := uuid.UUID{15: byte(i + 1)}
		w.product(1, product{id: id, begin: day.Add(time.Duration(i/2) * time.Hour)})
		want = append(want, id.String())
	}
	var got []string
	for page := range 4 {
		a := w.get(fmt.Sprintf("/v1/products?size=2&page=%d", page), "")
		got = append(got, idsOf(t, a, "products")...)
		v := a.json(t)
		require.EqualValues(t, page, v["page"])
		require.EqualValues(t, 2, v["size"])
		require.EqualValues(t, 7, v["totalElements"])
		require.EqualValues(t, 4, v["totalPages"])
	}
	require.Equal(t, want, got)
	require.Empty(t, idsOf(t, w.get("/v1/products?page=1000000000&size=100", ""), "products"))
	require.Len(t, idsOf(t, w.get("/v1/products", ""), "products"), 7)
	for _, bad := range []string{"size=0", "size=101", "size=x", "page=-1", "page=1.5", "status=on_sale", "status=GONE", "page=1&page=2"} {
		a := w.get("/v1/products?"+bad, "")
		require.Equal(t, "invalid-request", a.slug(t), bad)
		require.NotEmpty(t, a.json(t)["errors"], bad)
	}
}

// GET /v1/products (contract 7).
func TestProducts_EmptyList(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	require.JSONEq(t, `{"products":[],"page":0,"size":20,"totalElements":0,"totalPages":0,"nextCursor":null}`, string(w.get("/v1/products", "").body))
}

// TestProducts_Cursor inserts products before and after the page while it reads the list: no
// product appears twice, and none that existed is left out.
func TestProducts_Cursor(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	for i := range 7 {
		w.product(1, product{begin: day.Add(time.Duration(i) * time.Hour), stock: 1})
	}
	seen := map[string]bool{}
	number := 0
	w.pages("/v1/products?size=3&status=ON_SALE", "", func(page response) {
		require.EqualValues(t, number, page.json(t)["page"])
		number++
		for _, id := range idsOf(t, page, "products") {
			require.False(t, seen[id], "a product appeared twice")
			seen[id] = true
		}
		w.product(1, product{begin: day.Add(-time.Hour), stock: 1})
	})
	require.Len(t, seen, 7)
	first := w.get("/v1/products?size=3&status=ON_SALE", "").nextCursor(t)
	require.Equal(t, "invalid-request", w.get("/v1/products?size=3&status=PAUSED&"+first, "").slug(t), "the cursor of another list")
	require.Equal(t, "invalid-request", w.get("/v1/products?size=3&status=ON_SALE&page=1&"+first, "").slug(t))
	require.Equal(t, "invalid-request", w.get("/v1/products?status=", "").slug(t))
}

// TestProducts_Caching checks ETag, 304 and what caches may keep (contract 7).
func TestProducts_Caching(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	id := w.product(1, product{stock: 5})
	for _, path := range []string{"/v1/products/" + id.String(), "/v1/products?size=7"} {
		a := w.get(path, "")
		etag := a.Header.Get("ETag")
		require.NotEmpty(t, etag)
		require.Equal(t, "max-age=1", a.Header.Get("Cache-Control"))
		require.Contains(t, a.Header.Values("Vary"), "X-Min-Position")
		again := w.get(path, "", header{"If-None-Match": etag})
		require.Equal(t, http.StatusNotModified, again.StatusCode)
		require.Empty(t, again.body)
		require.Equal(t, "max-age=1", again.Header.Get("Cache-Control"))
	}
	path := "/v1/products/" + id.String()
	before := w.get(path, "").Header.Get("ETag")
	w.exec(`UPDATE products_g1 SET stock = 4 WHERE id = $1`, id)
	sold := w.get(path, "", header{"If-None-Match": before})
	require.Equal(t, http.StatusOK, sold.StatusCode, "a unit was sold")
	version := func(etag string) string { v, _, _ := strings.Cut(etag, "-"); return v }
	require.Equal(t, version(before), version(sold.Header.Get("ETag")), "the product was not changed")
	w.exec(`UPDATE products_g1 SET name = 'Boot', updated_at = updated_at + interval '1 ms' WHERE id = $1`, id)
	require.NotEqual(t, version(before), version(w.get(path, "").Header.Get("ETag")))
	require.Equal(t, "no-store", w.get("/v1/products/"+uuid.NewString(), "").Header.Get("Cache-Control"))
}

// TestProducts_SharedRead requests one list from many clients: one read serves them.
func TestProducts_SharedRead(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.product(1, product{stock: 5})
	first := w.get("/v1/products?size=9", "").json(t)
	w.product(1, product{stock: 5})
	require.Equal(t, first, w.get("/v1/products?size=9", "").json(t), "within a second the list is the same")
	require.EqualValues(t, 2, w.get("/v1/products?size=8", "").json(t)["totalElements"], "another list is not")
	testkit.EventuallyEqual(t, 5*time.Second, "the list to be reloaded", any(float64(2)), func() any {
		return w.get("/v1/products?size=9", "").json(t)["totalElements"]
	})
}
