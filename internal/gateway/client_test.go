package gateway

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/shopspring/decimal"
	"github.com/stretchr/testify/require"
	"go.opentelemetry.io/otel/trace"
	"go.uber.org/goleak"

	"github.com/dopaminestore/dopamine/domain"
	"github.com/dopaminestore/dopamine/internal/telemetry"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// clientOf returns a client of a gateway that responds with h.
func clientOf(t *testing.T, h http.HandlerFunc) *Client {
	t.Helper()
	s := httptest.NewServer(h)
	t.Cleanup(s.Close)
	c, err := New(Options{URL: s.URL + "/v2/", Key: "sk_secret", Timeout: 200 * time.Millisecond})
	require.NoError(t, err)
	t.Cleanup(c.Close)
	return c
}

func respond(status int, body string) http.HandlerFunc {
	return func(w http.ResponseWriter, _ *http.Request) {
		w.WriteHeader(status)
		_, _ = io.WriteString(w, body)
	}
}

func money(t *testing.T, amount, currency string) domain.Money {
	t.Helper()
	m, err := domain.NewMoney(decimal.RequireFromString(amount), currency)
	require.NoError(t, err)
	return m
}

func pay(ctx context.Context, t *testing.T, c *Client, id uuid.UUID) (Payment, error) {
	t.Helper()
	request, err := c.EncodePayment(PaymentRequest{
		Reference: id, Amount: money(t, "12.50", "USD"), Method: domain.Card, CallbackURL: "http://us/hook", ReturnURL: "https://shop/back",
	})
	require.NoError(t, err)
	return c.Pay(ctx, id, request)
}

func TestClient_SendsTheContract(t *testing.T) {
	type sent struct {
		method, path, key, authorization, traceparent string
		body                                          map[string]any
	}
	var got sent
	c := clientOf(t, func(w http.ResponseWriter, r *http.Request) {
		got = sent{method: r.Method, path: r.URL.Path, key: r.Header.Get("Idempotency-Key"), authorization: r.Header.Get("Authorization"), traceparent: r.Header.Get("traceparent")}
		_ = json.NewDecoder(r.Body).Decode(&got.body)
		_, _ = io.WriteString(w, `{"paymentId":"p1","status":"succeeded","amount":"12.50","currency":"usd","refundId":"r1","new":1}`)
	})
	ctx := trace.ContextWithSpanContext(t.Context(), trace.NewSpanContext(trace.SpanContextConfig{
		TraceID: telemetry.NewTraceID(), SpanID: telemetry.NewSpanID(),
	}))
	parent := telemetry.Traceparent(ctx)
	id, refund := uuid.New(), uuid.New()
	taken := Payment{ID: "p1", Status: Succeeded, Paid: &Paid{Money: money(t, "12.50", "USD")}}

	p, err := pay(ctx, t, c, id)
	require.NoError(t, err)
	require.Equal(t, taken, p, "the currency's case is folded")
	require.Equal(t, sent{"POST", "/v2/payments", id.String(), "Bearer sk_secret", parent, map[string]any{
		"reference": id.String(), "amount": "12.50", "currency": "USD", "paymentMethod": "CARD",
		"callbackUrl": "http://us/hook", "returnUrl": "https://shop/back",
	}}, got)

	p, err = c.FindPayment(ctx, PaymentQuery{Reference: id})
	require.NoError(t, err)
	require.Equal(t, taken, p)
	require.Equal(t, sent{"GET", "/v2/payments/" + id.String(), "", "Bearer sk_secret", parent, nil}, got)

	_, err = c.CancelPayment(ctx, PaymentQuery{Reference: id})
	require.NoError(t, err)
	require.Equal(t, sent{"POST", "/v2/payments/" + id.String() + "/cancel", id.String() + "-cancel", "Bearer sk_secret", parent, map[string]any{}}, got)

	status := `{"refundId":"r1"}`
	c2 := clientOf(t, func(w http.ResponseWriter, r *http.Request) {
		got = sent{method: r.Method, path: r.URL.Path, key: r.Header.Get("Idempotency-Key"), authorization: r.Header.Get("Authorization"), traceparent: r.Header.Get("traceparent")}
		_ = json.NewDecoder(r.Body).Decode(&got.body)
		_, _ = io.WriteString(w, status)
	})
	request := RefundRequest{RefundID: refund, Reference: id, GatewayPaymentID: "p1", Amount: money(t, "259000", "KRW")}
	r, err := c2.Refund(ctx, request)
	require.NoError(t, err)
	require.Equal(t, Refund{ID: "r1", Status: RefundSucceeded}, r)
	require.Equal(t, sent{"POST", "/v2/refunds", refund.String(), "Bearer sk_secret", parent, map[string]any{
		"refundReference": refund.String(), "reference": id.String(), "paymentId": "p1", "amount": "259000", "currency": "KRW",
	}}, got)
	_, err = c2.FindRefund(ctx, request)
	require.NoError(t, err)
	require.Equal(t, sent{"GET", "/v2/refunds/" + refund.String(), "", "Bearer sk_secret", parent, nil}, got)
}

