package stripe

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/shopspring/decimal"
	"github.com/stretchr/testify/require"
	"github.com/stripe/stripe-go/v85/webhook"
	"go.uber.org/goleak"

	"github.com/dopaminestore/dopamine/domain"
	"github.com/dopaminestore/dopamine/internal/gateway"
	"github.com/dopaminestore/dopamine/internal/gateway/stripe/stripetest"
)

func TestMain(m *testing.M) {
	goleak.VerifyTestMain(m, goleak.Cleanup(func(int) { http.DefaultClient.CloseIdleConnections() }))
}

const (
	key           = "sk_test_123"
	webhookSecret = "whsec_not-base64!"
)

func money(t *testing.T, amount, currency string) domain.Money {
	t.Helper()
	m, err := domain.NewPaid(decimal.RequireFromString(amount), currency)
	require.NoError(t, err)
	return m
}

// world is a double, a client of it, and what its webhooks reported.
type world struct {
	*stripetest.Double
	client *Client
	store  uuid.UUID
	clock  time.Time
	mu     sync.Mutex
	got    []gateway.Notification
}

func newWorld(t *testing.T) *world {
	t.Helper()
	w := &world{Double: stripetest.New(key), store: uuid.New(), clock: time.Now()}
	t.Cleanup(w.Close)
	w.client = w.newClient(t, w.store)
	parser, err := NewWebhooks(w.client, []string{"whsec_old", webhookSecret})
	require.NoError(t, err)
	hook := httptest.NewServer(http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) {
		body, _ := io.ReadAll(r.Body)
		n, err := parser.Parse(r.Context(), r.Header, body, time.Now())
		if err != nil {
			http.Error(rw, err.Error(), http.StatusBadRequest)
			return
		}
		w.mu.Lock()
		w.got = append(w.got, n)
		w.mu.Unlock()
		rw.WriteHeader(http.StatusNoContent)
	}))
	t.Cleanup(hook.Close)
	w.WebhookURL, w.WebhookSecret = hook.URL, webhookSecret
	return w
}

func (w *world) newClient(t *testing.T, store uuid.UUID) *Client {
	c, err := New(Options{URL: w.URL(), Key: key, PublishableKey: "pk_test", Store: store, Timeout: 5 * time.Second, now: func() time.Time { return w.clock }})
	require.NoError(t, err)
	t.Cleanup(c.Close)
	return c
}

// last returns what the last webhook reported, without its event id.
func (w *world) last() gateway.Notification {
	w.mu.Lock()
	defer w.mu.Unlock()
	n := w.got[len(w.got)-1]
	n.ID = ""
	return n
}

// pay posts a payment of KRW 259000.
func (w *world) pay(t *testing.T) (gateway.PaymentQuery, gateway.Payment) {
	t.Helper()
	reference := uuid.New()
	request, err := w.client.EncodePayment(gateway.PaymentRequest{Reference: reference, Amount: money(t, "259000", "KRW"), StoreID: w.store})
	require.NoError(t, err)
	p, err := w.client.Pay(t.Context(), reference, request)
	require.NoError(t, err)
	return gateway.PaymentQuery{Reference: reference, GatewayID: p.ID, Request: request, FirstPost: w.clock, LastPost: w.clock}, p
}

var won = "259000"

func (w *world) refund(t *testing.T, q gateway.PaymentQuery, amount string) gateway.RefundRequest {
	return gateway.RefundRequest{RefundID: uuid.New(), Reference: q.Reference, GatewayPaymentID: q.GatewayID, Amount: money(t, amount, "KRW")}
}

