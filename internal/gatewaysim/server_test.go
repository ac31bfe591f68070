package gatewaysim

import (
	"context"
	"encoding/json"
	"io"
	"net/http"
	"net/http/httptest"
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
	"github.com/dopaminestore/dopamine/internal/testkit"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const (
	secret    = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"
	oldSecret = "whsec_AAECAwQFBgcICQoLDA0ODxAREhMUFRYX"
)

// shop takes callbacks and keeps those that are well signed.
type shop struct {
	url   string
	mu    sync.Mutex
	got   []callback
	fails int // how many are answered 500 first
}

type callback struct {
	id string
	message
}

func newShop(t *testing.T, fails int) *shop {
	t.Helper()
	s := &shop{fails: fails}
	verifier, err := standardwebhooks.NewWebhook(secret)
	require.NoError(t, err)
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body, _ := io.ReadAll(r.Body)
		c := callback{id: r.Header.Get("webhook-id")}
		s.mu.Lock()
		defer s.mu.Unlock()
		if verifier.Verify(body, r.Header) != nil || json.Unmarshal(body, &c.message) != nil {
			w.WriteHeader(http.StatusUnauthorized)
			return
		}
		if s.fails > 0 {
			s.fails--
			w.WriteHeader(http.StatusInternalServerError)
			return
		}
		s.got = append(s.got, c)
		w.WriteHeader(http.StatusNoContent)
	}))
	t.Cleanup(server.Close)
	s.url = server.URL
	return s
}

func (s *shop) heard() []callback {
	s.mu.Lock()
	defer s.mu.Unlock()
	return append([]callback(nil), s.got...)
}

// run runs a simulator and gives a client of it; stop ends it.
func run(t *testing.T, opts Options) (*Server, *gateway.Client) {
	t.Helper()
	opts.Addr, opts.WebhookSecrets = "127.0.0.1:0", []string{oldSecret, secret}
	s, err := New(opts)
	require.NoError(t, err)
	require.NoError(t, s.Listen())
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- s.Run(ctx) }()
	<-s.Ready()
	t.Cleanup(func() {
		cancel()
		require.NoError(t, <-ended)
	})
	c, err := gateway.New(gateway.Options{URL: "http://" + s.Addr().String()})
	require.NoError(t, err)
	t.Cleanup(c.Close)
	return s, c
}

func pay(t *testing.T, c *gateway.Client, r gateway.PaymentRequest) (gateway.Payment, error) {
	t.Helper()
	request, err := c.EncodePayment(r)
	require.NoError(t, err)
	return c.Pay(t.Context(), r.Reference, request)
}

