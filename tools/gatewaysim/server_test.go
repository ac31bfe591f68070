package gatewaysim

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"net/url"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/shopspring/decimal"
	standardwebhooks "github.com/standard-webhooks/standard-webhooks/libraries/go"
	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"

	"github.com/dopaminestore/dopamine/domain"
	"github.com/dopaminestore/dopamine/internal/gateway"
	"github.com/dopaminestore/dopamine/tools/testkit"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const (
	secret    = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"
	oldSecret = "whsec_AAECAwQFBgcICQoLDA0ODxAREhMUFRYX"
)

// shop accepts callbacks and keeps those with a valid signature.
type shop struct {
	url    string
	parser *gateway.Webhooks
	mu     sync.Mutex
	got    []gateway.Notification
	bodies []callbackBody
	fails  int // number of callbacks that get a 500 first
}

func newShop(t *testing.T, fails int) *shop {
	t.Helper()
	s := &shop{fails: fails}
	verifier, err := standardwebhooks.NewWebhook(secret)
	require.NoError(t, err)
	s.parser, err = gateway.NewWebhooks([]string{secret})
	require.NoError(t, err)
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body, _ := io.ReadAll(r.Body)
		var content callbackBody
		n, err := s.parser.Parse(r.Context(), r.Header, body, time.Now())
		s.mu.Lock()
		defer s.mu.Unlock()
		if err != nil || verifier.Verify(body, r.Header) != nil || json.Unmarshal(body, &content) != nil {
			w.WriteHeader(http.StatusUnauthorized)
			return
		}
		if s.fails > 0 {
			s.fails--
			w.WriteHeader(http.StatusInternalServerError)
			return
		}
		s.got = append(s.got, n)
		s.bodies = append(s.bodies, content)
		w.WriteHeader(http.StatusNoContent)
	}))
	t.Cleanup(server.Close)
	s.url = server.URL
	return s
}

func (s *shop) notified() []gateway.Notification {
	s.mu.Lock()
	defer s.mu.Unlock()
	return append([]gateway.Notification(nil), s.got...)
}

// await waits for a notification of the kind.
func (s *shop) await(t *testing.T, kind gateway.Kind) gateway.Notification {
	t.Helper()
	var n gateway.Notification
	testkit.Eventually(t, 10*time.Second, string(kind), func() error {
		all := s.notified()
		i := slices.IndexFunc(all, func(n gateway.Notification) bool { return n.Kind == kind })
		if i < 0 {
			return fmt.Errorf("only %d others", len(all))
		}
		n = all[i]
		return nil
	})
	return n
}

// start runs a simulator and returns a client of it, and a function that stops it.
func start(t *testing.T, opts Options) (*Server, *gateway.Client, func()) {
	t.Helper()
	opts.Addr, opts.WebhookSecrets = "127.0.0.1:0", []string{oldSecret, secret}
	s, err := New(opts)
	require.NoError(t, err)
	require.NoError(t, s.Listen())
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- s.Run(ctx) }()
	<-s.Ready()
	stop := sync.OnceFunc(func() {
		cancel()
		require.NoError(t, <-ended)
	})
	t.Cleanup(stop)
	c, err := gateway.New(gateway.Options{URL: "http://" + s.Addr().String(), Key: opts.Key, Timeout: 2 * time.Second})
	require.NoError(t, err)
	t.Cleanup(c.Close)
	return s, c, stop
}

func run(t *testing.T, opts Options) (*Server, *gateway.Client) {
	t.Helper()
	s, c, _ := start(t, opts)
	return s, c
}

// with returns options of a simulator that behaves well but for what change does.
func with(change func(*Behavior)) Options {
	o := Options{Behavior: Behavior{SuccessRate: 1}, Seed: 1}
	if change != nil {
		change(&o.Behavior)
	}
	return o
}

func pay(t *testing.T, c *gateway.Client, r gateway.PaymentRequest) (gateway.Payment, error) {
	t.Helper()
	request, err := c.EncodePayment(r)
	require.NoError(t, err)
	return c.Pay(t.Context(), r.Reference, request)
}

