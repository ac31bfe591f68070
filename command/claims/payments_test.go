package claims_test

import (
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/stretchr/testify/require"

	"github.com/dopaminestore/dopamine/command/claims"
	"github.com/dopaminestore/dopamine/command/deadlines"
	"github.com/dopaminestore/dopamine/tools/claimstest"
)

func TestPaymentBegun_DelaysExpiry(t *testing.T) {
	w := claimstest.New(t)
	product := w.Product(10)
	c := claimstest.Claim(product, 1, 1)
	w.Must(c)
	waits := func(slot uuid.UUID) (d time.Duration) {
		require.NoError(t, w.Pool.QueryRow(t.Context(), `select due_at - deadline from slot_claims where slot_id = $1`, slot).Scan(&d))
		return d
	}
	w.Must(claims.PaymentBegun{Product: product, SlotID: c.SlotID, Timeout: 1500 * time.Millisecond})
	require.Equal(t, 1500*time.Millisecond, waits(c.SlotID))
	w.Must(claims.PaymentEnded{Product: product, SlotID: c.SlotID})
	require.Zero(t, waits(c.SlotID))
	require.ErrorIs(t, w.Do(claims.PaymentBegun{Product: product, SlotID: uuid.New()}), claims.ErrNotActive)

	// A price of zero, and a slot that is paid from the beginning: neither ever becomes due.
	w.Must(claims.PaymentBegun{Product: product, SlotID: c.SlotID, Timeout: time.Hour, Paid: true})
	paid := claimstest.Claim(product, 2, 2)
	paid.Paid = true
	w.Must(paid)
	for _, slot := range []uuid.UUID{c.SlotID, paid.SlotID} {
		r, held, err := w.Claims.BySlot(t.Context(), slot)
		require.NoError(t, err)
		require.True(t, held)
		require.Equal(t, claims.Completed, r.Status)
		for _, refused := range []claimstest.Item{
			claims.PaymentBegun{Product: product, SlotID: slot}, claims.PaymentEnded{Product: product, SlotID: slot},
			claims.Warned{Product: product, SlotID: slot}, claims.Release{Product: product, SlotID: slot},
		} {
			require.ErrorIs(t, w.Do(refused), claims.ErrNotActive, "%T", refused)
		}
	}
}

// The deadline is compared under the append lock, by the clock of the events.
func TestPaymentBegun_RefusedAfterDeadline(t *testing.T) {
	w := claimstest.New(t)
	product := w.Product(2)
	c := claimstest.Claim(product, 1, 1)
	c.TTL = time.Millisecond
	w.Must(c)
	for { // until the clock has passed the deadline
		due, err := deadlines.NewStore(w.Pool).DueForExpiry(t.Context(), 10)
		require.NoError(t, err)
		if len(due) == 1 {
			require.Equal(t, c.SlotID, due[0].SlotID)
			break
		}
	}
	require.ErrorIs(t, w.Do(claims.PaymentBegun{Product: product, SlotID: c.SlotID, Timeout: time.Hour}), claims.ErrPastDeadline)
	w.Must(claims.Release{Product: product, SlotID: c.SlotID})
	require.ErrorIs(t, w.Do(claims.PaymentBegun{Product: product, SlotID: c.SlotID, Timeout: time.Hour}), claims.ErrNotActive)
}
