package domain_test

import (
	"errors"
	"fmt"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/shopspring/decimal"
	"github.com/stretchr/testify/require"

	"github.com/dopaminestore/dopamine/domain"
)

// The payment that events concern, and another payment of the same slot.
var (
	paymentID      = uuid.MustParse("55555555-5555-4555-8555-555555555555")
	otherPaymentID = uuid.MustParse("66666666-6666-4666-8666-666666666666")
	newSlotID      = domain.SlotID(productID, 99)
	admin          = domain.Caller{User: uuid.MustParse("77777777-7777-4777-8777-777777777777"), Admin: true}
)

func initiated(id uuid.UUID) domain.Event {
	return domain.PaymentInitiated{UserID: owner.User, PaymentID: id, Price: price, Method: domain.Card}
}

func failed(id uuid.UUID, reason string) domain.Event {
	return domain.PaymentFailed{UserID: owner.User, PaymentID: id, Reason: reason}
}

func completed(id uuid.UUID) domain.Event {
	return domain.PaymentCompleted{UserID: owner.User, PaymentID: id, GatewayPaymentID: "g1", Price: price, Method: domain.Card}
}

// dueID is the refund that is due in the states of the table.
var dueID = uuid.MustParse("99999999-9999-4999-8999-999999999999")

func due(id uuid.UUID) domain.Event {
	return domain.RefundDue{UserID: owner.User, PaymentID: id, Amount: price, Reason: "WHY", RefundID: dueID, Cause: domain.RefundLate}
}

func requested(id uuid.UUID, amount domain.Money, returnUnit bool) domain.Event {
	return domain.RefundDue{UserID: owner.User, PaymentID: id, Amount: amount, Reason: "WHY", RefundID: dueID,
		Cause: domain.RefundRequested, ReturnUnit: returnUnit}
}

func refunded(id uuid.UUID) domain.Event {
	return domain.RefundCompleted{UserID: owner.User, PaymentID: id, Amount: price, GatewayRefundID: "r1", RefundID: dueID}
}

func refundPending(id uuid.UUID) domain.Event {
	return domain.RefundPending{UserID: owner.User, PaymentID: id, Amount: price, GatewayRefundID: "r1", RefundID: dueID}
}

func refundFailed(id uuid.UUID) domain.Event {
	return domain.RefundFailed{UserID: owner.User, PaymentID: id, Amount: price, RefundID: dueID, Reason: "CLOSED"}
}

func disputed(id uuid.UUID) domain.Event {
	return domain.PaymentDisputed{UserID: owner.User, PaymentID: id, DisputeID: "d1"}
}

func reversed(id uuid.UUID) domain.Event {
	return domain.PaymentReversed{UserID: owner.User, PaymentID: id}
}

func regranted(id uuid.UUID) domain.Event {
	return domain.PaymentRegranted{UserID: owner.User, PaymentID: id, NewSlotID: newSlotID}
}

// outcome is the result of one arrival.
type outcome struct {
	text   string         // "-" for nothing
	events []domain.Event // of the slot's own stream
}

func follows(events []domain.Event) outcome {
	if len(events) == 0 {
		return outcome{text: "-"}
	}
	var names []string
	for _, e := range events {
		switch e := e.(type) {
		case domain.SlotExpired:
			names = append(names, "expired:"+string(e.ReclaimStatus))
		case domain.PaymentInitiated:
			names = append(names, "initiated")
		case domain.PaymentCompleted:
			names = append(names, "completed")
		case domain.PaymentFailed:
			names = append(names, "failed:"+e.Reason)
		case domain.PaymentRegranted:
			names = append(names, "regranted")
		case domain.RefundDue:
			name := fmt.Sprintf("due:%s:%s:%s", e.Amount, e.Amount.Currency(), e.Cause)
			if e.ReturnUnit {
				name += ":return"
			}
			names = append(names, name)
		case domain.PaymentCancelRequested:
			names = append(names, "cancel")
		case domain.RefundPending:
			names = append(names, "refund-pending")
		case domain.RefundFailed:
			names = append(names, "refund-failed:"+e.Reason)
		case domain.PaymentDisputed:
			names = append(names, "disputed")
		case domain.PaymentDisputeClosed:
			names = append(names, fmt.Sprintf("dispute-closed:%t", e.Won))
		case domain.PaymentReversed:
			names = append(names, "reversed")
		case domain.PaymentContradicted:
			names = append(names, "contradicted:"+string(e.Code))
		case domain.PaymentResolved:
			names = append(names, fmt.Sprintf("resolved:%s:%s", e.Cause, e.Action))
		case domain.SlotReturned:
			names = append(names, "returned")
		case domain.RefundCompleted:
			names = append(names, "refunded")
		default:
			names = append(names, fmt.Sprintf("%T", e))
		}
	}
	return outcome{strings.Join(names, " + "), events}
}

