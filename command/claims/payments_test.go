package claims_test

import (
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/stretchr/testify/require"

	"github.com/dopaminestore/dopamine/command/claims"
)

func TestDueForExpiry_WaitsForPayment(t *testing.T) {
	w := newWorld(t)
	product := w.product(10)
	c := claimOf(product, 1, 1)
	w.must(c)
	waits := func(slot uuid.UUID) (d time.Duration) {
		require.NoError(t, w.pool.QueryRow(t.Context(), `select due_at - deadline from slot_claims where slot_id = $1`, slot).Scan(&d))
		return d
	}
	w.must(claims.PaymentBegun{Product: product, SlotID: c.SlotID, Timeout: 1500 * time.Millisecond})
	require.Equal(t, 1500*time.Millisecond, waits(c.SlotID))
	w.must(claims.PaymentEnded{Product: product, SlotID: c.SlotID})
	require.Zero(t, waits(c.SlotID))
	require.ErrorIs(t, w.do(claims.PaymentBegun{Product: product, SlotID: uuid.New()}), claims.ErrNotActive)

	// A price of zero, and a slot that is paid from the beginning: neither ever becomes due.
	w.must(claims.PaymentBegun{Product: product, SlotID: c.SlotID, Timeout: time.Hour, Paid: true})
	paid := claimOf(product, 2, 2)
	paid.Paid = true
	w.must(paid)
	for _, slot := range []uuid.UUID{c.SlotID, paid.SlotID} {
		r, held, err := w.claims.BySlot(t.Context(), slot)
		require.NoError(t, err)
		require.True(t, held)
		require.Equal(t, claims.Completed, r.Status)
		for _, refused := range []guarded{
			claims.PaymentBegun{Product: product, SlotID: slot}, claims.PaymentEnded{Product: product, SlotID: slot},
			claims.Warned{Product: product, SlotID: slot}, claims.Release{Product: product, SlotID: slot},
		} {
			require.ErrorIs(t, w.do(refused), claims.ErrNotActive, "%T", refused)
		}
	}
}

// The deadline is compared under the append lock, by the clock of the events.
func TestPaymentBegun_RefusedAfterDeadline(t *testing.T) {
	w := newWorld(t)
	product := w.product(2)
	c := claimOf(product, 1, 1)
	c.TTL = time.Millisecond
	w.must(c)
	for { // until the clock has passed the deadline
		due, err := w.claims.DueForExpiry(t.Context(), 10)
		require.NoError(t, err)
		if len(due) == 1 {
			require.Equal(t, c.SlotID, due[0].SlotID)
			break
		}
	}
	require.ErrorIs(t, w.do(claims.PaymentBegun{Product: product, SlotID: c.SlotID, Timeout: time.Hour}), claims.ErrPastDeadline)
	w.must(claims.Release{Product: product, SlotID: c.SlotID})
	require.ErrorIs(t, w.do(claims.PaymentBegun{Product: product, SlotID: c.SlotID, Timeout: time.Hour}), claims.ErrNotActive)
}

// Slots that wait for a payment outcome delay no other slot's end, however many they
// are and however long they are due.
func TestDueForExpiry_PendingPaymentsDelayNoOther(t *testing.T) {
	w := newWorld(t)
	product := w.product(3)
	const waiting = 2
	for n := 1; n <= waiting+1; n++ {
		c := claimOf(product, int64(n), n)
		c.TTL = 200 * time.Millisecond
		w.must(c)
		if n <= waiting {
			w.must(claims.PaymentBegun{Product: product, SlotID: c.SlotID, Timeout: time.Millisecond})
			continue
		}
		for deadline := time.Now().Add(10 * time.Second); ; { // until the clock has passed the deadline
			due, err := w.claims.DueForExpiry(t.Context(), 1)
			require.NoError(t, err)
			if len(due) == 1 {
				require.Equal(t, c.SlotID, due[0].SlotID)
				break
			}
			require.True(t, time.Now().Before(deadline), "it is not found")
		}
	}
	due, err := w.claims.DueForTimeout(t.Context(), 10)
	require.NoError(t, err)
	require.Len(t, due, waiting)
	for _, d := range due {
		require.Equal(t, time.Millisecond, d.At.Sub(d.Deadline))
	}
}