// What each response means for each call: the status it reports, "rejected",
// "unknown" (reference), "credentials" or "retry".
func TestClient_JudgesResponses(t *testing.T) {
	for _, tc := range []struct {
		status                              int
		body                                string
		pay, find, cancel, refund, findRefd string
	}{
		{200, `{"paymentId":"p","status":"pending"}`, "pending", "pending", "pending", "retry", "retry"},
		{202, `{"paymentId":"p","status":"requires_action","refundId":"r"}`, "requires_action", "requires_action", "requires_action", "retry", "retry"},
		{201, `{"paymentId":"p","status":"failed","failureReason":"NO_FUNDS"}`, "failed", "retry", "retry", "retry", "retry"},
		{200, `{"paymentId":"p","status":"canceled"}`, "canceled", "canceled", "canceled", "retry", "retry"},
		{200, `{"paymentId":"p","status":"succeeded","amount":259000,"currency":"KRW"}`, "succeeded", "succeeded", "succeeded", "succeeded", "succeeded"},
		{200, `{"paymentId":"p","status":"succeeded"}`, "succeeded", "retry", "retry", "succeeded", "succeeded"},
		{200, `{"paymentId":"p","status":"succeeded","amount":"x","currency":"KRW"}`, "succeeded", "succeeded", "succeeded", "succeeded", "succeeded"},
		{200, `{"paymentId":"p","status":"failed","amount":null,"currency":null,"failureReason":null}`, "failed", "failed", "failed", "failed", "failed"},
		{200, `{"refundId":"r"}`, "retry", "retry", "retry", "succeeded", "succeeded"},
		{202, `{"refundId":"r"}`, "retry", "retry", "retry", "pending", "pending"},
		{201, `{"refundId":"r","status":"pending"}`, "pending", "retry", "retry", "pending", "retry"},
		{200, `{"refundId":"r","status":"requires_action"}`, "requires_action", "requires_action", "requires_action", "retry", "retry"},
		{200, `{"paymentId":"p","status":"authorized"}`, "retry", "retry", "retry", "retry", "retry"},
		{200, `{"status":"failed","Status":"succeeded"}`, "failed", "failed", "failed", "failed", "failed"},
		{200, `{"status":"succeeded","status":"failed"}`, "retry", "retry", "retry", "retry", "retry"},
		{200, `{}`, "retry", "retry", "retry", "retry", "retry"},
		{200, `<html>maintenance</html>`, "retry", "retry", "retry", "retry", "retry"},
		{200, ``, "retry", "retry", "retry", "retry", "retry"},
		{204, ``, "retry", "retry", "retry", "retry", "retry"},
		{200, `{"status":"pending","refundId":"` + strings.Repeat("x", maxResponse) + `"}`, "retry", "retry", "retry", "retry", "retry"},
		{200, strings.Repeat("[", 20000), "retry", "retry", "retry", "retry", "retry"},
		{302, `{"paymentId":"p","status":"pending"}`, "retry", "retry", "retry", "retry", "retry"},
		{400, `{"failureReason":"BAD_CARD"}`, "rejected", "retry", "rejected", "rejected", "retry"},
		{402, ``, "rejected", "retry", "rejected", "rejected", "retry"},
		{404, `{"failureReason":"NO_ROUTE"}`, "rejected", "unknown", "unknown", "rejected", "unknown"},
		{404, `{}`, "retry", "unknown", "unknown", "retry", "unknown"},
		{404, `<html>nginx: no such route</html>`, "retry", "retry", "retry", "retry", "retry"},
		{404, ``, "retry", "retry", "retry", "retry", "retry"},
		{401, `{"message":"bad key"}`, "credentials", "credentials", "credentials", "credentials", "credentials"},
		{403, `<html>WAF</html>`, "credentials", "credentials", "credentials", "credentials", "credentials"},
		{405, ``, "retry", "retry", "rejected", "retry", "retry"},
		{407, `proxy`, "retry", "retry", "retry", "retry", "retry"},
		{409, `{"code":"idempotency_key_in_use"}`, "retry", "retry", "rejected", "retry", "retry"},
		{413, ``, "retry", "retry", "retry", "retry", "retry"},
		{422, `{"failureReason":7}`, "retry", "retry", "rejected", "retry", "retry"},
		{422, `{"failureReason":""}`, "retry", "retry", "rejected", "retry", "retry"},
		{422, `{"FailureReason":"X"}`, "retry", "retry", "rejected", "retry", "retry"},
		{408, `{"failureReason":"no"}`, "retry", "retry", "retry", "retry", "retry"},
		{425, `{"failureReason":"no"}`, "retry", "retry", "retry", "retry", "retry"},
		{429, `{"failureReason":"no"}`, "retry", "retry", "retry", "retry", "retry"},
		{500, `{"failureReason":"no"}`, "retry", "retry", "retry", "retry", "retry"},
		{503, `{"paymentId":"p","status":"failed"}`, "retry", "retry", "retry", "retry", "retry"},
	} {
		t.Run(fmt.Sprintf("%d %.60s", tc.status, tc.body), func(t *testing.T) {
			c := clientOf(t, respond(tc.status, tc.body))
			id := uuid.New()
			p, err := pay(t.Context(), t, c, id)
			require.Equal(t, tc.pay, meaning(string(p.Status), err), "pay: %v", err)
			p, err = c.FindPayment(t.Context(), PaymentQuery{Reference: id})
			if tc.status == 201 {
				require.Equal(t, "retry", meaning(string(p.Status), err), "find: a GET creates nothing")
			} else {
				require.Equal(t, tc.find, meaning(string(p.Status), err), "find: %v", err)
			}
			p, err = c.CancelPayment(t.Context(), PaymentQuery{Reference: id})
			require.Equal(t, tc.cancel, meaning(string(p.Status), err), "cancel: %v", err)
			request := RefundRequest{RefundID: uuid.New(), Reference: id, Amount: money(t, "1", "KRW")}
			r, err := c.Refund(t.Context(), request)
			if tc.body == `{"paymentId":"p","status":"pending"}` || (tc.status == 201 && strings.Contains(tc.body, "failed")) {
				return // a refund's state without its id: see TestClient_RefundStates
			}
			require.Equal(t, tc.refund, meaning(string(r.Status), err), "refund: %v", err)
			r, err = c.FindRefund(t.Context(), request)
			require.Equal(t, tc.findRefd, meaning(string(r.Status), err), "find refund: %v", err)
		})
	}
}

