package worker

import (
	"context"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/stretchr/testify/require"

	"github.com/dopaminestore/dopamine/domain"
	"github.com/dopaminestore/dopamine/internal/gateway"
	"github.com/dopaminestore/dopamine/tools/dbtest"
	"github.com/dopaminestore/dopamine/tools/storetest"
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
	w.awaitPurchase(product)
	client, _ := openClient(t, w.sim.Handler(), 0)
	bought, err := client.FindPayment(ctx, gateway.PaymentQuery{Reference: payment})
	require.NoError(t, err)
	made := gateway.RefundRequest{RefundID: uuid.New(), Reference: payment, GatewayPaymentID: bought.ID, Amount: storetest.KRW(t, 300)}
	_, err = client.Refund(ctx, made)
	require.NoError(t, err)

	lose := func(refund, payment uuid.UUID, gatewayID string, completed bool, amount int) {
		dbtest.Exec(t, w.Pool, `insert into lost_refunds (refund_id, payment_id, charge, gateway_refund_id, completed, amount, currency)
			values ($1, $2, $3, $4, $5, $6, 'KRW')`, refund, payment, bought.ID, gatewayID, completed, amount)
	}
	notMade, byHand, noPayment := uuid.New(), uuid.New(), uuid.New()
	lose(notMade, payment, "", false, 200)
	lose(byHand, payment, "re_by_hand", true, 100) // made at the gateway, which does not know our id of it
	lose(noPayment, uuid.New(), "re_lost", true, 100)
	lose(made.RefundID, payment, "", false, 300)

	want := map[uuid.UUID]string{made.RefundID: "RECORDED", byHand: "RECORDED", notMade: "NOT_MADE", noPayment: "NO_PAYMENT"}
	testkit.EventuallyTrue(t, 30*time.Second, "an outcome of each", func() bool {
		got := dbtest.One[map[uuid.UUID]string](t, w.Pool, `select coalesce(json_object_agg(refund_id, outcome), '{}') from lost_refunds where outcome is not null`)
		require.Subset(t, want, got)
		return len(got) == len(want)
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
	dbtest.Exec(t, w.Pool, `update lost_refunds set outcome = null, ask_at = clock_timestamp() where refund_id = $1`, made.RefundID)
	testkit.EventuallyTrue(t, 30*time.Second, "the outcome", func() bool {
		return dbtest.One[bool](t, w.Pool, `select outcome is not null from lost_refunds where refund_id = $1`, made.RefundID)
	})
	require.Equal(t, 2, w.count(product, "RefundCompleted"))
}
