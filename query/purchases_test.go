package query_test

import (
	"encoding/csv"

	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/stretchr/testify/require"
)

// GET /v1/payments/{id} (contract 7).
func TestPayment_VisibleToBuyerAndAdmin(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	owner := uuid.New()
	id := w.payment(1, payment{product: uuid.New(), user: owner, status: "SUCCESS", amount: "0.1"})
	path := "/v1/payments/" + id.String()
	v := w.get(path, w.token(owner, buyer)).json(t)
	require.Equal(t, "0.10", v["amount"])
	require.Equal(t, "2026-11-01T10:00:00.000Z", v["confirmationTimestamp"])
	require.Nil(t, v["paymentId"])
	require.Equal(t, http.StatusOK, w.get(path, w.token(uuid.New(), admin)).StatusCode)
	require.Equal(t, "forbidden", w.get(path, w.token(uuid.New(), buyer)).slug(t))
	require.Equal(t, "payment-not-found", w.get("/v1/payments/"+uuid.NewString(), w.token(owner, buyer)).slug(t))
}

// GET /v1/purchases (contract 7).
func TestPurchases_Filters(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	one, two, shoe, hat := uuid.New(), uuid.New(), uuid.New(), uuid.New()
	reason := "DECLINED"
	a := w.payment(1, payment{product: shoe, user: one, created: day, status: "SUCCESS"})
	b := w.payment(1, payment{product: hat, user: one, created: day.Add(time.Millisecond)})
	c := w.payment(1, payment{product: shoe, user: two, created: day.Add(2 * time.Millisecond), status: "FAILED", reason: &reason})
	boss := w.token(uuid.New(), admin)

	for query, want := range map[string][]uuid.UUID{
		"":                           {c, b, a},
		"productId=" + shoe.String(): {c, a},
		"userId=" + one.String():     {b, a},
		"userId=" + strings.ToUpper(one.String()): {b, a},
		"status=FAILED": {c},
		"productId=" + hat.String() + "&status=SUCCESS":             {},
		"from=2026-11-01T10:00:00.001Z":                             {c, b},
		"to=2026-11-01T10:00:00.001Z":                               {a},
		"from=2026-11-01T10:00:00.0000001Z":                         {c, b},
		"from=2026-11-01T19:00:00.002%2B09:00":                      {c},
		"from=2026-11-01T19:00:00.002+09:00":                        {c},
		"from=2026-11-01T10:00:00.001Z&to=2026-11-01T10:00:00.002Z": {b},
	} {
		want := idStrings(want)
		require.Equal(t, want, idsOf(t, w.get("/v1/purchases?"+query, boss), "purchases"), query)
	}
	for _, bad := range []string{"productId=1", "userId=x", "status=PAID", "from=yesterday", "to=2026-11-01", "limit=0", "limit=1001", "limit=ten", "cursor=!", "cursor=AAAA"} {
		require.Equal(t, "invalid-request", w.get("/v1/purchases?"+bad, boss).slug(t), bad)
	}

	mine := w.token(one, buyer)
	require.Equal(t, idStrings([]uuid.UUID{b, a}), idsOf(t, w.get("/v1/purchases", mine), "purchases"))
	require.Equal(t, idStrings([]uuid.UUID{b}), idsOf(t, w.get("/v1/purchases?userId="+one.String()+"&productId="+hat.String(), mine), "purchases"))
	require.Equal(t, "forbidden", w.get("/v1/purchases?userId="+two.String(), mine).slug(t))
	require.Equal(t, "invalid-request", w.get("/v1/purchases?limit=0&userId="+two.String(), mine).slug(t), "values come before ownership")
	require.Len(t, idsOf(t, w.get("/v1/purchases?userId="+two.String(), w.token(one, buyer|admin)), "purchases"), 1)
	require.Equal(t, "forbidden", w.get("/v1/purchases", w.token(one, 0)).slug(t))
	require.Equal(t, "unauthenticated", w.get("/v1/purchases", "").slug(t))
}

func idStrings(list []uuid.UUID) []string {
	s := []string{}
	for _, id := range list {
		s = append(s, id.String())
	}
	return s
}

// TestPurchases_CursorIsStableUnderInserts reads a list in pages while rows are added at its head.
func TestPurchases_CursorIsStableUnderInserts(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	boss := w.token(uuid.New(), admin)
	user := uuid.New()
	var want []string
	for i := range 7 { // pairs with the same time: the id decides
		id := uuid.UUID{15: byte(i + 1)}
		w.payment(1, payment{id: id, product: uuid.New(), user: user, created: day.Add(time.Duration(i/2) * time.Second)})
		want = append([]string{id.String()}, want...)
	}
	var got []string
	path := "/v1/purchases?limit=2&userId=" + user.String()
	first := w.get(path, boss)
	w.pages(path, boss, func(page response) {
		got = append(got, idsOf(t, page, "purchases")...)
		w.payment(1, payment{product: uuid.New(), user: user, created: day.Add(time.Hour)})
	})
	require.Equal(t, want, got)
	require.Equal(t, "invalid-request", w.get("/v1/purchases?"+first.nextCursor(t), boss).slug(t), "other filters")
}