func meaning(status string, err error) string {
	var rejected *Rejected
	switch {
	case err == nil:
		return status
	case errors.As(err, &rejected):
		return "rejected"
	case errors.Is(err, ErrUnknownReference):
		return "unknown"
	case errors.Is(err, ErrCredentials):
		return "credentials"
	}
	return "retry"
}

func TestClient_RefundStates(t *testing.T) {
	for body, want := range map[string]Refund{
		`{"refundId":"re_1","status":"pending"}`:                                  {ID: "re_1", Status: RefundPending},
		`{"refundId":"re_1","status":"succeeded"}`:                                {ID: "re_1", Status: RefundSucceeded},
		`{"status":"pending"}`:                                                    {Status: RefundPending},
		`{"refundId":"re_1","status":"failed","failureReason":"expired_card"}`:    {ID: "re_1", Status: RefundFailed, FailureReason: "EXPIRED_CARD"},
		`{"refundId":"re_1","status":"failed","failureReason":"Mr Smith's card"}`: {ID: "re_1", Status: RefundFailed, FailureReason: "DECLINED"},
		`{"refundId":"re\u0000\n1","status":"pending"}`:                           {Status: RefundPending},
	} {
		c := clientOf(t, respond(200, body))
		r, err := c.Refund(t.Context(), RefundRequest{RefundID: uuid.New(), Reference: uuid.New(), Amount: money(t, "1", "KRW")})
		require.NoError(t, err, body)
		require.Equal(t, want, r, body)
	}
}