func refused(err error) outcome {
	var (
		notActive  *domain.SlotNotActiveError
		inProgress *domain.PaymentInProgressError
		paid       *domain.SlotCompletedError
		gone       *domain.SlotExpiredError
		mismatch   *domain.AmountMismatchError
		notPending *domain.PaymentNotPendingError
		noRefund   *domain.PaymentNotRefundableError
		exceeds    *domain.RefundExceedsError
		invalid    *domain.InvalidError
	)
	switch {
	case errors.As(err, &notPending):
		return outcome{text: "payment-not-pending"}
	case errors.As(err, &noRefund):
		return outcome{text: "payment-not-refundable"}
	case errors.As(err, &exceeds):
		return outcome{text: "refund-exceeds-payment"}
	case errors.As(err, &invalid):
		return outcome{text: "invalid " + invalid.Fields[0].Field}
	case errors.Is(err, domain.ErrNothingToResolve):
		return outcome{text: "nothing-to-resolve"}
	case errors.As(err, &notActive):
		return outcome{text: "slot-not-active"}
	case errors.As(err, &inProgress):
		return outcome{text: "payment-in-progress"}
	case errors.As(err, &paid):
		return outcome{text: "slot-already-completed"}
	case errors.As(err, &gone):
		return outcome{text: "slot-expired"}
	case errors.As(err, &mismatch):
		return outcome{text: "amount-mismatch"}
	}
	return outcome{text: err.Error()}
}

func applied(r domain.OutcomeResult) outcome {
	if r.AskGate {
		return outcome{text: "ask gate"}
	}
	return follows(r.Events)
}

func reported(r domain.RefundResult) outcome {
	if r.Query {
		return outcome{text: "query"}
	}
	return follows(r.Events)
}

func decided(events []domain.Event, err error) outcome {
	if err != nil {
		return refused(err)
	}
	return follows(events)
}

func dollars(amount int64) domain.Money {
	m, err := domain.NewMoney(decimal.NewFromInt(amount), "USD")
	if err != nil {
		panic(err)
	}
	return m
}

func success(paid domain.Money) domain.PaymentOutcome {
	return domain.PaymentOutcome{PaymentID: paymentID, GatewayPaymentID: "g1", Succeeded: true, Paid: &paid}
}

func unreadable(gatewayID string) domain.PaymentOutcome {
	return domain.PaymentOutcome{PaymentID: paymentID, GatewayPaymentID: gatewayID, Succeeded: true}
}

func failure(gatewayID, reason string) domain.PaymentOutcome {
	return domain.PaymentOutcome{PaymentID: paymentID, GatewayPaymentID: gatewayID, Reason: reason}
}

func starts(s domain.Slot, at time.Time, offered domain.Money) outcome {
	return decided(s.StartPayment(at, domain.StartPayment{ID: uuid.MustParse("88888888-8888-4888-8888-888888888888"),
		Offered: offered, Method: domain.Card}, price))
}

var (
	granted = &domain.GateAnswer{Granted: true, Unit: 3, ArrivalSequence: 99, TTL: ttl, Warning: warning}
	nothing = &domain.GateAnswer{}
)

// refundReport is a report of the refund that is due in the states of the table.
func refundReport(status domain.RefundStatus, confirmed bool) func(domain.Slot) outcome {
	return func(s domain.Slot) outcome {
		return reported(s.ReportRefund(domain.RefundReport{PaymentID: paymentID, RefundID: dueID, GatewayRefundID: "r1",
			Status: status, Reason: "CLOSED", Confirmed: confirmed}))
	}
}

func atGateway(refund string, amount int64) func(domain.Slot) outcome {
	return func(s domain.Slot) outcome {
		paid := won(amount)
		return reported(s.RefundedAtGateway(domain.GatewayRefund{PaymentID: paymentID, GatewayRefundID: refund, Amount: &paid,
			NewID: newRefundID, Queried: true, Unknown: map[uuid.UUID]bool{dueID: true}}))
	}
}

func dispute(closed, won, queried bool) func(domain.Slot) outcome {
	return func(s domain.Slot) outcome {
		return reported(s.ReportDispute(domain.DisputeReport{PaymentID: paymentID, DisputeID: "d1", Closed: closed, Won: won, Queried: queried}))
	}
}