func TestPayment_DeclinedAuthenticatedSucceeded(t *testing.T) {
	w := newWorld(t)
	q, p := w.pay(t)
	secret := &gateway.NextAction{Type: gateway.ClientSecret, ClientSecret: p.ID + "_secret_x", PublishableKey: "pk_test"}
	require.Equal(t, gateway.Payment{ID: p.ID, Status: gateway.RequiresAction, NextAction: secret}, p)

	require.NoError(t, w.Decline(p.ID))
	require.Equal(t, gateway.Notification{Kind: gateway.PaymentRequiresAction, Reference: q.Reference, PaymentID: p.ID, NextAction: secret}, w.last(),
		"the buyer may try another card")
	require.NoError(t, w.Authenticate(p.ID))
	require.Equal(t, gateway.PaymentRequiresAction, w.last().Kind)
	require.NoError(t, w.Set(p.ID, "payment_intent.processing", stripetest.Object{"status": "processing"}))
	require.Equal(t, gateway.Ignored, w.last().Kind)
	found, err := w.client.FindPayment(t.Context(), q)
	require.NoError(t, err)
	require.Equal(t, gateway.Pending, found.Status)

	require.NoError(t, w.Succeed(p.ID))
	require.Equal(t, gateway.Notification{
		Kind: gateway.PaymentSucceeded, Reference: q.Reference, PaymentID: p.ID, Paid: &gateway.Paid{Money: money(t, won, "KRW")},
	}, w.last())
	require.NoError(t, w.Send("payment_intent.payment_failed", w.Objects("payment_intent")[0]))
	require.Equal(t, gateway.PaymentSucceeded, w.last().Kind, "the state of the object decides, not the event's name")
	canceled, err := w.client.CancelPayment(t.Context(), q)
	require.NoError(t, err)
	require.Equal(t, gateway.Succeeded, canceled.Status, "too late")
	require.Len(t, w.Objects("payment_intent"), 1)
}

func TestCancel(t *testing.T) {
	w := newWorld(t)
	q, p := w.pay(t)
	canceled, err := w.client.CancelPayment(t.Context(), q)
	require.NoError(t, err)
	require.Equal(t, gateway.Payment{ID: p.ID, Status: gateway.Canceled, FailureReason: "CANCELED"}, canceled)
	require.NoError(t, w.Send("payment_intent.canceled", w.Objects("payment_intent")[0]))
	require.Equal(t, gateway.PaymentCanceled, w.last().Kind)

	q, p = w.pay(t)
	require.NoError(t, w.Set(p.ID, "", stripetest.Object{"status": "processing"}))
	_, err = w.client.CancelPayment(t.Context(), q)
	var rejected *gateway.Rejected
	require.ErrorAs(t, err, &rejected, "not while it is processing")

	q.GatewayID = "pi_unknown"
	_, err = w.client.CancelPayment(t.Context(), q)
	require.ErrorIs(t, err, gateway.ErrUnknownReference)
}

// A payment whose response was lost is found by repeating the request, whose
// replayed response is out of date, and after the key's lifetime by a search.
func TestFindPayment_WithoutItsID(t *testing.T) {
	w := newWorld(t)
	_, err := w.client.FindPayment(t.Context(), gateway.PaymentQuery{GatewayID: "pi_unknown"})
	require.ErrorIs(t, err, gateway.ErrUnknownReference) // and keeps the connection: net/http repeats on kept ones
	w.Fail(func(r *http.Request) bool { return r.Method == http.MethodPost })
	reference := uuid.New()
	request, err := w.client.EncodePayment(gateway.PaymentRequest{Reference: reference, Amount: money(t, won, "KRW")})
	require.NoError(t, err)
	_, err = w.client.Pay(t.Context(), reference, request)
	require.Error(t, err)
	require.Len(t, w.Posts(), 1, "nothing is repeated by net/http or by the library")
	w.Fail(nil)
	q := gateway.PaymentQuery{Reference: reference, Request: request, FirstPost: w.clock, LastPost: w.clock}
	p, err := w.client.FindPayment(t.Context(), q)
	require.NoError(t, err)
	require.Equal(t, gateway.RequiresAction, p.Status)
	require.NoError(t, w.Succeed(p.ID))
	p, err = w.client.FindPayment(t.Context(), q)
	require.NoError(t, err)
	require.Equal(t, gateway.Succeeded, p.Status, "not the replayed response")
	require.Len(t, w.Objects("payment_intent"), 1)

	w.ForgetKeys()
	w.clock = w.clock.Add(23*time.Hour + time.Minute)
	_, err = w.client.FindPayment(t.Context(), q)
	require.Error(t, err)
	require.NotErrorIs(t, err, gateway.ErrUnknownReference, "the search may be behind")
	w.Index()
	p, err = w.client.FindPayment(t.Context(), q)
	require.NoError(t, err)
	require.Equal(t, gateway.Succeeded, p.Status)

	q.Reference = uuid.New()
	w.clock = w.clock.Add(time.Hour)
	_, err = w.client.FindPayment(t.Context(), q)
	require.ErrorIs(t, err, gateway.ErrUnknownReference)
	require.Len(t, w.Objects("payment_intent"), 1, "a search creates nothing")
	_, err = w.client.FindPayment(t.Context(), gateway.PaymentQuery{Reference: uuid.New(), Request: request})
	require.ErrorIs(t, err, gateway.ErrUnknownReference, "it was never posted")
}

