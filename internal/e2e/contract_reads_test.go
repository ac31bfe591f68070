package e2e

import (
	"encoding/csv"
	"encoding/json"
	"errors"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"time"

	"github.com/google/uuid"
	"github.com/stretchr/testify/require"

	"github.com/dopaminestore/dopamine/tools/testkit"
)

func (s *site) audits() {
	id := s.admin.product(s.command, 2)
	buyer, other := s.users.buyer(), s.users.buyer()
	_, slot := s.holds(buyer, id)
	s.holds(other, id)
	released, _ := s.admin.want(http.StatusNoContent, http.MethodDelete, s.command+"/v1/slots/"+slot["id"].(string), nil)
	audit := s.query + "/v1/audit?"
	admin := s.admin.with("X-Min-Position", released.header.Get("X-Position"))
	entries := func(q string) []any {
		s.t.Helper()
		_, o := admin.want(http.StatusOK, http.MethodGet, audit+"productId="+id+"&"+q, nil)
		fields(s.t, o, "entries", "nextCursor")
		return o["entries"].([]any)
	}
	all := entries("")
	require.Len(s.t, all, 3)
	fields(s.t, all[0], auditFields...)
	began, ended := all[0].(object), all[2].(object)
	require.Equal(s.t, []any{"SlotAcquired", "SlotExpired"}, []any{began["type"], ended["type"]}, "oldest first")
	require.Equal(s.t, []any{nil, "ACTIVE", "ACTIVE", "EXPIRED"}, []any{began["oldStatus"], began["newStatus"], ended["oldStatus"], ended["newStatus"]})
	require.Equal(s.t, slot["id"], began["slotId"])
	require.Equal(s.t, buyer.sub.String(), began["userId"])
	require.Equal(s.t, buyer.sub.String(), ended["userId"], "the slot's owner")
	require.Contains(s.t, began["actor"], buyer.sub.String())
	require.Contains(s.t, ended["actor"], admin.sub.String(), "who acted")
	require.Regexp(s.t, aTime, began["recordedAt"])
	require.Regexp(s.t, aTrace, began["traceId"])
	require.Regexp(s.t, anID, began["eventId"])
	require.Equal(s.t, released.header.Get("X-Trace-ID"), ended["traceId"])
	meta := began["metadata"].(object)
	require.Equal(s.t, slot["arrivalSequence"], meta["arrivalSequence"])
	require.Equal(s.t, slot["unit"], meta["unit"])
	require.IsType(s.t, "", began["position"], "an opaque token, the audit included")
	require.Equal(s.t, released.header.Get("X-Position"), ended["position"])

	for q, want := range map[string]int{
		"slotId=" + slot["id"].(string): 2, "userId=" + other.sub.String(): 1, "type=SlotExpired": 1, "type=PaymentInitiated": 0,
		"from=" + began["recordedAt"].(string): 3, "to=" + began["recordedAt"].(string): 0,
		"from=" + url.QueryEscape("2000-01-01T09:00:00+09:00") + "&to=2000-01-02T00:00:00Z": 0,
	} {
		require.Len(s.t, entries(q), want, q)
	}
	for _, q := range []string{"slotId=x", "from=yesterday", "limit=0", "limit=1001", "cursor=x"} {
		admin.refused(http.StatusBadRequest, "invalid-request", http.MethodGet, audit+q, nil)
	}
	var paged []any
	for cursor := ""; ; {
		_, o := admin.want(http.StatusOK, http.MethodGet, audit+"productId="+id+"&limit=1"+cursor, nil)
		paged = append(paged, o["entries"].([]any)...)
		if o["nextCursor"] == nil {
			break
		}
		cursor = "&cursor=" + url.QueryEscape(o["nextCursor"].(string))
	}
	require.Equal(s.t, all, paged)

	lines := admin.with("Accept", "application/x-ndjson").get(audit + "productId=" + id + "&limit=1")
	require.Equal(s.t, http.StatusOK, lines.status, "%s", lines.body)
	require.Contains(s.t, lines.header.Get("Content-Type"), "application/x-ndjson")
	var streamed []any
	for line := range strings.Lines(string(lines.body)) {
		streamed = append(streamed, answer{body: []byte(line)}.object(s.t))
	}
	require.Equal(s.t, all, streamed, "all matching rows, regardless of the limit")
	s.isCSV(admin.with("Accept", "text/csv").get(audit+"productId="+id), auditFields, 3)

	for _, who := range []struct {
		*client
		status int
		slug   string
	}{{buyer, http.StatusForbidden, "forbidden"}, {s.users.nobody(), http.StatusUnauthorized, "unauthenticated"}} {
		who.refused(who.status, who.slug, http.MethodGet, audit, nil)
	}
}

