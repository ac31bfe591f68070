package e2e

import (
	"context"
	"net/http"
	"strings"

	"github.com/stretchr/testify/require"
)

// outcome reads a product's history from the event store and compares it with the claims, the read
// models and the APIs.
func (f *fleet) outcome(product string) {
	f.t.Helper()
	f.settled()
	ctx := context.Background()
	none := func(what, sql string) {
		f.t.Helper()
		var n int
		require.NoError(f.t, f.db.QueryRow(ctx, sql, product).Scan(&n), what)
		require.Zero(f.t, n, what)
	}
	var grants int
	require.NoError(f.t, f.db.QueryRow(ctx, `SELECT count(*) FROM events WHERE key = $1 AND type = 'SlotAcquired'`, product).Scan(&grants))
	require.NotZero(f.t, grants, "nothing was granted, so nothing is shown")

	none("numbers used twice", `
		SELECT count(*) FROM (SELECT 1 FROM events WHERE key = $1 AND type IN ('SlotAcquired', 'GrantWithdrawn')
			GROUP BY payload->>'arrivalSequence' HAVING count(*) > 1) twice`)
	none("units sold twice: each is free when it is granted", `
		SELECT count(*) FROM (
			SELECT type, lag(type) OVER (PARTITION BY payload->>'unit' ORDER BY position) AS before
			FROM events WHERE key = $1 AND type IN ('SlotAcquired', 'SlotExpired')) unit
		WHERE type = coalesce(before, 'SlotExpired')`)
	none("slots that ended twice", `
		SELECT count(*) FROM (SELECT 1 FROM events WHERE key = $1 AND type IN ('SlotExpired', 'PaymentCompleted')
			GROUP BY stream HAVING count(*) > 1) twice`)
	none("claims that are not the store's live slots", `
		WITH live AS (
			SELECT stream AS slot, (payload->>'unit')::int AS unit FROM events a WHERE key = $1 AND type = 'SlotAcquired'
				AND NOT EXISTS (SELECT FROM events e WHERE e.stream = a.stream AND e.type = 'SlotExpired'))
		SELECT count(*) FROM live FULL JOIN (SELECT * FROM slot_claims WHERE product_id = $1) c
			ON c.slot_id = live.slot AND c.unit = live.unit
		WHERE c.slot_id IS NULL OR live.slot IS NULL`)
	none("events without their audit row, or the reverse", `
		SELECT count(*) FROM (SELECT * FROM events WHERE key = $1 AND (type LIKE 'Slot%' OR type LIKE 'Payment%' OR type LIKE 'Refund%')) e
			FULL JOIN (SELECT * FROM slot_audit_log WHERE product_id = $1) a
			ON a.event_id = e.id AND a.position = e.position AND a.type = e.type AND a.slot_id = e.stream
				AND a.recorded_at = e.recorded_at AND a.actor = e.actor AND e.traceparent LIKE '00-' || a.trace_id || '-%'
		WHERE a.event_id IS NULL OR e.id IS NULL`)
	none("slots that are not the fold of the store", `
		WITH fold AS (
			SELECT a.stream AS id, (a.payload->>'userId')::uuid AS user_id, (a.payload->>'unit')::int AS unit,
				(a.payload->>'arrivalSequence')::bigint AS number, a.recorded_at AS acquired,
				a.recorded_at + (a.payload->>'ttl')::bigint * interval '1 ms' AS expires,
				CASE e.type WHEN 'SlotExpired' THEN 'EXPIRED' WHEN 'PaymentCompleted' THEN 'COMPLETED' ELSE 'ACTIVE' END AS status,
				e.recorded_at AS ended, e.payload->>'reclaimStatus' AS reclaim
			FROM events a LEFT JOIN events e ON e.stream = a.stream AND e.type IN ('SlotExpired', 'PaymentCompleted')
			WHERE a.key = $1 AND a.type = 'SlotAcquired')
		SELECT count(*) FROM fold FULL JOIN (SELECT * FROM purchase_slots WHERE product_id = $1) s
			ON s.id = fold.id AND s.user_id = fold.user_id AND s.unit = fold.unit AND s.arrival_sequence = fold.number
				AND s.acquisition_timestamp = fold.acquired AND s.expiration_timestamp = fold.expires AND s.status = fold.status
				AND s.ended_at IS NOT DISTINCT FROM fold.ended AND s.reclaim_status IS NOT DISTINCT FROM fold.reclaim
		WHERE s.id IS NULL OR fold.id IS NULL`)
	none("a stock that is not what is left", `
		SELECT count(*) FROM products p WHERE id = $1
			AND stock <> total_stock - (SELECT count(*) FROM slot_claims c WHERE c.product_id = p.id)`)

	status, said, errs := call(f.t, f.env("fairness"), "fairness", "verify", product, "--query-url", f.queryURL)
	require.Equal(f.t, 0, status, "fairness verify: %s%s", said, errs)
	_, fair := f.users.nobody().want(http.StatusOK, http.MethodGet, f.queryURL+"/v1/products/"+product+"/fairness", nil)
	require.Equal(f.t, "0", number(fair["inversions"]), "inversions")

	audit := f.admin.with("Accept", "application/x-ndjson").get(f.queryURL + "/v1/audit?productId=" + product + "&type=SlotAcquired")
	require.Equal(f.t, http.StatusOK, audit.status)
	require.Equal(f.t, grants, strings.Count(string(audit.body), "\n"), "the audit as the API shows it")
}