func refundOf(p gateway.Payment, r gateway.PaymentRequest, amount domain.Money) gateway.RefundRequest {
	return gateway.RefundRequest{RefundID: uuid.New(), Reference: r.Reference, GatewayPaymentID: p.ID, Amount: amount}
}

func won(t *testing.T, amount string) domain.Money {
	t.Helper()
	m, err := domain.NewMoney(decimal.RequireFromString(amount), "KRW")
	require.NoError(t, err)
	return m
}

func request(t *testing.T, s *shop) gateway.PaymentRequest {
	return gateway.PaymentRequest{Reference: uuid.New(), Amount: won(t, "259000"), Method: domain.Card, CallbackURL: s.url}
}

func query(r gateway.PaymentRequest) gateway.PaymentQuery {
	return gateway.PaymentQuery{Reference: r.Reference}
}

// final waits until the gateway has decided the payment.
func final(t *testing.T, c *gateway.Client, r gateway.PaymentRequest) gateway.Payment {
	t.Helper()
	var p gateway.Payment
	testkit.Eventually(t, 10*time.Second, "an outcome", func() error {
		var err error
		if p, err = c.FindPayment(t.Context(), query(r)); err == nil && !p.Status.Final() {
			err = errors.New(string(p.Status))
		}
		return err
	})
	return p
}

func TestPayment_TakenOnceAndRefundedInParts(t *testing.T) {
	shop := newShop(t, 2)
	s, c := run(t, with(func(b *Behavior) { b.Latency = 50 * time.Millisecond }))
	r := request(t, shop)
	_, err := c.FindPayment(t.Context(), query(r))
	require.ErrorIs(t, err, gateway.ErrUnknownReference)

	var first, p gateway.Payment
	if !t.Run("a repeated request is the same payment", func(t *testing.T) {
		var err error
		first, err = pay(t, c, r)
		require.NoError(t, err)
		require.Equal(t, gateway.Pending, first.Status)
		again, err := pay(t, c, r)
		require.NoError(t, err)
		require.Equal(t, first.ID, again.ID)
	}) {
		return
	}
	var rejected *gateway.Rejected
	t.Run("another body with the same key and a refund before the outcome are rejected", func(t *testing.T) {
		other := r
		other.CallbackURL += "/moved"
		_, err := pay(t, c, other)
		require.ErrorAs(t, err, &rejected, "the same key with another body")
		_, err = c.Refund(t.Context(), refundOf(first, r, r.Amount))
		require.ErrorAs(t, err, &rejected, "nothing was taken yet")
	})
	if !t.Run("the outcome is found and reported", func(t *testing.T) {
		p = final(t, c, r)
		require.Equal(t, gateway.Succeeded, p.Status)
		require.Equal(t, "259000 KRW", p.Paid.Money.String()+" "+p.Paid.Money.Currency())
		n := shop.await(t, gateway.PaymentSucceeded)
		require.Equal(t, r.Reference, n.Reference)
		require.Equal(t, first.ID, n.PaymentID)
	}) {
		return
	}
	if !t.Run("parts are refunded once and not beyond what was taken", func(t *testing.T) {
		_, err := c.Refund(t.Context(), refundOf(p, r, won(t, "259001")))
		require.ErrorAs(t, err, &rejected, "more than was taken")
		_, err = c.Refund(t.Context(), refundOf(p, request(t, shop), won(t, "1")))
		require.ErrorAs(t, err, &rejected, "unknown")
		part := refundOf(p, r, won(t, "59000"))
		_, err = c.FindRefund(t.Context(), part)
		require.ErrorIs(t, err, gateway.ErrUnknownReference)
		refund, err := c.Refund(t.Context(), part)
		require.NoError(t, err)
		same, err := c.Refund(t.Context(), part)
		require.NoError(t, err)
		require.Equal(t, refund, same)
		found, err := c.FindRefund(t.Context(), part)
		require.NoError(t, err)
		require.Equal(t, refund, found)
		_, err = c.Refund(t.Context(), refundOf(p, r, won(t, "200001")))
		require.ErrorAs(t, err, &rejected, "more than is left")
		_, err = c.Refund(t.Context(), refundOf(p, r, won(t, "200000")))
		require.NoError(t, err)
	}) {
		return
	}
	t.Run("the books balance", func(t *testing.T) {
		balance := s.Balance()
		require.Equal(t, map[string]string{"KRW": "259000"}, balance.Taken)
		require.Equal(t, map[string]string{"KRW": "259000"}, balance.Refunded)
		require.Equal(t, map[string]string{"KRW": "0"}, balance.Kept)
		require.Len(t, balance.Payments, 1)
		require.Equal(t, "259000", balance.Payments[0].Refunded)
	})
}

