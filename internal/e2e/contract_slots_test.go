package e2e

import (
	"net/http"
	"strconv"
	"strings"
	"time"

	"github.com/google/uuid"
	"github.com/stretchr/testify/require"

	"github.com/dopaminestore/dopamine/internal/auth"
)

func (s *site) acquireURL() string { return s.command + "/v1/slots/acquire" }

// holds acquires a slot of a product, which must be granted.
func (s *site) holds(buyer *client, product string) (answer, object) {
	s.t.Helper()
	a := buyer.acquire(s.command, product)
	require.Equal(s.t, http.StatusCreated, a.status, "%s", a.body)
	return a, a.object(s.t)
}

func (s *site) acquires() {
	product := s.admin.product(s.command, 3)
	buyer := s.users.buyer()
	a, slot := s.holds(buyer, product)
	fields(s.t, slot, slotFields...)
	require.Regexp(s.t, anID, slot["id"])
	require.Equal(s.t, "/v1/slots/"+slot["id"].(string), a.header.Get("Location"))
	require.NotEmpty(s.t, a.header.Get("X-Position"))
	require.Equal(s.t, product, slot["productId"])
	require.Equal(s.t, "Thing", slot["productName"])
	require.Equal(s.t, buyer.sub.String(), slot["userId"])
	require.Equal(s.t, "ACTIVE", slot["status"])
	require.Regexp(s.t, "^[123]$", number(slot["unit"]))
	for _, f := range []string{"regrantOf", "endedAt", "reclaimStatus"} {
		require.Nil(s.t, slot[f], f)
	}
	for _, f := range []string{"acquisitionTimestamp", "expirationTimestamp", "createdAt"} {
		require.Regexp(s.t, aTime, slot[f], f)
	}
	require.Equal(s.t, 30*time.Minute, when(s, slot["expirationTimestamp"]).Sub(when(s, slot["acquisitionTimestamp"])))
	left, err := strconv.Atoi(number(slot["remainingTimeSeconds"]))
	require.NoError(s.t, err, "whole seconds")
	require.InDelta(s.t, 1800, left, 5)

	shown := s.seen(a, a.header.Get("Location"))
	delete(shown, "remainingTimeSeconds")
	delete(slot, "remainingTimeSeconds")
	require.Equal(s.t, slot, shown, "what the query API shows is what was answered")

	_, next := s.holds(s.users.buyer(), product)
	require.Greater(s.t, numeric(s, next["arrivalSequence"]), numeric(s, slot["arrivalSequence"]), "requested after the other's response")
	require.NotEqual(s.t, slot["unit"], next["unit"])
}

func when(s *site, v any) time.Time {
	s.t.Helper()
	t, err := time.Parse(time.RFC3339Nano, v.(string))
	require.NoError(s.t, err)
	return t
}

func numeric(s *site, v any) int64 {
	s.t.Helper()
	n, err := strconv.ParseInt(number(v), 10, 64)
	require.NoError(s.t, err, "%v", v)
	return n
}

func (s *site) refusesInOrder() {
	later, p := s.admin.want(http.StatusCreated, http.MethodPost, s.products(), newProduct(1, soon(time.Hour)))
	_, o := s.users.buyer().refused(http.StatusConflict, "sale-not-started", http.MethodPost, s.acquireURL(), object{"productId": p["id"]})
	require.Equal(s.t, p["saleDate"], o["saleDate"])
	s.admin.want(http.StatusOK, http.MethodPut, s.command+later.header.Get("Location"), object{"paused": true})
	s.users.buyer().refused(http.StatusConflict, "sale-not-started", http.MethodPost, s.acquireURL(), object{"productId": p["id"]})

	id := s.admin.product(s.command, 1)
	holder, other := s.users.buyer(), s.users.buyer()
	got, slot := s.holds(holder, id)
	refused := func(who *client, slug string) (answer, object) {
		s.t.Helper()
		return who.refused(http.StatusConflict, slug, http.MethodPost, s.acquireURL(), object{"productId": id})
	}
	a, o := refused(holder, "duplicate-slot")
	require.Equal(s.t, slot["id"], o["slotId"])
	require.Equal(s.t, got.header.Get("X-Position"), a.header.Get("X-Position"), "its outcome is in the store")
	a, _ = refused(other, "sold-out")
	require.Empty(s.t, a.header.Get("X-Position"))
	s.admin.want(http.StatusOK, http.MethodPut, s.products()+"/"+id, object{"paused": true})
	refused(holder, "sale-paused")
	refused(other, "sale-paused")
	end := time.Now().Add(300 * time.Millisecond)
	s.admin.want(http.StatusOK, http.MethodPut, s.products()+"/"+id, object{"saleEndDate": end.UTC().Format(time.RFC3339Nano)})
	<-time.After(time.Until(end) + 50*time.Millisecond) // waits for the sale's end
	refused(holder, "sale-ended")
	refused(other, "sale-ended")

	s.users.buyer().refused(http.StatusNotFound, "product-not-found", http.MethodPost, s.acquireURL(), object{"productId": uuid.NewString()})
	for _, body := range []any{object{}, object{"productId": nil}, object{"productId": "x"}, object{"productId": 5}, object{"productID": id},
		object{"productId": id, "unit": 1}, object{"productId": strings.ReplaceAll(id, "-", "")}, object{"productId": "{" + id + "}"}, ""} {
		s.users.buyer().refused(http.StatusBadRequest, "invalid-request", http.MethodPost, s.acquireURL(), body)
	}
	for _, key := range []string{"", strings.Repeat("x", 256), "a\tb"} {
		s.users.buyer().with("Idempotency-Key", key).refused(http.StatusBadRequest, "invalid-request", http.MethodPost, s.acquireURL(), object{"productId": id})
	}
}

