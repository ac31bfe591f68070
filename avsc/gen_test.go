package avsc

import (
	"fmt"
	"math"
	"math/big"
	"time"

	"github.com/google/uuid"
	"github.com/shopspring/decimal"
	"pgregory.net/rapid"

	"github.com/dopaminestore/dopamine/domain"
)

func genID(t *rapid.T, label string) uuid.UUID {
	var id uuid.UUID
	copy(id[:], rapid.SliceOfN(rapid.Byte(), 16, 16).Draw(t, label))
	return id
}

// genTime is a whole millisecond from the year 1 to 9999.
func genTime(t *rapid.T, label string) time.Time {
	from, to := time.Date(1, 1, 1, 0, 0, 0, 0, time.UTC), time.Date(9999, 12, 31, 23, 59, 59, 999e6, time.UTC)
	return time.UnixMilli(rapid.Int64Range(from.UnixMilli(), to.UnixMilli()).Draw(t, label)).UTC()
}

func genOptional[T any](t *rapid.T, label string, gen func(*rapid.T, string) T) *T {
	if !rapid.Bool().Draw(t, label+"?") {
		return nil
	}
	v := gen(t, label)
	return &v
}

func genText(t *rapid.T, label string) string {
	return rapid.StringOf(rapid.Rune().Filter(func(r rune) bool { return r != 0 })).Draw(t, label)
}

func genUnit(t *rapid.T) int { return rapid.IntRange(1, 10_000_000).Draw(t, "unit") }

func genSequence(t *rapid.T) int64 { return rapid.Int64Range(1, 1<<53-1).Draw(t, "arrivalSequence") }

func genMethod(t *rapid.T) domain.PaymentMethod {
	return rapid.SampledFrom([]domain.PaymentMethod{domain.Card, domain.BankTransfer, domain.Wallet}).Draw(t, "method")
}

// genMoney covers all values of Money, in currencies of 0, 2, 3 and 4
// decimal places; a paid amount may have more than its currency.
func genMoney(t *rapid.T) domain.Money {
	places := map[string]int32{"KRW": 0, "USD": 2, "BHD": 3, "CLF": 4}
	code := rapid.SampledFrom([]string{"KRW", "USD", "BHD", "CLF"}).Draw(t, "currency")
	written := rapid.Int32Range(places[code], 4).Draw(t, "places")
	most := uint64(math.Pow10(15+int(written))) - 1
	amount := new(big.Int).SetUint64(rapid.Uint64Max(most).Draw(t, "amount"))
	m, err := domain.NewPaid(decimal.NewFromBigInt(amount, -written), code)
	if err != nil {
		t.Fatal(err)
	}
	return m
}