func TestClient_RejectionReason(t *testing.T) {
	for body, reason := range map[string]string{
		`{"failureReason":"insufficient_funds"}`:                 "INSUFFICIENT_FUNDS",
		`{"failureReason":"Card of Jane Doe is stolen"}`:         "DECLINED",
		`{"failureReason":"` + strings.Repeat("A", 65) + `"}`:    "DECLINED",
		`{"failureReason":"A","failureReason":"B"}`:              "DECLINED", // duplicates: not JSON, but 402
		`{"failureReason":"OK_` + strings.Repeat("1", 60) + `"}`: "OK_" + strings.Repeat("1", 60),
	} {
		_, err := pay(t.Context(), t, clientOf(t, respond(402, body)), uuid.New())
		var rejected *Rejected
		require.ErrorAs(t, err, &rejected)
		require.Equal(t, Rejected{Reason: reason, HTTPStatus: 402}, *rejected, body)
	}
	_, err := pay(t.Context(), t, clientOf(t, respond(401, `{"failureReason":"BAD_KEY"}`)), uuid.New())
	var rejected *Rejected
	require.ErrorAs(t, err, &rejected)
	require.ErrorIs(t, err, ErrCredentials, "so that it is counted as one")
	require.True(t, AlreadyRefunded(fmt.Errorf("refund: %w", &Rejected{Reason: Code("already_refunded"), HTTPStatus: 400})))
}

func TestClient_NextAction(t *testing.T) {
	for action, want := range map[string]*NextAction{
		`null`: nil,
		`{"type":"redirect","url":"https://3ds.example.com/a?b=c"}`:                 {Type: Redirect, URL: "https://3ds.example.com/a?b=c"},
		`{"type":"redirect","url":"http://127.0.0.1:8090/act"}`:                     {Type: Redirect, URL: "http://127.0.0.1:8090/act"},
		`{"type":"redirect","url":"javascript:alert(1)"}`:                           nil,
		`{"type":"redirect","url":"http://3ds.example.com/"}`:                       nil,
		`{"type":"redirect","url":"https://user:pw@3ds.example.com/"}`:              nil,
		`{"type":"client_secret","clientSecret":"pi_secret","publishableKey":"pk"}`: {Type: ClientSecret, ClientSecret: "pi_secret", PublishableKey: "pk"},
		`{"type":"client_secret"}`:                                                  nil,
		`{"type":"dance"}`:                                                          nil,
		`"x"`:                                                                       nil,
	} {
		c := clientOf(t, respond(202, `{"paymentId":"p","status":"requires_action","nextAction":`+action+`}`))
		p, err := pay(t.Context(), t, c, uuid.New())
		require.NoError(t, err, action)
		require.Equal(t, want, p.NextAction, action)
	}
}

