package query_test

import (
	"fmt"
	"net/http"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/stretchr/testify/require"
)

func ids(t *testing.T, a answer, list string) []string {
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

func TestProductIsShownAsTheContractSays(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	end := day.Add(365 * 24 * time.Hour)
	id := w.product(1, product{name: "Schuhe \"Größe 42\"", price: "12.5", currency: "USD", stock: 3, total: 5, end: &end})
	a := w.get("/v1/products/"+id.String(), "")
	require.Equal(t, http.StatusOK, a.StatusCode)
	require.JSONEq(t, fmt.Sprintf(`{"id":"%s","name":"Schuhe \"Größe 42\"","description":"made of air","price":"12.50","currency":"USD",
		"stock":3,"initialStock":5,"totalStock":5,"saleDate":"2026-11-01T10:00:00.000Z","saleEndDate":"2027-11-01T10:00:00.000Z",
		"paused":false,"status":"ON_SALE","createdAt":"2026-11-01T09:00:00.000Z","updatedAt":"2026-11-01T09:00:00.000Z"}`, id), string(a.body))
	require.Equal(t, "product-not-found", w.get("/v1/products/"+uuid.NewString(), "").slug(t))
	require.Equal(t, "invalid-request", w.get("/v1/products/42", "").slug(t))
	require.Equal(t, "unauthenticated", w.get("/v1/products/"+id.String(), "nonsense").slug(t))
}

func TestProductStatusIsTheFirstThatHolds(t *testing.T) {
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
		require.ElementsMatch(t, expected, ids(t, a, "products"))
		require.EqualValues(t, len(expected), a.json(t)["totalElements"])
	}
}

func TestProductsArePagedBySaleDateThenID(t *testing.T) {
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
		got = append(got, ids(t, a, "products")...)
		v := a.json(t)
		require.EqualValues(t, page, v["page"])
		require.EqualValues(t, 2, v["size"])
		require.EqualValues(t, 7, v["totalElements"])
		require.EqualValues(t, 4, v["totalPages"])
	}
	require.Equal(t, want, got)
	require.Empty(t, ids(t, w.get("/v1/products?page=1000000000&size=100", ""), "products"))
	require.Len(t, ids(t, w.get("/v1/products", ""), "products"), 7)
	for _, bad := range []string{"size=0", "size=101", "size=x", "page=-1", "page=1.5", "status=on_sale", "status=GONE", "page=1&page=2"} {
		a := w.get("/v1/products?"+bad, "")
		require.Equal(t, "invalid-request", a.slug(t), bad)
		require.NotEmpty(t, a.json(t)["errors"], bad)
	}
}

func TestNoProductsAreAnEmptyList(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	require.JSONEq(t, `{"products":[],"page":0,"size":20,"totalElements":0,"totalPages":0}`, string(w.get("/v1/products", "").body))
}
