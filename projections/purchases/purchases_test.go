package purchases

import (
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/shopspring/decimal"
	"github.com/stretchr/testify/require"

	"github.com/dopaminestore/dopamine/domain"
)

// The rows say of each payment what the slots' own streams say, whatever became
// of it.
func TestRowsAgreeWithTheDomain(t *testing.T) {
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
	due := domain.RefundDue{UserID: user, PaymentID: first, GatewayPaymentID: "g", Amount: money(7), Reason: "x"}
	type happened struct {
		stream uuid.UUID
		event  domain.Event
	}
	for name, story := range map[string][]happened{
		"pending":        {{slot, began(first)}},
		"success":        {{slot, began(first)}, {slot, completed}},
		"failure":        {{slot, began(first)}, {slot, failed("no")}},
		"after all":      {{slot, began(first)}, {slot, failed("no")}, {slot, completed}},
		"mismatch":       {{slot, began(first)}, {slot, failed("AMOUNT_MISMATCH")}, {slot, due}},
		"late and other": {{slot, began(first)}, {slot, failed("TIMEOUT")}, {slot, failed("AMOUNT_MISMATCH")}, {slot, due}},
		"refunded": {{slot, began(first)}, {slot, failed("TIMEOUT")}, {slot, due},
			{slot, domain.RefundCompleted{UserID: user, PaymentID: first, RefundID: "r", Amount: money(7)}}},
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
			require.Equal(t, []any{p.SlotID, product, user, string(p.Status), p.GatewayID, p.FailureReason, string(p.Refund), string(p.Method), "10", "KRW"},
				[]any{row.SlotID, row.ProductID, row.UserID, row.Status, text(row.GatewayPaymentID), text(row.FailureReason), text(row.RefundStatus),
					row.Method, row.Amount, row.Currency}, name)
			require.Equal(t, p.ConfirmedAt.IsZero(), row.ConfirmedAt == nil, name)
			require.Equal(t, p.CreatedAt, row.CreatedAt, name)
			require.Equal(t, p.UpdatedAt, row.UpdatedAt, name)
		}
	}
}

func text(s *string) string {
	if s == nil {
		return ""
	}
	return *s
}
