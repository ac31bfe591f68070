package query_test

import (
	"bufio"
	"bytes"
	"encoding/csv"
	"encoding/json"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/stretchr/testify/require"

	"github.com/dopaminestore/dopamine/internal/consistency"
	"github.com/dopaminestore/dopamine/internal/kafka"
	"github.com/dopaminestore/dopamine/tools/testkit"
)

// The audit of contract 7 (GET /v1/audit) with each filter.
func TestAudit_Filters(t *testing.T) {
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
		require.Equal(t, idStrings(want), idsOf(t, w.get("/v1/audit?"+query, boss), "entries"), query)
	}
	for _, bad := range []string{"slotId=1", "productId=1", "userId=1", "type=ProductCreated", "type=slotacquired", "from=1", "to=1", "limit=0", "limit=1001", "cursor=x"} {
		require.Equal(t, "invalid-request", w.get("/v1/audit?"+bad, boss).slug(t), bad)
	}
	require.Equal(t, "forbidden", w.get("/v1/audit", w.token(user, buyer)).slug(t))

	v := w.get("/v1/audit?slotId="+slot.String(), boss).json(t)["entries"].([]any)[0].(map[string]any)
	p, err := consistency.Parse(v["position"].(string))
	require.NoError(t, err)
	require.Equal(t, consistency.ProductPosition{Product: product, Position: 3, Incarnation: 1}, p)
	require.Equal(t, map[string]any{"unit": 1.0, "arrivalSequence": 1.0}, v["metadata"])
	require.Nil(t, v["oldStatus"])
}

// Pages of the audit (contract 7).
func TestAudit_Cursor(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	boss := w.token(uuid.New(), admin)
	product := uuid.New()
	var want, got []string
	for i := range 5 {
		want = append(want, w.audit(1, entry{slot: uuid.New(), product: product, user: uuid.New(), at: day, position: int64(i + 1)}).String())
	}
	path := "/v1/audit?limit=2&from=2026-01-01T00:00:00Z"
	w.pages(path, boss, func(page response) { got = append(got, idsOf(t, page, "entries")...) })
	require.Equal(t, want, got)
	next := w.get(path, boss).nextCursor(t)
	require.Equal(t, "invalid-request", w.get("/v1/audit?"+next, boss).slug(t), "other filters")
	require.Equal(t, "invalid-request", w.get("/v1/purchases?"+next, boss).slug(t), "another list")
}

// Exports have every row (contract 7).
func TestAudit_ExportIsComplete(t *testing.T) {
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

// productsOfTwoPartitions returns two products in different partitions.
func productsOfTwoPartitions() (a, b uuid.UUID) {
	a = uuid.New()
	for b = uuid.New(); kafka.Partition(a, partitions) == kafka.Partition(b, partitions); {
		b = uuid.New()
	}
	return a, b
}

// published sets how far the relay is: it has published the products' events up to these positions.
func (w *world) published(at map[uuid.UUID]int64) {
	w.t.Helper()
	last, head := make([]int64, partitions), int64(0)
	for product, place := range at {
		last[kafka.Partition(product, partitions)] = place
		head = max(head, place)
	}
	w.exec(`DELETE FROM relay_place`)
	w.exec(`INSERT INTO relay_place (cluster_id, topic_id, position, event_id, last) VALUES ('c', 't', $1, gen_random_uuid(), $2)`, head, last)
}

// TestAudit_LaggingPartition pages through the audit while the partition of one product lags. Later
// entries are held back until it has caught up, and no entry is skipped (contract 7).
func TestAudit_LaggingPartition(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	boss := w.token(uuid.New(), admin)
	quick, slow := productsOfTwoPartitions()
	entryOf := func(product uuid.UUID, place int64) string {
		return w.audit(1, entry{slot: product, product: product, user: uuid.New(), at: day, position: place}).String()
	}
	var want []string
	want = append(want, entryOf(quick, 1), entryOf(slow, 2), entryOf(quick, 3))
	late := entryOf(quick, 6) // 4 and 5 belong to the slow product and are not applied
	w.reach("slot_audit_log", 1, quick, 6)
	w.reach("slot_audit_log", 1, slow, 2)
	w.published(map[uuid.UUID]int64{quick: 6, slow: 5})

	a := w.get("/v1/audit", boss)
	require.Equal(t, want[:2], idsOf(t, a, "entries"), "complete up to 2: 3 is the first that may come before others")
	cursor, ok := a.json(t)["nextCursor"].(string)
	require.True(t, ok, "further pages exist")
	held := w.get("/v1/audit?cursor="+cursor, boss)
	require.Empty(t, held.json(t)["entries"])
	require.Equal(t, cursor, held.json(t)["nextCursor"], "it stays")
	require.Equal(t, []string{want[0], want[2], late}, idsOf(t, w.get("/v1/audit?productId="+quick.String(), boss), "entries"), "only its own partition counts")
	require.Equal(t, []string{want[0], want[2], late}, idsOf(t, w.get("/v1/audit?slotId="+quick.String(), boss), "entries"))
	require.Equal(t, "read-model-behind", w.get("/v1/audit", boss, atLeast(quick, 6)).slug(t), "it cannot be shown yet")

	export := w.get("/v1/audit", boss, header{"Accept": "application/x-ndjson"})
	require.Equal(t, 2, bytes.Count(export.body, []byte("\n")))
	at, err := consistency.Parse(export.Header.Get("X-Complete-Position"))
	require.NoError(t, err)
	require.EqualValues(t, 2, at.Position)
	require.Equal(t, export.Header.Get("X-Complete-Position"), export.Trailer.Get("X-Complete-Position"))

	want = append(want, entryOf(slow, 4), entryOf(slow, 5), late)
	w.reach("slot_audit_log", 1, slow, 5)
	testkit.EventuallyEqual(t, 5*time.Second, "the audit to continue", want[2:], func() []string {
		return idsOf(t, w.get("/v1/audit?cursor="+cursor, boss), "entries")
	})
	require.Nil(t, w.get("/v1/audit", boss).json(t)["nextCursor"])
	require.Equal(t, want, idsOf(t, w.get("/v1/audit", boss, atLeast(quick, 6)), "entries"))

	w.exec(`INSERT INTO parked_events (projection, generation, row_key, position, topic, partition, product_id, error, behind)
		VALUES ('slot_audit_log', 1, $1, 3, $2, $3, $1, 'x', false)`, quick, kafka.Topic, kafka.Partition(quick, partitions))
	require.Equal(t, want[:2], idsOf(t, w.get("/v1/audit", boss), "entries"), "a parked event may be applied yet")
	require.Equal(t, []string{want[1], want[3], want[4]}, idsOf(t, w.get("/v1/audit?productId="+slow.String(), boss), "entries"))
}

// TestPurchases_CompletePosition checks the same for the export of purchases (contract 7).
func TestPurchases_CompletePosition(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	quick, slow := productsOfTwoPartitions()
	w.reach("purchases", 1, quick, 9)
	w.reach("purchases", 1, slow, 4)
	w.published(map[uuid.UUID]int64{quick: 9, slow: 4})
	export := w.get("/v1/purchases", w.token(uuid.New(), admin), header{"Accept": "text/csv"})
	at, err := consistency.Parse(export.Header.Get("X-Complete-Position"))
	require.NoError(t, err)
	require.EqualValues(t, 9, at.Position)
	require.Equal(t, export.Header.Get("X-Complete-Position"), export.Trailer.Get("X-Complete-Position"))
}