// isCSV checks that a response is CSV with that header and number of rows.
func (s *site) isCSV(a answer, header []string, rows int) [][]string {
	s.t.Helper()
	require.Equal(s.t, http.StatusOK, a.status, "%s", a.body)
	require.Contains(s.t, a.header.Get("Content-Type"), "text/csv")
	records, err := csv.NewReader(strings.NewReader(string(a.body))).ReadAll()
	require.NoError(s.t, err)
	require.Equal(s.t, header, records[0])
	require.Len(s.t, records[1:], rows)
	return records[1:]
}

func (s *site) pays() {
	id := s.admin.product(s.command, 3)
	buyer := s.users.buyer()
	_, slot := s.holds(buyer, id)
	payments := s.command + "/v1/payments"
	body := func() object {
		return object{"purchaseSlotId": slot["id"], "idempotencyKey": uuid.NewString(), "amount": "259000", "currency": "KRW", "paymentMethod": "CARD"}
	}
	for field, value := range map[string]any{"amount": "1.5", "currency": "ABC", "paymentMethod": "CASH", "idempotencyKey": "x", "purchaseSlotId": nil, "extra": 1} {
		buyer.refused(http.StatusBadRequest, "invalid-request", http.MethodPost, payments, plus(body(), field, value))
	}
	buyer.refused(http.StatusBadRequest, "amount-mismatch", http.MethodPost, payments, plus(body(), "amount", "1"))
	buyer.refused(http.StatusBadRequest, "amount-mismatch", http.MethodPost, payments, plus(body(), "currency", "JPY"))
	buyer.refused(http.StatusNotFound, "slot-not-found", http.MethodPost, payments, plus(body(), "purchaseSlotId", uuid.NewString()))
	s.users.buyer().refused(http.StatusForbidden, "forbidden", http.MethodPost, payments, body())
	s.admin.refused(http.StatusForbidden, "forbidden", http.MethodPost, payments, body())

	asked := plus(body(), "amount", 259000.00)
	a, p := buyer.want(http.StatusCreated, http.MethodPost, payments, asked)
	fields(s.t, p, append(slices.Clone(paymentFields), "nextAction")...) // a row of purchases has no nextAction
	require.Equal(s.t, "/v1/payments/"+p["id"].(string), a.header.Get("Location"))
	require.Equal(s.t, []any{"PENDING", "259000", "KRW", "CARD", nil, nil, nil},
		[]any{p["paymentStatus"], p["amount"], p["currency"], p["paymentMethod"], p["confirmationTimestamp"], p["failureReason"], p["refundStatus"]})
	again, same := buyer.want(http.StatusCreated, http.MethodPost, payments, plus(asked, "amount", "259000.0"))
	require.Equal(s.t, p, same, "as first answered")
	require.Equal(s.t, a.header.Get("X-Position"), again.header.Get("X-Position"))
	buyer.refused(http.StatusUnprocessableEntity, "idempotency-key-reused", http.MethodPost, payments, plus(asked, "paymentMethod", "WALLET"))

	s.seen(a, a.header.Get("Location"))
	var paid object
	testkit.Eventually(s.t, 20*time.Second, "the payment to be made", func() error {
		_, paid = buyer.want(http.StatusOK, http.MethodGet, s.query+a.header.Get("Location"), nil)
		if paid["paymentStatus"] != "SUCCESS" {
			return errors.New(paid["paymentStatus"].(string))
		}
		return nil
	})
	require.Regexp(s.t, aTime, paid["confirmationTimestamp"])
	require.NotEmpty(s.t, paid["paymentId"])
	_, done := buyer.want(http.StatusOK, http.MethodGet, s.query+"/v1/slots/"+slot["id"].(string), nil)
	require.Equal(s.t, "COMPLETED", done["status"])
	buyer.refused(http.StatusConflict, "slot-already-completed", http.MethodPost, payments, body())
	buyer.refused(http.StatusConflict, "slot-not-active", http.MethodDelete, s.command+"/v1/slots/"+slot["id"].(string), nil)
	buyer.refused(http.StatusConflict, "duplicate-slot", http.MethodPost, s.acquireURL(), object{"productId": id})
	_, repeated := buyer.want(http.StatusCreated, http.MethodPost, payments, plus(asked, "paymentMethod", "CARD"))
	require.Equal(s.t, "PENDING", repeated["paymentStatus"], "as first answered")

	delete(paid, "nextAction") // not in a row of purchases
	purchases := s.query + "/v1/purchases"
	_, o := buyer.want(http.StatusOK, http.MethodGet, purchases, nil)
	fields(s.t, o, "purchases", "nextCursor")
	require.Equal(s.t, []any{paid}, o["purchases"])
	_, o = s.admin.want(http.StatusOK, http.MethodGet, purchases+"?status=SUCCESS&productId="+id, nil)
	require.Equal(s.t, []any{paid}, o["purchases"])
	for _, q := range []string{"?status=PENDING", "?productId=" + uuid.NewString(), "?to=" + paid["createdAt"].(string)} {
		_, o = buyer.want(http.StatusOK, http.MethodGet, purchases+q, nil)
		require.Equal(s.t, []any{}, o["purchases"], q)
	}
	_, o = buyer.want(http.StatusOK, http.MethodGet, purchases+"?from="+paid["createdAt"].(string)+"&userId="+buyer.sub.String(), nil)
	require.Len(s.t, o["purchases"], 1, "from is inclusive")
	buyer.refused(http.StatusForbidden, "forbidden", http.MethodGet, purchases+"?userId="+uuid.NewString(), nil)
	buyer.refused(http.StatusBadRequest, "invalid-request", http.MethodGet, purchases+"?status=DONE", nil)
	s.users.nobody().refused(http.StatusUnauthorized, "unauthenticated", http.MethodGet, purchases, nil)
	rows := s.isCSV(buyer.with("Accept", "text/csv").get(purchases), paymentFields, 1)
	require.Equal(s.t, paid["id"], rows[0][0])
	require.Equal(s.t, "259000", rows[0][slices.Index(paymentFields, "amount")])

	s.users.buyer().refused(http.StatusForbidden, "forbidden", http.MethodGet, s.query+a.header.Get("Location"), nil)
	s.admin.want(http.StatusOK, http.MethodGet, s.query+a.header.Get("Location"), nil)
	s.admin.refused(http.StatusNotFound, "payment-not-found", http.MethodGet, s.query+"/v1/payments/"+uuid.NewString(), nil)

	late := s.users.buyer()
	_, expired := s.holds(late, id)
	s.admin.want(http.StatusNoContent, http.MethodDelete, s.command+"/v1/slots/"+expired["id"].(string), nil)
	late.refused(http.StatusConflict, "slot-expired", http.MethodPost, payments, plus(body(), "purchaseSlotId", expired["id"]))

	hook := s.command + "/v1/webhooks/payment"
	s.users.nobody().refused(http.StatusUnauthorized, "invalid-signature", http.MethodPost, hook, object{})
	s.users.nobody().refused(http.StatusRequestEntityTooLarge, "payload-too-large", http.MethodPost, hook, strings.Repeat("x", 64<<10+1))
}