func (s *site) remembersKeys() {
	id, second := s.admin.product(s.command, 1), s.admin.product(s.command, 1)
	buyer := s.users.buyer()
	keyed := buyer.with("Idempotency-Key", strings.Repeat("k", 255))
	body := object{"productId": id}
	got, slot := s.holds(keyed, id)
	again, o := keyed.want(http.StatusCreated, http.MethodPost, s.acquireURL(), body)
	require.Equal(s.t, slot["id"], o["id"])
	require.Equal(s.t, slot["arrivalSequence"], o["arrivalSequence"])
	require.Equal(s.t, got.header.Get("X-Position"), again.header.Get("X-Position"))
	require.Equal(s.t, got.header.Get("Location"), again.header.Get("Location"))
	buyer.refused(http.StatusConflict, "duplicate-slot", http.MethodPost, s.acquireURL(), body)
	buyer.with("Idempotency-Key", "other").refused(http.StatusConflict, "duplicate-slot", http.MethodPost, s.acquireURL(), body)
	_, elsewhere := s.holds(keyed, second)
	require.NotEqual(s.t, slot["id"], elsewhere["id"], "a key is per product")
	s.users.buyer().with("Idempotency-Key", strings.Repeat("k", 255)).
		refused(http.StatusConflict, "sold-out", http.MethodPost, s.acquireURL(), body)

	s.admin.want(http.StatusOK, http.MethodPut, s.products()+"/"+id, object{"paused": true})
	keyed.want(http.StatusCreated, http.MethodPost, s.acquireURL(), body) // before every check of state
	s.admin.want(http.StatusOK, http.MethodPut, s.products()+"/"+id, object{"paused": false})

	refusedKey := s.users.buyer().with("Idempotency-Key", "refused")
	refusedKey.refused(http.StatusConflict, "sold-out", http.MethodPost, s.acquireURL(), body)
	buyer.want(http.StatusNoContent, http.MethodDelete, s.command+got.header.Get("Location"), nil)
	_, o = refusedKey.want(http.StatusCreated, http.MethodPost, s.acquireURL(), body) // a refusal is not stored
	require.Greater(s.t, numeric(s, o["arrivalSequence"]), numeric(s, slot["arrivalSequence"]))
	keyed.refused(http.StatusConflict, "sold-out", http.MethodPost, s.acquireURL(), body) // only for as long as the slot is ACTIVE
}