// eventGenerators has one generator for each event type that this program
// knows, which a test checks.
var eventGenerators = map[string]func(*rapid.T) domain.Event{
	"ProductCreated": func(t *rapid.T) domain.Event {
		return domain.ProductCreated{Name: genText(t, "name"), Description: genText(t, "description"), Price: genMoney(t),
			Stock: genUnit(t), SaleDate: genTime(t, "saleDate"), SaleEndDate: genOptional(t, "saleEndDate", genTime)}
	},
	"ProductDetailsChanged": func(t *rapid.T) domain.Event {
		return domain.ProductDetailsChanged{Name: genText(t, "name"), Description: genText(t, "description")}
	},
	"ProductStockIncreased": func(t *rapid.T) domain.Event {
		return domain.ProductStockIncreased{Increase: genUnit(t), TotalStock: genUnit(t)}
	},
	"ProductSaleRescheduled": func(t *rapid.T) domain.Event {
		return domain.ProductSaleRescheduled{SaleDate: genTime(t, "saleDate"), SaleEndDate: genOptional(t, "saleEndDate", genTime)}
	},
	"ProductSalePaused":  func(*rapid.T) domain.Event { return domain.ProductSalePaused{} },
	"ProductSaleResumed": func(*rapid.T) domain.Event { return domain.ProductSaleResumed{} },
	"ProductDeleted":     func(*rapid.T) domain.Event { return domain.ProductDeleted{} },
	"GrantWithdrawn": func(t *rapid.T) domain.Event {
		return domain.GrantWithdrawn{ArrivalSequence: genSequence(t), Unit: genUnit(t), SlotID: genID(t, "slot")}
	},
	"SlotAcquired": func(t *rapid.T) domain.Event {
		hash := rapid.SliceOf(rapid.Byte()).Draw(t, "keyHash")
		if len(hash) == 0 {
			hash = nil
		}
		return domain.SlotAcquired{UserID: genID(t, "user"), Unit: genUnit(t), ArrivalSequence: genSequence(t),
			TTLMillis:     rapid.Int64Range(0, (100*365*24*time.Hour).Milliseconds()).Draw(t, "ttl"),
			WarningMillis: rapid.Int64Min(0).Draw(t, "warning"), KeyHash: hash, RegrantOf: genOptional(t, "regrantOf", genID)}
	},
	"SlotExpiringSoon": func(t *rapid.T) domain.Event {
		return domain.SlotExpiringSoon{UserID: genID(t, "user"), Deadline: genTime(t, "deadline")}
	},
	"SlotExpired": func(t *rapid.T) domain.Event {
		how := rapid.SampledFrom([]domain.ReclaimStatus{domain.AutoExpired, domain.ManualReclaimed, domain.BuyerReleased})
		return domain.SlotExpired{UserID: genID(t, "user"), Unit: genUnit(t), ArrivalSequence: genSequence(t),
			Deadline: genTime(t, "deadline"), ReclaimStatus: how.Draw(t, "reclaimStatus")}
	},
	"PaymentInitiated": func(t *rapid.T) domain.Event {
		return domain.PaymentInitiated{UserID: genID(t, "user"), PaymentID: genID(t, "payment"), Price: genMoney(t), Method: genMethod(t)}
	},
	"PaymentFailed": func(t *rapid.T) domain.Event {
		return domain.PaymentFailed{UserID: genID(t, "user"), PaymentID: genID(t, "payment"),
			GatewayPaymentID: genText(t, "gateway"), Reason: genText(t, "reason")}
	},
	"PaymentCompleted": func(t *rapid.T) domain.Event {
		return domain.PaymentCompleted{UserID: genID(t, "user"), PaymentID: genID(t, "payment"),
			GatewayPaymentID: genText(t, "gateway"), Price: genMoney(t), Method: genMethod(t)}
	},
	"PaymentRegranted": func(t *rapid.T) domain.Event {
		return domain.PaymentRegranted{UserID: genID(t, "user"), PaymentID: genID(t, "payment"),
			GatewayPaymentID: genText(t, "gateway"), NewSlotID: genID(t, "newSlot")}
	},
	"RefundDue": func(t *rapid.T) domain.Event {
		return domain.RefundDue{UserID: genID(t, "user"), PaymentID: genID(t, "payment"), GatewayPaymentID: genText(t, "gateway"),
			Amount: genMoney(t), Reason: genText(t, "reason"), RefundID: genID(t, "refund"), Cause: genCause(t),
			ReturnUnit: rapid.Bool().Draw(t, "returnUnit")}
	},
	"RefundPending": func(t *rapid.T) domain.Event {
		return domain.RefundPending{UserID: genID(t, "user"), PaymentID: genID(t, "payment"), RefundID: genID(t, "refund"),
			GatewayRefundID: genText(t, "refund"), Amount: genMoney(t)}
	},
	"RefundCompleted": func(t *rapid.T) domain.Event {
		return domain.RefundCompleted{UserID: genID(t, "user"), PaymentID: genID(t, "payment"),
			GatewayRefundID: genText(t, "refund"), Amount: genMoney(t), RefundID: genID(t, "refund")}
	},
	"RefundFailed": func(t *rapid.T) domain.Event {
		return domain.RefundFailed{UserID: genID(t, "user"), PaymentID: genID(t, "payment"), RefundID: genID(t, "refund"),
			GatewayRefundID: genText(t, "refund"), Amount: genMoney(t), Reason: genText(t, "reason")}
	},
	"PaymentCancelRequested": func(t *rapid.T) domain.Event {
		return domain.PaymentCancelRequested{UserID: genID(t, "user"), PaymentID: genID(t, "payment")}
	},
	"PaymentDisputed": func(t *rapid.T) domain.Event {
		return domain.PaymentDisputed{UserID: genID(t, "user"), PaymentID: genID(t, "payment"),
			GatewayPaymentID: genText(t, "gateway"), DisputeID: genText(t, "dispute")}
	},
	"PaymentDisputeClosed": func(t *rapid.T) domain.Event {
		return domain.PaymentDisputeClosed{UserID: genID(t, "user"), PaymentID: genID(t, "payment"),
			GatewayPaymentID: genText(t, "gateway"), DisputeID: genText(t, "dispute"), Won: rapid.Bool().Draw(t, "won")}
	},
	"PaymentReversed": func(t *rapid.T) domain.Event {
		return domain.PaymentReversed{UserID: genID(t, "user"), PaymentID: genID(t, "payment"),
			GatewayPaymentID: genText(t, "gateway"), Reason: genText(t, "reason")}
	},
	"PaymentContradicted": func(t *rapid.T) domain.Event {
		return domain.PaymentContradicted{UserID: genID(t, "user"), PaymentID: genID(t, "payment"),
			Code: domain.ContradictionCode(genText(t, "code")), GatewayPaymentID: genText(t, "gateway"),
			GatewayRefundID: genText(t, "refund"), DisputeID: genText(t, "dispute"),
			Amount:   genOptional(t, "amount", func(t *rapid.T, _ string) domain.Money { return genMoney(t) }),
			Reported: genText(t, "reported")}
	},
	"PaymentResolved": func(t *rapid.T) domain.Event {
		return domain.PaymentResolved{UserID: genID(t, "user"), PaymentID: genID(t, "payment"),
			Cause: domain.AttentionCause(genText(t, "cause")), Action: domain.ResolveAction(genText(t, "action")), Note: genText(t, "note"),
			RefundID: genOptional(t, "refund", genID), Code: domain.ContradictionCode(genText(t, "code")), DisputeID: genText(t, "dispute")}
	},
	"SlotReturned": func(t *rapid.T) domain.Event {
		return domain.SlotReturned{UserID: genID(t, "user"), PaymentID: genID(t, "payment"), Unit: genUnit(t), ArrivalSequence: genSequence(t)}
	},
	"ProductPriceChanged": func(t *rapid.T) domain.Event { return domain.ProductPriceChanged{Price: genMoney(t)} },
	"ProductStockDecreased": func(t *rapid.T) domain.Event {
		return domain.ProductStockDecreased{Decrease: genUnit(t), TotalStock: genUnit(t)}
	},
	"ProductSaleCancelled": func(*rapid.T) domain.Event { return domain.ProductSaleCancelled{} },
}

