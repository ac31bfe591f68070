package query_test

import (
	"context"
	"net/http"
	"net/url"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/shopspring/decimal"
	"github.com/stretchr/testify/require"

	"github.com/dopaminestore/dopamine/domain"
	"github.com/dopaminestore/dopamine/query"
	"github.com/dopaminestore/dopamine/tools/dbtest"
	"github.com/dopaminestore/dopamine/tools/storetest"
	"github.com/dopaminestore/dopamine/tools/testkit"
)

// history appends events to the store at chosen times.
type history struct {
	*world
	position int64
	versions map[uuid.UUID]int
}

func (h *history) append(product, stream uuid.UUID, at time.Time, e domain.Event) {
	h.t.Helper()
	encoded := storetest.NewEvent(h.t, e)
	h.position++
	h.versions[stream]++
	h.exec(`INSERT INTO events VALUES ($1, $2, $3, $4, $5, $6, $7, $8, '00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01', '', '', 'system', $9)`,
		h.position, uuid.New(), stream, h.versions[stream], product, encoded.Type, encoded.SchemaVersion, string(encoded.Payload), at)
}

// create appends a product of 12.50 USD.
func (h *history) create(product uuid.UUID, at time.Time, stock int, sale time.Time) {
	h.t.Helper()
	price, err := domain.NewMoney(decimal.RequireFromString("12.5"), "USD")
	require.NoError(h.t, err)
	h.append(product, product, at, domain.ProductCreated{Name: "Shoe", Description: "d", Price: price, Stock: stock, SaleDate: sale})
}

// A store that returned to an earlier moment: what was kept of the history that it lost is not
// returned any more.
func TestPast_OfRestoredStoreIsNotFromLostHistory(t *testing.T) {
	t.Parallel()
	db := dbtest.Both(t)
	h := &history{world: newWorldOver(t, query.Config{ReadPool: db.Pool, WritePool: db.Pool}), versions: map[uuid.UUID]int{}}
	shoe := uuid.New()
	ms := func(n int) time.Time { return day.Add(time.Duration(n) * time.Millisecond) }
	h.create(shoe, ms(0), 2, ms(10))
	restore := dbtest.Snapshot(t, db.URL)
	db.Pool.Reset() // its connections were ended
	h.append(shoe, shoe, ms(1), domain.ProductDetailsChanged{Name: "Boot", Description: "d"})
	name := func() any { return h.get("/v1/products/"+shoe.String()+at(ms(5)), "").json(t)["name"] }
	require.Equal(t, "Boot", name())
	restore()
	testkit.EventuallyTrue(t, 20*time.Second, "the product of the restored store", func() bool {
		return h.get("/v1/products/"+shoe.String()+at(ms(5)), "").StatusCode == http.StatusOK && name() == "Shoe"
	})
}

func at(moment time.Time) string { return "?at=" + url.QueryEscape(moment.Format(time.RFC3339Nano)) }

