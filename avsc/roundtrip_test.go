package avsc

import (
	"encoding/json"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"regexp"
	"slices"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/shopspring/decimal"
	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"

	"github.com/dopaminestore/dopamine/domain"
	"github.com/dopaminestore/dopamine/eventstore"
)

// asText contains no Money, because equal decimals may have different
// representations.
func asText(t require.TestingT, e domain.Envelope) string {
	b, err := json.Marshal(e)
	require.NoError(t, err)
	return fmt.Sprintf("%T %s", e.Event, b)
}

func TestForms_CoverEveryDomainEvent(t *testing.T) {
	var declared []string
	for _, file := range []string{"events_product.go", "events_slot.go", "events_payment.go"} {
		source, err := os.ReadFile("../domain/" + file)
		require.NoError(t, err)
		for _, m := range regexp.MustCompile(`\) EventType\(\) string +\{ return "(\w+)" \}`).FindAllSubmatch(source, -1) {
			declared = append(declared, string(m[1]))
		}
	}
	slices.Sort(declared)
	require.Len(t, declared, 29)
	require.Equal(t, declared, slices.Sorted(maps.Keys(forms)))
	require.Equal(t, declared, slices.Sorted(maps.Keys(known.current)))
	require.Equal(t, declared, slices.Sorted(maps.Keys(eventGenerators)))
	for name, form := range forms {
		require.Equal(t, form.slot, slices.Contains(domain.SlotEventTypes, name), name)
	}
}

func TestRoundTrip_StoreAndKafka(t *testing.T) {
	for name, gen := range eventGenerators {
		t.Run(name, func(t *testing.T) {
			rapid.Check(t, func(t *rapid.T) {
				e := genEnvelope(t, gen(t))
				want := asText(t, e)

				typ, version, payload, err := Encode(e.Event)
				require.NoError(t, err)
				require.Equal(t, name, typ)
				fromStore, err := Decode(eventstore.Recorded{
					Position: e.Position, ID: e.EventID, Stream: e.StreamID, Version: e.StreamVersion, Key: e.ProductID,
					Type: typ, SchemaVersion: version, Payload: payload, RecordedAt: e.RecordedAt,
					Meta: eventstore.Meta{Traceparent: e.Traceparent, CorrelationID: e.CorrelationID, CausationID: e.CausationID, Actor: e.Actor},
				})
				require.NoError(t, err)
				require.Equal(t, want, asText(t, fromStore))

				value, err := Marshal([]byte("before"), fromStore)
				require.NoError(t, err)
				require.Equal(t, "before", string(value[:6]))
				headers := map[string]string{}
				HeadersOf(e).Each(func(name, text string) { headers[name] = text })
				h, err := ParseHeaders(func(name string) string { return headers[name] })
				require.NoError(t, err)
				fromKafka, err := Unmarshal(value[6:], h)
				require.NoError(t, err)
				require.Equal(t, want, asText(t, fromKafka))
			})
		})
	}
}

func TestEncode_RejectsLossyValues(t *testing.T) {
	at := time.Date(2026, 11, 1, 10, 0, 0, 0, time.UTC)
	created := func(change func(*domain.ProductCreated)) domain.Event {
		price, err := domain.NewMoney(decimal.New(1, 0), "KRW")
		require.NoError(t, err)
		e := domain.ProductCreated{Name: "n", Description: "d", Price: price, Stock: 1, SaleDate: at}
		change(&e)
		return e
	}
	for field, e := range map[string]domain.Event{
		"name":                created(func(e *domain.ProductCreated) { e.Name = "\xff" }),
		"description":         created(func(e *domain.ProductCreated) { e.Description = "a\x00b" }),
		"currency":            created(func(e *domain.ProductCreated) { e.Price = domain.Money{} }),
		"stock":               created(func(e *domain.ProductCreated) { e.Stock = 1 << 40 }),
		"saleDate":            created(func(e *domain.ProductCreated) { e.SaleDate = at.Add(time.Microsecond) }),
		"saleEndDate":         created(func(e *domain.ProductCreated) { end := at.AddDate(9000, 0, 0); e.SaleEndDate = &end }),
		"expirationTimestamp": domain.SlotAcquired{TTLMillis: 1 << 62},
	} {
		_, _, _, err := Encode(e)
		var bad *ValueError
		require.ErrorAs(t, err, &bad, field)
		require.Equal(t, field, bad.Field)
	}
}

// Money never has such amounts; the codec does not rely on it, since goavro
// would change them silently.
func TestEncode_RejectsTooLargeAmount(t *testing.T) {
	for _, amount := range []string{"1000000000000000", "-1000000000000000", "0.00001", "999999999999999.99999"} {
		w := recordWriter{record: record{native: map[string]any{}}}
		w.decimal("amount", decimal.RequireFromString(amount))
		var bad *ValueError
		require.ErrorAs(t, w.err, &bad, amount)
		require.Empty(t, w.native)
	}
}