// A look-up of a payment that is not wanted any more must not leave a
// PaymentIntent that its buyer can still pay.
func TestFindPayment_UnwantedIsCanceledAtOnce(t *testing.T) {
	w := newWorld(t)
	reference := uuid.New()
	request, err := w.client.EncodePayment(gateway.PaymentRequest{Reference: reference, Amount: money(t, won, "KRW")})
	require.NoError(t, err)
	p, err := w.client.FindPayment(t.Context(), gateway.PaymentQuery{Reference: reference, Request: request, LastPost: w.clock, Unwanted: true})
	require.NoError(t, err)
	require.Equal(t, gateway.Canceled, p.Status)
	require.Equal(t, "canceled", w.Objects("payment_intent")[0]["status"])
}

func TestRefunds_SucceedFailLaterAndRepeat(t *testing.T) {
	w := newWorld(t)
	q, p := w.pay(t)
	require.NoError(t, w.Succeed(p.ID))
	part := w.refund(t, q, "59000")
	_, err := w.client.FindRefund(t.Context(), part)
	require.ErrorIs(t, err, gateway.ErrUnknownReference)
	r, err := w.client.Refund(t.Context(), part)
	require.NoError(t, err)
	require.Equal(t, gateway.RefundPending, r.Status)
	again, err := w.client.Refund(t.Context(), part)
	require.NoError(t, err)
	require.Equal(t, r, again)

	require.NoError(t, w.Set(r.ID, "refund.updated", stripetest.Object{"status": "succeeded"}))
	require.Equal(t, gateway.Notification{
		Kind: gateway.RefundHasSucceeded, Reference: q.Reference, PaymentID: p.ID, RefundReference: part.RefundID, RefundID: r.ID,
		Paid: &gateway.Paid{Money: money(t, "59000", "KRW")},
	}, w.last())
	found, err := w.client.FindRefund(t.Context(), part)
	require.NoError(t, err)
	require.Equal(t, gateway.RefundSucceeded, found.Status, "found in the list, by its metadata")

	require.NoError(t, w.Set(r.ID, "refund.failed", stripetest.Object{"status": "failed", "failure_reason": "lost_or_stolen_card"}))
	require.Equal(t, gateway.RefundHasFailed, w.last().Kind)
	require.Equal(t, "LOST_OR_STOLEN_CARD", w.last().FailureReason)
	part.GatewayRefundID = r.ID
	found, err = w.client.FindRefund(t.Context(), part)
	require.NoError(t, err)
	require.Equal(t, gateway.Refund{ID: r.ID, Status: gateway.RefundFailed, FailureReason: "LOST_OR_STOLEN_CARD"}, found)

	_, err = w.client.Refund(t.Context(), w.refund(t, q, won))
	require.NoError(t, err)
	_, err = w.client.Refund(t.Context(), w.refund(t, q, won))
	require.True(t, gateway.AlreadyRefunded(err), "%v", err)
}

