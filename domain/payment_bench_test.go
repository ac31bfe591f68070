package domain_test

import (
	"fmt"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/shopspring/decimal"

	"github.com/dopaminestore/dopamine/domain"
)

// BenchmarkSlot_Payments folds a slot with that many payments and decides a success
// of the last one: the time is linear in the number of payments.
func BenchmarkSlot_Payments(b *testing.B) {
	price, err := domain.NewMoney(decimal.NewFromInt(10), "KRW")
	if err != nil {
		b.Fatal(err)
	}
	for _, payments := range []int{1, 10, 100, 1000} {
		b.Run(fmt.Sprintf("payments=%d", payments), func(b *testing.B) {
			slot, user := uuid.New(), uuid.New()
			events := []domain.Envelope{{StreamID: slot, Event: domain.SlotAcquired{UserID: user, Unit: 1, ArrivalSequence: 1, TTLMillis: time.Hour.Milliseconds()}}}
			var last uuid.UUID
			for i := range payments {
				if last != uuid.Nil {
					events = append(events, domain.Envelope{StreamID: slot, Event: domain.PaymentFailed{UserID: user, PaymentID: last, Reason: "NO"}})
				}
				last = uuid.New()
				events = append(events, domain.Envelope{StreamID: slot, StreamVersion: i + 2,
					Event: domain.PaymentInitiated{UserID: user, PaymentID: last, Price: price, Method: domain.Card}})
			}
			b.ReportAllocs()
			for b.Loop() {
				s := domain.FoldSlot(events)
				if r := s.ApplyOutcome(domain.PaymentOutcome{PaymentID: last, Succeeded: true, Paid: &price}, nil); len(r.Events) != 1 {
					b.Fatal(r)
				}
			}
			b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N)/float64(payments), "ns/payment")
		})
	}
}