func (s *site) releases() {
	id := s.admin.product(s.command, 1)
	url := func(slot object) string { return s.command + "/v1/slots/" + slot["id"].(string) }
	ended := func(a answer, slot object, reclaim string) {
		s.t.Helper()
		require.NotEmpty(s.t, a.header.Get("X-Position"))
		o := s.seen(a, "/v1/slots/"+slot["id"].(string))
		require.Equal(s.t, "EXPIRED", o["status"])
		require.Equal(s.t, reclaim, o["reclaimStatus"])
		require.Regexp(s.t, aTime, o["endedAt"])
		require.Equal(s.t, "0", number(o["remainingTimeSeconds"]))
	}
	owner := s.users.buyer()
	_, slot := s.holds(owner, id)
	s.users.buyer().refused(http.StatusForbidden, "forbidden", http.MethodDelete, url(slot), nil)
	a, _ := owner.want(http.StatusNoContent, http.MethodDelete, url(slot), nil)
	require.Empty(s.t, a.body)
	ended(a, slot, "BUYER_RELEASED")
	owner.refused(http.StatusConflict, "slot-not-active", http.MethodDelete, url(slot), nil)
	s.admin.refused(http.StatusConflict, "slot-not-active", http.MethodDelete, url(slot), nil)
	s.users.buyer().refused(http.StatusForbidden, "forbidden", http.MethodDelete, url(slot), nil)

	_, slot = s.holds(owner, id) // the unit is free at once, and the buyer may try again
	a, _ = s.admin.want(http.StatusNoContent, http.MethodDelete, url(slot), nil)
	ended(a, slot, "MANUAL_RECLAIMED")

	both := s.users.new(auth.Buyer | auth.Admin)
	_, slot = s.holds(both, id)
	a, _ = both.want(http.StatusNoContent, http.MethodDelete, url(slot), nil)
	ended(a, slot, "BUYER_RELEASED")

	s.admin.refused(http.StatusNotFound, "slot-not-found", http.MethodDelete, s.command+"/v1/slots/"+uuid.NewString(), nil)
	s.admin.refused(http.StatusBadRequest, "invalid-request", http.MethodDelete, s.command+"/v1/slots/x", nil)
	_, log := s.users.nobody().want(http.StatusOK, http.MethodGet, s.query+"/v1/products/"+id, nil)
	require.Equal(s.t, "1", number(log["stock"]))
}

func (s *site) showsSlotsToWhom() {
	buyer := s.users.buyer()
	first, second := s.admin.product(s.command, 2), s.admin.product(s.command, 2)
	one, a := s.holds(buyer, first)
	two, b := s.holds(buyer, second)
	mine := s.query + "/v1/slots/my-slots"
	reader := buyer.with("X-Min-Position", one.header.Get("X-Position")+", "+two.header.Get("X-Position"))
	_, o := reader.want(http.StatusOK, http.MethodGet, mine, nil)
	fields(s.t, o, "slots", "totalCount", "nextCursor")
	require.Equal(s.t, "2", number(o["totalCount"]))
	slots := o["slots"].([]any)
	fields(s.t, slots[0], slotFields...)
	require.Equal(s.t, []any{b["id"], a["id"]}, []any{slots[0].(object)["id"], slots[1].(object)["id"]}, "newest first")
	_, o = reader.want(http.StatusOK, http.MethodGet, mine+"?status=EXPIRED", nil)
	require.Equal(s.t, "0", number(o["totalCount"]))
	require.Equal(s.t, []any{}, o["slots"], "a list, not null")
	reader.refused(http.StatusBadRequest, "invalid-request", http.MethodGet, mine+"?status=active", nil)
	_, o = s.users.buyer().want(http.StatusOK, http.MethodGet, mine, nil)
	require.Equal(s.t, "0", number(o["totalCount"]))
	s.admin.refused(http.StatusForbidden, "forbidden", http.MethodGet, mine, nil)
	s.users.nobody().refused(http.StatusUnauthorized, "unauthenticated", http.MethodGet, mine, nil)

	slot := s.query + "/v1/slots/" + a["id"].(string)
	reader.want(http.StatusOK, http.MethodGet, slot, nil)
	s.admin.want(http.StatusOK, http.MethodGet, slot, nil)
	s.users.buyer().refused(http.StatusForbidden, "forbidden", http.MethodGet, slot, nil)
	s.users.nobody().refused(http.StatusUnauthorized, "unauthenticated", http.MethodGet, slot, nil)
	s.admin.refused(http.StatusNotFound, "slot-not-found", http.MethodGet, s.query+"/v1/slots/"+uuid.NewString(), nil)
	s.admin.refused(http.StatusBadRequest, "invalid-request", http.MethodGet, s.query+"/v1/slots/x", nil)

	renamed, _ := s.admin.want(http.StatusOK, http.MethodPut, s.products()+"/"+first, object{"name": "Renamed"})
	require.Equal(s.t, "Renamed", s.seen(renamed, "/v1/slots/"+a["id"].(string))["productName"])
}
