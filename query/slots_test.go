package query_test

import (
	"net/http"
	"slices"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/stretchr/testify/require"

	"github.com/dopaminestore/dopamine/internal/auth"
)

// GET /v1/slots/{id} (contract 7).
func TestSlot_VisibleToOwnerAndAdmin(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	owner, product := uuid.New(), uuid.New()
	id := w.slot(1, slot{product: product, user: owner, at: time.Now().Add(-time.Minute).Truncate(time.Millisecond), life: 31 * time.Minute})
	w.name(1, product, "Sneaker")
	path := "/v1/slots/" + id.String()

	a := w.get(path, w.token(owner, buyer))
	require.Equal(t, http.StatusOK, a.StatusCode)
	v := a.json(t)
	require.Equal(t, "Sneaker", v["productName"])
	require.InDelta(t, 30*60, v["remainingTimeSeconds"], 5)
	require.Nil(t, v["endedAt"])

	require.Equal(t, http.StatusOK, w.get(path, w.token(uuid.New(), admin)).StatusCode)
	require.Equal(t, "forbidden", w.get(path, w.token(uuid.New(), buyer)).slug(t))
	require.Equal(t, "forbidden", w.get(path, w.token(owner, 0)).slug(t), "without the role")
	require.Equal(t, "unauthenticated", w.get(path, "").slug(t))
	require.Equal(t, "slot-not-found", w.get("/v1/slots/"+uuid.NewString(), w.token(owner, buyer)).slug(t))
	require.Equal(t, "invalid-request", w.get("/v1/slots/x", w.token(owner, buyer)).slug(t))
	require.Equal(t, "forbidden", w.get("/v1/slots/x", w.token(owner, 0)).slug(t), "the role is checked before the values")
}

// The slot of contract 7.
func TestSlot_RemainingTimeIsZeroUnlessActive(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	owner, product := uuid.New(), uuid.New()
	ended, how := day.Add(time.Minute), "BUYER_RELEASED"
	expired := w.slot(1, slot{product: product, user: owner, at: day, life: 10000 * time.Hour, ended: &ended, status: "EXPIRED", reclaim: &how})
	overdue := w.slot(1, slot{product: product, user: owner, at: day})
	w.name(1, product, "Sneaker")
	for _, id := range []uuid.UUID{expired, overdue} {
		require.Zero(t, w.get("/v1/slots/"+id.String(), w.token(owner, buyer)).json(t)["remainingTimeSeconds"])
	}
	v := w.get("/v1/slots/"+expired.String(), w.token(owner, buyer)).json(t)
	require.Equal(t, "2026-11-01T10:01:00.000Z", v["endedAt"])
	require.Equal(t, how, v["reclaimStatus"])
}

// GET /v1/slots/my-slots (contract 7).
func TestMySlots_OwnSlotsNewestFirst(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	me, ended, how := uuid.New(), day.Add(time.Hour), "AUTO_EXPIRED"
	oldest := w.slot(1, slot{product: uuid.New(), user: me, at: day, status: "EXPIRED", ended: &ended, reclaim: &how})
	newest := w.slot(1, slot{product: uuid.New(), user: me, at: day.Add(2 * time.Second)})
	middle := w.slot(1, slot{product: uuid.New(), user: me, at: day.Add(time.Second), status: "COMPLETED", ended: &ended})
	w.slot(1, slot{product: uuid.New(), user: uuid.New()})
	token := w.token(me, auth.Buyer)

	a := w.get("/v1/slots/my-slots", token)
	require.Equal(t, []string{newest.String(), middle.String(), oldest.String()}, idsOf(t, a, "slots"))
	require.EqualValues(t, 3, a.json(t)["totalCount"])
	a = w.get("/v1/slots/my-slots?status=COMPLETED", token)
	require.Equal(t, []string{middle.String()}, idsOf(t, a, "slots"))
	require.EqualValues(t, 1, a.json(t)["totalCount"])
	require.JSONEq(t, `{"slots":[],"totalCount":0,"nextCursor":null}`, string(w.get("/v1/slots/my-slots", w.token(uuid.New(), buyer)).body))
	require.Equal(t, "invalid-request", w.get("/v1/slots/my-slots?status=active", token).slug(t))
	require.Equal(t, "forbidden", w.get("/v1/slots/my-slots", w.token(me, admin)).slug(t))
}

// TestMySlots_Cursor pages through the list of a buyer with many slots.
func TestMySlots_Cursor(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	me := uuid.New()
	ended, reclaim := day.Add(time.Minute), "BUYER_RELEASED"
	const n = 25
	for i := range n {
		s := slot{product: uuid.New(), user: me, at: day.Add(time.Duration(i/2) * time.Second)} // some at the same time
		if i%5 == 0 {
			s.status, s.ended, s.reclaim = "EXPIRED", &ended, &reclaim
		}
		w.slot(1, s)
	}
	token := w.token(me, buyer)
	walk := func(filter string) (ids []string) {
		w.pages("/v1/slots/my-slots?limit=4"+filter, token, func(page response) {
			require.EqualValues(t, map[string]int{"": n, "&status=EXPIRED": n / 5}[filter], page.json(t)["totalCount"])
			ids = append(ids, idsOf(t, page, "slots")...)
		})
		return ids
	}
	all := walk("")
	require.Len(t, all, n)
	slices.Sort(all)
	require.Len(t, slices.Compact(all), n)
	require.Len(t, walk("&status=EXPIRED"), n/5)
	cursor := w.get("/v1/slots/my-slots?limit=4", token).nextCursor(t)
	for _, bad := range []string{"?limit=0", "?limit=1001", "?status=", "?status=EXPIRED&" + cursor} {
		require.Equal(t, "invalid-request", w.get("/v1/slots/my-slots"+bad, token).slug(t), bad)
	}
	require.Equal(t, "invalid-request", w.get("/v1/slots/my-slots?limit=4&"+cursor, w.token(uuid.New(), buyer)).slug(t), "another buyer's cursor")
	require.Equal(t, "no-store", w.get("/v1/slots/my-slots", token).Header.Get("Cache-Control"))
}

// TestMySlots_Bounded has a buyer with 20,000 slots.
func TestMySlots_Bounded(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	me := uuid.New()
	w.exec(`INSERT INTO purchase_slots_g1
		SELECT gen_random_uuid(), gen_random_uuid(), $1, 1, i, $2::timestamptz, $2::timestamptz + interval '30 min', 'EXPIRED', $2, NULL, $2, 'BUYER_RELEASED', i
		FROM generate_series(1, 20000) i`, me, day)
	a := w.get("/v1/slots/my-slots", w.token(me, buyer))
	require.Less(t, len(a.body), 100<<10)
	list := a.json(t)
	require.EqualValues(t, 20_000, list["totalCount"])
	require.Len(t, list["slots"], 100)
}
