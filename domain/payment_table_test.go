package domain_test

import (
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/shopspring/decimal"
	"github.com/stretchr/testify/require"

	"github.com/dopaminestore/dopamine/domain"
)

// The payment that things arrive for, and another of the same slot.
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

func due(id uuid.UUID) domain.Event {
	return domain.RefundDue{UserID: owner.User, PaymentID: id, Amount: price, Reason: "why"}
}

func refunded(id uuid.UUID) domain.Event {
	return domain.RefundCompleted{UserID: owner.User, PaymentID: id, Amount: price, RefundID: "r1"}
}

func regranted(id uuid.UUID) domain.Event {
	return domain.PaymentRegranted{UserID: owner.User, PaymentID: id, NewSlotID: newSlotID}
}

// outcome is what follows from one arrival.
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
			names = append(names, fmt.Sprintf("due:%s:%s:%s", e.Amount, e.Amount.Currency(), e.Reason))
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
	)
	switch {
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

func hears(h domain.Hearing) outcome {
	if h.AskGate {
		return outcome{text: "ask gate"}
	}
	return follows(h.Events)
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

func success(paid domain.Money) domain.GatewayWord {
	return domain.GatewayWord{PaymentID: paymentID, GatewayPaymentID: "g1", Succeeded: true, Paid: paid}
}

func starts(s domain.Slot, at time.Time, offered domain.Money) outcome {
	return decided(s.StartPayment(at, domain.StartPayment{ID: uuid.MustParse("88888888-8888-4888-8888-888888888888"),
		Offered: offered, Method: domain.Card}, price))
}

var (
	granted = &domain.GateAnswer{Granted: true, Unit: 3, ArrivalSequence: 99, TTL: ttl, Warning: warning}
	nothing = &domain.GateAnswer{}
)

// arrivals is everything that can happen to a slot, by the name of its column
// in the table, and what the same once more comes to after it had effect.
var arrivals = map[string]struct {
	arrive func(domain.Slot) outcome
	again  string
}{
	"deadline":             {func(s domain.Slot) outcome { return follows(s.Expire(deadline, paymentTimeout)) }, "-"},
	"time-out":             {func(s domain.Slot) outcome { return follows(s.Expire(deadline.Add(paymentTimeout), paymentTimeout)) }, "-"},
	"reclaim":              {func(s domain.Slot) outcome { return decided(s.Release(admin)) }, "slot-not-active"},
	"give up":              {func(s domain.Slot) outcome { return decided(s.Release(owner)) }, "slot-not-active"},
	"start":                {func(s domain.Slot) outcome { return starts(s, deadline.Add(-time.Millisecond), price) }, "payment-in-progress"},
	"start at deadline":    {func(s domain.Slot) outcome { return starts(s, deadline, price) }, ""},
	"start, other amount":  {func(s domain.Slot) outcome { return starts(s, acquired, won(1)) }, ""},
	"success":              {func(s domain.Slot) outcome { return hears(s.Hear(success(price), nil)) }, "-"},
	"success, gate grants": {func(s domain.Slot) outcome { return hears(s.Hear(success(price), granted)) }, "-"},
	"success, gate has no": {func(s domain.Slot) outcome { return hears(s.Hear(success(price), nothing)) }, "-"},
	"other amount":         {func(s domain.Slot) outcome { return hears(s.Hear(success(won(5)), nil)) }, "-"},
	"other currency":       {func(s domain.Slot) outcome { return hears(s.Hear(success(dollars(259000)), nil)) }, "-"},
	"nothing taken":        {func(s domain.Slot) outcome { return hears(s.Hear(success(won(0)), nil)) }, "-"},
	"failure": {func(s domain.Slot) outcome {
		return hears(s.Hear(domain.GatewayWord{PaymentID: paymentID, Reason: "no cover"}, nil))
	}, "-"},
	"refund made": {func(s domain.Slot) outcome { return follows(s.RefundMade(paymentID, "r1")) }, "-"},
}

// Cells that many rows share.
const (
	isGone     = "slot-expired"
	isPaid     = "slot-already-completed"
	ended      = "slot-not-active"
	busy       = "payment-in-progress"
	fiveBack   = "failed:AMOUNT_MISMATCH + due:5:KRW:AMOUNT_MISMATCH"
	dollarBack = "failed:AMOUNT_MISMATCH + due:259000.00:USD:AMOUNT_MISMATCH"
	lateBack   = "due:259000:KRW:SLOT_EXPIRED"
	otherBack  = "due:259000:KRW:OTHER_PAYMENT"
)

// Every state that a slot and a payment of it can be in together, against
// everything that can arrive.
var decisionTable = []struct {
	state  string
	events []domain.Event // after SlotAcquired
	cells  map[string]string
}{
	{"ACTIVE, no payment", nil, map[string]string{
		"deadline": "expired:AUTO_EXPIRED", "time-out": "expired:AUTO_EXPIRED",
		"reclaim": "expired:MANUAL_RECLAIMED", "give up": "expired:BUYER_RELEASED",
		"start": "initiated", "start at deadline": isGone, "start, other amount": "amount-mismatch",
		"success": "-", "success, gate grants": "-", "success, gate has no": "-",
		"other amount": "-", "other currency": "-", "nothing taken": "-", "failure": "-", "refund made": "-",
	}},
	{"ACTIVE, PENDING", []domain.Event{initiated(paymentID)}, map[string]string{
		"deadline": "-", "time-out": "failed:TIMEOUT + expired:AUTO_EXPIRED",
		"reclaim": busy, "give up": busy,
		"start": busy, "start at deadline": isGone, "start, other amount": busy,
		"success": "completed", "success, gate grants": "completed", "success, gate has no": "completed",
		"other amount": fiveBack, "other currency": dollarBack, "nothing taken": "failed:AMOUNT_MISMATCH",
		"failure": "failed:no cover", "refund made": "-",
	}},
	{"ACTIVE, FAILED", []domain.Event{initiated(paymentID), failed(paymentID, "no cover")}, map[string]string{
		"deadline": "expired:AUTO_EXPIRED", "time-out": "expired:AUTO_EXPIRED",
		"reclaim": "expired:MANUAL_RECLAIMED", "give up": "expired:BUYER_RELEASED",
		"start": "initiated", "start at deadline": isGone, "start, other amount": "amount-mismatch",
		"success": "completed", "success, gate grants": "completed", "success, gate has no": "completed",
		"other amount": fiveBack, "other currency": dollarBack, "nothing taken": "-",
		"failure": "-", "refund made": "-",
	}},
	{"ACTIVE, FAILED, another PENDING", []domain.Event{initiated(paymentID), failed(paymentID, "no cover"), initiated(otherPaymentID)}, map[string]string{
		"deadline": "-", "time-out": "failed:TIMEOUT + expired:AUTO_EXPIRED",
		"reclaim": busy, "give up": busy,
		"start": busy, "start at deadline": isGone, "start, other amount": busy,
		"success": otherBack, "success, gate grants": otherBack, "success, gate has no": otherBack,
		"other amount": fiveBack, "other currency": dollarBack, "nothing taken": "-",
		"failure": "-", "refund made": "-",
	}},
	{"ACTIVE, refund DUE", []domain.Event{initiated(paymentID), failed(paymentID, "AMOUNT_MISMATCH"), due(paymentID)}, map[string]string{
		"deadline": "expired:AUTO_EXPIRED", "time-out": "expired:AUTO_EXPIRED",
		"reclaim": "expired:MANUAL_RECLAIMED", "give up": "expired:BUYER_RELEASED",
		"start": "initiated", "start at deadline": isGone, "start, other amount": "amount-mismatch",
		"success": "-", "success, gate grants": "-", "success, gate has no": "-",
		"other amount": "-", "other currency": "-", "nothing taken": "-", "failure": "-", "refund made": "refunded",
	}},
	{"ACTIVE, REFUNDED", []domain.Event{initiated(paymentID), failed(paymentID, "AMOUNT_MISMATCH"), due(paymentID), refunded(paymentID)}, map[string]string{
		"deadline": "expired:AUTO_EXPIRED", "time-out": "expired:AUTO_EXPIRED",
		"reclaim": "expired:MANUAL_RECLAIMED", "give up": "expired:BUYER_RELEASED",
		"start": "initiated", "start at deadline": isGone, "start, other amount": "amount-mismatch",
		"success": "-", "success, gate grants": "-", "success, gate has no": "-",
		"other amount": "-", "other currency": "-", "nothing taken": "-", "failure": "-", "refund made": "-",
	}},

	{"COMPLETED by the payment", []domain.Event{initiated(paymentID), completed(paymentID)}, map[string]string{
		"deadline": "-", "time-out": "-", "reclaim": ended, "give up": ended,
		"start": isPaid, "start at deadline": isPaid, "start, other amount": isPaid,
		"success": "-", "success, gate grants": "-", "success, gate has no": "-",
		"other amount": "-", "other currency": "-", "nothing taken": "-", "failure": "-", "refund made": "-",
	}},
	{"COMPLETED by another, FAILED", []domain.Event{initiated(paymentID), failed(paymentID, "no cover"), initiated(otherPaymentID), completed(otherPaymentID)}, map[string]string{
		"deadline": "-", "time-out": "-", "reclaim": ended, "give up": ended,
		"start": isPaid, "start at deadline": isPaid, "start, other amount": isPaid,
		"success": otherBack, "success, gate grants": otherBack, "success, gate has no": otherBack,
		"other amount": fiveBack, "other currency": dollarBack, "nothing taken": "-", "failure": "-", "refund made": "-",
	}},
	{"COMPLETED by another, refund DUE", []domain.Event{initiated(paymentID), failed(paymentID, "no cover"), initiated(otherPaymentID), completed(otherPaymentID), due(paymentID)}, map[string]string{
		"deadline": "-", "time-out": "-", "reclaim": ended, "give up": ended,
		"start": isPaid, "start at deadline": isPaid, "start, other amount": isPaid,
		"success": "-", "success, gate grants": "-", "success, gate has no": "-",
		"other amount": "-", "other currency": "-", "nothing taken": "-", "failure": "-", "refund made": "refunded",
	}},
	{"COMPLETED by another, REFUNDED", []domain.Event{initiated(paymentID), failed(paymentID, "no cover"), initiated(otherPaymentID), completed(otherPaymentID), due(paymentID), refunded(paymentID)}, map[string]string{
		"deadline": "-", "time-out": "-", "reclaim": ended, "give up": ended,
		"start": isPaid, "start at deadline": isPaid, "start, other amount": isPaid,
		"success": "-", "success, gate grants": "-", "success, gate has no": "-",
		"other amount": "-", "other currency": "-", "nothing taken": "-", "failure": "-", "refund made": "-",
	}},

	{"EXPIRED, no payment", []domain.Event{expired(domain.AutoExpired)}, map[string]string{
		"deadline": "-", "time-out": "-", "reclaim": ended, "give up": ended,
		"start": isGone, "start at deadline": isGone, "start, other amount": isGone,
		"success": "-", "success, gate grants": "-", "success, gate has no": "-",
		"other amount": "-", "other currency": "-", "nothing taken": "-", "failure": "-", "refund made": "-",
	}},
	{"EXPIRED, FAILED by the time-out", []domain.Event{initiated(paymentID), failed(paymentID, "TIMEOUT"), expired(domain.AutoExpired)}, map[string]string{
		"deadline": "-", "time-out": "-", "reclaim": ended, "give up": ended,
		"start": isGone, "start at deadline": isGone, "start, other amount": isGone,
		"success": "ask gate", "success, gate grants": "regranted", "success, gate has no": lateBack,
		"other amount": fiveBack, "other currency": dollarBack, "nothing taken": "-", "failure": "-", "refund made": "-",
	}},
	{"EXPIRED by its owner, FAILED", []domain.Event{initiated(paymentID), failed(paymentID, "no cover"), expired(domain.BuyerReleased)}, map[string]string{
		"deadline": "-", "time-out": "-", "reclaim": ended, "give up": ended,
		"start": isGone, "start at deadline": isGone, "start, other amount": isGone,
		"success": "ask gate", "success, gate grants": "regranted", "success, gate has no": lateBack,
		"other amount": fiveBack, "other currency": dollarBack, "nothing taken": "-", "failure": "-", "refund made": "-",
	}},
	{"EXPIRED by an admin, FAILED", []domain.Event{initiated(paymentID), failed(paymentID, "no cover"), expired(domain.ManualReclaimed)}, map[string]string{
		"deadline": "-", "time-out": "-", "reclaim": ended, "give up": ended,
		"start": isGone, "start at deadline": isGone, "start, other amount": isGone,
		"success": "ask gate", "success, gate grants": "regranted", "success, gate has no": lateBack,
		"other amount": fiveBack, "other currency": dollarBack, "nothing taken": "-", "failure": "-", "refund made": "-",
	}},
	{"EXPIRED, re-granted", []domain.Event{initiated(paymentID), failed(paymentID, "TIMEOUT"), expired(domain.AutoExpired), regranted(paymentID)}, map[string]string{
		"deadline": "-", "time-out": "-", "reclaim": ended, "give up": ended,
		"start": isGone, "start at deadline": isGone, "start, other amount": isGone,
		"success": "-", "success, gate grants": "-", "success, gate has no": "-",
		"other amount": "-", "other currency": "-", "nothing taken": "-", "failure": "-", "refund made": "-",
	}},
	{"EXPIRED, FAILED, another re-granted", []domain.Event{initiated(paymentID), failed(paymentID, "no cover"), initiated(otherPaymentID), failed(otherPaymentID, "TIMEOUT"), expired(domain.AutoExpired), regranted(otherPaymentID)}, map[string]string{
		"deadline": "-", "time-out": "-", "reclaim": ended, "give up": ended,
		"start": isGone, "start at deadline": isGone, "start, other amount": isGone,
		"success": "ask gate", "success, gate grants": "regranted", "success, gate has no": lateBack,
		"other amount": fiveBack, "other currency": dollarBack, "nothing taken": "-", "failure": "-", "refund made": "-",
	}},
	{"EXPIRED, refund DUE", []domain.Event{initiated(paymentID), failed(paymentID, "TIMEOUT"), expired(domain.AutoExpired), due(paymentID)}, map[string]string{
		"deadline": "-", "time-out": "-", "reclaim": ended, "give up": ended,
		"start": isGone, "start at deadline": isGone, "start, other amount": isGone,
		"success": "-", "success, gate grants": "-", "success, gate has no": "-",
		"other amount": "-", "other currency": "-", "nothing taken": "-", "failure": "-", "refund made": "refunded",
	}},
	{"EXPIRED, REFUNDED", []domain.Event{initiated(paymentID), failed(paymentID, "TIMEOUT"), expired(domain.AutoExpired), due(paymentID), refunded(paymentID)}, map[string]string{
		"deadline": "-", "time-out": "-", "reclaim": ended, "give up": ended,
		"start": isGone, "start at deadline": isGone, "start, other amount": isGone,
		"success": "-", "success, gate grants": "-", "success, gate has no": "-",
		"other amount": "-", "other currency": "-", "nothing taken": "-", "failure": "-", "refund made": "-",
	}},
	// No slot ends with a payment pending; were there one, its money would not be lost.
	{"EXPIRED, PENDING", []domain.Event{initiated(paymentID), expired(domain.AutoExpired)}, map[string]string{
		"deadline": "-", "time-out": "-", "reclaim": ended, "give up": ended,
		"start": isGone, "start at deadline": isGone, "start, other amount": isGone,
		"success": "ask gate", "success, gate grants": "regranted",
		"success, gate has no": "failed:SLOT_EXPIRED + " + lateBack,
		"other amount":         fiveBack, "other currency": dollarBack, "nothing taken": "failed:AMOUNT_MISMATCH",
		"failure": "failed:no cover", "refund made": "-",
	}},
	{"COMPLETED by another, PENDING", []domain.Event{initiated(paymentID), completed(otherPaymentID)}, map[string]string{
		"deadline": "-", "time-out": "-", "reclaim": ended, "give up": ended,
		"start": isPaid, "start at deadline": isPaid, "start, other amount": isPaid,
		"success": "failed:OTHER_PAYMENT + " + otherBack, "success, gate grants": "failed:OTHER_PAYMENT + " + otherBack,
		"success, gate has no": "failed:OTHER_PAYMENT + " + otherBack,
		"other amount":         fiveBack, "other currency": dollarBack, "nothing taken": "failed:AMOUNT_MISMATCH",
		"failure": "failed:no cover", "refund made": "-",
	}},
}

func TestDecisionTable(t *testing.T) {
	for _, row := range decisionTable {
		slot := happen(active(t), acquired.Add(time.Minute), row.events...)
		require.Len(t, row.cells, len(arrivals), "%s: a cell for each arrival", row.state)
		for name, a := range arrivals {
			t.Run(row.state+"/"+name, func(t *testing.T) {
				want, ok := row.cells[name]
				require.True(t, ok, "no such cell")
				got := a.arrive(slot)
				require.Equal(t, want, got.text)

				again := want
				if len(got.events) > 0 {
					again = a.again
				}
				after := happen(slot, deadline, got.events...)
				require.Equal(t, again, a.arrive(after).text, "the same once more")
			})
		}
	}
}
