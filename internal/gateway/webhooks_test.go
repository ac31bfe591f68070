package gateway

import (
	"fmt"
	"net/http"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/google/uuid"
	standardwebhooks "github.com/standard-webhooks/standard-webhooks/libraries/go"
	"github.com/stretchr/testify/require"
)

const (
	secret      = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"
	otherSecret = "whsec_C2FVsBQIhrscChlQIMV+b5sSYspob7oD"
)

// signed returns the headers of a callback.
func signed(t *testing.T, secret, id string, at time.Time, body string) http.Header {
	t.Helper()
	w, err := standardwebhooks.NewWebhook(secret)
	require.NoError(t, err)
	signature, err := w.Sign(id, at, []byte(body))
	require.NoError(t, err)
	h := http.Header{}
	h.Set("webhook-id", id)
	h.Set("webhook-timestamp", strconv.FormatInt(at.Unix(), 10))
	h.Set("webhook-signature", signature)
	return h
}

// The convention's own test vectors: those of its specification and of its
// libraries.
func TestWebhooks_PublishedVectors(t *testing.T) {
	for _, v := range []struct{ secret, id, timestamp, body, signature string }{
		{"whsec_C2FVsBQIhrscChlQIMV+b5sSYspob7oD", "msg_27UH4WbU6Z5A5EzD8u03UvzRbpk", "1649367553",
			`{"email":"test@example.com","username":"test_user"}`,
			"v1,tZ1I4/hDygAJgO5TYxiSd6Sd0kDW6hPenDe+bTa3Kkw="},
		{"whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw", "msg_p5jXN8AQM9LWM0D4loKWxJek", "1614265330",
			`{"test": 2432232314}`, "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE="},
	} {
		w, err := NewWebhooks([]string{v.secret})
		require.NoError(t, err)
		seconds, err := strconv.ParseInt(v.timestamp, 10, 64)
		require.NoError(t, err)
		h := http.Header{"Webhook-Id": {v.id}, "Webhook-Timestamp": {v.timestamp}, "Webhook-Signature": {v.signature}}
		id, err := w.verify(h, []byte(v.body), time.Unix(seconds, 0))
		require.NoError(t, err, v.secret)
		require.Equal(t, v.id, id)
		_, err = w.Parse(t.Context(), h, []byte(v.body+" "), time.Unix(seconds, 0))
		require.ErrorIs(t, err, ErrSignature)
	}
	_, err := NewWebhooks([]string{"whsec_?"})
	require.ErrorContains(t, err, "webhook secret 1 of 1")
	require.NotContains(t, err.Error(), "?")
}