func TestWebhooks_DashboardRefundAndDisputes(t *testing.T) {
	w := newWorld(t)
	q, p := w.pay(t)
	require.NoError(t, w.Succeed(p.ID))
	re, err := w.RefundInDashboard(p.ID, 1000)
	require.NoError(t, err)
	require.Equal(t, gateway.Notification{
		Kind: gateway.PaymentRefunded, Reference: q.Reference, PaymentID: p.ID, RefundID: re, Paid: &gateway.Paid{Money: money(t, "1000", "KRW")},
	}, w.last())
	for status, won := range map[string]bool{"won": true, "warning_closed": true, "lost": false} {
		dp, err := w.Dispute(p.ID)
		require.NoError(t, err)
		disputed := gateway.Notification{Kind: gateway.PaymentDisputed, Reference: q.Reference, PaymentID: p.ID, DisputeID: dp}
		require.Equal(t, disputed, w.last())
		require.NoError(t, w.Set(dp, "charge.dispute.closed", stripetest.Object{"status": status}))
		disputed.Kind, disputed.Won = gateway.PaymentDisputeClosed, won
		require.Equal(t, disputed, w.last(), status)
	}
}

func TestWebhooks_OtherStoresAndTypesAreIgnored(t *testing.T) {
	w := newWorld(t)
	other := w.newClient(t, uuid.New())
	reference := uuid.New()
	request, err := other.EncodePayment(gateway.PaymentRequest{Reference: reference, Amount: money(t, "1", "KRW")})
	require.NoError(t, err)
	p, err := other.Pay(t.Context(), reference, request)
	require.NoError(t, err)
	require.NoError(t, w.Succeed(p.ID))
	require.Equal(t, gateway.Notification{}, w.last())
	_, err = w.RefundInDashboard(p.ID, 1)
	require.NoError(t, err)
	require.Equal(t, gateway.Notification{}, w.last())
	_, err = w.Dispute(p.ID)
	require.NoError(t, err)
	require.Equal(t, gateway.Notification{}, w.last())
	require.NoError(t, w.Send("payment_intent.succeeded", stripetest.Object{"id": "pi_of_another_account"}))
	require.Equal(t, gateway.Notification{}, w.last())
	require.NoError(t, w.Send("customer.created", stripetest.Object{"id": "cus_1"}))
	require.Equal(t, gateway.Notification{}, w.last())
}

func TestWebhooks_Signature(t *testing.T) {
	w := newWorld(t)
	parser, err := NewWebhooks(w.client, []string{"whsec_old", webhookSecret})
	require.NoError(t, err)
	payload := []byte(`{"id":"evt_1","object":"event","type":"customer.created","data":{"object":{"id":"cus_1"}}}`)
	parse := func(secret string, at time.Time, payload []byte) error {
		signed := webhook.GenerateTestSignedPayload(&webhook.UnsignedPayload{Payload: payload, Secret: secret, Timestamp: at})
		_, err := parser.Parse(t.Context(), http.Header{"Stripe-Signature": {signed.Header}}, payload, time.Now())
		return err
	}
	now := time.Now()
	require.NoError(t, parse(webhookSecret, now, payload))
	require.NoError(t, parse("whsec_old", now, payload))
	refused := func(reason string, err error) {
		t.Helper()
		var refused *gateway.SignatureError
		require.ErrorIs(t, err, gateway.ErrSignature)
		require.ErrorAs(t, err, &refused)
		require.Equal(t, reason, refused.Reason)
	}
	refused(gateway.ReasonSignature, parse("whsec_another", now, payload))
	refused(gateway.ReasonSignature, parse("whsec_another", now.Add(-6*time.Minute), payload))
	for _, payload := range [][]byte{payload, []byte("{")} {
		refused(gateway.ReasonTimestamp, parse(webhookSecret, now.Add(-6*time.Minute), payload))
		refused(gateway.ReasonTimestamp, parse(webhookSecret, now.Add(6*time.Minute), payload))
	}
	for _, header := range []string{"", "v1", "t=now,v1=00"} {
		_, err = parser.Parse(t.Context(), http.Header{"Stripe-Signature": {header}}, payload, now)
		refused(gateway.ReasonHeaders, err)
	}
	// A part that the library ignores does not make an old event recent.
	old := webhook.GenerateTestSignedPayload(&webhook.UnsignedPayload{Payload: payload, Secret: webhookSecret, Timestamp: now.Add(-time.Hour)})
	_, err = parser.Parse(t.Context(), http.Header{"Stripe-Signature": {fmt.Sprintf("%s, t=%d", old.Header, now.Unix())}}, payload, now)
	refused(gateway.ReasonTimestamp, err)
	var malformed *gateway.MalformedError
	require.ErrorAs(t, parse(webhookSecret, now, []byte("{")), &malformed)

	w.Close() // Stripe cannot be queried: it should send the event again
	err = parse(webhookSecret, now, []byte(`{"id":"evt_2","object":"event","type":"payment_intent.succeeded","data":{"object":{"id":"pi_1"}}}`))
	require.Error(t, err)
	require.NotErrorIs(t, err, gateway.ErrSignature)
	require.False(t, errors.As(err, &malformed))
}

