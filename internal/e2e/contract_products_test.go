package e2e

import (
	"fmt"
	"net/http"
	"strings"
	"time"

	"github.com/google/uuid"
	"github.com/stretchr/testify/require"
)

func (s *site) products() string { return s.command + "/v1/products" }

// seen queries the query API for the object of a command's response.
func (s *site) seen(a answer, path string) object {
	s.t.Helper()
	_, o := s.admin.with("X-Min-Position", a.header.Get("X-Position")).want(http.StatusOK, http.MethodGet, s.query+path, nil)
	return o
}

// plus changes a body that would do; nil removes a field.
func plus(o object, name string, value any) object {
	o[name] = value
	if value == nil {
		delete(o, name)
	}
	return o
}

func (s *site) creates() {
	begins := time.Now().Add(time.Hour).Truncate(time.Millisecond)
	a, p := s.admin.want(http.StatusCreated, http.MethodPost, s.products(), newProduct(10_000_000, begins.UTC().Format(time.RFC3339Nano)))
	fields(s.t, p, productFields...)
	id := p["id"].(string)
	require.Regexp(s.t, anID, id)
	require.Equal(s.t, "/v1/products/"+id, a.header.Get("Location"))
	require.Equal(s.t, "259000", p["price"], "a string, with KRW's places")
	require.Equal(s.t, "KRW", p["currency"])
	for _, f := range []string{"stock", "initialStock", "totalStock"} {
		require.Equal(s.t, "10000000", number(p[f]), f)
	}
	require.Nil(s.t, p["saleEndDate"])
	require.Equal(s.t, false, p["paused"])
	require.Equal(s.t, "UPCOMING", p["status"])
	for _, f := range []string{"saleDate", "createdAt", "updatedAt"} {
		require.Regexp(s.t, aTime, p[f], f)
	}
	require.Equal(s.t, p["createdAt"], p["updatedAt"])
	require.Equal(s.t, p, s.seen(a, a.header.Get("Location")), "what the query API shows is what was answered")

	for name, change := range map[string]struct {
		field       string
		value, want any
	}{
		"200 characters, not bytes":       {"name", strings.Repeat("한", 200), strings.Repeat("한", 200)},
		"2000 characters beyond the BMP":  {"description", strings.Repeat("🎁", 2000), strings.Repeat("🎁", 2000)},
		"nothing to pay":                  {"price", 0, "0"},
		"a number for a price":            {"price", 12, "12"},
		"zeros behind the point":          {"price", "12.00", "12"},
		"the highest price":               {"price", "999999999999999", "999999999999999"},
		"a date with an offset":           {"saleDate", "2099-01-01T09:00:00+09:00", "2099-01-01T00:00:00.000Z"},
		"a date with nanoseconds":         {"saleDate", "2099-01-01T00:00:00.123456789Z", "2099-01-01T00:00:00.123Z"},
		"an end after the sale date":      {"saleEndDate", "2099-01-01T00:00:00.5-01:00", "2099-01-01T01:00:00.500Z"},
		"one unit":                        {"stock", 1, nil},
		"characters that JSON may escape": {"name", "a\"\\/\b\n\t\u2028<&>", "a\"\\/\b\n\t\u2028<&>"},
	} {
		a := s.admin.do(http.MethodPost, s.products(), plus(newProduct(5, soon(time.Hour)), change.field, change.value))
		require.Equal(s.t, http.StatusCreated, a.status, "%s: %s", name, a.body)
		if change.want != nil {
			require.Equal(s.t, change.want, a.object(s.t)[change.field], name)
		}
	}
	for _, c := range []struct{ currency, price, want string }{
		{"USD", "12.5", "12.50"}, {"USD", "12", "12.00"}, {"JPY", "700.0", "700"}, {"KWD", "1.5", "1.500"}, {"EUR", "0", "0.00"},
	} {
		_, p := s.admin.want(http.StatusCreated, http.MethodPost, s.products(), plus(plus(newProduct(5, soon(time.Hour)), "currency", c.currency), "price", c.price))
		require.Equal(s.t, c.want, p["price"])
		require.Equal(s.t, c.currency, p["currency"])
	}
}