func resolve(action domain.ResolveAction, stuck, unknown bool) func(domain.Slot) outcome {
	return func(s domain.Slot) outcome {
		c := domain.Resolve{Payment: paymentID, Action: action, Note: "CHECKED", Unknown: unknown}
		if stuck {
			c.Stuck = []uuid.UUID{dueID}
		}
		r, err := s.Resolve(c)
		return decided(r.Events, err)
	}
}

func requests(amount int64, returnUnit bool) func(domain.Slot) outcome {
	return func(s domain.Slot) outcome {
		c := domain.RequestRefund{ID: newRefundID, Payment: paymentID, ReturnUnit: returnUnit, Reason: "REQUESTED"}
		if amount > 0 {
			m := won(amount)
			c.Amount = &m
		}
		return decided(s.RequestRefund(c))
	}
}

var newRefundID = uuid.MustParse("aaaaaaaa-aaaa-4aaa-8aaa-aaaaaaaaaaaa")

// arrivals are all inputs of a slot and a payment of it, in the
// order of the table.
var arrivals = []struct {
	name   string
	arrive func(domain.Slot) outcome
}{
	{"deadline", func(s domain.Slot) outcome { return follows(s.Expire(deadline, paymentTimeout)) }},
	{"time-out", func(s domain.Slot) outcome { return follows(s.Expire(deadline.Add(paymentTimeout), paymentTimeout)) }},
	{"reclaim", func(s domain.Slot) outcome { return decided(s.Release(admin)) }},
	{"release", func(s domain.Slot) outcome { return decided(s.Release(owner)) }},
	{"sale cancelled: slot", func(s domain.Slot) outcome { return follows(s.ExpireCancelled()) }},
	{"sale cancelled: refund", func(s domain.Slot) outcome { return follows(s.RefundCancelledSale(paymentID)) }},
	{"start", func(s domain.Slot) outcome { return starts(s, deadline.Add(-time.Millisecond), price) }},
	{"start at deadline", func(s domain.Slot) outcome { return starts(s, deadline, price) }},
	{"start, other amount", func(s domain.Slot) outcome { return starts(s, acquired, won(1)) }},
	{"cancel payment", func(s domain.Slot) outcome { return decided(s.CancelPayment(paymentID)) }},
	{"unknown to the gateway", func(s domain.Slot) outcome { return follows(s.FailUnknown(paymentID, "CANCELED")) }},
	{"success", func(s domain.Slot) outcome { return applied(s.ApplyOutcome(success(price), nil)) }},
	{"success, gate grants", func(s domain.Slot) outcome { return applied(s.ApplyOutcome(success(price), granted)) }},
	{"success, gate refuses", func(s domain.Slot) outcome { return applied(s.ApplyOutcome(success(price), nothing)) }},
	{"other amount", func(s domain.Slot) outcome { return applied(s.ApplyOutcome(success(won(5)), nil)) }},
	{"other currency", func(s domain.Slot) outcome { return applied(s.ApplyOutcome(success(dollars(259000)), nil)) }},
	{"nothing taken", func(s domain.Slot) outcome { return applied(s.ApplyOutcome(success(won(0)), nil)) }},
	{"unreadable", func(s domain.Slot) outcome { return applied(s.ApplyOutcome(unreadable("g1"), nil)) }},
	{"failure", func(s domain.Slot) outcome { return applied(s.ApplyOutcome(failure("", "NO_COVER"), nil)) }},
	{"canceled", func(s domain.Slot) outcome { return applied(s.ApplyOutcome(failure("g1", "CANCELED"), nil)) }},
	{"other charge", func(s domain.Slot) outcome {
		o := success(won(7))
		o.GatewayPaymentID, o.KnownGatewayID = "g2", "g1"
		return applied(s.ApplyOutcome(o, nil))
	}},
	{"other charge, unreadable", func(s domain.Slot) outcome {
		o := unreadable("g2")
		o.KnownGatewayID = "g1"
		return applied(s.ApplyOutcome(o, nil))
	}},
	{"other charge, failure", func(s domain.Slot) outcome {
		o := failure("g2", "LOST")
		o.KnownGatewayID = "g1"
		return applied(s.ApplyOutcome(o, nil))
	}},
	{"refund pending", refundReport(domain.PendingRefund, true)},
	{"refund made", refundReport(domain.CompletedRefund, false)},
	{"refund made, queried", refundReport(domain.CompletedRefund, true)},
	{"refund failed", refundReport(domain.FailedRefund, false)},
	{"refund failed, queried", refundReport(domain.FailedRefund, true)},
	{"refunded at gateway", atGateway("r9", 259000)},
	{"refunded at gateway, part", atGateway("r9", 100)},
	{"refunded at gateway, more", atGateway("r9", 300000)},
	{"refunded at gateway, ours", atGateway("r1", 259000)},
	{"admin refunds all", requests(0, false)},
	{"admin refunds all, unit back", requests(0, true)},
	{"admin refunds part", requests(100, false)},
	{"admin refunds part, unit back", requests(100, true)},
	{"admin refunds more", requests(300000, false)},
	{"dispute", dispute(false, false, false)},
	{"dispute, queried", dispute(false, false, true)},
	{"dispute won", dispute(true, true, true)},
	{"dispute lost", dispute(true, false, true)},
	{"reversal", func(s domain.Slot) outcome {
		return reported(s.ReportReversal(domain.ReversalReport{PaymentID: paymentID, Queried: true}))
	}},
	{"reversal, refund posted", func(s domain.Slot) outcome {
		return reported(s.ReportReversal(domain.ReversalReport{PaymentID: paymentID, Queried: true, Posted: map[uuid.UUID]bool{dueID: true}}))
	}},
	{"reversal of other charge", func(s domain.Slot) outcome {
		return reported(s.ReportReversal(domain.ReversalReport{PaymentID: paymentID, GatewayPaymentID: "g2", Queried: true}))
	}},
	{"operator: RETRY", resolve(domain.RetryItem, false, false)},
	{"operator: RETRY, stuck", resolve(domain.RetryItem, true, false)},
	{"operator: RETRY, unknown", resolve(domain.RetryItem, false, true)},
	{"operator: REFUNDED_ELSEWHERE", resolve(domain.RefundedElsewhere, false, false)},
	{"operator: REFUNDED_ELSEWHERE, stuck", resolve(domain.RefundedElsewhere, true, false)},
	{"operator: REFUNDED_ELSEWHERE, unknown", resolve(domain.RefundedElsewhere, false, true)},
	{"operator: NOTHING_TAKEN", resolve(domain.NothingTaken, false, false)},
	{"operator: NOTHING_TAKEN, unknown", resolve(domain.NothingTaken, false, true)},
	{"operator: ACCEPT", resolve(domain.AcceptItem, false, false)},
	{"operator: ACCEPT, unknown", resolve(domain.AcceptItem, false, true)},
}

