package recovery

import (
	"context"
	"errors"
	"testing"

	"github.com/google/uuid"
	"github.com/stretchr/testify/require"

	"github.com/dopaminestore/dopamine/domain"
	"github.com/dopaminestore/dopamine/tools/dbtest"
	"github.com/dopaminestore/dopamine/tools/storetest"
)

// Refunds and payments that the store lost are found in the topic; those of an event that it
// still has are not.
func TestRecover_FindsLostMoneyInTheTopic(t *testing.T) {
	t.Parallel()
	s := newShop(t, false)
	price, part := storetest.KRW(t, 1000), storetest.KRW(t, 400)
	user := uuid.New()
	s.acquire(2)
	kept, other := domain.SlotID(s.product, 1), domain.SlotID(s.product, 2)
	payment, lost := uuid.New(), uuid.New()
	s.Record(s.product, kept, domain.PaymentInitiated{UserID: user, PaymentID: payment, Price: price, Method: domain.Card})
	s.Record(s.product, kept, domain.PaymentCompleted{UserID: user, PaymentID: payment, GatewayPaymentID: "ch_1", Price: price, Method: domain.Card})
	first := uuid.New()
	s.Record(s.product, kept, domain.RefundDue{UserID: user, PaymentID: payment, GatewayPaymentID: "ch_1", Amount: storetest.KRW(t, 10),
		RefundID: first, Reason: "REQUESTED", Cause: domain.RefundRequested})
	s.AwaitCaughtUp()
	restore := dbtest.Snapshot(t, s.URL)
	due := func(payment, id uuid.UUID, cause domain.RefundCause) {
		s.Record(s.product, kept, domain.RefundDue{UserID: user, PaymentID: payment, GatewayPaymentID: "ch_1", Amount: part, RefundID: id, Reason: "REQUESTED", Cause: cause})
	}
	open, made := uuid.New(), uuid.New()
	due(payment, open, domain.RefundRequested)
	due(payment, made, domain.RefundRequested)
	due(payment, uuid.New(), domain.RefundDuplicateCharge)
	s.Record(s.product, kept, domain.RefundCompleted{UserID: user, PaymentID: payment, GatewayRefundID: "re_1", Amount: part, RefundID: made})
	s.Record(s.product, kept, domain.RefundCompleted{UserID: user, PaymentID: payment, GatewayRefundID: "re_0", Amount: storetest.KRW(t, 10), RefundID: first})
	s.Record(s.product, other, domain.PaymentInitiated{UserID: user, PaymentID: lost, Price: price, Method: domain.Card})
	s.Record(s.product, other, domain.PaymentCompleted{UserID: user, PaymentID: lost, GatewayPaymentID: "ch_2", Price: price, Method: domain.Card})
	s.AwaitCaughtUp()
	restore()
	s.acquire(1)
	s.awaitRelayBlocked()

	killed := errors.New("killed")
	cfg := s.config()
	cfg.after = func(string) error { return killed }
	result, err := Run(t.Context(), cfg)
	require.ErrorIs(t, err, killed)
	payments := []LostPayment{{Payment: lost, Slot: other, User: user, Product: s.product, Amount: "1000", Currency: "KRW", GatewayID: "ch_2", Outcome: paymentSuccess}}
	require.Equal(t, payments, result.Contradictions.Money.Payments)
	require.Equal(t, payments, result.LostPayments)
	require.Zero(t, result.Contradictions.Money.Undecodable)
	rows, err := s.Pool.Query(context.Background(), `SELECT refund_id, payment_id, charge, gateway_refund_id, completed, amount::text FROM lost_refunds ORDER BY completed`)
	require.NoError(t, err)
	type row struct {
		refund, payment   uuid.UUID
		charge, gatewayID string
		completed         bool
		amount            string
	}
	var got []row
	for rows.Next() {
		var r row
		require.NoError(t, rows.Scan((*[16]byte)(&r.refund), (*[16]byte)(&r.payment), &r.charge, &r.gatewayID, &r.completed, &r.amount))
		got = append(got, r)
	}
	require.NoError(t, rows.Err())
	require.Equal(t, []row{{open, payment, "ch_1", "", false, "400.0000"}, {made, payment, "ch_1", "re_1", true, "400.0000"}}, got,
		"recorded with the incarnation, although the run ended there")

	result, err = Run(t.Context(), s.config())
	require.NoError(t, err)
	require.True(t, result.Resumed)
	require.Equal(t, payments, result.LostPayments, "named again by the run that continues")
}