func TestErrors(t *testing.T) {
	for name, tc := range map[string]struct {
		status int
		body   string
		want   string
	}{
		"credentials":     {401, `{"error":{"type":"invalid_request_error","message":"Invalid API Key provided: sk_SECRET"}}`, "credentials"},
		"permission":      {403, `{"error":{"type":"invalid_request_error","message":"sk_SECRET"}}`, "credentials"},
		"in progress":     {409, `{"error":{"type":"idempotency_error","code":"idempotency_key_in_use","message":"SECRET"}}`, "unknown"},
		"key reused":      {400, `{"error":{"type":"idempotency_error","message":"SECRET"}}`, "unknown"},
		"too many":        {429, `{"error":{"type":"invalid_request_error","code":"rate_limit","message":"SECRET"}}`, "unknown"},
		"api error":       {500, `{"error":{"type":"api_error","message":"SECRET"}}`, "unknown"},
		"a proxy":         {403, `<html>SECRET</html>`, "unknown"},
		"another's 404":   {404, `<html>SECRET</html>`, "unknown"},
		"amount":          {400, `{"error":{"type":"invalid_request_error","code":"amount_too_small","message":"SECRET"}}`, "AMOUNT_TOO_SMALL"},
		"without a code":  {400, `{"error":{"type":"invalid_request_error","message":"Invalid currency: SECRET"}}`, "INVALID_REQUEST"},
		"declined":        {402, `{"error":{"type":"card_error","code":"card_declined","message":"SECRET","payment_intent":{"client_secret":"SECRET"}}}`, "CARD_DECLINED"},
		"duplicate names": {200, `{"id":"pi_1","status":"succeeded","status":"canceled"}`, "unknown"},
		"no id":           {200, `{"status":"succeeded"}`, "unknown"},
		"not JSON":        {200, `<html>SECRET</html>`, "unknown"},
	} {
		t.Run(name, func(t *testing.T) {
			s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
				w.WriteHeader(tc.status)
				_, _ = io.WriteString(w, tc.body)
			}))
			defer s.Close()
			c, err := New(Options{URL: s.URL, Key: "sk_SECRET", Store: uuid.New()})
			require.NoError(t, err)
			defer c.Close()
			_, err = c.Pay(t.Context(), uuid.New(), []byte("amount=1"))
			require.Error(t, err)
			require.NotContains(t, err.Error(), "SECRET")
			var rejected *gateway.Rejected
			switch {
			case errors.As(err, &rejected):
				require.Equal(t, tc.want, rejected.Reason)
			case errors.Is(err, gateway.ErrCredentials):
				require.Equal(t, tc.want, "credentials")
			default:
				require.Equal(t, tc.want, "unknown", "%v", err)
			}
		})
	}
	_, err := New(Options{URL: "https://sk_SECRET@api.stripe.com", Key: "x"})
	require.Error(t, err)
	require.NotContains(t, err.Error(), "SECRET")
}