func (s *site) refusesToCreate() {
	for name, change := range map[string]struct {
		field string
		value any
	}{
		"no name":                      {"name", nil},
		"an empty name":                {"name", ""},
		"a name too long":              {"name", strings.Repeat("x", 201)},
		"a name that is not a text":    {"name", 5},
		"NUL in a name":                {"name", "a\x00b"},
		"no description":               {"description", nil},
		"a description too long":       {"description", strings.Repeat("x", 2001)},
		"no stock":                     {"stock", nil},
		"no units":                     {"stock", 0},
		"too many units":               {"stock", 10_000_001},
		"half a unit":                  {"stock", 1.5},
		"text for a stock":             {"stock", "5"},
		"no price":                     {"price", nil},
		"a price below zero":           {"price", "-1"},
		"a price that is not a number": {"price", "cheap"},
		"more places than KRW has":     {"price", "12.5"},
		"a price of 10^15":             {"price", "1000000000000000"},
		"an unknown currency":          {"currency", "ABC"},
		"a currency of two letters":    {"currency", "kr"},
		"a currency in lower case":     {"currency", "krw"},
		"no sale date":                 {"saleDate", nil},
		"a sale date in the past":      {"saleDate", soon(-time.Second)},
		"a date without a zone":        {"saleDate", "2099-01-01T00:00:00"},
		"an invalid date":              {"saleDate", "2099-02-30T00:00:00Z"},
		"an end at the sale date":      {"saleEndDate", "2000-01-01T00:00:00Z"},
		"an unknown field":             {"discount", 5},
		"a field in other case":        {"Name", "x"},
		"a field that is ours to set":  {"id", uuid.NewString()},
	} {
		_, p := s.admin.refused(http.StatusBadRequest, "invalid-request", http.MethodPost, s.products(), plus(newProduct(5, soon(time.Hour)), change.field, change.value))
		errs := p["errors"].([]any)
		require.Len(s.t, errs, 1, name)
		fields(s.t, errs[0], "field", "message")
		require.Equal(s.t, change.field, errs[0].(object)["field"], name)
	}
	for _, body := range []string{"", "{", "[]", `"x"`, "null", `{"name":"x"} {}`, "{\"name\":\"\xff\"}"} {
		_, p := s.admin.refused(http.StatusBadRequest, "invalid-request", http.MethodPost, s.products(), body)
		require.Contains(s.t, p, "errors", "%q", body)
		require.NotNil(s.t, p["errors"], "%q: empty, not null", body)
	}
	_, p := s.admin.refused(http.StatusBadRequest, "invalid-request", http.MethodPost, s.products(), object{})
	require.Greater(s.t, len(p["errors"].([]any)), 1, "everything that is missing is named")
}

func (s *site) updates() {
	a, p := s.admin.want(http.StatusCreated, http.MethodPost, s.products(), newProduct(5, soon(time.Hour)))
	url := s.command + a.header.Get("Location")
	for _, change := range []struct {
		body object
		want object
	}{
		{object{"name": "Other"}, object{"name": "Other"}},
		{object{"description": "Other."}, object{"description": "Other."}},
		{object{"stockIncrease": 3}, object{"stock": "8", "totalStock": "8", "initialStock": "5"}},
		{object{"paused": true}, object{"paused": true, "status": "PAUSED"}},
		{object{"paused": false}, object{"paused": false, "status": "UPCOMING"}},
		{object{"saleDate": "2099-01-01T00:00:00Z"}, object{"saleDate": "2099-01-01T00:00:00.000Z"}},
		{object{"saleEndDate": "2099-01-02T00:00:00Z"}, object{"saleEndDate": "2099-01-02T00:00:00.000Z"}},
		{object{"saleEndDate": nil}, object{"saleEndDate": nil}},
		{object{"name": "Both", "stockIncrease": 1}, object{"name": "Both", "totalStock": "9"}},
	} {
		a, now := s.admin.want(http.StatusOK, http.MethodPut, url, change.body)
		fields(s.t, now, productFields...)
		for f, want := range change.want {
			got := now[f]
			if n := number(got); n != "" {
				got = n
			}
			require.Equal(s.t, want, got, "%v", change.body)
		}
		require.GreaterOrEqual(s.t, now["updatedAt"], p["updatedAt"])
		require.Equal(s.t, p["createdAt"], now["createdAt"])
		require.Equal(s.t, p["price"], now["price"])
		require.NotEmpty(s.t, a.header.Get("X-Position"), "%v", change.body)
		require.Equal(s.t, now, s.seen(a, "/v1/products/"+p["id"].(string)))
	}
}

