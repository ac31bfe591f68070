package query_test

import (
	"bufio"
	"bytes"
	"encoding/csv"
	"encoding/json"
	"net/http"
	"net/url"
	"strings"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/stretchr/testify/require"

	"github.com/dopaminestore/dopamine/internal/position"
)

func TestAuditByEachFilter(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	boss := w.token(uuid.New(), admin)
	slot, product, user := uuid.New(), uuid.New(), uuid.New()
	a := w.audit(1, entry{slot: slot, product: product, user: user, at: day, position: 3})
	c := w.audit(1, entry{slot: uuid.New(), product: product, user: uuid.New(), at: day.Add(2 * time.Millisecond), position: 9})
	b := w.audit(1, entry{slot: slot, product: product, user: user, at: day.Add(time.Millisecond), position: 7, kind: "SlotExpired"})
	d := w.audit(1, entry{slot: uuid.New(), product: uuid.New(), user: user, at: day.Add(2 * time.Millisecond), position: 10})
	for query, want := range map[string][]uuid.UUID{
		"":                                          {a, b, c, d},
		"slotId=" + slot.String():                   {a, b},
		"productId=" + product.String():             {a, b, c},
		"userId=" + user.String():                   {a, b, d},
		"type=SlotExpired":                          {b},
		"from=2026-11-01T10:00:00.001Z":             {b, c, d},
		"from=2026-11-01T10:00:00.0011Z":            {c, d},
		"from=2026-11-01T10:00:00.003Z":             {},
		"to=2026-11-01T10:00:00.001Z":               {a},
		"to=2026-11-01T10:00:00Z":                   {},
		"to=2030-01-01T00:00:00Z&type=SlotAcquired": {a, c, d},
		"from=2026-11-01T10:00:00.001Z&to=2026-11-01T10:00:00.003Z&userId=" + user.String(): {b, d},
	} {
		require.Equal(t, idStrings(want), ids(t, w.get("/v1/audit?"+query, boss), "entries"), query)
	}
	for _, bad := range []string{"slotId=1", "productId=1", "userId=1", "type=ProductCreated", "type=slotacquired", "from=1", "to=1", "limit=0", "limit=1001", "cursor=x"} {
		require.Equal(t, "invalid-request", w.get("/v1/audit?"+bad, boss).slug(t), bad)
	}
	require.Equal(t, "forbidden", w.get("/v1/audit", w.token(user, buyer)).slug(t))

	v := w.get("/v1/audit?slotId="+slot.String(), boss).json(t)["entries"].([]any)[0].(map[string]any)
	p, err := position.Parse(v["position"].(string))
	require.NoError(t, err)
	require.Equal(t, position.Position{Product: product, Place: 3}, p)
	require.Equal(t, map[string]any{"unit": 1.0, "arrivalSequence": 1.0}, v["metadata"])
	require.Nil(t, v["oldStatus"])
}

func TestAuditIsPagedByCursor(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	boss := w.token(uuid.New(), admin)
	product := uuid.New()
	var want, got []string
	for i := range 5 {
		want = append(want, w.audit(1, entry{slot: uuid.New(), product: product, user: uuid.New(), at: day, position: int64(i + 1)}).String())
	}
	path := "/v1/audit?limit=2&from=2026-01-01T00:00:00Z"
	for cursor := ""; ; {
		a := w.get(path+cursor, boss)
		got = append(got, ids(t, a, "entries")...)
		next, more := a.json(t)["nextCursor"].(string)
		if !more {
			break
		}
		require.Equal(t, "invalid-request", w.get("/v1/audit?cursor="+url.QueryEscape(next), boss).slug(t), "other filters")
		require.Equal(t, "invalid-request", w.get("/v1/purchases?cursor="+url.QueryEscape(next), boss).slug(t), "another list")
		cursor = "&cursor=" + url.QueryEscape(next)
	}
	require.Equal(t, want, got)
}

func TestAuditIsExportedWhole(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	boss := w.token(uuid.New(), admin)
	w.exec(`INSERT INTO slot_audit_log_g1 SELECT gen_random_uuid(), 'SlotAcquired', gen_random_uuid(), gen_random_uuid(), gen_random_uuid(), NULL, 'ACTIVE',
		'0af7651916cd43dd8448eb211c80319c', 'system', $1::timestamptz + make_interval(secs => n), n, '{"unit": 7, "arrivalSequence": 9007199254740991}' FROM generate_series(1, 2000) n`, day)

	a := w.get("/v1/audit?limit=5", boss, header{"Accept": "application/x-ndjson"})
	require.Equal(t, http.StatusOK, a.StatusCode)
	require.Equal(t, "application/x-ndjson", a.Header.Get("Content-Type"))
	lines, last := 0, ""
	for s := bufio.NewScanner(bytes.NewReader(a.body)); s.Scan(); lines++ {
		var e map[string]any
		require.NoError(t, json.Unmarshal(s.Bytes(), &e))
		require.Len(t, e, 12)
		require.Greater(t, e["recordedAt"], last)
		last = e["recordedAt"].(string)
		require.Contains(t, s.Text(), `"arrivalSequence":9007199254740991`)
	}
	require.Equal(t, 2000, lines)

	a = w.get("/v1/audit", boss, header{"Accept": "text/csv"})
	records, err := csv.NewReader(bytes.NewReader(a.body)).ReadAll()
	require.NoError(t, err)
	require.Len(t, records, 2001)
	require.Equal(t, strings.Split("eventId,type,slotId,productId,userId,oldStatus,newStatus,traceId,actor,recordedAt,position,metadata", ","), records[0])
	require.JSONEq(t, `{"unit":7,"arrivalSequence":9007199254740991}`, records[1][11])
	require.Empty(t, records[1][5])

	a = w.get("/v1/audit?type=SlotExpired", boss, header{"Accept": "application/x-ndjson"})
	require.Equal(t, http.StatusOK, a.StatusCode)
	require.Empty(t, a.body)
}
