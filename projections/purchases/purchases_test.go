package purchases

import (
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/shopspring/decimal"
	"github.com/stretchr/testify/require"

	"github.com/dopaminestore/dopamine/domain"
)

// Each payment's row agrees with a fold of the slots' streams, whatever happened to the payment.
func TestPurchases_RowsAgreeWithTheDomain(t *testing.T) {
	money := func(n int64) domain.Money {
		m, err := domain.NewMoney(decimal.NewFromInt(n), "KRW")
		require.NoError(t, err)
		return m
	}
	product, user := uuid.New(), uuid.New()
	slot, next := domain.SlotID(product, 1), domain.SlotID(product, 2)
	first, second := uuid.New(), uuid.New()
	began := func(id uuid.UUID) domain.Event {
		return domain.PaymentInitiated{UserID: user, PaymentID: id, Price: money(10), Method: domain.Wallet}
	}
	failed := func(reason string) domain.Event {
		return domain.PaymentFailed{UserID: user, PaymentID: first, Reason: reason}
	}
	completed := domain.PaymentCompleted{UserID: user, PaymentID: first, GatewayPaymentID: "g", Price: money(10), Method: domain.Wallet}
	refund, other := uuid.New(), uuid.New()
	due := domain.RefundDue{UserID: user, PaymentID: first, GatewayPaymentID: "g", Amount: money(7), Reason: "X", RefundID: refund, Cause: domain.RefundLate}
	asked := func(id uuid.UUID, amount int64) domain.Event {
		return domain.RefundDue{UserID: user, PaymentID: first, Amount: money(amount), Reason: "R", RefundID: id, Cause: domain.RefundRequested}
	}
	made := func(id uuid.UUID, amount int64) domain.Event {
		return domain.RefundCompleted{UserID: user, PaymentID: first, RefundID: id, GatewayRefundID: "r", Amount: money(amount)}
	}
	refused := domain.RefundFailed{UserID: user, PaymentID: first, RefundID: refund, Amount: money(4), Reason: "CLOSED"}
	dispute := domain.PaymentDisputed{UserID: user, PaymentID: first, DisputeID: "d"}
	type happened struct {
		stream uuid.UUID
		event  domain.Event
	}
	for name, story := range map[string][]happened{
		"begun":          {{slot, began(first)}},
		"success":        {{slot, began(first)}, {slot, completed}},
		"failure":        {{slot, began(first)}, {slot, failed("no")}},
		"after all":      {{slot, began(first)}, {slot, failed("no")}, {slot, completed}},
		"mismatch":       {{slot, began(first)}, {slot, failed("AMOUNT_MISMATCH")}, {slot, due}},
		"late and other": {{slot, began(first)}, {slot, failed("TIMEOUT")}, {slot, failed("AMOUNT_MISMATCH")}, {slot, due}},
		"refunded": {{slot, began(first)}, {slot, failed("TIMEOUT")}, {slot, due},
			{slot, made(refund, 7)}},
		"part":         {{slot, began(first)}, {slot, completed}, {slot, asked(refund, 4)}, {slot, made(refund, 4)}},
		"whole":        {{slot, began(first)}, {slot, completed}, {slot, asked(refund, 4)}, {slot, made(refund, 4)}, {slot, asked(other, 6)}, {slot, made(other, 6)}},
		"refused":      {{slot, began(first)}, {slot, completed}, {slot, asked(refund, 4)}, {slot, refused}},
		"accepted":     {{slot, began(first)}, {slot, completed}, {slot, asked(refund, 4)}, {slot, refused}, {slot, domain.PaymentResolved{UserID: user, PaymentID: first, Cause: domain.CauseRefundFailed, RefundID: &refund, Action: domain.AcceptItem, Note: "N"}}},
		"pending":      {{slot, began(first)}, {slot, completed}, {slot, asked(refund, 4)}, {slot, domain.RefundPending{UserID: user, PaymentID: first, RefundID: refund, Amount: money(4)}}},
		"twice":        {{slot, began(first)}, {slot, completed}, {slot, domain.RefundDue{UserID: user, PaymentID: first, GatewayPaymentID: "g2", Amount: money(3), Reason: "D", RefundID: other, Cause: domain.RefundDuplicateCharge}}},
		"disputed":     {{slot, began(first)}, {slot, completed}, {slot, dispute}},
		"lost":         {{slot, began(first)}, {slot, completed}, {slot, dispute}, {slot, domain.PaymentDisputeClosed{UserID: user, PaymentID: first, DisputeID: "d"}}, {slot, domain.PaymentReversed{UserID: user, PaymentID: first}}},
		"contradicted": {{slot, began(first)}, {slot, completed}, {slot, domain.PaymentContradicted{UserID: user, PaymentID: first, Code: "C"}}},
		"cancelling":   {{slot, began(first)}, {slot, domain.PaymentCancelRequested{UserID: user, PaymentID: first}}},
		"granted again": {{slot, began(first)}, {slot, failed("TIMEOUT")}, {next, completed},
			{slot, domain.PaymentRegranted{UserID: user, PaymentID: first, GatewayPaymentID: "g", NewSlotID: next}}},
		"two": {{slot, began(first)}, {slot, failed("no")}, {slot, began(second)}, {slot, due}},
	} {
		f := New().NewFold(1).(*fold)
		streams := map[uuid.UUID]domain.Slot{}
		at := time.Now().UTC().Truncate(time.Millisecond)
		for i, h := range append([]happened{{slot, domain.SlotAcquired{UserID: user}}, {next, domain.SlotAcquired{UserID: user}}}, story...) {
			at = at.Add(time.Second)
			e := domain.Envelope{Position: int64(i + 1), StreamID: h.stream, ProductID: product, RecordedAt: at, Event: h.event}
			streams[h.stream] = domain.EvolveSlot(streams[h.stream], e)
			if _, ours := (Projection{}).Key(e); ours {
				require.NoError(t, f.Apply(e), name)
			}
		}
		want := streams[slot].Payments
		require.Len(t, f.rows, len(want), name)
		for _, p := range want {
			row := f.rows[p.ID]
			require.Equal(t, []any{p.SlotID, product, user, p.Status, p.GatewayID, p.FailureReason, p.RefundStatus(), p.Method, "10", "KRW",
				p.Disputed(), p.Reversed, p.Refunded().String()},
				[]any{row.SlotID, row.ProductID, row.UserID, row.Status, row.GatewayID, row.FailureReason, row.RefundStatus(),
					row.Method, row.Price.String(), row.Price.Currency(), row.Disputed(), row.Reversed, row.Refunded().String()}, name)
			require.Equal(t, p.ConfirmedAt, row.ConfirmedAt, name)
			require.Equal(t, p.CreatedAt, row.CreatedAt, name)
			require.Equal(t, p.UpdatedAt, row.UpdatedAt, name)
			for _, r := range p.Refunds {
				require.Equal(t, r, f.refunds[r.ID].Refund, name)
			}
		}
		// After a re-grant the payment continues in the next slot's stream.
		for _, p := range streams[next].Payments {
			row := f.rows[p.ID]
			require.Equal(t, []any{p.SlotID, p.Status, p.GatewayID, p.Method, p.Price.String(), p.Price.Currency()},
				[]any{row.SlotID, row.Status, row.GatewayID, row.Method, row.Price.String(), row.Price.Currency()}, name)
		}
	}
}
