package worker

import (
	"context"
	"errors"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/stretchr/testify/require"

	"github.com/dopaminestore/dopamine/domain"
	"github.com/dopaminestore/dopamine/internal/gateway"
	"github.com/dopaminestore/dopamine/tools/dbtest"
	"github.com/dopaminestore/dopamine/tools/testkit"
)

// Refunds whose events a restore of the store lost, as `dopamine recover` finds them in the
// topic: what the gateway has made is recorded, once, and nothing is posted.
func TestLostRefunds_AreRecordedIfTheGatewayMadeThem(t *testing.T) {
	t.Parallel()
	w := newPayingWorld(t)
	ctx := context.Background()
	product := w.product(1)
	payment := w.pay(w.acquire(product, life{ttl: time.Hour}))
	testkit.EventuallyTrue(t, 30*time.Second, "the purchase", func() bool {
		w.askNow()
		return w.count(product, "PaymentCompleted") == 1
	})
	client, err := gateway.New(gateway.Options{URL: "http://" + startSim(t, w.sim)})
	require.NoError(t, err)
	defer client.Close()
	bought, err := client.FindPayment(ctx, gateway.PaymentQuery{Reference: payment})
	require.NoError(t, err)
	made := gateway.RefundRequest{RefundID: uuid.New(), Reference: payment, GatewayPaymentID: bought.ID, Amount: won(t, 300)}
	_, err = client.Refund(ctx, made)
	require.NoError(t, err)

	lose := func(refund, payment uuid.UUID, gatewayID string, completed bool, amount int) {
		dbtest.Exec(t, w.pool, `insert into lost_refunds (refund_id, payment_id, charge, gateway_refund_id, completed, amount, currency)
			values ($1, $2, $3, $4, $5, $6, 'KRW')`, refund, payment, bought.ID, gatewayID, completed, amount)
	}
	notMade, byHand, noPayment := uuid.New(), uuid.New(), uuid.New()
	lose(notMade, payment, "", false, 200)
	lose(byHand, payment, "re_by_hand", true, 100) // made at the gateway, which does not know our id of it
	lose(noPayment, uuid.New(), "re_lost", true, 100)
	lose(made.RefundID, payment, "", false, 300)

	want := map[uuid.UUID]string{made.RefundID: "RECORDED", byHand: "RECORDED", notMade: "NOT_MADE", noPayment: "NO_PAYMENT"}
	testkit.Eventually(t, 30*time.Second, "an outcome of each", func() error {
		rows, err := w.pool.Query(ctx, `select refund_id, outcome from lost_refunds where outcome is not null`)
		require.NoError(t, err)
		defer rows.Close()
		got := map[uuid.UUID]string{}
		for rows.Next() {
			var id uuid.UUID
			var outcome string
			require.NoError(t, rows.Scan((*[16]byte)(&id), &outcome))
			got[id] = outcome
		}
		require.Subset(t, want, got)
		if len(got) < len(want) {
			return errors.New("not yet")
		}
		return rows.Err()
	})
	recorded := map[uuid.UUID]string{}
	for _, e := range w.events(product) {
		if done, ok := e.Event.(domain.RefundCompleted); ok {
			recorded[done.RefundID] = done.Amount.String()
		}
	}
	require.Equal(t, map[uuid.UUID]string{made.RefundID: "300", byHand: "100"}, recorded)
	require.Equal(t, map[string]string{"KRW": "300"}, w.sim.Balance().Refunded, "nothing was posted")

	// Found once more: the same refund, by its own report.
	dbtest.Exec(t, w.pool, `update lost_refunds set outcome = null, ask_at = clock_timestamp() where refund_id = $1`, made.RefundID)
	testkit.Eventually(t, 30*time.Second, "the outcome", func() error {
		var outcome *string
		if err := w.pool.QueryRow(ctx, `select outcome from lost_refunds where refund_id = $1`, made.RefundID).Scan(&outcome); err != nil {
			return err
		}
		if outcome == nil {
			return errors.New("not yet")
		}
		return nil
	})
	require.Equal(t, 2, w.count(product, "RefundCompleted"))
}