func TestMinorUnits(t *testing.T) {
	for _, tc := range []struct {
		amount, currency string
		minor            int64 // -1: AMOUNT_NOT_SUPPORTED
	}{
		{"259000", "KRW", 259000}, {"500", "JPY", 500}, {"12.50", "USD", 1250}, {"12.5", "EUR", 1250}, {"0.01", "USD", 1},
		{"5", "ISK", 500}, {"5", "UGX", 500}, {"5", "HUF", 500}, {"5.25", "TWD", 525},
		{"1.230", "KWD", 1230}, {"1.23", "BHD", 1230}, {"1.234", "KWD", -1}, {"1.235", "TND", -1},
		{"5", "MGA", 5}, {"5.2", "MGA", -1}, {"0.5", "KRW", -1}, {"1.5", "ISK", -1}, {"12.505", "USD", -1}, {"1.234", "IQD", -1}, {"1", "CLF", -1},
	} {
		t.Run(tc.amount+" "+tc.currency, func(t *testing.T) {
			got, err := minor(money(t, tc.amount, tc.currency))
			if tc.minor < 0 {
				var rejected *gateway.Rejected
				require.ErrorAs(t, err, &rejected)
				require.Equal(t, "AMOUNT_NOT_SUPPORTED", rejected.Reason)
				return
			}
			require.NoError(t, err)
			require.Equal(t, tc.minor, got)
			require.True(t, paid(got, strings.ToLower(tc.currency)).Money.Equal(money(t, tc.amount, tc.currency)))
		})
	}
	require.Equal(t, "5.2 ISK", fmt.Sprint(paid(520, "isk").Money, " ", paid(520, "isk").Money.Currency()))
}

// Every request that the adapter makes is accepted by stripe-mock, which checks
// it against Stripe's OpenAPI description. stripe-mock has no state.
func TestAgainstStripeMock(t *testing.T) {
	mock, err := stripetest.NewMock()
	require.NoError(t, err)
	s := httptest.NewServer(mock)
	defer s.Close()
	c, err := New(Options{URL: s.URL, Key: "sk_test_123", Store: uuid.New()})
	require.NoError(t, err)
	defer c.Close()
	ctx, reference := t.Context(), uuid.New()
	request, err := c.EncodePayment(gateway.PaymentRequest{Reference: reference, Amount: money(t, "12.50", "USD")})
	require.NoError(t, err)
	_, err = c.Pay(ctx, reference, request)
	require.NoError(t, err)
	byID := gateway.PaymentQuery{Reference: reference, GatewayID: "pi_1"}
	byKey := gateway.PaymentQuery{Reference: reference, Request: request, LastPost: time.Now()}
	bySearch := gateway.PaymentQuery{Reference: reference, LastPost: time.Now().Add(-48 * time.Hour)}
	for _, q := range []gateway.PaymentQuery{byID, byKey, bySearch} {
		if _, err = c.FindPayment(ctx, q); !errors.Is(err, gateway.ErrUnknownReference) { // its fixtures have other metadata
			require.NoError(t, err)
		}
	}
	_, err = c.CancelPayment(ctx, byID)
	require.NoError(t, err)
	refund := gateway.RefundRequest{RefundID: uuid.New(), Reference: reference, GatewayPaymentID: "pi_1", Amount: money(t, "1", "USD")}
	_, err = c.Refund(ctx, refund)
	require.NoError(t, err)
	_, err = c.FindRefund(ctx, refund)
	require.ErrorIs(t, err, gateway.ErrUnknownReference)
	refund.GatewayRefundID = "re_1"
	_, err = c.FindRefund(ctx, refund)
	require.NoError(t, err)
	for _, report := range []func(context.Context, string) (gateway.Notification, error){c.reportPayment, c.reportRefund, c.reportDispute} {
		_, err = report(ctx, "x_1")
		require.NoError(t, err)
	}
	require.Empty(t, mock.Refused())
	require.GreaterOrEqual(t, len(mock.Accepted()), 12, "%v", mock.Accepted())
}
