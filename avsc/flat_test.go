package avsc

import (
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"

	"github.com/dopaminestore/dopamine/domain"
)

// sameAsJSON compares value and error with encoding/json alone.
func sameAsJSON(t require.TestingT, eventType, payload string) {
	want, wantErr := forms[eventType].fromJSON([]byte(payload))
	got, err := forms[eventType].fromPayload([]byte(payload))
	if wantErr != nil {
		require.EqualError(t, err, wantErr.Error(), payload)
		return
	}
	require.NoError(t, err, payload)
	require.Equal(t, want, got, payload)
}

func TestFlat_EqualsEncodingJSON(t *testing.T) {
	for name, gen := range eventGenerators {
		t.Run(name, func(t *testing.T) {
			rapid.Check(t, func(t *rapid.T) {
				_, _, payload, err := Encode(gen(t))
				require.NoError(t, err)
				sameAsJSON(t, name, string(payload))

				// The same for payloads that Encode would not write.
				at := func(label string) int { return rapid.IntRange(0, len(payload)).Draw(t, label) }
				from, to := at("from"), at("to")
				put := rapid.SampledFrom([]string{"", "", " ", "\n", "0", "-", "9", "1e3", "1.5", "null", "{}", "[]", `""`, `"`, `\`, `\u0041`, "{", "}",
					",", ":", "é", "\x00", `,"unit":7`, `,"Unit":7`, `,"more":1`, `"userId":null,`, "Z", "=", "99999999999999999999"}).Draw(t, "put")
				sameAsJSON(t, name, string(payload[:from])+put+string(payload[from:]))
				sameAsJSON(t, name, string(payload[:min(from, to)])+put+string(payload[max(from, to):]))
			})
		})
	}
}

// Frequent payloads must not fall back to the slow parser unnoticed.
func TestFlat_ReadsPayloads(t *testing.T) {
	for name, form := range forms {
		rapid.Check(t, func(t *rapid.T) {
			_, _, payload, err := Encode(eventGenerators[name](t))
			require.NoError(t, err)
			_, fast := form.fromFlat(payload)
			plain := !strings.ContainsFunc(string(payload), func(r rune) bool { return r < ' ' || r > '~' || r == '\\' })
			require.True(t, fast || !plain || hasLongNumber(payload), "%s", payload)
		})
	}
}

func hasLongNumber(payload []byte) bool {
	digits := 0
	for _, c := range payload {
		if digits++; c < '0' || c > '9' {
			digits = 0
		}
		if digits > 18 {
			return true
		}
	}
	return false
}

func TestFlat_GivesUpOnOtherPayloads(t *testing.T) {
	const user = "f47ac10b-58cc-4372-a567-0e02b2c3d479"
	for _, payload := range []string{
		`{"userId":"` + user + `","unit":1,"arrivalSequence":2,"ttl":3,"warning":4,"keyHash":""}`,
		` { "userId" : "` + user + `" , "unit" : 01 } `,
		`{"userId":"{` + user + `}","unit":-0}`,
		`{"userId":"urn:uuid:` + user + `"}`,
		`{"USERID":"` + user + `","unit":1,"unit":2,"unknown":{"a":[1]}}`,
		`{"unit":1.0}`, `{"unit":1e2}`, `{"unit":9223372036854775807}`, `{"unit":9223372036854775808}`,
		`{"keyHash":"AAA"}`, `{"keyHash":[1,2]}`, `{"keyHash":null,"regrantOf":null}`, `{"regrantOf":"` + user + `"}`,
		`{"userId":"\u0066` + user[1:] + `"}`,
		`{}`, `{} `, `{}x`, `{`, ``, `null`, `[]`, `{"unit":1,}`, `{,"unit":1}`, `{"unit" 1}`, `{"unit":}`,
	} {
		sameAsJSON(t, domain.SlotAcquired{}.EventType(), payload)
	}
	for _, payload := range []string{
		`{"price":{"amount":"12.50","currency":"USD"}}`, `{"price":{"currency":"USD","amount":"12.505"}}`, `{"price":{"amount":"1","currency":"XXX"}}`,
		`{"price":{"amount":"-1","currency":"KRW"}}`, `{"price":{"amount":"x","currency":"KRW"}}`, `{"price":{}}`, `{"price":null}`,
		`{"price":{"amount":"1","currency":"KRW","more":1}}`, `{"price":{"amount":1,"currency":"KRW"}}`,
		`{"price":{"amount":"1","currency":"KRW"},"price":{"amount":"2","currency":"KRW"}}`,
	} {
		sameAsJSON(t, domain.PaymentInitiated{}.EventType(), payload)
	}
}