func (s *site) isFair() {
	id := s.admin.product(s.command, 2)
	fair := s.query + "/v1/products/" + id + "/fairness"
	_, empty := s.users.nobody().want(http.StatusOK, http.MethodGet, fair, nil)
	fields(s.t, empty, "decided", "granted", "refused", "returned", "firstSequence", "lastSequence", "lastGrantedSequence", "epochs", "inversions", "complete")
	require.Nil(s.t, empty["lastGrantedSequence"])

	holder := s.users.buyer()
	got, _ := s.holds(holder, id)
	_, base := s.users.nobody().want(http.StatusOK, http.MethodGet, fair, nil)
	_, last := s.holds(s.users.buyer(), id)
	asks := func(who *client, slug string) {
		who.refused(http.StatusConflict, slug, http.MethodPost, s.acquireURL(), object{"productId": id})
	}
	for range 3 {
		asks(s.users.buyer(), "sold-out")
	}
	asks(holder, "duplicate-slot")
	s.admin.want(http.StatusOK, http.MethodPut, s.products()+"/"+id, object{"paused": true})
	asks(s.users.buyer(), "sale-paused")
	s.admin.want(http.StatusOK, http.MethodPut, s.products()+"/"+id, object{"paused": false})
	holder.want(http.StatusNoContent, http.MethodDelete, s.command+got.header.Get("Location"), nil)

	var o object
	testkit.Eventually(s.t, 2500*time.Millisecond, "the report, at most 2 s behind the gate", func() error {
		_, o = s.users.nobody().want(http.StatusOK, http.MethodGet, fair, nil)
		refused := o["refused"].(object)
		if number(refused["soldOut"]) != "3" || number(refused["closed"]) != "1" || number(o["returned"]) != "1" {
			return errors.New(jsonOf(o))
		}
		return nil
	})
	fields(s.t, o["refused"], "soldOut", "duplicate", "notStarted", "closed")
	require.Equal(s.t, "2", number(o["granted"]))
	require.Equal(s.t, "1", number(o["refused"].(object)["duplicate"]))
	require.Equal(s.t, "0", number(o["inversions"]))
	require.Equal(s.t, true, o["complete"])
	early := numeric(s, o["refused"].(object)["notStarted"]) // the test retries until the sale has begun
	require.Equal(s.t, 7+early, numeric(s, o["decided"]))
	require.Equal(s.t, last["arrivalSequence"], o["lastGrantedSequence"])
	require.LessOrEqual(s.t, numeric(s, o["firstSequence"]), numeric(s, last["arrivalSequence"]))
	require.Greater(s.t, numeric(s, o["epochs"]), numeric(s, base["epochs"]), "a pause begins another epoch")

	log := s.users.nobody().get(fair + "/log")
	require.Equal(s.t, http.StatusOK, log.status)
	require.Contains(s.t, log.header.Get("Content-Type"), "application/x-ndjson")
	require.NotContains(s.t, string(log.body), holder.sub.String(), "it names no buyer")
	free, types := 0, map[string]int{}
	forms := map[string][]string{
		"opened": {"epoch", "type", "units"}, "granted": {"epoch", "type", "sequence", "unit"}, "returned": {"epoch", "type", "unit", "reason"},
		"refused": {"epoch", "type", "from", "to", "soldOut", "duplicate", "notStarted", "closed"},
	}
	epoch := ""
	for line := range strings.Lines(string(log.body)) {
		l := answer{body: []byte(line)}.object(s.t)
		kind := l["type"].(string)
		fields(s.t, l, forms[kind]...)
		if number(l["epoch"]) != epoch {
			epoch, free = number(l["epoch"]), 0
		}
		types[kind]++
		switch kind {
		case "opened":
			free += int(numeric(s, l["units"]))
		case "granted":
			free--
		case "returned":
			free++
			require.Equal(s.t, "BUYER_RELEASED", l["reason"])
		case "refused":
			require.Equal(s.t, numeric(s, l["to"])-numeric(s, l["from"])+1,
				numeric(s, l["soldOut"])+numeric(s, l["duplicate"])+numeric(s, l["notStarted"])+numeric(s, l["closed"]))
			if numeric(s, l["soldOut"]) > 0 {
				require.Zero(s.t, free)
			}
		}
		require.GreaterOrEqual(s.t, free, 0)
	}
	require.Equal(s.t, 2, types["granted"])
	require.Equal(s.t, 1, types["returned"])
	s.users.nobody().refused(http.StatusNotFound, "product-not-found", http.MethodGet, s.query+"/v1/products/"+uuid.NewString()+"/fairness", nil)
	s.users.nobody().refused(http.StatusNotFound, "product-not-found", http.MethodGet, s.query+"/v1/products/"+uuid.NewString()+"/fairness/log", nil)
}