func TestNextAction_FormatsWithoutItsContent(t *testing.T) {
	a := &NextAction{Type: ClientSecret, ClientSecret: "pi_secret", URL: "https://secret"}
	var log bytes.Buffer
	for _, h := range []slog.Handler{slog.NewTextHandler(&log, nil), slog.NewJSONHandler(&log, nil)} {
		slog.New(h).Info("x", "action", a, "payment", Payment{NextAction: a}, "notification", Notification{NextAction: a})
	}
	for _, s := range []string{fmt.Sprint(a), fmt.Sprintf("%+v", a), fmt.Sprintf("%#v", a), fmt.Sprintf("%+v", Payment{NextAction: a}), log.String()} {
		require.NotContains(t, s, "pi_secret")
		require.NotContains(t, s, "https://secret")
	}
}

func TestReport_KeepsWhatIsNotMoneyAsText(t *testing.T) {
	require.Equal(t, &Paid{Money: money(t, "12.50", "USD")}, Report(decimal.RequireFromString("12.50"), "usd"))
	require.Equal(t, &Paid{Unreadable: "1 XX?"}, Report(decimal.RequireFromString("1"), "XX\x00"))
	require.Equal(t, &Paid{Unreadable: "-1 KRW"}, Report(decimal.RequireFromString("-1"), "KRW"))
	require.Len(t, Report(decimal.RequireFromString("1e900"), strings.Repeat("x", 500)).Unreadable, maxUnreadable)
}

// net/http repeats a request that has an Idempotency-Key and a GetBody if a kept connection breaks.
// If the repetition is answered 409, a payment that was taken would fail.
func TestClient_DoesNotRepeatAPostOnABrokenConnection(t *testing.T) {
	var posts atomic.Int64
	c := clientOf(t, func(w http.ResponseWriter, _ *http.Request) {
		switch posts.Add(1) {
		case 1: // keeps the connection
			_, _ = io.WriteString(w, `{"status":"pending"}`)
		case 2: // takes the money, and the connection breaks before the response
			conn, _, err := http.NewResponseController(w).Hijack()
			if err == nil {
				_ = conn.Close()
			}
		default:
			w.WriteHeader(http.StatusConflict)
		}
	})
	_, err := pay(t.Context(), t, c, uuid.New())
	require.NoError(t, err)
	_, err = pay(t.Context(), t, c, uuid.New())
	require.Equal(t, "retry", meaning("", err), "%v", err)
	require.EqualValues(t, 2, posts.Load())
}

func TestClient_TimesOut(t *testing.T) {
	release := make(chan struct{})
	c := clientOf(t, func(http.ResponseWriter, *http.Request) { <-release })
	defer close(release)
	start := time.Now()
	_, err := c.FindPayment(t.Context(), PaymentQuery{Reference: uuid.New()})
	require.Equal(t, "retry", meaning("", err))
	require.Less(t, time.Since(start), 5*time.Second)
}