func TestWebhooks_VerifySender(t *testing.T) {
	w, err := NewWebhooks([]string{otherSecret, secret})
	require.NoError(t, err)
	now := time.Unix(1_800_000_000, 0)
	const body = `{"type":"x"}`
	headers := func(secret string, at time.Time, change ...string) http.Header {
		h := signed(t, secret, "w1", at, body)
		for i := 0; i < len(change); i += 2 {
			h.Set(change[i], change[i+1])
		}
		return h
	}
	good := headers(secret, now).Get("webhook-signature")
	for name, c := range map[string]struct {
		header http.Header
		reason string // "" if it is accepted
	}{
		"signed":                  {headers(secret, now), ""},
		"by the secret before":    {headers(otherSecret, now), ""},
		"by another":              {headers("whsec_AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA", now), ReasonSignature},
		"five minutes old":        {headers(secret, now.Add(-5*time.Minute)), ""},
		"older":                   {headers(secret, now.Add(-5*time.Minute-time.Second)), ReasonTimestamp},
		"five minutes ahead":      {headers(secret, now.Add(5*time.Minute)), ""},
		"further ahead":           {headers(secret, now.Add(5*time.Minute+time.Second)), ReasonTimestamp},
		"one of several":          {headers(secret, now, "webhook-signature", "v1,AAAA v2,BBBB "+good), ""},
		"of another version":      {headers(secret, now, "webhook-signature", strings.Replace(good, "v1,", "v1a,", 1)), ReasonSignature},
		"half a signature":        {headers(secret, now, "webhook-signature", "v1,"), ReasonSignature},
		"without a version":       {headers(secret, now, "webhook-signature", good[3:]), ReasonSignature},
		"another id":              {headers(secret, now, "webhook-id", "w2"), ReasonSignature},
		"another time":            {headers(secret, now, "webhook-timestamp", "1800000001"), ReasonSignature},
		"by another, long ago":    {headers("whsec_AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA", now.Add(-time.Hour)), ReasonSignature},
		"no id":                   {headers(secret, now, "webhook-id", ""), ReasonHeaders},
		"no timestamp":            {headers(secret, now, "webhook-timestamp", ""), ReasonHeaders},
		"no signature":            {headers(secret, now, "webhook-signature", ""), ReasonHeaders},
		"a timestamp that's none": {headers(secret, now, "webhook-timestamp", "now"), ReasonHeaders},
		"nothing":                 {http.Header{}, ReasonHeaders},
	} {
		t.Run(name, func(t *testing.T) {
			_, err := w.Parse(t.Context(), c.header, []byte(body), now)
			if c.reason == "" {
				require.NoError(t, err)
				return
			}
			var refused *SignatureError
			require.ErrorIs(t, err, ErrSignature)
			require.ErrorAs(t, err, &refused)
			require.Equal(t, c.reason, refused.Reason)
		})
	}
}

func TestWebhooks_Normalise(t *testing.T) {
	w, err := NewWebhooks([]string{secret})
	require.NoError(t, err)
	id, refund := uuid.New(), uuid.New()
	won := &Paid{Money: money(t, "10", "KRW")}
	for _, tc := range []struct {
		kind, data string
		want       Notification
	}{
		{"payment.succeeded", `"paymentId":"g","amount":"10","currency":"krw"`, Notification{PaymentID: "g", Paid: won}},
		{"payment.succeeded", `"paymentId":"g","amount":10,"currency":"KRW"`, Notification{PaymentID: "g", Paid: won}},
		{"payment.succeeded", `"paymentId":null,"amount":-10,"currency":"KRW"`, Notification{Paid: &Paid{Unreadable: "-10 KRW"}}},
		{"payment.succeeded", `"amount":"10","currency":"XXQ"`, Notification{Paid: &Paid{Unreadable: "10 XXQ"}}},
		{"payment.succeeded", `"amount":"ten","currency":"KRW"`, Notification{Paid: &Paid{Unreadable: "ten KRW"}}},
		{"payment.succeeded", `"amount":"10"`, Notification{Paid: &Paid{Unreadable: "10"}}},
		{"payment.succeeded", `"amount":null,"currency":"KRW"`, Notification{Paid: &Paid{Unreadable: "KRW"}}},
		{"payment.succeeded", `"amount":{"value":10},"currency":[]`, Notification{Paid: &Paid{Unreadable: "none"}}},
		{"payment.succeeded", ``, Notification{Paid: &Paid{Unreadable: "none"}}},
		// Names of members are case-sensitive: these are others, and ignored.
		{"payment.succeeded", `"Amount":"10","currency":"KRW"`, Notification{Paid: &Paid{Unreadable: "KRW"}}},
		{"payment.succeeded", `"paymentId":"g","amount":"10","AMOUNT":"99","currency":"KRW","Currency":"USD"`, Notification{PaymentID: "g", Paid: won}},
		{"payment.refunded", `"refundId":"re_1","amount":"ten"`, Notification{RefundID: "re_1", Paid: &Paid{Unreadable: "ten"}}},
		{"payment.failed", `"failureReason":"no_funds","amount":[]`, Notification{FailureReason: "NO_FUNDS"}},
		{"payment.failed", `"failureReason":"Mr. Smith"`, Notification{FailureReason: "DECLINED"}},
		{"payment.failed", ``, Notification{FailureReason: "DECLINED"}},
		{"payment.canceled", `"paymentId":"a\u0000b"`, Notification{FailureReason: "CANCELED"}},
		{"payment.requires_action", `"nextAction":{"type":"redirect","url":"https://a/"}`, Notification{NextAction: &NextAction{Type: Redirect, URL: "https://a/"}}},
		{"refund.succeeded", `"refundReference":"` + refund.String() + `"`, Notification{RefundReference: refund}},
		{"refund.failed", `"refundId":"re_1","failureReason":"lost_card"`, Notification{RefundID: "re_1", FailureReason: "LOST_CARD"}},
		{"refund.failed", `"refundReference":"of another system","refundId":"re_1"`, Notification{RefundID: "re_1", FailureReason: "DECLINED"}},
		{"payment.refunded", `"refundId":"re_1","amount":"10","currency":"KRW"`, Notification{RefundID: "re_1", Paid: won}},
		{"payment.disputed", `"disputeId":"d"`, Notification{DisputeID: "d"}},
		{"payment.dispute_closed", `"disputeId":"d","won":true`, Notification{DisputeID: "d", Won: true}},
		{"payment.dispute_closed", `"disputeId":"d","won":false`, Notification{DisputeID: "d"}},
		{"payment.reversed", ``, Notification{}},
	} {
		t.Run(tc.kind+" "+tc.data, func(t *testing.T) {
			if tc.data != "" {
				tc.data = "," + tc.data
			}
			body := fmt.Sprintf(`{"type":%q,"timestamp":"2026-01-01T00:00:00Z","more":1,"data":{"reference":%q%s,"more":[]}}`, tc.kind, id, tc.data)
			tc.want.ID, tc.want.Kind, tc.want.Reference = "w1", Kind(tc.kind), id
			n, err := w.Parse(t.Context(), signed(t, secret, "w1", time.Now(), body), []byte(body), time.Now())
			require.NoError(t, err)
			require.Equal(t, tc.want, n)
		})
	}
}