type strangeEvent struct{}

func (strangeEvent) EventType() string { return "Strange" }

func TestUnknownEventError(t *testing.T) {
	var unknown *UnknownEventError
	_, _, _, err := Encode(strangeEvent{})
	require.ErrorAs(t, err, &unknown)
	require.Equal(t, "Strange", unknown.Type)
	_, err = Marshal(nil, domain.Envelope{})
	require.ErrorAs(t, err, &unknown)
	_, err = Decode(eventstore.Recorded{Type: "Strange", SchemaVersion: 1, Payload: []byte("{}")})
	require.ErrorAs(t, err, &unknown)
}

func TestDecode_RejectsNewerVersionAndInvalidPayload(t *testing.T) {
	var newer *UnknownVersionError
	_, err := Decode(eventstore.Recorded{Type: "SlotExpiringSoon", SchemaVersion: 2, Payload: []byte("{}")})
	require.ErrorAs(t, err, &newer)
	require.Equal(t, UnknownVersionError{"SlotExpiringSoon", 2, 1}, *newer)
	_, err = Decode(eventstore.Recorded{Type: "SlotExpiringSoon", SchemaVersion: 0, Payload: []byte("{}")})
	require.ErrorAs(t, err, &newer)
	_, err = Decode(eventstore.Recorded{Position: 9, Type: "SlotExpiringSoon", SchemaVersion: 1, Payload: []byte("{")})
	require.ErrorContains(t, err, "SlotExpiringSoon at position 9")
}

// A payload has a new version whenever its event has a new schema: without it, an older relay would
// publish the event without the new field, and an older projector would read it without (contract 6).
func TestPayloads_HaveAVersionForEachSchema(t *testing.T) {
	for eventType := range forms {
		published, err := fs.Glob(files, "published/"+fileOf(eventType)+".*.avsc")
		require.NoError(t, err)
		require.Equal(t, len(published), stored.newest(eventType), "%s: each schema after the first needs an upcast in payload.go", eventType)
	}
}

func TestDecode_UpcastsVersionByVersion(t *testing.T) {
	rename := func(from, to string) func([]byte) ([]byte, error) {
		return func(payload []byte) ([]byte, error) {
			var fields map[string]json.RawMessage
			if err := json.Unmarshal(payload, &fields); err != nil {
				return nil, err
			}
			fields[to] = fields[from]
			delete(fields, from)
			return json.Marshal(fields)
		}
	}
	p := payloads{upcasts: map[versionOf]func([]byte) ([]byte, error){
		{"ProductDetailsChanged", 1}: rename("heading", "title"),
		{"ProductDetailsChanged", 2}: rename("title", "name"),
	}}
	for version, payload := range map[int]string{
		1: `{"heading":"a","description":"b"}`,
		2: `{"title":"a","description":"b"}`,
		3: `{"name":"a","description":"b"}`,
	} {
		e, err := p.decode(eventstore.Recorded{Type: "ProductDetailsChanged", SchemaVersion: version, Payload: []byte(payload)})
		require.NoError(t, err)
		require.Equal(t, domain.ProductDetailsChanged{Name: "a", Description: "b"}, e.Event, "version %d", version)
	}
	_, err := p.decode(eventstore.Recorded{Type: "ProductDetailsChanged", SchemaVersion: 1, Payload: []byte("[")})
	require.ErrorContains(t, err, "from schema version 1")
}

func TestUnmarshal_Rejections(t *testing.T) {
	slot, product := uuid.New(), uuid.New()
	e := domain.Envelope{StreamID: slot, ProductID: product, RecordedAt: trialTime, Event: domain.SlotExpiringSoon{Deadline: trialTime}}
	value, err := Marshal(nil, e)
	require.NoError(t, err)
	h := HeadersOf(e)

	foreign := slices.Clone(value)
	foreign[2] ^= 1
	var unknown *UnknownSchemaError
	_, err = Unmarshal(foreign, h)
	require.ErrorAs(t, err, &unknown)
	require.NotEqual(t, known.current["SlotExpiringSoon"].fingerprint, unknown.Fingerprint)

	_, err = Unmarshal(value[1:], h)
	require.ErrorContains(t, err, "not in single-object encoding")
	_, err = Unmarshal(value[:len(value)-1], h)
	require.Error(t, err)
	_, err = Unmarshal(append(slices.Clone(value), 0), h)
	require.ErrorContains(t, err, "1 unexpected bytes at the end")

	var bad *ValueError
	other := h
	other.EventType = "SlotExpired"
	_, err = Unmarshal(value, other)
	require.ErrorAs(t, err, &bad)
	other = h
	other.StreamID = product
	_, err = Unmarshal(value, other)
	require.ErrorAs(t, err, &bad)
	require.Equal(t, "stream-id", bad.Field)
}