func (s *site) refusesToUpdate() {
	a, p := s.admin.want(http.StatusCreated, http.MethodPost, s.products(),
		plus(newProduct(5, "2099-01-01T00:00:00Z"), "saleEndDate", "2099-02-01T00:00:00Z"))
	url := s.command + a.header.Get("Location")
	for _, body := range []any{
		object{}, "", "null", "[]",
		object{"name": ""}, object{"name": nil}, object{"description": strings.Repeat("x", 2001)},
		object{"stockIncrease": 0}, object{"stockIncrease": -1}, object{"stockIncrease": 9_999_996}, object{"stockIncrease": 10_000_001},
		object{"saleDate": soon(-time.Minute)}, object{"saleDate": nil}, object{"saleDate": "2099-03-01T00:00:00Z"},
		object{"saleEndDate": soon(-time.Minute)}, object{"saleEndDate": "2098-12-31T00:00:00Z"},
		object{"paused": nil}, object{"paused": "true"}, object{"price": "-1"}, object{"price": "1.5"}, object{"currency": "USD"}, object{"stockDecrease": 0}, object{"stockDecrease": 5}, object{"stock": 9}, object{"unknown": 1},
	} {
		s.admin.refused(http.StatusBadRequest, "invalid-request", http.MethodPut, url, body)
	}
	s.admin.refused(http.StatusNotFound, "product-not-found", http.MethodPut, s.products()+"/"+uuid.NewString(), object{"name": "x"})
	require.Equal(s.t, p, s.seen(a, a.header.Get("Location")), "nothing was changed")
	s.admin.want(http.StatusOK, http.MethodPut, url, object{"stockIncrease": 9_999_995})
}

func (s *site) movesTheSale() {
	id := s.admin.product(s.command, 2)
	url := s.products() + "/" + id
	buyer := s.users.buyer()
	got := buyer.acquire(s.command, id)
	require.Equal(s.t, http.StatusCreated, got.status)
	s.admin.refused(http.StatusConflict, "product-update-conflict", http.MethodPut, url, object{"saleDate": soon(time.Hour)})
	buyer.want(http.StatusNoContent, http.MethodDelete, s.command+got.header.Get("Location"), nil)
	s.admin.refused(http.StatusConflict, "product-update-conflict", http.MethodPut, url, object{"saleDate": soon(time.Hour)})

	end := time.Now().Add(400 * time.Millisecond)
	s.admin.want(http.StatusOK, http.MethodPut, url, object{"saleEndDate": end.UTC().Format(time.RFC3339Nano)})
	<-time.After(time.Until(end) + 50*time.Millisecond) // waits for the sale's end
	s.users.buyer().refused(http.StatusConflict, "sale-ended", http.MethodPost, s.command+"/v1/slots/acquire", object{"productId": id})
	_, p := s.users.nobody().want(http.StatusOK, http.MethodGet, s.query+"/v1/products/"+id, nil)
	require.Equal(s.t, "ENDED", p["status"])
	_, p = s.admin.want(http.StatusOK, http.MethodPut, url, object{"saleEndDate": nil})
	require.Equal(s.t, "ON_SALE", p["status"], "a sale that has ended can be opened again")
	s.users.buyer().want(http.StatusCreated, http.MethodPost, s.command+"/v1/slots/acquire", object{"productId": id})
}

func (s *site) showsStatus() {
	id := s.admin.product(s.command, 1)
	status := func(a answer, want string) {
		s.t.Helper()
		require.Equal(s.t, want, s.seen(a, "/v1/products/"+id)["status"])
		all := s.seen(a, "/v1/products?size=100&status="+want)["products"].([]any)
		require.True(s.t, contains(all, id), "the list of those that are %s", want)
	}
	got := s.users.buyer().acquire(s.command, id)
	status(got, "SOLD_OUT")
	put := func(o object) answer {
		a, _ := s.admin.want(http.StatusOK, http.MethodPut, s.products()+"/"+id, o)
		return a
	}
	status(put(object{"paused": true}), "PAUSED")
	status(put(object{"paused": false}), "SOLD_OUT")
	status(put(object{"stockIncrease": 1}), "ON_SALE")
}

func contains(products []any, id string) bool {
	for _, p := range products {
		if p.(object)["id"] == id {
			return true
		}
	}
	return false
}

