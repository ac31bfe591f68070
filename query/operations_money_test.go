package query_test

import (
	"slices"
	"testing"

	"github.com/google/uuid"
	"github.com/stretchr/testify/require"
)

// GET /v1/operations/money (contract 7): items of one payment and time, of which those on a page are
// resolved before the next page is read.
func TestMoneyList_SkipsNoItemIfOthersAreResolved(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	boss, id := w.token(uuid.New(), admin), uuid.New()
	w.exec(`INSERT INTO payments (payment_id, slot_id, product_id, user_id, amount, currency, method, status, initiated_at, posted_at)
		VALUES ($1, $2, $2, $2, 10, 'KRW', 'CARD', 'SUCCESS', $3, $3)`, id, uuid.New(), day)
	var want []string
	for i := range 5 {
		refund := uuid.New()
		want = append(want, refund.String())
		if i < 2 {
			w.exec(`INSERT INTO payment_attention VALUES ($1, $2, 'REFUND_FAILED', $3, 'CLOSED', $4)`, id, 4*i, refund, day)
		} else {
			w.exec(`INSERT INTO payment_refunds (refund_id, payment_id, amount, currency, status, due_at, ask_at)
				VALUES ($1, $2, 2, 'KRW', 'PENDING', $3, $3)`, refund, id, day)
		}
	}
	var got []string
	for cursor := ""; ; {
		page := w.get("/v1/operations/money?limit=1"+cursor, boss).json(t)
		for _, item := range page["items"].([]any) {
			refund := item.(map[string]any)["refundId"].(string)
			got = append(got, refund)
			w.exec(`DELETE FROM payment_attention WHERE refund_id = $1`, refund)
			w.exec(`UPDATE payment_refunds SET status = 'COMPLETED', ask_at = NULL WHERE refund_id = $1`, refund)
		}
		next, more := page["nextCursor"].(string)
		if !more {
			break
		}
		cursor = "&cursor=" + next
	}
	slices.Sort(want)
	slices.Sort(got)
	require.Equal(t, want, got, "each once")
}