func giveBack(t *testing.T, c *gateway.Client, reference uuid.UUID, amount domain.Money) (gateway.Refund, error) {
	t.Helper()
	return c.Refund(t.Context(), gateway.RefundRequest{RefundID: reference, Reference: reference, Amount: amount})
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

// settled waits until the gateway has decided the payment.
func settled(t *testing.T, c *gateway.Client, reference uuid.UUID) gateway.Payment {
	t.Helper()
	var state gateway.Payment
	require.Eventually(t, func() bool {
		var err error
		state, err = c.FindPayment(t.Context(), gateway.PaymentQuery{Reference: reference})
		return err == nil && state.Status != gateway.Pending
	}, 5*time.Second, 5*time.Millisecond)
	return state
}

func TestAPaymentIsTakenToldAndGivenBackOnce(t *testing.T) {
	shop := newShop(t, 2)
	s, c := run(t, Options{SuccessRate: 1, Latency: 50 * time.Millisecond})
	r := request(t, shop)

	_, err := c.FindPayment(t.Context(), gateway.PaymentQuery{Reference: r.Reference})
	require.ErrorIs(t, err, gateway.ErrUnknownReference)

	first, err := pay(t, c, r)
	require.NoError(t, err)
	require.Equal(t, gateway.Pending, first.Status)
	again, err := pay(t, c, r)
	require.NoError(t, err)
	require.Equal(t, first.ID, again.ID)

	other := r
	other.Amount = won(t, "1")
	var refused *gateway.Rejected
	_, err = pay(t, c, other)
	require.ErrorAs(t, err, &refused, "the same key with another body")

	_, err = giveBack(t, c, r.Reference, r.Amount)
	require.ErrorAs(t, err, &refused, "nothing was taken yet")

	state := settled(t, c, r.Reference)
	require.Equal(t, gateway.Succeeded, state.Status)
	require.Equal(t, "259000 KRW", state.Paid.Money.String()+" "+state.Paid.Money.Currency())
	testkit.Eventually(t, 10*time.Second, "the callback, at the third try", func() error {
		if len(shop.heard()) == 0 {
			return io.EOF
		}
		return nil
	})
	told := shop.heard()[0]
	require.Equal(t, "payment.succeeded", told.Type)
	require.Equal(t, r.Reference, told.Data.Reference)
	require.Equal(t, first.ID, told.Data.PaymentID)
	require.Equal(t, "259000", told.Data.Amount)
	require.Nil(t, told.Data.FailureReason)

	_, err = giveBack(t, c, r.Reference, won(t, "259001"))
	require.ErrorAs(t, err, &refused, "more than was taken")
	_, err = giveBack(t, c, uuid.New(), won(t, "1"))
	require.ErrorAs(t, err, &refused, "unknown")
	refund, err := giveBack(t, c, r.Reference, r.Amount)
	require.NoError(t, err)
	same, err := giveBack(t, c, r.Reference, r.Amount)
	require.NoError(t, err)
	require.Equal(t, refund, same)

	balance := s.Balance()
	require.Equal(t, map[string]string{"KRW": "259000"}, balance.Taken)
	require.Equal(t, map[string]string{"KRW": "259000"}, balance.Refunded)
	require.Len(t, balance.Payments, 1)
	require.Equal(t, "259000", balance.Payments[0].Refunded)
}

func TestFailuresAndRefusals(t *testing.T) {
	shop := newShop(t, 0)
	_, c := run(t, Options{SuccessRate: 0})
	r := request(t, shop)
	_, err := pay(t, c, r)
	require.NoError(t, err)
	state := settled(t, c, r.Reference)
	require.Equal(t, gateway.Failed, state.Status)
	require.Equal(t, reasonDeclined, state.FailureReason)
	testkit.Eventually(t, 5*time.Second, "the callback", func() error {
		if h := shop.heard(); len(h) != 1 || h[0].Type != "payment.failed" || *h[0].Data.FailureReason != reasonDeclined {
			return io.EOF
		}
		return nil
	})

	s, c := run(t, Options{SuccessRate: 1, Refused: 1})
	r = request(t, shop)
	for range 2 {
		_, err = pay(t, c, r)
		var refused *gateway.Rejected
		require.ErrorAs(t, err, &refused)
		require.Equal(t, gateway.Rejected{Reason: reasonRefused, HTTPStatus: 402}, *refused)
	}
	state = settled(t, c, r.Reference)
	require.Equal(t, gateway.Failed, state.Status)
	require.Empty(t, s.Balance().Taken)
}

func TestLostRepeatedReordered(t *testing.T) {
	lossy, repeating, slow := newShop(t, 0), newShop(t, 0), newShop(t, 0)
	_, losing := run(t, Options{SuccessRate: 1, Lost: 1})
	_, twice := run(t, Options{SuccessRate: 1, Repeated: 1, Seed: 1})
	_, late := run(t, Options{SuccessRate: 1, Reordered: 1, Seed: 1})
	const payments = 12
	order := make([]uuid.UUID, payments)
	for i := range payments {
		for c, shop := range map[*gateway.Client]*shop{losing: lossy, twice: repeating, late: slow} {
			r := request(t, shop)
			_, err := pay(t, c, r)
			require.NoError(t, err)
			settled(t, c, r.Reference)
			if c == late {
				order[i] = r.Reference
			}
		}
	}
	testkit.Eventually(t, 2*heldBack, "all callbacks", func() error {
		if len(repeating.heard()) < 2*payments || len(slow.heard()) < payments {
			return io.EOF
		}
		return nil
	})
	require.Empty(t, lossy.heard())
	ids, references := map[string]int{}, map[uuid.UUID]int{}
	for _, c := range repeating.heard() {
		ids[c.id]++
		references[c.Data.Reference]++
	}
	require.Len(t, references, payments)
	require.Less(t, len(ids), 2*payments, "some repeats have the same id")
	require.Greater(t, len(ids), payments, "some have another")
	var came []uuid.UUID
	for _, c := range slow.heard() {
		came = append(came, c.Data.Reference)
	}
	require.ElementsMatch(t, order, came)
	require.NotEqual(t, order, came)
}

func TestWhatIsNoRequestIsRefused(t *testing.T) {
	s, _ := run(t, Options{SuccessRate: 1})
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

func TestBadOptionsAreNamed(t *testing.T) {
	_, err := New(Options{SuccessRate: 2, Lost: -1, Latency: -time.Second})
	for _, name := range []string{"success-rate", "lost", "latency", "webhook-secrets"} {
		require.ErrorContains(t, err, name)
	}
	_, err = New(Options{WebhookSecrets: []string{"whsec_!"}})
	require.ErrorContains(t, err, "whsec_<base64>")
	require.NotContains(t, err.Error(), "!")
}
