package domain_test

import (
	"encoding/json"
	"maps"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/shopspring/decimal"
	"github.com/stretchr/testify/require"

	"github.com/dopaminestore/dopamine/domain"
)

func TestStartPayment_FreeCompletesAtOnce(t *testing.T) {
	free := won(0)
	events, err := active(t).StartPayment(acquired, domain.StartPayment{ID: paymentID, Offered: free, Method: domain.Wallet}, free)
	require.NoError(t, err)
	require.Equal(t, []domain.Event{
		domain.PaymentInitiated{UserID: owner.User, PaymentID: paymentID, Price: free, Method: domain.Wallet},
		domain.PaymentCompleted{UserID: owner.User, PaymentID: paymentID, Price: free, Method: domain.Wallet},
	}, events)
	s := happen(active(t), acquired, events...)
	require.Equal(t, domain.CompletedSlot, s.Status)
	require.Equal(t, domain.SuccessfulPayment, s.Payments[0].Status)
}

func TestStartPayment_ComparesAmounts(t *testing.T) {
	_, err := active(t).StartPayment(acquired, domain.StartPayment{ID: paymentID, Offered: dollars(259000)}, price)
	var mismatch *domain.AmountMismatchError
	require.ErrorAs(t, err, &mismatch)
	require.Equal(t, "slot "+slotID.String()+" costs 259000 KRW, not 259000.00 USD", mismatch.Error())
}

func TestExpire_WaitsForPendingPayment(t *testing.T) {
	pending := happen(active(t), acquired, initiated(paymentID))
	limit := deadline.Add(paymentTimeout)
	require.Equal(t, limit, pending.DueAt(paymentTimeout))
	require.Empty(t, pending.Expire(limit.Add(-time.Millisecond), paymentTimeout))

	over := happen(pending, deadline.Add(time.Minute), failed(paymentID, "NO_COVER"))
	require.Equal(t, deadline, over.DueAt(paymentTimeout))
	require.Equal(t, []domain.Event{expired(domain.AutoExpired)}, over.Expire(deadline.Add(time.Minute), paymentTimeout))
}

func TestEvolvePayment(t *testing.T) {
	at := func(minutes int) time.Time { return acquired.Add(time.Duration(minutes) * time.Minute) }
	s := happen(active(t), at(1), initiated(paymentID))
	want := domain.Payment{ID: paymentID, SlotID: slotID, Price: price, Method: domain.Card,
		Status: domain.PendingPayment, CreatedAt: at(1), UpdatedAt: at(1)}
	require.Equal(t, []domain.Payment{want}, s.Payments)

	s = happen(s, at(2), domain.PaymentFailed{PaymentID: paymentID, GatewayPaymentID: "g1", Reason: "NO_COVER"})
	want.Status, want.FailureReason, want.GatewayID, want.UpdatedAt = domain.FailedPayment, "NO_COVER", "g1", at(2)
	want.Failures = []string{"NO_COVER"}
	require.Equal(t, []domain.Payment{want}, s.Payments)

	owed := happen(s, at(3), due(paymentID))
	refund := want
	refund.UpdatedAt, refund.Taken = at(3), price
	refund.Refunds = []domain.Refund{{ID: dueID, Amount: price, Cause: domain.RefundLate, Reason: "WHY", Status: domain.DueRefund,
		CreatedAt: at(3), UpdatedAt: at(3)}}
	require.Equal(t, []domain.Payment{refund}, owed.Payments)
	require.Equal(t, domain.RefundsDue, owed.Payments[0].RefundStatus())
	owed = happen(owed, at(4), refunded(paymentID))
	refund.UpdatedAt = at(4)
	refund.Refunds = []domain.Refund{{ID: dueID, GatewayID: "r1", Amount: price, Cause: domain.RefundLate, Reason: "WHY",
		Status: domain.CompletedRefund, CreatedAt: at(3), UpdatedAt: at(4)}}
	require.Equal(t, []domain.Payment{refund}, owed.Payments)
	require.Equal(t, domain.RefundsComplete, owed.Payments[0].RefundStatus())
	require.Equal(t, domain.ActiveSlot, owed.Status)

	done := happen(s, at(5), completed(paymentID))
	want.Status, want.FailureReason, want.ConfirmedAt, want.UpdatedAt = domain.SuccessfulPayment, "", at(5), at(5)
	want.Taken = price
	require.Equal(t, []domain.Payment{want}, done.Payments)
	require.Equal(t, domain.CompletedSlot, done.Status)
	require.Equal(t, at(5), done.EndedAt)
	require.Empty(t, done.ReclaimStatus)
	require.Equal(t, domain.FailedPayment, s.Payments[0].Status, "the previous state is unchanged")
}