func (s *site) travels() {
	a, created := s.admin.want(http.StatusCreated, http.MethodPost, s.products(), newProduct(1, soon(time.Hour)))
	path := "/v1/products/" + created["id"].(string)
	<-time.After(5 * time.Millisecond) // another millisecond
	b, _ := s.admin.want(http.StatusOK, http.MethodPut, s.command+path, object{"name": "Later"})
	s.seen(b, path)
	read := s.users.nobody()
	_, o := read.want(http.StatusOK, http.MethodGet, s.query+path+"?at="+created["createdAt"].(string), nil)
	require.Equal(s.t, "Thing", o["name"])
	fields(s.t, o, productFields...)
	now := time.Now()
	_, o = read.want(http.StatusOK, http.MethodGet, s.query+path+"?at="+url.QueryEscape(now.In(time.FixedZone("", 9*3600)).Format(time.RFC3339Nano)), nil)
	require.Equal(s.t, "Later", o["name"])
	read.refused(http.StatusNotFound, "product-not-found", http.MethodGet, s.query+path+"?at="+when(s, created["createdAt"]).Add(-time.Millisecond).Format(time.RFC3339Nano), nil)
	for _, at := range []string{soon(time.Hour), "x", "2026-01-01"} {
		read.refused(http.StatusBadRequest, "invalid-request", http.MethodGet, s.query+path+"?at="+at, nil)
	}
	require.NotEqual(s.t, a.header.Get("X-Position"), b.header.Get("X-Position"))

	id := s.admin.product(s.command, 1)
	owner := s.users.buyer()
	got, slot := s.holds(owner, id)
	<-time.After(5 * time.Millisecond)
	owner.want(http.StatusNoContent, http.MethodDelete, s.command+got.header.Get("Location"), nil)
	at := s.query + got.header.Get("Location") + "?at=" + slot["acquisitionTimestamp"].(string)
	_, o = owner.want(http.StatusOK, http.MethodGet, at, nil)
	require.Equal(s.t, "ACTIVE", o["status"])
	s.users.buyer().refused(http.StatusForbidden, "forbidden", http.MethodGet, at, nil)
}

func jsonOf(v any) string {
	b, err := json.Marshal(v)
	if err != nil {
		return err.Error()
	}
	return string(b)
}
