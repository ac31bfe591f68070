package deadlines_test

import (
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/dopaminestore/dopamine/command/claims"
	"github.com/dopaminestore/dopamine/command/deadlines"
	"github.com/dopaminestore/dopamine/tools/claimstest"
)

// Slots that wait for a payment outcome delay no other slot's end, however many they
// are and however long they are due.
func TestDueForExpiry_PendingPaymentsDelayNoOther(t *testing.T) {
	w := claimstest.New(t)
	store := deadlines.NewStore(w.Pool)
	product := w.Product(3)
	const waiting = 2
	for n := 1; n <= waiting+1; n++ {
		c := claimstest.Claim(product, int64(n), n)
		c.TTL = 200 * time.Millisecond
		w.Must(c)
		if n <= waiting {
			w.Must(claims.PaymentBegun{Product: product, SlotID: c.SlotID, Timeout: time.Millisecond})
			continue
		}
		for deadline := time.Now().Add(10 * time.Second); ; { // until the clock has passed the deadline
			due, err := store.DueForExpiry(t.Context(), 1)
			require.NoError(t, err)
			if len(due) == 1 {
				require.Equal(t, c.SlotID, due[0].SlotID)
				break
			}
			require.True(t, time.Now().Before(deadline), "it is not found")
		}
	}
	due, err := store.DueForTimeout(t.Context(), 10)
	require.NoError(t, err)
	require.Len(t, due, waiting)
	for _, d := range due {
		require.Equal(t, time.Millisecond, d.At.Sub(d.Deadline))
	}
	expiry, timeout, err := store.Overdue(t.Context())
	require.NoError(t, err)
	require.Positive(t, expiry)
	require.Greater(t, timeout, expiry, "the slots with a payment were due before the other")
	_, err = w.Pool.Exec(t.Context(), "delete from slot_claims")
	require.NoError(t, err)
	expiry, timeout, err = store.Overdue(t.Context())
	require.NoError(t, err)
	require.Zero(t, expiry+timeout, "none is due")
}