func TestApplyOutcome_RegrantMovesPaymentToNewSlot(t *testing.T) {
	old := happen(active(t), deadline, initiated(paymentID), failed(paymentID, domain.ReasonTimeout), expired(domain.AutoExpired))
	h := old.ApplyOutcome(success(price), granted)
	require.Equal(t, []domain.Event{domain.PaymentRegranted{
		UserID: owner.User, PaymentID: paymentID, GatewayPaymentID: "g1", NewSlotID: newSlotID}}, h.Events)
	require.NotNil(t, h.Regrant)
	require.Equal(t, newSlotID, h.Regrant.Slot)

	old = happen(old, deadline, h.Events...)
	require.Equal(t, domain.ExpiredSlot, old.Status, "the old slot stays expired")
	p, _ := old.Payment(paymentID)
	require.Equal(t, domain.SuccessfulPayment, p.Status)
	require.Equal(t, newSlotID, p.SlotID)
	require.Equal(t, "g1", p.GatewayID)
	require.Empty(t, p.FailureReason)

	var fresh domain.Slot
	for i, e := range h.Regrant.Events {
		fresh = domain.EvolveSlot(fresh, domain.Envelope{StreamID: h.Regrant.Slot, ProductID: productID,
			StreamVersion: i + 1, RecordedAt: deadline, Event: e})
	}
	require.Equal(t, domain.CompletedSlot, fresh.Status)
	require.Equal(t, slotID, *fresh.RegrantOf)
	require.Equal(t, owner.User, fresh.UserID)
	require.Equal(t, 3, fresh.Unit)
	require.Equal(t, int64(99), fresh.ArrivalSequence)
	require.Equal(t, deadline.Add(ttl), fresh.Deadline)
	require.Equal(t, []domain.Payment{{ID: paymentID, SlotID: newSlotID, GatewayID: "g1", Price: price, Method: domain.Card,
		Status: domain.SuccessfulPayment, Taken: price, ConfirmedAt: deadline, CreatedAt: deadline, UpdatedAt: deadline}}, fresh.Payments)
	require.Equal(t, domain.OutcomeResult{}, fresh.ApplyOutcome(success(price), nil), "the same money, reported to the new slot")
}

func TestFailureCode_NeverKeepsFreeText(t *testing.T) {
	pending := happen(active(t), acquired, initiated(paymentID))
	for text, want := range map[string]string{
		"": "DECLINED", " \x00\n": "DECLINED", "insufficient_funds": "INSUFFICIENT_FUNDS", "3DS_FAILED": "3DS_FAILED",
		"Card of Kim declined": "DECLINED", "한": "DECLINED", strings.Repeat("A", 64): strings.Repeat("A", 64), strings.Repeat("A", 65): "DECLINED",
	} {
		o := domain.PaymentOutcome{PaymentID: paymentID, GatewayPaymentID: "g\x00", Reason: text}
		r := pending.ApplyOutcome(o, nil)
		require.Equal(t, []domain.Event{domain.PaymentFailed{UserID: owner.User, PaymentID: paymentID, Reason: want}}, r.Events)
	}
	require.Equal(t, "pi_3 OK", domain.PlainID("pi_3 OK"))
	require.Empty(t, domain.PlainID("é"))
	require.Empty(t, domain.PlainID(strings.Repeat("x", 256)))
}

func TestApplyOutcome_IgnoresPaymentOfOtherSlot(t *testing.T) {
	o := success(price)
	o.PaymentID = uuid.New()
	require.Equal(t, domain.OutcomeResult{}, happen(active(t), acquired, initiated(paymentID)).ApplyOutcome(o, nil))
}

func TestStartPayment_RefusesTheEleventh(t *testing.T) {
	s := active(t)
	for i := range domain.MaxPayments {
		id := uuid.UUID{15: byte(i + 1)}
		s = happen(s, acquired, initiated(id), failed(id, "NO_COVER"))
	}
	_, err := s.StartPayment(acquired, domain.StartPayment{ID: uuid.New(), Offered: won(1)}, price)
	var tooMany *domain.TooManyPaymentsError
	require.ErrorAs(t, err, &tooMany, "before the amount")
}

func TestStartPayment_RefusedAfterSaleCancelled(t *testing.T) {
	_, err := active(t).StartPayment(acquired, domain.StartPayment{ID: paymentID, Offered: price, SaleCancelled: true}, price)
	var gone *domain.SlotExpiredError
	require.ErrorAs(t, err, &gone)
}