func contradicted(code domain.ContradictionCode) domain.Event {
	return domain.PaymentContradicted{UserID: owner.User, PaymentID: paymentID, Code: code}
}

// All combined states of a slot and its payment.
var states = []struct {
	name   string
	events []domain.Event // after SlotAcquired
}{
	{"ACTIVE, no payment", nil},
	{"ACTIVE, PENDING", []domain.Event{initiated(paymentID)}},
	{"ACTIVE, FAILED", []domain.Event{initiated(paymentID), failed(paymentID, "NO_COVER")}},
	{"ACTIVE, FAILED, another PENDING", []domain.Event{initiated(paymentID), failed(paymentID, "NO_COVER"), initiated(otherPaymentID)}},
	{"ACTIVE, refund DUE", []domain.Event{initiated(paymentID), failed(paymentID, "AMOUNT_MISMATCH"), due(paymentID)}},
	{"ACTIVE, REFUNDED", []domain.Event{initiated(paymentID), failed(paymentID, "AMOUNT_MISMATCH"), due(paymentID), refunded(paymentID)}},
	{"COMPLETED by the payment", []domain.Event{initiated(paymentID), completed(paymentID)}},
	{"COMPLETED by another, FAILED", []domain.Event{initiated(paymentID), failed(paymentID, "NO_COVER"), initiated(otherPaymentID), completed(otherPaymentID)}},
	{"COMPLETED by another, refund DUE", []domain.Event{initiated(paymentID), failed(paymentID, "NO_COVER"), initiated(otherPaymentID), completed(otherPaymentID), due(paymentID)}},
	{"COMPLETED by another, REFUNDED", []domain.Event{initiated(paymentID), failed(paymentID, "NO_COVER"), initiated(otherPaymentID), completed(otherPaymentID), due(paymentID), refunded(paymentID)}},
	{"EXPIRED, no payment", []domain.Event{expired(domain.AutoExpired)}},
	{"EXPIRED, FAILED by the time-out", []domain.Event{initiated(paymentID), failed(paymentID, "TIMEOUT"), expired(domain.AutoExpired)}},
	{"EXPIRED by its owner, FAILED", []domain.Event{initiated(paymentID), failed(paymentID, "NO_COVER"), expired(domain.BuyerReleased)}},
	{"EXPIRED by an admin, FAILED", []domain.Event{initiated(paymentID), failed(paymentID, "NO_COVER"), expired(domain.ManualReclaimed)}},
	{"EXPIRED, re-granted", []domain.Event{initiated(paymentID), failed(paymentID, "TIMEOUT"), expired(domain.AutoExpired), regranted(paymentID)}},
	{"EXPIRED, FAILED, another re-granted", []domain.Event{initiated(paymentID), failed(paymentID, "NO_COVER"), initiated(otherPaymentID), failed(otherPaymentID, "TIMEOUT"), expired(domain.AutoExpired), regranted(otherPaymentID)}},
	{"EXPIRED, refund DUE", []domain.Event{initiated(paymentID), failed(paymentID, "TIMEOUT"), expired(domain.AutoExpired), due(paymentID)}},
	{"EXPIRED, REFUNDED", []domain.Event{initiated(paymentID), failed(paymentID, "TIMEOUT"), expired(domain.AutoExpired), due(paymentID), refunded(paymentID)}},
	{"EXPIRED, PENDING", []domain.Event{initiated(paymentID), expired(domain.AutoExpired)}},
	{"COMPLETED by another, PENDING", []domain.Event{initiated(paymentID), completed(otherPaymentID)}},
	{"ACTIVE, PENDING, to be cancelled", []domain.Event{initiated(paymentID), domain.PaymentCancelRequested{UserID: owner.User, PaymentID: paymentID}}},
	{"ACTIVE, FAILED, amount unreadable", []domain.Event{initiated(paymentID), failed(paymentID, "AMOUNT_MISMATCH"), contradicted(domain.UnreadableAmount)}},
	{"COMPLETED after a failure", []domain.Event{initiated(paymentID), failed(paymentID, "NO_COVER"), completed(paymentID)}},
	{"COMPLETED, contradicted", []domain.Event{initiated(paymentID), completed(paymentID), contradicted(domain.FailedAfterSuccess)}},
	{"COMPLETED, all due", []domain.Event{initiated(paymentID), completed(paymentID), requested(paymentID, price, false)}},
	{"COMPLETED, all due, unit back", []domain.Event{initiated(paymentID), completed(paymentID), requested(paymentID, price, true)}},
	{"COMPLETED, part due", []domain.Event{initiated(paymentID), completed(paymentID), requested(paymentID, won(100), false)}},
	{"COMPLETED, refund PENDING", []domain.Event{initiated(paymentID), completed(paymentID), requested(paymentID, price, false), refundPending(paymentID)}},
	{"COMPLETED, refund FAILED", []domain.Event{initiated(paymentID), completed(paymentID), requested(paymentID, price, true), refundFailed(paymentID)}},
	{"COMPLETED, REFUNDED", []domain.Event{initiated(paymentID), completed(paymentID), requested(paymentID, price, false), refunded(paymentID)}},
	{"COMPLETED, disputed", []domain.Event{initiated(paymentID), completed(paymentID), disputed(paymentID)}},
	{"COMPLETED, all due, disputed", []domain.Event{initiated(paymentID), completed(paymentID), requested(paymentID, price, false), disputed(paymentID)}},
	{"COMPLETED, reversed", []domain.Event{initiated(paymentID), completed(paymentID), reversed(paymentID)}},
	{"RETURNED", []domain.Event{initiated(paymentID), completed(paymentID), requested(paymentID, price, true), refunded(paymentID),
		domain.SlotReturned{UserID: owner.User, PaymentID: paymentID, Unit: 7, ArrivalSequence: 12}}},
}