func (s *site) listsProducts() {
	var last answer
	dates := []string{"2097-03-01T00:00:00.000Z", "2097-01-01T00:00:00.000Z", "2097-02-01T00:00:00.000Z", "2097-01-01T00:00:00.000Z"}
	for _, date := range dates {
		last, _ = s.admin.want(http.StatusCreated, http.MethodPost, s.products(), newProduct(5, date))
	}
	o := s.seen(last, "/v1/products")
	fields(s.t, o, "products", "page", "size", "totalElements", "totalPages", "nextCursor")
	require.Equal(s.t, []string{"0", "20"}, []string{number(o["page"]), number(o["size"])})
	var order []string
	total := number(o["totalElements"])
	for page := 0; ; page++ {
		o := s.seen(last, fmt.Sprintf("/v1/products?size=3&page=%d", page))
		require.Equal(s.t, total, number(o["totalElements"]))
		list := o["products"].([]any)
		for _, p := range list {
			fields(s.t, p, productFields...)
			order = append(order, p.(object)["saleDate"].(string)+p.(object)["id"].(string))
		}
		if len(list) < 3 {
			break
		}
	}
	require.Equal(s.t, total, fmt.Sprint(len(order)))
	require.IsIncreasing(s.t, order, "by sale date, then id")
	for _, query := range []string{"page=-1", "page=x", "size=0", "size=101", "status=NONE", "status=on_sale", "page=0&page=1"} {
		a := s.users.nobody().get(s.query + "/v1/products?" + query)
		require.Equal(s.t, "invalid-request", a.slug(), "%s: %s", query, a.body)
	}
	require.Empty(s.t, s.seen(last, "/v1/products?page=100000")["products"])
}

func (s *site) deletes() {
	id := s.admin.product(s.command, 3)
	buyer := s.users.buyer()
	got := buyer.acquire(s.command, id)
	slot := got.object(s.t)["id"].(string)
	s.admin.refused(http.StatusConflict, "product-delete-conflict", http.MethodDelete, s.products()+"/"+id, nil)
	released, _ := buyer.want(http.StatusNoContent, http.MethodDelete, s.command+"/v1/slots/"+slot, nil)
	_, before := s.users.nobody().with("X-Min-Position", released.header.Get("X-Position")).want(http.StatusOK, http.MethodGet, s.query+"/v1/products/"+id, nil)
	deleted, _ := s.admin.want(http.StatusNoContent, http.MethodDelete, s.products()+"/"+id, nil)
	require.Empty(s.t, deleted.body)
	at := time.Now()

	reader := s.users.nobody().with("X-Min-Position", deleted.header.Get("X-Position"))
	reader.refused(http.StatusNotFound, "product-not-found", http.MethodGet, s.query+"/v1/products/"+id, nil)
	for _, method := range []string{http.MethodPut, http.MethodDelete} {
		body := object{"name": "x"}
		if method == http.MethodDelete {
			body = nil
		}
		a := s.admin.do(method, s.products()+"/"+id, any(body))
		require.Equal(s.t, "product-not-found", a.slug(), "%s: %s", method, a.body)
	}
	s.users.buyer().refused(http.StatusNotFound, "product-not-found", http.MethodPost, s.command+"/v1/slots/acquire", object{"productId": id})
	require.False(s.t, contains(s.seen(deleted, "/v1/products?size=100")["products"].([]any), id), "gone from lists")

	_, o := buyer.want(http.StatusOK, http.MethodGet, s.query+"/v1/slots/"+slot, nil)
	require.Equal(s.t, "Thing", o["productName"], "its slots stay readable")
	require.Len(s.t, s.seen(deleted, "/v1/audit?productId="+id)["entries"], 2, "and its audit")
	s.users.nobody().want(http.StatusOK, http.MethodGet, s.query+"/v1/products/"+id+"/fairness", nil)
	require.Equal(s.t, http.StatusOK, s.users.nobody().get(s.query+"/v1/products/"+id+"/fairness/log").status)
	_, past := s.users.nobody().want(http.StatusOK, http.MethodGet, s.query+"/v1/products/"+id+"?at="+before["updatedAt"].(string), nil)
	require.Equal(s.t, id, past["id"])
	<-time.After(time.Until(at.Add(20 * time.Millisecond)))
	s.users.nobody().refused(http.StatusNotFound, "product-not-found", http.MethodGet,
		s.query+"/v1/products/"+id+"?at="+at.Add(10*time.Millisecond).UTC().Format(time.RFC3339Nano), nil)
}
