package command

import (
	"context"
	"net/http"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/stretchr/testify/require"

	"github.com/dopaminestore/dopamine/internal/auth"
	"github.com/dopaminestore/dopamine/tools/dbtest"
	"github.com/dopaminestore/dopamine/tools/testkit"
)

func TestCreateProduct(t *testing.T) {
	s, n := oneNode(t)
	sale := time.Now().Add(time.Hour).Truncate(time.Millisecond)
	a := n.do(t, s.admin, http.MethodPost, "/v1/products", map[string]any{
		"name": "é", "description": "d", "price": 12.50, "currency": "USD", "stock": 3,
		"saleDate": sale.In(time.FixedZone("", -5*3600)).Format(time.RFC3339Nano), "saleEndDate": nil,
	})
	require.Equal(t, 201, a.status, a.body)
	require.Equal(t, "12.50", a.text("price"))
	require.Equal(t, sale.UTC().Format("2006-01-02T15:04:05.000Z"), a.text("saleDate"))
	require.Equal(t, "UPCOMING", a.text("status"))
	require.Equal(t, int64(3), a.number("stock"))
	require.Equal(t, a.text("createdAt"), a.text("updatedAt"))
	require.Nil(t, a.body["saleEndDate"])
	require.Equal(t, a.text("id"), a.place(t).Product.String())
	require.Equal(t, int64(1), a.place(t).Position)

	a = n.do(t, s.admin, http.MethodPost, "/v1/products", map[string]any{
		"name": "n", "description": "d", "price": "259000.00", "stock": 1, "saleDate": sale,
	})
	require.Equal(t, "259000", a.text("price"))
	require.Equal(t, "KRW", a.text("currency"))
}

func TestUpdateProduct(t *testing.T) {
	s, n := oneNode(t)
	product := s.upcoming(t, n, 5, time.Hour)
	put := func(change map[string]any) answered { return s.update(t, n, product, change) }

	a := put(map[string]any{"name": "new", "stockIncrease": 2, "paused": true})
	require.Equal(t, 200, a.status, a.body)
	require.Equal(t, "new", a.text("name"))
	require.Equal(t, "d", a.text("description"))
	require.Equal(t, int64(7), a.number("totalStock"))
	require.Equal(t, int64(5), a.number("initialStock"))
	require.Equal(t, int64(7), a.number("stock"))
	require.Equal(t, "PAUSED", a.text("status"))
	require.Equal(t, int64(4), a.place(t).Position, "one event for each change, in one append")

	t.Run("what changes nothing has no event", func(t *testing.T) {
		again := put(map[string]any{"name": "new", "paused": true})
		require.Equal(t, 200, again.status)
		require.Equal(t, a.header.Get("X-Position"), again.header.Get("X-Position"))
		require.Equal(t, a.body, again.body)
	})
	t.Run("units in all", func(t *testing.T) {
		over := put(map[string]any{"stockIncrease": 9_999_994})
		require.Equal(t, 400, over.status)
		require.Equal(t, []string{"stockIncrease"}, over.fields())
	})
	t.Run("end against begin", func(t *testing.T) {
		early := put(map[string]any{"saleEndDate": time.Now().Add(time.Minute)})
		require.Equal(t, 400, early.status)
		require.Equal(t, []string{"saleEndDate"}, early.fields())
		require.Equal(t, 200, put(map[string]any{"saleEndDate": time.Now().Add(2 * time.Hour)}).status)
		late := put(map[string]any{"saleDate": time.Now().Add(3 * time.Hour)})
		require.Equal(t, 400, late.status)
		require.Equal(t, []string{"saleDate"}, late.fields())
		both := put(map[string]any{"saleDate": time.Now().Add(3 * time.Hour), "saleEndDate": nil})
		require.Equal(t, 200, both.status, both.body)
		require.Nil(t, both.body["saleEndDate"])
	})
	t.Run("no such product", func(t *testing.T) {
		unknown := s.update(t, n, uuid.New(), map[string]any{"paused": false})
		requireProblem(t, 404, "product-not-found", unknown)
		require.Equal(t, 400, s.update(t, n, uuid.New(), map[string]any{"stockIncrease": 0}).status, "400 before 404")
	})
}

func TestUpdateProduct_SaleDateFixedAfterFirstSlot(t *testing.T) {
	s, n := oneNode(t)
	product := s.product(t, n, 1) // its slot has ended again
	a := s.update(t, n, product, map[string]any{"saleDate": time.Now().Add(time.Hour), "name": "changed"})
	requireProblem(t, 409, "product-update-conflict", a)
	a = s.update(t, n, product, map[string]any{"paused": false})
	require.Equal(t, "n", a.text("name"), "all or nothing")
}