func TestPayment_FailsAndIsRefused(t *testing.T) {
	shop := newShop(t, 0)
	_, c := run(t, with(func(b *Behavior) { b.SuccessRate = 0 }))
	r := request(t, shop)
	_, err := pay(t, c, r)
	require.NoError(t, err)
	p := final(t, c, r)
	require.Equal(t, gateway.Failed, p.Status)
	require.Equal(t, reasonDeclined, p.FailureReason)
	require.Equal(t, reasonDeclined, shop.await(t, gateway.PaymentFailed).FailureReason)

	s, c := run(t, with(func(b *Behavior) { b.Refused = 1 }))
	r = request(t, shop)
	for range 2 {
		_, err = pay(t, c, r)
		var rejected *gateway.Rejected
		require.ErrorAs(t, err, &rejected)
		require.Equal(t, gateway.Rejected{Reason: reasonRefused, HTTPStatus: 402}, *rejected)
	}
	require.Equal(t, gateway.Failed, final(t, c, r).Status)
	require.Empty(t, s.Balance().Taken)
}

func TestAction_ConfirmedDeclinedAndCanceled(t *testing.T) {
	shop := newShop(t, 0)
	_, c := run(t, with(func(b *Behavior) { b.ActionRate = 1 }))
	browser := &http.Client{CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }}
	t.Cleanup(browser.CloseIdleConnections)
	decide := func(p gateway.Payment, decision string) *http.Response {
		resp, err := browser.PostForm(p.NextAction.URL, url.Values{"decision": {decision}})
		require.NoError(t, err)
		require.NoError(t, resp.Body.Close())
		return resp
	}
	r := request(t, shop)
	r.ReturnURL = "https://shop.example.com/back"
	p, err := pay(t, c, r)
	require.NoError(t, err)
	require.Equal(t, gateway.RequiresAction, p.Status)
	require.Equal(t, p.NextAction, shop.await(t, gateway.PaymentRequiresAction).NextAction)
	resp, err := browser.Get(p.NextAction.URL)
	require.NoError(t, err)
	page, err := io.ReadAll(resp.Body)
	require.NoError(t, err)
	require.NoError(t, resp.Body.Close())
	require.Contains(t, string(page), "259000 KRW")

	require.Equal(t, http.StatusBadRequest, decide(p, "perhaps").StatusCode)
	resp = decide(p, "confirm")
	require.Equal(t, http.StatusSeeOther, resp.StatusCode)
	require.Equal(t, r.ReturnURL, resp.Header.Get("Location"))
	require.Equal(t, gateway.Succeeded, final(t, c, r).Status)
	decide(p, "decline")
	require.Equal(t, gateway.Succeeded, final(t, c, r).Status, "the first decision is final")

	r = request(t, shop)
	p, err = pay(t, c, r)
	require.NoError(t, err)
	decide(p, "decline")
	require.Equal(t, reasonByBuyer, final(t, c, r).FailureReason)

	r = request(t, shop)
	p, err = pay(t, c, r)
	require.NoError(t, err)
	canceled, err := c.CancelPayment(t.Context(), query(r))
	require.NoError(t, err)
	require.Equal(t, gateway.Canceled, canceled.Status)
	require.Equal(t, "CANCELED", canceled.FailureReason)
	decide(p, "confirm")
	require.Equal(t, gateway.Canceled, final(t, c, r).Status)
	shop.await(t, gateway.PaymentCanceled)
}