func genCause(t *rapid.T) domain.RefundCause {
	return rapid.SampledFrom([]domain.RefundCause{domain.RefundLate, domain.RefundAmountMismatch, domain.RefundDuplicateCharge,
		domain.RefundRequested, domain.RefundSaleCancelled}).Draw(t, "cause")
}

func genEnvelope(t *rapid.T, event domain.Event) domain.Envelope {
	e := domain.Envelope{
		Position:      rapid.Int64Min(1).Draw(t, "position"),
		EventID:       genID(t, "event"),
		StreamID:      genID(t, "stream"),
		StreamVersion: rapid.IntMin(1).Draw(t, "version"),
		RecordedAt:    time.UnixMilli(rapid.Int64Range(0, 4102444800000).Draw(t, "recordedAt")).UTC(), // to 2100
		CorrelationID: genText(t, "correlation"),
		CausationID:   genText(t, "causation"),
		Actor:         genText(t, "actor"),
		Event:         event,
	}
	if rapid.Bool().Draw(t, "traced") {
		e.Traceparent = fmt.Sprintf("00-%x-%x-01", genID(t, "trace"), rapid.SliceOfN(rapid.Byte(), 8, 8).Draw(t, "span"))
	}
	e.ProductID = e.StreamID
	if forms[event.EventType()].slot {
		e.ProductID = genID(t, "product")
	}
	return e
}
