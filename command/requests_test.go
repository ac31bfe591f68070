package command

import (
	"context"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/stretchr/testify/require"

	"github.com/dopaminestore/dopamine/command/claims"
	"github.com/dopaminestore/dopamine/command/gatestore"
	"github.com/dopaminestore/dopamine/command/payments"
	"github.com/dopaminestore/dopamine/eventstore"
	"github.com/dopaminestore/dopamine/internal/auth"
	"github.com/dopaminestore/dopamine/redis"
)

// noGate is for requests that must be refused before the gate is used.
type noGate struct{}

func (noGate) Decide(context.Context, redis.Request) (redis.Decision, error) {
	panic("the gate was asked")
}
func (noGate) GiveBack(context.Context, redis.Decision) error        { panic("the gate was given something") }
func (noGate) Sync(context.Context, uuid.UUID) error                 { panic("gate synced") }
func (noGate) Rebuild(context.Context, uuid.UUID, int64) error       { panic("the gate was rebuilt") }
func (noGate) State(context.Context, uuid.UUID) (redis.State, error) { panic("the gate was looked at") }
func (noGate) Obstructed(uuid.UUID) bool                             { return false }
func (noGate) Master(uuid.UUID) string                               { return "" }
func (noGate) Health(context.Context) (int, int, error)              { return 1, 1, nil }

// refusing returns an API without any service behind it: it can only send responses
// that need none.
func refusing(t *testing.T, k tokens) client {
	t.Helper()
	pool, err := pgxpool.New(context.Background(), "postgres://127.0.0.1:1/none")
	require.NoError(t, err)
	t.Cleanup(pool.Close)
	api, err := New(Config{
		Pool: pool, Store: &eventstore.Store{}, Reader: eventstore.NewReader(pool),
		Claims: &claims.Store{}, GateStore: &gatestore.Store{}, Gate: noGate{}, Verifier: k.Verifier, AppendQueue: 1,
		SlotTTL: time.Minute, Registry: registry(), Payments: &payments.Service{}, WebhookSecrets: []string{webhookSecret},
	})
	require.NoError(t, err)
	return newClient(t, api.Handler())
}

const goodProduct = `{"name":"n","description":"d","price":"10","stock":1,"saleDate":"2999-01-01T00:00:00Z"}`

// changed returns goodProduct with one member replaced.
func changed(name, value string) string {
	members := map[string]string{"name": `"n"`, "description": `"d"`, "price": `"10"`, "stock": "1", "saleDate": `"2999-01-01T00:00:00Z"`}
	members[name] = value
	var parts []string
	for k, v := range members {
		if v != "" {
			parts = append(parts, `"`+k+`":`+v)
		}
	}
	return "{" + strings.Join(parts, ",") + "}"
}