func TestCancel_TooLateUnknownAndRefused(t *testing.T) {
	shop := newShop(t, 0)
	_, c := run(t, with(func(b *Behavior) { b.CancelRefused = 1; b.ActionRate = 1 }))
	r := request(t, shop)
	_, err := c.CancelPayment(t.Context(), query(r))
	require.ErrorIs(t, err, gateway.ErrUnknownReference)
	_, err = pay(t, c, r)
	require.NoError(t, err)
	_, err = c.CancelPayment(t.Context(), query(r))
	var rejected *gateway.Rejected
	require.ErrorAs(t, err, &rejected)

	_, c = run(t, with(nil))
	r = request(t, shop)
	_, err = pay(t, c, r)
	require.NoError(t, err)
	final(t, c, r)
	p, err := c.CancelPayment(t.Context(), query(r))
	require.NoError(t, err)
	require.Equal(t, gateway.Succeeded, p.Status)
}

func TestCallbacks_LostRepeatedReordered(t *testing.T) {
	lossy, repeating, slow := newShop(t, 0), newShop(t, 0), newShop(t, 0)
	_, losing := run(t, with(func(b *Behavior) { b.Lost = 1 }))
	_, twice := run(t, with(func(b *Behavior) { b.Repeated = 1 }))
	_, late := run(t, with(func(b *Behavior) { b.Reordered = 1 }))
	const payments = 12
	order := make([]uuid.UUID, payments)
	for i := range payments {
		for c, shop := range map[*gateway.Client]*shop{losing: lossy, twice: repeating, late: slow} {
			r := request(t, shop)
			_, err := pay(t, c, r)
			require.NoError(t, err)
			final(t, c, r)
			if c == late {
				order[i] = r.Reference
			}
		}
	}
	testkit.Eventually(t, 2*maxReorder, "all callbacks", func() error {
		if len(repeating.notified()) < 2*payments || len(slow.notified()) < payments {
			return io.EOF
		}
		return nil
	})
	require.Empty(t, lossy.notified())
	ids, references := map[string]int{}, map[uuid.UUID]int{}
	for _, n := range repeating.notified() {
		ids[n.ID]++
		references[n.Reference]++
	}
	require.Len(t, references, payments)
	require.Less(t, len(ids), 2*payments, "some repeats have the same id")
	require.Greater(t, len(ids), payments, "some have another")
	var came []uuid.UUID
	for _, n := range slow.notified() {
		came = append(came, n.Reference)
	}
	require.ElementsMatch(t, order, came)
	require.NotEqual(t, order, came)
}

// An event that only a callback reports is not lost, even if every other callback is.
func TestServer_DuplicateChargesAndDisputes(t *testing.T) {
	for name, tc := range map[string]struct {
		lost float64
		kept string
	}{"won": {0, "518000"}, "lost": {1, "259000"}} {
		t.Run(name, func(t *testing.T) {
			shop := newShop(t, 1)
			s, c := run(t, with(func(b *Behavior) { b.Duplicated, b.Disputed, b.DisputesLost, b.Lost, b.LowerCase = 1, 1, tc.lost, 1, 1 }))
			r := request(t, shop)
			p, err := pay(t, c, r)
			require.NoError(t, err)
			var second gateway.Notification
			charges := map[string]bool{}
			testkit.Eventually(t, 10*time.Second, "both charges", func() error {
				for _, n := range shop.notified() {
					if n.Kind == gateway.PaymentSucceeded {
						charges[n.PaymentID] = true
						if n.PaymentID != p.ID {
							second = n
						}
					}
				}
				if len(charges) < 2 {
					return io.EOF
				}
				return nil
			})
			require.True(t, charges[p.ID])
			require.Equal(t, r.Amount, second.Paid.Money, "the currency's case is folded")
			opened, closed := shop.await(t, gateway.PaymentDisputed), shop.await(t, gateway.PaymentDisputeClosed)
			require.Equal(t, opened.DisputeID, closed.DisputeID)
			require.Equal(t, tc.lost == 0, closed.Won)
			require.Equal(t, p.ID, closed.PaymentID)
			balance := s.Balance()
			require.Equal(t, map[string]string{"KRW": "518000"}, balance.Taken)
			require.Equal(t, map[string]string{"KRW": tc.kept}, balance.Kept)
			require.Len(t, balance.Payments, 2)
			require.True(t, balance.Payments[1].Duplicate)

			refund := refundOf(gateway.Payment{ID: second.PaymentID}, r, r.Amount)
			_, err = c.Refund(t.Context(), refund)
			require.NoError(t, err, "the second charge is refunded by its own id")
			_, err = c.Refund(t.Context(), refundOf(p, r, r.Amount))
			var rejected *gateway.Rejected
			require.Equal(t, tc.lost == 1, errors.As(err, &rejected), "%v", err)
		})
	}
	shop := newShop(t, 0)
	_, c := run(t, with(func(b *Behavior) { b.LowerCase = 1 }))
	_, err := pay(t, c, request(t, shop))
	require.NoError(t, err)
	shop.await(t, gateway.PaymentSucceeded)
	require.Equal(t, "krw", shop.bodies[0].Data.Currency)
}

