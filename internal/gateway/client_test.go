package gateway

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"
	"github.com/shopspring/decimal"
	"github.com/stretchr/testify/require"
	"go.opentelemetry.io/otel/trace"
	"go.uber.org/goleak"

	"github.com/dopaminestore/dopamine/domain"
	"github.com/dopaminestore/dopamine/internal/telemetry"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// at gives a client of a gateway that answers with h.
func at(t *testing.T, h http.HandlerFunc) *Client {
	t.Helper()
	s := httptest.NewServer(h)
	t.Cleanup(s.Close)
	c, err := New(Options{URL: s.URL + "/v2/", Timeout: 200 * time.Millisecond})
	require.NoError(t, err)
	t.Cleanup(c.Close)
	return c
}

func says(status int, body string) http.HandlerFunc {
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

func TestWhatIsSent(t *testing.T) {
	type sent struct {
		method, path, key, traceparent string
		body                           map[string]any
	}
	var got sent
	c := at(t, func(w http.ResponseWriter, r *http.Request) {
		got = sent{method: r.Method, path: r.URL.Path, key: r.Header.Get("Idempotency-Key"), traceparent: r.Header.Get("traceparent")}
		_ = json.NewDecoder(r.Body).Decode(&got.body)
		_, _ = io.WriteString(w, `{"paymentId":"p1","status":"succeeded","amount":"12.50","currency":"USD","refundId":"r1","new":1}`)
	})
	ctx := trace.ContextWithSpanContext(t.Context(), trace.NewSpanContext(trace.SpanContextConfig{
		TraceID: telemetry.NewTraceID(), SpanID: telemetry.NewSpanID(),
	}))
	id := uuid.New()

	answer, err := c.Pay(ctx, PayRequest{Reference: id, Amount: money(t, "12.5", "USD"), Method: domain.Card, CallbackURL: "http://us/hook"})
	require.NoError(t, err)
	require.Equal(t, PayAnswer{PaymentID: "p1", Status: Succeeded}, answer)
	require.Equal(t, sent{"POST", "/v2/payments", id.String(), telemetry.Traceparent(ctx), map[string]any{
		"reference": id.String(), "amount": "12.50", "currency": "USD", "paymentMethod": "CARD", "callbackUrl": "http://us/hook",
	}}, got)

	state, err := c.Look(ctx, id)
	require.NoError(t, err)
	require.True(t, state.Amount.Equal(decimal.RequireFromString("12.5")))
	require.Equal(t, "USD", state.Currency)
	require.Equal(t, sent{method: "GET", path: "/v2/payments/" + id.String(), traceparent: telemetry.Traceparent(ctx)}, got)

	refund, err := c.Refund(ctx, id, money(t, "259000", "KRW"))
	require.NoError(t, err)
	require.Equal(t, "r1", refund)
	require.Equal(t, sent{"POST", "/v2/refunds", id.String(), telemetry.Traceparent(ctx), map[string]any{
		"reference": id.String(), "amount": "259000", "currency": "KRW",
	}}, got)
}

// What each answer means, for each call: "ok", "refused", "unknown" or "again".
func TestWhatAnAnswerMeans(t *testing.T) {
	for _, tc := range []struct {
		status            int
		body              string
		pay, look, refund string
	}{
		{200, `{"paymentId":"p","status":"pending"}`, "ok", "ok", "again"},
		{201, `{"paymentId":"p","status":"failed","failureReason":"NO_FUNDS"}`, "ok", "again", "again"},
		{202, `{"paymentId":"p","status":"pending","refundId":"r"}`, "ok", "again", "again"},
		{200, `{"paymentId":"p","status":"succeeded","amount":259000,"currency":"KRW"}`, "ok", "ok", "again"},
		{200, `{"paymentId":"p","status":"succeeded"}`, "ok", "again", "again"},
		{200, `{"paymentId":"p","status":"succeeded","amount":"x","currency":"KRW"}`, "ok", "again", "again"},
		{200, `{"paymentId":"p","status":"failed","amount":null,"currency":null,"failureReason":null}`, "ok", "ok", "again"},
		{200, `{"refundId":"r"}`, "again", "again", "ok"},
		{201, `{"refundId":"r"}`, "again", "again", "ok"},
		{200, `{"paymentId":"p","status":"perhaps"}`, "again", "again", "again"},
		{200, `<html>maintenance</html>`, "again", "again", "again"},
		{200, ``, "again", "again", "again"},
		{204, ``, "again", "again", "again"},
		{200, `{"status":"pending","refundId":"` + strings.Repeat("x", maxAnswer) + `"}`, "again", "again", "again"},
		{302, `{"paymentId":"p","status":"pending"}`, "again", "again", "again"},
		{400, `{"failureReason":"BAD_CARD"}`, "refused", "again", "refused"},
		{404, `{}`, "refused", "unknown", "refused"},
		{409, `not JSON`, "refused", "again", "refused"},
		{422, `{"failureReason":7}`, "refused", "again", "refused"},
		{408, `{"failureReason":"no"}`, "again", "again", "again"},
		{425, `{"failureReason":"no"}`, "again", "again", "again"},
		{429, `{"failureReason":"no"}`, "again", "again", "again"},
		{500, `{"failureReason":"no"}`, "again", "again", "again"},
		{503, `{"paymentId":"p","status":"failed"}`, "again", "again", "again"},
	} {
		t.Run(fmt.Sprintf("%d %.60s", tc.status, tc.body), func(t *testing.T) {
			c := at(t, says(tc.status, tc.body))
			id := uuid.New()
			_, pay := c.Pay(t.Context(), PayRequest{Reference: id, Amount: money(t, "1", "KRW")})
			require.Equal(t, tc.pay, meaning(pay), "pay: %v", pay)
			_, look := c.Look(t.Context(), id)
			require.Equal(t, tc.look, meaning(look), "look: %v", look)
			_, refund := c.Refund(t.Context(), id, money(t, "1", "KRW"))
			require.Equal(t, tc.refund, meaning(refund), "refund: %v", refund)
		})
	}
}

func meaning(err error) string {
	var refused *Refused
	switch {
	case err == nil:
		return "ok"
	case errors.As(err, &refused):
		return "refused"
	case errors.Is(err, ErrNeverHeardOf):
		return "unknown"
	}
	return "again"
}

func TestARefusalBearsTheGatewaysReason(t *testing.T) {
	c := at(t, says(402, `{"failureReason":"INSUFFICIENT_FUNDS"}`))
	_, err := c.Pay(t.Context(), PayRequest{Reference: uuid.New(), Amount: money(t, "1", "KRW")})
	var refused *Refused
	require.ErrorAs(t, err, &refused)
	require.Equal(t, Refused{Reason: "INSUFFICIENT_FUNDS", Status: 402}, *refused)
}

func TestAGatewayThatHangsIsNotWaitedFor(t *testing.T) {
	release := make(chan struct{})
	c := at(t, func(http.ResponseWriter, *http.Request) { <-release })
	defer close(release)
	start := time.Now()
	_, err := c.Look(t.Context(), uuid.New())
	require.Equal(t, "again", meaning(err))
	require.Less(t, time.Since(start), 5*time.Second)
}

func TestTheBreaker(t *testing.T) {
	var asked atomic.Int64
	status := atomic.Int64{}
	c := at(t, func(w http.ResponseWriter, _ *http.Request) {
		asked.Add(1)
		w.WriteHeader(int(status.Load()))
	})
	look := func() error {
		_, err := c.Look(t.Context(), uuid.New())
		return err
	}

	// Refusals, and callers who went away, are no failures of the gateway's.
	status.Store(404)
	for range 3 * failuresInARow {
		require.ErrorIs(t, look(), ErrNeverHeardOf)
	}
	gone, cancel := context.WithCancel(t.Context())
	cancel()
	for range 3 * failuresInARow {
		_, err := c.Look(gone, uuid.New())
		require.ErrorIs(t, err, context.Canceled)
	}

	hasty, cancel := context.WithTimeout(t.Context(), 0)
	defer cancel()
	for range 3 * failuresInARow {
		_, err := c.Look(hasty, uuid.New())
		require.ErrorIs(t, err, context.DeadlineExceeded)
	}

	status.Store(500)
	asked.Store(0)
	for range failuresInARow {
		require.NotErrorIs(t, look(), ErrNotAsked)
	}
	require.ErrorIs(t, look(), ErrNotAsked)
	require.EqualValues(t, failuresInARow, asked.Load(), "an open breaker sends nothing")
	require.Equal(t, 1.0, testutil.ToFloat64(c.metrics.open))

	status.Store(404) // it is back
	require.Eventually(t, func() bool { return errors.Is(look(), ErrNeverHeardOf) }, 3*leftAlone, 50*time.Millisecond)
	require.Equal(t, 0.0, testutil.ToFloat64(c.metrics.open))
}

func TestABadURLIsRefused(t *testing.T) {
	for _, url := range []string{"", "pay.example.com", "ftp://pay.example.com", "http://"} {
		_, err := New(Options{URL: url})
		require.Error(t, err, url)
	}
}

func TestMetricsAreRegistered(t *testing.T) {
	r := prometheus.NewRegistry()
	_, err := New(Options{URL: "http://127.0.0.1:1", Registerer: r})
	require.NoError(t, err)
	families, err := r.Gather()
	require.NoError(t, err)
	require.NotEmpty(t, families)
}