// Folding allocates in proportion to the number of payments.
func TestFoldSlot_IsLinear(t *testing.T) {
	history := func(payments int) []domain.Envelope {
		events := []domain.Envelope{{StreamID: slotID, ProductID: productID, StreamVersion: 1, RecordedAt: acquired,
			Event: domain.SlotAcquired{UserID: owner.User, TTLMillis: ttl.Milliseconds()}}}
		for i := range payments {
			id := uuid.UUID{14: byte(i >> 8), 15: byte(i)}
			for _, e := range []domain.Event{initiated(id), failed(id, "NO_COVER")} {
				events = append(events, domain.Envelope{StreamID: slotID, StreamVersion: len(events) + 1, RecordedAt: acquired, Event: e})
			}
		}
		return events
	}
	cost := func(payments int) float64 {
		events := history(payments)
		return testing.AllocsPerRun(5, func() { domain.FoldSlot(events) }) / float64(payments)
	}
	require.Len(t, domain.FoldSlot(history(1000)).Payments, 1000)
	require.Less(t, cost(2000), 2*cost(100)+1)
	result := testing.Benchmark(func(b *testing.B) {
		events := history(2000)
		b.ReportAllocs()
		for b.Loop() {
			domain.FoldSlot(events)
		}
	})
	require.Less(t, result.AllocedBytesPerOp(), int64(16<<20), "each event allocates for one payment, not for all before it")
}

// A refund equals what was paid, even if the currency has no such
// decimal places; a price must have the decimal places of its currency.
func TestNewPaid_AllowsMoreDecimalPlaces(t *testing.T) {
	for _, c := range []struct{ amount, currency, paid string }{
		{"10.5", "KRW", "10.5"}, {"10.50", "KRW", "10.5"}, {"10", "KRW", "10"}, {"10.0001", "USD", "10.0001"},
		{"10", "USD", "10.00"}, {"1.2345", "BHD", "1.2345"}, {"1.23456", "BHD", ""}, {"-1", "KRW", ""}, {"1", "XXZ", ""},
	} {
		amount := decimal.RequireFromString(c.amount)
		paid, err := domain.NewPaid(amount, c.currency)
		if c.paid == "" {
			require.Error(t, err, c.amount)
			continue
		}
		require.NoError(t, err, c.amount)
		require.Equal(t, c.paid, paid.String())
		stored, err := json.Marshal(paid)
		require.NoError(t, err)
		var back domain.Money
		require.NoError(t, json.Unmarshal(stored, &back))
		require.True(t, back.Equal(paid))
		require.Equal(t, c.paid, back.String())
	}
	_, err := domain.NewMoney(decimal.RequireFromString("10.5"), "KRW")
	require.Error(t, err)
}

func TestRefundCancelledSale_OnceAlsoIfTheRefundFailed(t *testing.T) {
	s := happen(active(t), acquired, initiated(paymentID), completed(paymentID))
	events := s.RefundCancelledSale(paymentID)
	require.Len(t, events, 1)
	first := events[0].(domain.RefundDue)
	require.Equal(t, []any{price, domain.RefundSaleCancelled}, []any{first.Amount, first.Cause})
	require.Equal(t, events, s.RefundCancelledSale(paymentID), "the same id, whoever decides it")
	s = happen(s, acquired, first, domain.RefundFailed{UserID: owner.User, PaymentID: paymentID, RefundID: first.RefundID, Amount: price, Reason: "ACCOUNT_CLOSED"})
	require.Empty(t, s.RefundCancelledSale(paymentID), "an operator decides")
}

func TestAttention_NumberStaysIfOthersAreResolved(t *testing.T) {
	disputed := func(id string) domain.Event {
		return domain.PaymentDisputed{UserID: owner.User, PaymentID: paymentID, DisputeID: id}
	}
	contradicted := func(code domain.ContradictionCode) domain.Event {
		return domain.PaymentContradicted{UserID: owner.User, PaymentID: paymentID, Code: code}
	}
	s := happen(active(t), acquired, initiated(paymentID), completed(paymentID), requested(paymentID, won(1), false), refundFailed(paymentID),
		contradicted(domain.RefundUnreadable), contradicted(domain.DisputeOutcomeChanged), disputed("d1"), disputed("d2"),
		domain.PaymentReversed{UserID: owner.User, PaymentID: paymentID})
	items := func() map[string]int {
		p, _ := s.Payment(paymentID)
		numbers := map[string]int{}
		for _, a := range p.Attention() {
			numbers[string(a.Cause)+a.Code+a.DisputeID] = a.Number
		}
		return numbers
	}
	before := items()
	require.Len(t, before, 6)
	require.Len(t, slices.Compact(slices.Sorted(maps.Values(before))), 6, "%v", before)
	for _, resolved := range []domain.PaymentResolved{
		{Cause: domain.CauseRefundFailed, RefundID: &dueID}, {Cause: domain.CauseContradicted, Code: domain.RefundUnreadable}, {Cause: domain.CauseDisputed, DisputeID: "d1"},
	} {
		resolved.UserID, resolved.PaymentID = owner.User, paymentID
		s = happen(s, acquired, resolved)
	}
	after := items()
	require.Len(t, after, 3)
	for item, number := range after {
		require.Equal(t, before[item], number, item)
	}
}