func TestRefunds_PendingAndFailing(t *testing.T) {
	for name, tc := range map[string]struct {
		pending, failed float64
		first, last     gateway.RefundStatus
		kind            gateway.Kind
	}{
		"pending":                {1, 0, gateway.RefundPending, gateway.RefundSucceeded, gateway.RefundHasSucceeded},
		"pending, then failed":   {1, 1, gateway.RefundPending, gateway.RefundFailed, gateway.RefundHasFailed},
		"succeeded, then failed": {0, 1, gateway.RefundSucceeded, gateway.RefundFailed, gateway.RefundHasFailed},
	} {
		t.Run(name, func(t *testing.T) {
			shop := newShop(t, 0)
			s, c := run(t, with(func(b *Behavior) {
				b.RefundsPending, b.RefundsFailed, b.Latency = tc.pending, tc.failed, 20*time.Millisecond
			}))
			r := request(t, shop)
			_, err := pay(t, c, r)
			require.NoError(t, err)
			refund := refundOf(final(t, c, r), r, r.Amount)
			state, err := c.Refund(t.Context(), refund)
			require.NoError(t, err)
			require.Equal(t, tc.first, state.Status)
			n := shop.await(t, tc.kind)
			require.Equal(t, refund.RefundID, n.RefundReference)
			require.Equal(t, state.ID, n.RefundID)
			found, err := c.FindRefund(t.Context(), refund)
			require.NoError(t, err)
			require.Equal(t, tc.last, found.Status)
			want := map[gateway.RefundStatus]string{gateway.RefundSucceeded: "0", gateway.RefundFailed: "259000"}[tc.last]
			require.Equal(t, want, s.Balance().Kept["KRW"])
		})
	}
}

func TestResponses_LostSlowAndRejected(t *testing.T) {
	shop := newShop(t, 0)
	s, c := run(t, with(func(b *Behavior) { b.LostResponses = 1 }))
	r := request(t, shop)
	_, err := pay(t, c, r)
	require.Error(t, err)
	final(t, c, r)
	require.Len(t, s.Balance().Payments, 1, "it took effect")

	_, c = run(t, with(func(b *Behavior) { b.RepeatRejected = 1 }))
	r = request(t, shop)
	_, err = pay(t, c, r)
	require.NoError(t, err)
	for range 20 {
		_, err = pay(t, c, r)
		var rejected *gateway.Rejected
		require.Error(t, err)
		require.False(t, errors.As(err, &rejected), "no rejection of the payment: %v", err)
		if errors.Is(err, gateway.ErrNotSent) {
			break
		}
	}
	final(t, c, r)

	_, c = run(t, with(func(b *Behavior) { b.SlowRate, b.SlowLatency = 1, time.Hour }))
	_, err = pay(t, c, request(t, shop))
	require.ErrorIs(t, err, context.DeadlineExceeded)
}