func TestCreateProduct_Validation(t *testing.T) {
	k := newTokens(t)
	c, admin := refusing(t, k), k.user(t, auth.Admin)
	cases := []struct {
		name, value, field string
	}{
		{"name", ``, "name"}, {"name", `null`, "name"}, {"name", `""`, "name"}, {"name", `5`, "name"},
		{"name", `"` + strings.Repeat("語", 201) + `"`, "name"}, {"name", `"a\u0000b"`, "name"},
		{"description", ``, "description"}, {"description", `"` + strings.Repeat("x", 2001) + `"`, "description"},
		{"price", ``, "price"}, {"price", `null`, "price"}, {"price", `""`, "price"}, {"price", `"-1"`, "price"}, {"price", `-0.5`, "price"},
		{"price", `"10.5"`, "price"}, {"price", `10.5`, "price"}, {"price", `"1000000000000000"`, "price"}, {"price", `1e15`, "price"},
		{"price", `1e999999999`, "price"}, {"price", `"1e-999999999"`, "price"}, {"price", `"ten"`, "price"}, {"price", `true`, "price"},
		{"price", `[1]`, "price"}, {"price", `" 10"`, "price"}, {"price", `"1,000"`, "price"}, {"price", `"NaN"`, "price"},
		{"currency", `"XXY"`, "currency"}, {"currency", `"krw"`, "currency"}, {"currency", `"kör"`, "currency"}, {"currency", `""`, "currency"}, {"currency", `7`, "currency"},
		{"currency", `null`, "currency"},
		{"stock", ``, "stock"}, {"stock", `0`, "stock"}, {"stock", `-1`, "stock"}, {"stock", `10000001`, "stock"}, {"stock", `1.5`, "stock"},
		{"stock", `"1"`, "stock"}, {"stock", `99999999999999999999`, "stock"}, {"stock", `true`, "stock"},
		{"saleDate", ``, "saleDate"}, {"saleDate", `"2020-01-01T00:00:00Z"`, "saleDate"}, {"saleDate", `"tomorrow"`, "saleDate"},
		{"saleDate", `"2999-01-01"`, "saleDate"}, {"saleDate", `32472144000`, "saleDate"}, {"saleDate", `"2999-01-01T00:00:00"`, "saleDate"},
		{"saleDate", `"2999-02-30T00:00:00Z"`, "saleDate"}, {"saleDate", `"9999-12-31T23:59:59-01:00"`, "saleDate"},
		{"saleEndDate", `"2999-01-01T00:00:00Z"`, "saleEndDate"}, {"saleEndDate", `"2998-01-01T00:00:00Z"`, "saleEndDate"}, {"saleEndDate", `""`, "saleEndDate"},
		{"Name", `"n"`, "Name"}, {"id", `"x"`, "id"}, {"initialStock", `1`, "initialStock"},
	}
	for _, tc := range cases {
		t.Run(tc.name+"="+tc.value[:min(len(tc.value), 30)], func(t *testing.T) {
			a := c.do(t, admin, http.MethodPost, "/v1/products", changed(tc.name, tc.value))
			requireProblem(t, 400, "invalid-request", a)
			require.Equal(t, []string{tc.field}, a.fields(), a.body)
			require.Empty(t, a.header.Get("X-Position"))
		})
	}
	t.Run("all that is wrong at once", func(t *testing.T) {
		a := c.do(t, admin, http.MethodPost, "/v1/products", `{}`)
		require.Equal(t, []string{"name", "description", "stock", "saleDate", "price"}, a.fields())
	})
	for what, body := range map[string]string{
		"no body": "", "no object": `[]`, "bad JSON": `{"name":`, "two objects": goodProduct + goodProduct,
	} {
		t.Run(what, func(t *testing.T) {
			a := c.do(t, admin, http.MethodPost, "/v1/products", body)
			require.Equal(t, 400, a.status)
			require.Equal(t, []string{}, a.fields(), "no field is invalid")
		})
	}
}

func TestUpdateProduct_Validation(t *testing.T) {
	k := newTokens(t)
	c, admin := refusing(t, k), k.user(t, auth.Admin)
	path := "/v1/products/" + uuid.NewString()
	for body, field := range map[string]string{
		`{}`:            "",
		`{"name":""}`:   "name",
		`{"name":null}`: "name",
		`{"description":"` + strings.Repeat("x", 2001) + `"}`: "description",
		`{"stockIncrease":0}`:                    "stockIncrease",
		`{"stockIncrease":-5}`:                   "stockIncrease",
		`{"stockIncrease":10000001}`:             "stockIncrease",
		`{"stockIncrease":1.5}`:                  "stockIncrease",
		`{"stockIncrease":null}`:                 "stockIncrease",
		`{"saleDate":"2020-01-01T00:00:00Z"}`:    "saleDate",
		`{"saleDate":null}`:                      "saleDate",
		`{"saleEndDate":"2020-01-01T00:00:00Z"}`: "saleEndDate",
		`{"saleEndDate":5}`:                      "saleEndDate",
		`{"paused":"yes"}`:                       "paused",
		`{"paused":null}`:                        "paused",
		`{"paused":1}`:                           "paused",
		`{"stock":10}`:                           "stock",
		`{"Paused":true}`:                        "Paused",
		`{"paused":true,"paused":false}`:         "paused",
	} {
		t.Run(body[:min(len(body), 40)], func(t *testing.T) {
			a := c.do(t, admin, http.MethodPut, path, body)
			require.Equal(t, 400, a.status, a.body)
			want := []string{}
			if field != "" {
				want = []string{field}
			}
			require.Equal(t, want, a.fields(), a.body)
		})
	}
	for _, id := range []string{"x", "1", "urn:uuid:" + uuid.NewString(), strings.ReplaceAll(uuid.NewString(), "-", "")} {
		a := c.do(t, admin, http.MethodPut, "/v1/products/"+id, `{"paused":true}`)
		require.Equal(t, 400, a.status, id)
		a = c.do(t, admin, http.MethodDelete, "/v1/products/"+id, nil)
		require.Equal(t, 400, a.status, id)
		a = c.do(t, admin, http.MethodDelete, "/v1/slots/"+id, nil)
		require.Equal(t, 400, a.status, id)
	}
}