func TestUpdateProduct_ConcurrentUpdatesLoseNothing(t *testing.T) {
	t.Parallel()
	s := newSystem(t, testkit.Redis(t))
	a, b := s.node(t), s.node(t)
	product := s.upcoming(t, a, 1, time.Hour)
	const updates = 16
	crowd(updates, func(i int) {
		r, err := []node{a, b}[i%2].send(t.Context(), s.admin, http.MethodPut, "/v1/products/"+product.String(), `{"stockIncrease":1}`)
		if err != nil || r.status != 200 {
			t.Errorf("%d %v %v", r.status, r.body, err)
		}
	})
	r := s.update(t, a, product, map[string]any{"name": "n"})
	require.Equal(t, int64(1+updates), r.number("totalStock"))
}

// While Redis is unavailable, the units held are counted from the claims, which takes longer the more
// there are. The sale can be paused nevertheless; all units then count as held.
func TestUpdateProduct_WhileClaimsCannotBeCounted(t *testing.T) {
	t.Parallel()
	own := testkit.OwnRedis(t)
	s := newSystem(t, own.URL())
	n := s.node(t)
	product := s.upcoming(t, n, 10, time.Hour)
	own.Kill9()
	tx, err := s.pool.Begin(t.Context())
	require.NoError(t, err)
	defer func() { _ = tx.Rollback(context.Background()) }()
	dbtest.Exec(t, tx, "lock table slot_claims in access exclusive mode")

	a := s.update(t, n, product, map[string]any{"paused": true})
	require.Equal(t, 200, a.status, a.body)
	require.Equal(t, "PAUSED", a.text("status"))
	require.Equal(t, []int64{0, 10}, []int64{a.number("stock"), a.number("totalStock")})
	require.True(t, dbtest.One[bool](t, s.pool, "select paused from product_gates where product_id = $1", product))
}

func TestDeleteProduct(t *testing.T) {
	s, n, product := onSale(t, 2)
	other := s.node(t)
	buyer := s.user(t, auth.Buyer)
	slot := s.granted(t, n, buyer, product)
	require.Equal(t, 404, s.remove(t, n, uuid.MustParse(slot.text("id"))).status, "a slot is not a product")

	a := s.remove(t, n, product)
	requireProblem(t, 409, "product-delete-conflict", a)
	require.Equal(t, 204, s.release(t, n, buyer, slot.text("id")).status)

	a = s.remove(t, n, product)
	require.Equal(t, 204, a.status, a.body)
	require.Equal(t, product, a.place(t).Product)
	for _, gone := range []answered{
		s.remove(t, n, product), s.update(t, n, product, map[string]any{"name": "x"}),
		s.acquire(t, n, buyer, product), s.acquire(t, other, buyer, product),
	} {
		requireProblem(t, 404, "product-not-found", gone)
	}
	require.Equal(t, "slot-not-active", s.release(t, n, buyer, slot.text("id")).slug(), "slots stay")
}

// TestUpdateProduct_IfMatch changes a product that others have changed, or bought from,
// since it was read.
func TestUpdateProduct_IfMatch(t *testing.T) {
	s, n, product := onSale(t, 5)
	put := func(etag string, change map[string]any) answered {
		return n.do(t, s.admin, http.MethodPut, "/v1/products/"+product.String(), change, "If-Match", etag)
	}
	read := s.update(t, n, product, map[string]any{"name": "read"})
	etag := read.header.Get("ETag")
	require.NotEmpty(t, etag)

	s.granted(t, n, s.user(t, auth.Buyer), product)
	sold := put(etag, map[string]any{"name": "mine"})
	require.Equal(t, 200, sold.status, "a unit sold meanwhile refuses nothing: %v", sold.body)

	stale := put(etag, map[string]any{"name": "theirs"})
	requireProblem(t, 412, "precondition-failed", stale)
	require.Equal(t, 412, put(etag, map[string]any{"saleDate": time.Now().Add(time.Hour)}).status, "412 comes before refusals by the state")
	require.Equal(t, "mine", s.update(t, n, product, map[string]any{"paused": false}).text("name"), "nothing was changed")

	require.Equal(t, 200, put(`"0-0", `+sold.header.Get("ETag"), map[string]any{"description": "d2"}).status, "one of several")
	require.Equal(t, 200, put("*", map[string]any{"description": "d3"}).status)
	require.Equal(t, 412, put(`"nonsense"`, map[string]any{"description": "d4"}).status)
	require.Equal(t, 400, put(`"nonsense"`, map[string]any{"name": ""}).status)
	require.Equal(t, 400, put(`"nonsense"`, map[string]any{"stockIncrease": 10_000_000}).status, "too many units with those that there are")
	absent := n.do(t, s.admin, http.MethodPut, "/v1/products/"+uuid.NewString(), map[string]any{"name": "n"}, "If-Match", "*")
	require.Equal(t, "product-not-found", absent.slug())
}
