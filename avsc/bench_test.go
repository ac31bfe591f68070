package avsc

import (
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/shopspring/decimal"

	"github.com/dopaminestore/dopamine/domain"
	"github.com/dopaminestore/dopamine/eventstore"
)

func benchEvents(b *testing.B) []domain.Event {
	price, err := domain.NewMoney(decimal.New(259000, 0), "KRW")
	if err != nil {
		b.Fatal(err)
	}
	return []domain.Event{
		domain.SlotAcquired{UserID: uuid.New(), Unit: 77, ArrivalSequence: 123456, TTLMillis: 1800000, WarningMillis: 300000, KeyHash: make([]byte, 32)},
		domain.PaymentCompleted{UserID: uuid.New(), PaymentID: uuid.New(), GatewayPaymentID: "pay_1", Price: price, Method: domain.Card},
	}
}

func benchEnvelope(event domain.Event) domain.Envelope {
	return domain.Envelope{Position: 1, EventID: uuid.New(), StreamID: uuid.New(), StreamVersion: 1, ProductID: uuid.New(),
		RecordedAt: time.UnixMilli(1793527200000), Traceparent: "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01",
		Actor: uuid.NewString(), Event: event}
}

func BenchmarkMarshal(b *testing.B) {
	for _, event := range benchEvents(b) {
		b.Run(event.EventType(), func(b *testing.B) {
			e := benchEnvelope(event)
			var value []byte
			b.ReportAllocs()
			for b.Loop() {
				var err error
				if value, err = Marshal(value[:0], e); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}

func BenchmarkUnmarshal(b *testing.B) {
	for _, event := range benchEvents(b) {
		b.Run(event.EventType(), func(b *testing.B) {
			e := benchEnvelope(event)
			value, err := Marshal(nil, e)
			if err != nil {
				b.Fatal(err)
			}
			h := HeadersOf(e)
			b.ReportAllocs()
			for b.Loop() {
				if _, err := Unmarshal(value, h); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}

// BenchmarkEncode measures the cost for a command before its append.
func BenchmarkEncode(b *testing.B) {
	for _, event := range benchEvents(b) {
		b.Run(event.EventType(), func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				if _, _, _, err := Encode(event); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}

// BenchmarkDecode measures the cost for a replay per event.
func BenchmarkDecode(b *testing.B) {
	for _, event := range benchEvents(b) {
		b.Run(event.EventType(), func(b *testing.B) {
			typ, version, payload, err := Encode(event)
			if err != nil {
				b.Fatal(err)
			}
			r := eventstore.Recorded{Position: 1, Type: typ, SchemaVersion: version, Payload: payload}
			b.ReportAllocs()
			for b.Loop() {
				if _, err := Decode(r); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}