// Time travel (contract 6).
func TestPast_ProductAndSlot(t *testing.T) {
	t.Parallel()
	h := &history{world: newWorld(t), versions: map[uuid.UUID]int{}}
	shoe, owner := uuid.New(), uuid.New()
	first, second := domain.SlotID(shoe, 1), domain.SlotID(shoe, 2)
	ms := func(n int) time.Time { return day.Add(time.Duration(n) * time.Millisecond) }
	acquired := domain.SlotAcquired{UserID: owner, Unit: 1, ArrivalSequence: 1, TTLMillis: 60_000, WarningMillis: 1000}

	h.create(shoe, ms(0), 2, ms(10))
	h.append(shoe, first, ms(20), acquired)
	h.append(shoe, second, ms(20), domain.SlotAcquired{UserID: uuid.New(), Unit: 2, ArrivalSequence: 2, TTLMillis: 60_000})
	h.append(shoe, shoe, ms(21), domain.ProductDetailsChanged{Name: "Boot", Description: "d"})
	h.append(shoe, first, ms(30), domain.SlotExpired{UserID: owner, Unit: 1, ArrivalSequence: 1, Deadline: ms(60_020), ReclaimStatus: domain.BuyerReleased})
	h.append(shoe, second, ms(40), domain.SlotExpired{Unit: 2, ArrivalSequence: 2, Deadline: ms(60_020), ReclaimStatus: domain.AutoExpired})
	h.append(shoe, shoe, ms(50), domain.ProductDeleted{})
	product, slot, mine := "/v1/products/"+shoe.String(), "/v1/slots/"+first.String(), h.token(owner, buyer)

	t.Run("a product at each moment", func(t *testing.T) {
		h := h.in(t)
		require.Equal(t, "product-not-found", h.get(product+at(ms(-1)), "").slug(t))
		require.Equal(t, "product-not-found", h.get(product, "").slug(t), "the product is deleted now")
		for _, c := range []struct {
			at     time.Time
			name   string
			free   float64
			status string
		}{
			{ms(0), "Shoe", 2, "UPCOMING"},
			{ms(10), "Shoe", 2, "ON_SALE"},
			{ms(20), "Shoe", 0, "SOLD_OUT"},
			{ms(20).Add(999 * time.Microsecond), "Shoe", 0, "SOLD_OUT"}, // the end of that millisecond
			{ms(21), "Boot", 0, "SOLD_OUT"},
			{ms(30), "Boot", 1, "ON_SALE"},
			{ms(49), "Boot", 2, "ON_SALE"},
		} {
			v := h.get(product+at(c.at), "").json(t)
			require.Equal(t, []any{c.name, c.free, c.status}, []any{v["name"], v["stock"], v["status"]}, c.at)
			require.Equal(t, "12.50", v["price"])
		}
		require.Equal(t, "product-not-found", h.get(product+at(ms(50)), "").slug(t))
		require.Equal(t, http.StatusOK, h.get(product+"?at=2026-11-01T19:00:00.049+09:00", "").StatusCode, "any offset, with an unescaped plus sign")
	})
	t.Run("a slot at each moment", func(t *testing.T) {
		h := h.in(t)
		require.Equal(t, "slot-not-found", h.get(slot+at(ms(19)), mine).slug(t))
		v := h.get(slot+at(ms(20)), mine).json(t)
		require.Equal(t, []any{"ACTIVE", "Shoe", 60.0, nil}, []any{v["status"], v["productName"], v["remainingTimeSeconds"], v["endedAt"]})
		v = h.get(slot+at(ms(21)), mine).json(t)
		require.Equal(t, []any{"ACTIVE", "Boot", 59.0}, []any{v["status"], v["productName"], v["remainingTimeSeconds"]})
		v = h.get(slot+at(ms(30)), h.token(uuid.New(), admin)).json(t)
		require.Equal(t, []any{"EXPIRED", 0.0, "BUYER_RELEASED", "2026-11-01T10:00:00.030Z"}, []any{v["status"], v["remainingTimeSeconds"], v["reclaimStatus"], v["endedAt"]})
		require.Equal(t, "forbidden", h.get(slot+at(ms(20)), h.token(uuid.New(), buyer)).slug(t))
	})
	t.Run("an id of the other kind is not found", func(t *testing.T) {
		h := h.in(t)
		require.Equal(t, "product-not-found", h.get("/v1/products/"+first.String()+at(ms(49)), "").slug(t))
		require.Equal(t, "slot-not-found", h.get("/v1/slots/"+shoe.String()+at(ms(49)), mine).slug(t))
	})
	t.Run("a moment that cannot be shown is refused", func(t *testing.T) {
		h := h.in(t)
		for _, path := range []string{product, slot} {
			require.Equal(t, "invalid-request", h.get(path+at(time.Now().Add(time.Minute)), mine).slug(t), "the future")
			require.Equal(t, "invalid-request", h.get(path+"?at=now", mine).slug(t))
			require.Equal(t, "invalid-request", h.get(path+at(ms(49)), mine, header{"X-Min-Position": "x"}).slug(t))
		}
		require.Equal(t, "invalid-request", h.get("/v1/products/"+uuid.NewString()+at(time.Now().Add(time.Minute)), "").slug(t), "the future of nothing")
		require.Equal(t, "product-not-found", h.get("/v1/products/"+uuid.NewString()+at(time.Now().Add(-time.Second)), "").slug(t))
	})
}

// R9: a failing part affects only what depends on it (contract 2).
func TestAPI_WithoutTheWriteSide(t *testing.T) {
	t.Parallel()
	full := newWorld(t)
	id := full.product(1, product{})
	for name, cfg := range map[string]query.Config{
		"none":   {ReadPool: full.pool},
		"silent": {ReadPool: full.pool, WritePool: silentPool(t)},
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorldOver(t, cfg)
			path := "/v1/products/" + id.String()
			require.Equal(t, http.StatusOK, w.get(path, "").StatusCode)
			for _, away := range []string{path + at(day), path + "/fairness", path + "/fairness/log"} {
				a := w.get(away, "")
				require.Equal(t, "unavailable", a.slug(t), away)
				require.NotEmpty(t, a.Header.Get("Retry-After"))
			}
		})
	}
	require.NoError(t, full.pool.Ping(context.Background()))
}

// TestPast_ManyEvents requests moments of a product with more events than one page of the count, in
// an order in which kept counts help and in one in which they do not (contract 6).
func TestPast_ManyEvents(t *testing.T) {
	t.Parallel()
	h := &history{world: newWorld(t), versions: map[uuid.UUID]int{}}
	shoe := uuid.New()
	const n, stock = 120_000, 1_000_000
	h.create(shoe, day, stock, day.Add(time.Millisecond))
	h.exec(`INSERT INTO events SELECT i + 1, gen_random_uuid(), gen_random_uuid(), 1, $1, CASE WHEN i % 3 = 0 THEN 'SlotExpired' ELSE 'SlotAcquired' END, 1, '{}',
		'', '', '', 'system', $2::timestamptz + (i / 10) * interval '1 ms' FROM generate_series(1, $3::int) i`, shoe, day, n)
	for _, ms := range []int{100, 11_999, 7_000, 11_999, 1, 5_000, 12_000, 60_000} {
		last := min(10*ms+9, n)
		ended := last / 3
		v := h.get("/v1/products/"+shoe.String()+at(day.Add(time.Duration(ms)*time.Millisecond)), "").json(t)
		require.EqualValues(t, stock-(last-2*ended), v["stock"], "%d ms", ms)
	}
}