func TestAcquire_Validation(t *testing.T) {
	k := newTokens(t)
	c, buyer := refusing(t, k), k.user(t, auth.Buyer)
	for body, field := range map[string]string{
		`{}`:                 "productId",
		`{"productId":null}`: "productId",
		`{"productId":"x"}`:  "productId",
		`{"productId":7}`:    "productId",
		`{"productid":"` + uuid.NewString() + `"}`:   "productid",
		`{"productId":"{` + uuid.NewString() + `}"}`: "productId",
	} {
		a := c.do(t, buyer, http.MethodPost, "/v1/slots/acquire", body)
		require.Equal(t, 400, a.status, body)
		require.Equal(t, []string{field}, a.fields(), body)
	}
	for what, key := range map[string]string{"empty": "", "256": strings.Repeat("k", 256), "tab inside": "a\tb", "DEL": "a\x7f"} {
		a := c.do(t, buyer, http.MethodPost, "/v1/slots/acquire", `{"productId":"`+uuid.NewString()+`"}`, "Idempotency-Key", key)
		require.Equal(t, 400, a.status, what)
		require.Equal(t, []string{"Idempotency-Key"}, a.fields(), what)
	}
}

// TestRefusals_Order checks the order of the contract as far as no state is needed.
func TestRefusals_Order(t *testing.T) {
	k := newTokens(t)
	c := refusing(t, k)
	buyer, admin, nobody, neither := k.user(t, auth.Buyer), k.user(t, auth.Admin), user{}, k.user(t, 0)
	bad := user{token: "x"}
	large := `{"productId":"` + strings.Repeat("x", 64<<10) + `"}`
	for _, tc := range []struct {
		what         string
		u            user
		method, path string
		body         string
		media        string
		status       int
		slug         string
	}{
		{"no such path before the token", bad, "POST", "/v1/nothing", large, "text/plain", 404, "not-found"},
		{"the method before the token", bad, "PATCH", "/v1/products", large, "text/plain", 405, "method-not-allowed"},
		{"the token before the role", bad, "POST", "/v1/products", large, "text/plain", 401, "unauthenticated"},
		{"no token", nobody, "POST", "/v1/slots/acquire", large, "text/plain", 401, "unauthenticated"},
		{"the role before the size", buyer, "POST", "/v1/products", large, "text/plain", 403, "forbidden"},
		{"buyers delete no product", buyer, "DELETE", "/v1/products/x", "", "", 403, "forbidden"},
		{"buyers change no product", buyer, "PUT", "/v1/products/x", "", "", 403, "forbidden"},
		{"admins acquire nothing", admin, "POST", "/v1/slots/acquire", large, "text/plain", 403, "forbidden"},
		{"a token without roles", neither, "DELETE", "/v1/slots/x", "", "", 403, "forbidden"},
		{"the size before the media type", buyer, "POST", "/v1/slots/acquire", large, "text/plain", 413, "payload-too-large"},
		{"the media type before the value", buyer, "POST", "/v1/slots/acquire", "{", "text/plain", 415, "unsupported-media-type"},
		{"the value", buyer, "POST", "/v1/slots/acquire", "{", "application/json; charset=utf-8", 400, "invalid-request"},
	} {
		t.Run(tc.what, func(t *testing.T) {
			a := c.do(t, tc.u, tc.method, tc.path, tc.body, "Content-Type", tc.media)
			require.Equal(t, tc.status, a.status, a.body)
			require.Equal(t, tc.slug, a.slug())
			require.Equal(t, a.header.Get("X-Trace-ID"), a.text("traceId"))
		})
	}
}

func TestReturnURL_ComparesOrigins(t *testing.T) {
	for _, tc := range []struct {
		listed, url string
		allowed     bool
	}{
		{"https://shop.example.com", "https://shop.example.com/thanks", true},
		{"https://shop.example.com", "https://SHOP.example.com:443/thanks", true},
		{"https://shop.example.com:443", "https://shop.example.com/thanks", true},
		{"https://shop.example.com", "https://shop.example.com:8443/thanks", false},
		{"https://shop.example.com", "https://shop.example.com.evil.example/", false},
		{"http://localhost", "http://localhost:80/", true},
		{"http://localhost", "http://localhost:443/", false},
		{"http://localhost", "http://localhost:3000/", false},
	} {
		err := returnURL(tc.url, []string{tc.listed})
		require.Equal(t, tc.allowed, err == nil, "%s with %s listed: %v", tc.url, tc.listed, err)
	}
}