// CSV of contract 7.
func TestPurchases_CSV(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	boss := w.token(uuid.New(), admin)
	reason := "no \"cover\",\r\nsaid the bank"
	w.payment(1, payment{product: uuid.New(), user: uuid.New(), status: "FAILED", reason: &reason})
	w.exec(`INSERT INTO purchases_g1 SELECT gen_random_uuid(), gen_random_uuid(), gen_random_uuid(), gen_random_uuid(), NULL, 'PENDING', 12.5, 'USD',
		'CARD', NULL, NULL, NULL, $1::timestamptz + make_interval(secs => n), $1::timestamptz + make_interval(secs => n), 1 FROM generate_series(1, 2500) n`, day)

	a := w.get("/v1/purchases?limit=1", boss, header{"Accept": "text/csv"})
	require.Equal(t, http.StatusOK, a.StatusCode)
	require.Contains(t, a.Header.Get("Content-Type"), "text/csv")
	require.True(t, strings.HasPrefix(string(a.body), "id,purchaseSlotId,productId,userId,paymentId,paymentStatus,amount,currency,paymentMethod,"+
		"confirmationTimestamp,failureReason,refundStatus,createdAt,updatedAt,refundedAmount,disputed,reversed\r\n"))
	records, err := csv.NewReader(strings.NewReader(string(a.body))).ReadAll()
	require.NoError(t, err)
	require.Len(t, records, 1+2501, "all matching rows, regardless of the limit")
	last := records[2501]
	require.Equal(t, "12.50", last[6])
	require.Equal(t, strings.ReplaceAll(reason, "\r\n", "\n"), last[10]) // encoding/csv reads \r\n in a field as \n
	require.Contains(t, string(a.body), "\"no \"\"cover\"\",\r\nsaid the bank\"")
	require.Equal(t, "2026-11-01T10:00:00.000Z", last[12])
	seen := map[string]bool{}
	for _, r := range records[1:] {
		seen[r[0]] = true
	}
	require.Len(t, seen, 2501)
	require.True(t, records[1][12] > last[12])
}

func TestExport_NegotiatesTheMediaType(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	boss := w.token(uuid.New(), admin)
	for accept, want := range map[string]string{
		"":                                 "application/json",
		"*/*":                              "application/json",
		"text/html":                        "application/json",
		"text/csv":                         "text/csv",
		"TEXT/CSV; charset=utf-8":          "text/csv",
		"text/*":                           "text/csv",
		"text/csv;q=0.5, application/json": "application/json",
		"application/json;q=0.5, text/csv": "text/csv",
		"text/csv, */*":                    "text/csv",
		"*/*, text/csv;q=0":                "application/json",
		"application/x-ndjson":             "application/x-ndjson",
		"application/x-ndjson;q=0.9,text/csv;q=0.8,*/*;q=0.1": "application/x-ndjson",
		"application/*;q=0.5, application/json;q=0.1":         "application/x-ndjson",
		"text/csv;q=0":           "application/json",
		"nonsense, text/csv;q=x": "application/json",
	} {
		a := w.get("/v1/audit", boss, header{"Accept": accept})
		require.Equal(t, http.StatusOK, a.StatusCode)
		require.Contains(t, a.Header.Get("Content-Type"), want, accept)
		require.Equal(t, "Accept", a.Header.Get("Vary"))
	}
	require.Contains(t, w.get("/v1/purchases", boss, header{"Accept": "application/x-ndjson"}).Header.Get("Content-Type"), "application/json", "not offered there")
}

func TestExport_HeadHasNoBody(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	req, err := http.NewRequest(http.MethodHead, w.url+"/v1/audit", nil)
	require.NoError(t, err)
	req.Header.Set("Authorization", "Bearer "+w.token(uuid.New(), admin))
	req.Header.Set("Accept", "text/csv")
	resp, err := w.client.Do(req)
	require.NoError(t, err)
	require.NoError(t, resp.Body.Close())
	require.Equal(t, http.StatusOK, resp.StatusCode)
	require.Contains(t, resp.Header.Get("Content-Type"), "text/csv")
}

// TestCSV_ForSpreadsheets has texts that a spreadsheet would run, and the byte order mark that
// Excel needs to read Korean (contract 7).
func TestCSV_ForSpreadsheets(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	for _, reason := range []string{`=HYPERLINK("http://evil","x")`, "+1", "-1", "@SUM(A1)", "\t=1", "한도 초과"} {
		w.payment(1, payment{product: uuid.New(), user: uuid.New(), status: "FAILED", reason: &reason})
	}
	boss := w.token(uuid.New(), admin)
	csv := header{"Accept": "text/csv"}
	plain := string(w.get("/v1/purchases", boss, csv).body)
	for _, want := range []string{`"'=HYPERLINK(""http://evil"",""x"")"`, ",'+1,", ",'-1,", ",'@SUM(A1),", ",'\t=1,", ",한도 초과,"} {
		require.Contains(t, plain, want)
	}
	require.True(t, strings.HasPrefix(plain, "id,"))
	for _, path := range []string{"/v1/purchases", "/v1/audit"} {
		require.True(t, strings.HasPrefix(string(w.get(path+"?bom=true", boss, csv).body), "\xef\xbb\xbf"), path)
		require.False(t, strings.HasPrefix(string(w.get(path+"?bom=false", boss, csv).body), "\xef\xbb\xbf"), path)
		require.Equal(t, "invalid-request", w.get(path+"?bom=1", boss, csv).slug(t))
		for _, empty := range []string{"?productId=", "?userId=", "?from=", "?cursor=", "?limit="} {
			require.Equal(t, "invalid-request", w.get(path+empty, boss).slug(t), path+empty)
		}
	}
}