func TestKey_IsRequired(t *testing.T) {
	s, c := run(t, Options{Behavior: Behavior{SuccessRate: 1}, Key: "sk_test"})
	shop := newShop(t, 0)
	_, err := pay(t, c, request(t, shop))
	require.NoError(t, err)
	other, err := gateway.New(gateway.Options{URL: "http://" + s.Addr().String(), Key: "another"})
	require.NoError(t, err)
	defer other.Close()
	_, err = pay(t, other, request(t, shop))
	require.ErrorIs(t, err, gateway.ErrCredentials)
}

// A simulator that is stopped in the middle continues with its books: payments
// that were pending, disputes, refunds, and callbacks that must arrive.
func TestBooks_SurviveARestart(t *testing.T) {
	shop := newShop(t, 0)
	books := filepath.Join(t.TempDir(), "sim", "books.jsonl")
	opts := with(func(b *Behavior) { b.Duplicated, b.Lost, b.RefundsPending = 1, 1, 1 })
	opts.Books = books
	_, c, stop := start(t, opts)
	paid := request(t, shop)
	_, err := pay(t, c, paid)
	require.NoError(t, err)
	p := final(t, c, paid)
	shop.await(t, gateway.PaymentSucceeded) // the second charge
	stop()

	opts.Latency = time.Hour
	s, c, stop := start(t, opts)
	other, err := New(Options{Addr: "127.0.0.1:0", WebhookSecrets: []string{secret}, Books: books})
	require.NoError(t, err)
	require.ErrorContains(t, other.Listen(), "in use")
	require.Len(t, s.Balance().Payments, 2)
	pending := request(t, shop)
	first, err := pay(t, c, pending)
	require.NoError(t, err)
	refund := refundOf(p, paid, paid.Amount)
	state, err := c.Refund(t.Context(), refund)
	require.NoError(t, err)
	require.Equal(t, gateway.RefundPending, state.Status)
	stop()

	opts.Latency = 0
	s, c, stop = start(t, opts)
	require.Equal(t, first.ID, final(t, c, pending).ID)
	testkit.Eventually(t, 5*time.Second, "the refund", func() error {
		found, err := c.FindRefund(t.Context(), refund)
		if err == nil && found.Status != gateway.RefundSucceeded {
			err = errors.New(string(found.Status))
		}
		return err
	})
	before := s.Balance()
	stop()
	s, _, _ = start(t, opts)
	require.Equal(t, before, s.Balance())
}

func TestRequests_Malformed(t *testing.T) {
	s, _ := run(t, with(nil))
	good := `{"reference":"` + uuid.NewString() + `","amount":"1","currency":"KRW","callbackUrl":"http://127.0.0.1:1/"}`
	for name, tc := range map[string]struct{ key, body string }{
		"no key":       {"", good},
		"no JSON":      {"k", `{`},
		"no reference": {"k", `{"amount":"1","currency":"KRW","callbackUrl":"http://127.0.0.1:1/"}`},
		"no money":     {"k", `{"reference":"` + uuid.NewString() + `","amount":"1.5","currency":"KRW","callbackUrl":"http://127.0.0.1:1/"}`},
		"no callback":  {"k", `{"reference":"` + uuid.NewString() + `","amount":"1","currency":"KRW"}`},
	} {
		r, err := http.NewRequestWithContext(t.Context(), http.MethodPost, "http://"+s.Addr().String()+"/payments", strings.NewReader(tc.body))
		require.NoError(t, err)
		r.Header.Set("Idempotency-Key", tc.key)
		resp, err := s.client.Do(r)
		require.NoError(t, err)
		require.NoError(t, resp.Body.Close())
		require.Equal(t, http.StatusBadRequest, resp.StatusCode, name)
	}
	require.Empty(t, s.Balance().Payments)
}

func TestNew_NamesBadOptions(t *testing.T) {
	_, err := New(Options{Behavior: Behavior{SuccessRate: 2, Lost: -1, Latency: -time.Second}})
	for _, name := range []string{"success-rate", "lost", "latency", "webhook-secrets"} {
		require.ErrorContains(t, err, name)
	}
	_, err = New(Options{WebhookSecrets: []string{"whsec_!"}})
	require.ErrorContains(t, err, "whsec_<base64>")
	require.NotContains(t, err.Error(), "!")
}