func TestClient_BreakerOfOneKindOfCallLeavesTheOthers(t *testing.T) {
	var asked, status atomic.Int64
	c := clientOf(t, func(w http.ResponseWriter, r *http.Request) {
		if r.Method == http.MethodPost {
			_, _ = io.WriteString(w, `{"status":"pending"}`)
			return
		}
		asked.Add(1)
		w.WriteHeader(int(status.Load()))
		_, _ = io.WriteString(w, "{}")
	})
	find := func(ctx context.Context) error {
		_, err := c.FindPayment(ctx, PaymentQuery{Reference: uuid.New()})
		return err
	}
	// Unknown references, and callers that cancelled, are not failures of the gateway.
	status.Store(404)
	for range 3 * breakerFailures {
		require.ErrorIs(t, find(t.Context()), ErrUnknownReference)
	}
	gone, cancel := context.WithCancel(t.Context())
	cancel()
	hasty, cancelHasty := context.WithTimeout(t.Context(), 0)
	defer cancelHasty()
	for range 3 * breakerFailures {
		require.ErrorIs(t, find(gone), context.Canceled)
		require.ErrorIs(t, find(hasty), context.DeadlineExceeded)
	}
	status.Store(500)
	asked.Store(0)
	for range breakerFailures {
		require.NotErrorIs(t, find(t.Context()), ErrNotSent)
	}
	require.ErrorIs(t, find(t.Context()), ErrNotSent)
	require.EqualValues(t, breakerFailures, asked.Load(), "an open breaker sends nothing")
	k := c.calls.kinds[CallFindPayment]
	require.True(t, k.leftAlone(time.Now()))
	require.False(t, k.leftAlone(time.Now().Add(breakerMemory)), "after a minute without a call nothing is known")
	require.False(t, c.calls.kinds[CallPay].leftAlone(time.Now()))
	_, err := pay(t.Context(), t, c, uuid.New())
	require.NoError(t, err, "payments have a breaker of their own")

	status.Store(404) // it recovers
	require.Eventually(t, func() bool { return errors.Is(find(t.Context()), ErrUnknownReference) }, 3*breakerTimeout, 50*time.Millisecond)
	for range breakerTrials {
		require.ErrorIs(t, find(t.Context()), ErrUnknownReference)
	}
	require.False(t, k.leftAlone(time.Now()))
}

// Look-ups that hang use up only their own concurrency, not that of payments and refunds.
func TestClient_HangingLookUpsDelayNothingElse(t *testing.T) {
	release, entered := make(chan struct{}), make(chan struct{}, 2*concurrency[CallFindPayment])
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Method == http.MethodGet {
			entered <- struct{}{}
			<-release
		}
		_, _ = io.WriteString(w, `{"status":"pending","refundId":"r"}`)
	}))
	defer s.Close()
	c, err := New(Options{URL: s.URL, Timeout: 20 * time.Second})
	require.NoError(t, err)
	defer c.Close()
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 2*concurrency[CallFindPayment])
	for range cap(done) {
		go func() {
			_, err := c.FindPayment(ctx, PaymentQuery{Reference: uuid.New()})
			done <- err
		}()
	}
	for range concurrency[CallFindPayment] {
		<-entered
	}
	_, err = pay(t.Context(), t, c, uuid.New())
	require.NoError(t, err)
	_, err = c.Refund(t.Context(), RefundRequest{RefundID: uuid.New(), Reference: uuid.New(), Amount: money(t, "1", "KRW")})
	require.NoError(t, err)
	cancel()
	close(release)
	for range cap(done) {
		if err := <-done; err != nil {
			require.True(t, errors.Is(err, context.Canceled) || errors.Is(err, ErrNotSent), "%v", err)
		}
	}
}

func TestNew_RefusesBadURLsWithoutRepeatingThem(t *testing.T) {
	for _, url := range []string{
		"", "pay.example.com", "ftp://pay.example.com", "http://", "https://live_sk_SECRET:@pay.example.com", "https//live_sk_SECRET:@x",
		"https://pay.example.com?key=SECRET", "https://pay.example.com/%zz SECRET",
	} {
		_, err := New(Options{URL: url})
		require.Error(t, err, url)
		require.NotContains(t, err.Error(), "SECRET")
	}
}

func TestClient_ErrorsContainNoSecret(t *testing.T) {
	s := httptest.NewServer(http.NotFoundHandler())
	c, err := New(Options{URL: s.URL + "/live_sk_SECRET", Key: "sk_SECRET", Timeout: time.Second})
	require.NoError(t, err)
	defer c.Close()
	s.Close()
	_, err = pay(t.Context(), t, c, uuid.New())
	require.Error(t, err)
	require.NotContains(t, err.Error(), "SECRET")
}

func TestClient_RegistersMetrics(t *testing.T) {
	r := prometheus.NewRegistry()
	_, err := New(Options{URL: "http://127.0.0.1:1", Registerer: r})
	require.NoError(t, err)
	families, err := r.Gather()
	require.NoError(t, err)
	require.NotEmpty(t, families)
}