// TestDecisionTable compares every arrival in every state with
// testdata/decisions.txt: state, arrival, result, and the result of the same arrival
// repeated. DOPAMINE_UPDATE=1 rewrites the file.
func TestDecisionTable(t *testing.T) {
	var b strings.Builder
	for _, state := range states {
		fmt.Fprintf(&b, "# %s\n", state.name)
		slot := happen(active(t), acquired.Add(time.Minute), state.events...)
		for _, a := range arrivals {
			got := a.arrive(slot)
			again := got.text
			if len(got.events) > 0 {
				again = a.arrive(happen(slot, deadline, got.events...)).text
			}
			if got.text == "-" {
				continue // most have no effect
			}
			fmt.Fprintf(&b, "%s => %s", a.name, got.text)
			if again != got.text {
				fmt.Fprintf(&b, " => %s", again)
			}
			b.WriteByte('\n')
		}
	}
	const file = "testdata/decisions.txt"
	if os.Getenv("DOPAMINE_UPDATE") != "" {
		require.NoError(t, os.MkdirAll("testdata", 0o755))
		require.NoError(t, os.WriteFile(file, []byte(b.String()), 0o644))
	}
	want, err := os.ReadFile(file)
	require.NoError(t, err)
	require.Equal(t, string(want), b.String())
}