func TestWebhooks_Malformed(t *testing.T) {
	w, err := NewWebhooks([]string{secret})
	require.NoError(t, err)
	reference := `"reference":"` + uuid.NewString() + `"`
	for _, body := range []string{
		"{", "", "[]", `"x"`, "{}", `{"type":1}`, `{"type":"a","type":"payment.failed"}`, `{"type":"payment.failed"}`, `{"type":"payment.failed","data":{}}`,
		`{"type":"payment.failed","data":{"Reference":"` + uuid.NewString() + `"}}`, `{"type":"payment.failed","data":{"reference":null}}`,
		`{"type":"payment.dispute_closed","data":{` + reference + `,"disputeId":"d"}}`,
	} {
		_, err := w.Parse(t.Context(), signed(t, secret, "w1", time.Now(), body), []byte(body), time.Now())
		var malformed *MalformedError
		require.ErrorAs(t, err, &malformed, body)
	}
	body := `{"type":"payment.failed","data":{"reference":"x"}}`
	_, err = w.Parse(t.Context(), signed(t, secret, "w1", time.Now(), body), []byte(body), time.Now())
	require.ErrorIs(t, err, ErrUnknownReference)
	for _, body := range []string{`{"type":"payment.created"}`, `{"type":"x","data":7}`} {
		n, err := w.Parse(t.Context(), signed(t, secret, "w1", time.Now(), body), []byte(body), time.Now())
		require.NoError(t, err)
		require.Equal(t, Ignored, n.Kind)
	}
	_, err = w.Parse(t.Context(), signed(t, secret, strings.Repeat("i", 256), time.Now(), "{}"), []byte("{}"), time.Now())
	require.ErrorContains(t, err, "webhook-id")
}
