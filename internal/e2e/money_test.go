package e2e

import (
	"bufio"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/google/uuid"
	standardwebhooks "github.com/standard-webhooks/standard-webhooks/libraries/go"
	"github.com/stretchr/testify/require"

	"github.com/dopaminestore/dopamine/internal/config"
	"github.com/dopaminestore/dopamine/internal/gateway/stripe/stripetest"
	"github.com/dopaminestore/dopamine/tools/dbtest"
	"github.com/dopaminestore/dopamine/tools/testkit"
)

// moneySite is a dev with a payment gateway of the test's choice.
type moneySite struct {
	*site
	data   string
	secret string
}

func openMoneySite(t *testing.T, secret string, args ...string) *moneySite {
	t.Helper()
	data, command := filepath.Join(t.TempDir(), "data"), freeAddr(t)
	start(t, "dev", []string{"DOPAMINE_WEBHOOK_SECRETS=" + secret}, append([]string{"dev", "--data", data, "--command-addr", command,
		"--query-addr", "127.0.0.1:0", "--database-url", dbtest.Both(t).URL, "--redis-url", testkit.Redis(t), "--log-format", "json"}, args...)...).ready()
	values, err := config.ReadEnvFile(data)
	require.NoError(t, err)
	users := newClients(t, filepath.Join(data, "jwt.key"))
	return &moneySite{&site{t: t, command: "http://" + command, query: "http://" + values["query-addr"], users: users, admin: users.admin()}, data, secret}
}

// in returns the site for a subtest.
func (s *moneySite) in(t *testing.T) *moneySite {
	part := *s
	part.site = s.site.in(t)
	return &part
}

// begin acquires a slot and starts a payment of it.
func (s *moneySite) begin(product string) (buyer *client, slot, payment object) {
	s.t.Helper()
	buyer = s.users.buyer()
	a := buyer.acquire(s.command, product)
	require.Equal(s.t, http.StatusCreated, a.status, "%s", a.body)
	slot = a.object(s.t)
	_, payment = buyer.want(http.StatusCreated, http.MethodPost, s.command+"/v1/payments", object{
		"purchaseSlotId": slot["id"], "idempotencyKey": uuid.New(), "amount": "259000", "currency": "KRW", "paymentMethod": "CARD"})
	require.Equal(s.t, "PENDING", payment["paymentStatus"])
	return buyer, slot, payment
}

// becomes waits until the payment has these fields.
func (s *moneySite) becomes(who *client, payment any, want object) object {
	s.t.Helper()
	var p object
	testkit.Eventually(s.t, 60*time.Second, "the payment to change", func() error {
		a := who.get(s.query + "/v1/payments/" + payment.(string))
		if a.slug() == "payment-not-found" { // the read model does not have it yet
			return errors.New(a.slug())
		}
		require.Equal(s.t, http.StatusOK, a.status, "%s", a.body)
		p = a.object(s.t)
		for name, value := range want {
			if p[name] != value {
				text, _ := json.Marshal(p)
				return errors.New(string(text))
			}
		}
		return nil
	})
	return p
}

// waiting returns the causes that wait for an operator, of one payment.
func (s *moneySite) waiting(payment any) (causes []string) {
	s.t.Helper()
	_, o := s.admin.want(http.StatusOK, http.MethodGet, s.query+"/v1/operations/money", nil)
	for _, i := range o["items"].([]any) {
		if item := i.(object); item["paymentId"] == payment {
			causes = append(causes, item["cause"].(string))
		}
	}
	return causes
}

const stripeSecret = "whsec_not-base64!"

// stripeFlags are the settings of a process that pays through Stripe at an address.
func stripeFlags(t *testing.T, url string) []string {
	t.Helper()
	key := filepath.Join(t.TempDir(), "stripe.key")
	require.NoError(t, os.WriteFile(key, []byte("sk_test_1\n"), 0o600))
	return []string{"--gateway", "stripe", "--gateway-url", url, "--stripe-key-file", key, "--stripe-publishable-key", "pk_test_1"}
}

// openStripeProcesses starts the roles that a sale over Stripe needs, each a process, and with
// reads also those of the read side.
func openStripeProcesses(t *testing.T, url string, reads bool) *moneySite {
	t.Helper()
	key := filepath.Join(t.TempDir(), "jwt.key")
	require.NoError(t, os.WriteFile(key, []byte(strings.Repeat("0123456789abcdef", 3)), 0o600))
	command, query := freeAddr(t), freeAddr(t)
	env := []string{
		"DOPAMINE_DATABASE_URL=" + dbtest.Both(t).URL, "DOPAMINE_REDIS_URL=" + testkit.Redis(t), "DOPAMINE_JWT_KEY=" + key,
		"DOPAMINE_COMMAND_ADDR=" + command, "DOPAMINE_QUERY_ADDR=" + query,
	}
	payments := stripeFlags(t, url)
	started := []*process{
		start(t, "command-api", append(env, "DOPAMINE_WEBHOOK_SECRETS="+stripeSecret), append([]string{"command-api"}, payments...)...),
		start(t, "worker", env, append([]string{"worker"}, payments...)...),
	}
	if reads {
		env = append(env, "DOPAMINE_KAFKA_BROKERS="+strings.Join(testkit.FakeKafka(t), ","))
		for _, role := range []string{"relay", "projector", "query-api"} {
			started = append(started, start(t, role, env, role))
		}
	}
	for _, p := range started {
		p.ready()
	}
	users := newClients(t, key)
	return &moneySite{site: &site{t: t, command: "http://" + command, query: "http://" + query, users: users, admin: users.admin()}, secret: stripeSecret}
}

// TestStripe_WholeSale plays a sale over Stripe's double, with a process for each role: a declined
// card, 3-D Secure, webhooks, purchase, refund with the unit, dispute, cancel. stripe-mock accepts
// every request that was made.
func TestStripe_WholeSale(t *testing.T) {
	stripe := stripetest.New("sk_test_1")
	t.Cleanup(stripe.Close)
	var err error
	stripe.Mock, err = stripetest.NewMock()
	require.NoError(t, err)
	s := openStripeProcesses(t, stripe.URL(), true)
	stripe.WebhookURL, stripe.WebhookSecret = s.command+"/v1/webhooks/stripe", stripeSecret
	playStripeSale(t, s, stripe)
	require.Empty(t, stripe.Mock.Refused())
	accepted := map[string]int{}
	for _, request := range stripe.Mock.Accepted() {
		accepted[identifier.ReplaceAllString(request, "/${1}_x")]++
	}
	t.Logf("accepted by stripe-mock: %v", accepted)
	for _, request := range []string{"POST /v1/payment_intents", "GET /v1/payment_intents/pi_x", "POST /v1/payment_intents/pi_x/cancel",
		"POST /v1/refunds", "GET /v1/refunds/re_x", "GET /v1/disputes/dp_x"} {
		require.NotZero(t, accepted[request], "%s in %v", request, accepted)
	}
}

// identifier is an id of the double in a path.
var identifier = regexp.MustCompile(`/(pi|re|dp)_[0-9]+`)

func playStripeSale(t *testing.T, s *moneySite, stripe *stripetest.Double) {
	product := s.admin.product(s.command, 3)

	intentOf := func(payment object) string {
		for _, o := range stripe.Objects("payment_intent") {
			if id := o["id"].(string); id == payment["paymentId"] || strings.Contains(toJSON(t, o["metadata"]), payment["id"].(string)) {
				return id
			}
		}
		t.Fatalf("no PaymentIntent for %v", payment)
		return ""
	}
	// Bought after a declined card and 3-D Secure.
	buyer, slot, payment := s.begin(product)
	require.Equal(t, object{"type": "client_secret", "clientSecret": intentOf(payment) + "_secret_x", "publishableKey": "pk_test_1"}, payment["nextAction"])
	require.Nil(t, s.becomes(s.admin, payment["id"], object{})["nextAction"], "the owner's alone")
	intent := intentOf(payment)
	require.NoError(t, stripe.Decline(intent))
	require.NoError(t, stripe.Authenticate(intent))
	require.Equal(t, payment["nextAction"], s.becomes(buyer, payment["id"], object{"paymentStatus": "PENDING"})["nextAction"])
	require.NoError(t, stripe.Succeed(intent))
	paid := s.becomes(buyer, payment["id"], object{"paymentStatus": "SUCCESS", "paymentId": intent})
	require.Nil(t, paid["nextAction"])
	_, done := buyer.want(http.StatusOK, http.MethodGet, s.query+"/v1/slots/"+slot["id"].(string), nil)
	require.Equal(t, "COMPLETED", done["status"])

	// The whole amount goes back, and the unit.
	_, refund := s.admin.want(http.StatusCreated, http.MethodPost, s.command+"/v1/payments/"+payment["id"].(string)+"/refunds",
		object{"idempotencyKey": uuid.New(), "returnUnit": true})
	require.Equal(t, "259000", refund["amount"])
	s.becomes(buyer, payment["id"], object{"refundStatus": "PENDING"})
	refunds := stripe.Objects("refund")
	require.Len(t, refunds, 1)
	require.NoError(t, stripe.Set(refunds[0]["id"].(string), "refund.updated", stripetest.Object{"status": "succeeded"}))
	s.becomes(buyer, payment["id"], object{"refundStatus": "REFUNDED", "refundedAmount": "259000", "paymentStatus": "SUCCESS"})
	again := buyer.acquire(s.command, product)
	require.Equal(t, http.StatusCreated, again.status, "the slot was returned: %s", again.body)

	// A dispute that is lost.
	disputing, _, payment := s.begin(product)
	intent = intentOf(payment)
	require.NoError(t, stripe.Succeed(intent))
	s.becomes(disputing, payment["id"], object{"paymentStatus": "SUCCESS"})
	dispute, err := stripe.Dispute(intent)
	require.NoError(t, err)
	s.becomes(disputing, payment["id"], object{"disputed": true, "reversed": false})
	require.Equal(t, []string{"DISPUTED"}, s.waiting(payment["id"]))
	require.NoError(t, stripe.Set(dispute, "charge.dispute.closed", stripetest.Object{"status": "lost"}))
	s.becomes(disputing, payment["id"], object{"disputed": false, "reversed": true, "paymentStatus": "SUCCESS"})
	require.Equal(t, []string{"REVERSED"}, s.waiting(payment["id"]))

	// A buyer who changes their mind.
	canceling, _, payment := s.begin(product)
	canceling.want(http.StatusAccepted, http.MethodDelete, s.command+"/v1/payments/"+payment["id"].(string), nil)
	s.becomes(canceling, payment["id"], object{"paymentStatus": "FAILED", "failureReason": "CANCELED"})

	// Only the configured gateway's webhook exists.
	s.users.nobody().refused(http.StatusNotFound, "not-found", http.MethodPost, s.command+"/v1/webhooks/payment", object{})
	s.users.nobody().refused(http.StatusUnauthorized, "invalid-signature", http.MethodPost, s.command+"/v1/webhooks/stripe", object{})
}

// TestStripe_ProcessesAgainstStripeMock: stripe-mock, in place of Stripe, accepts every request of a
// command API and a worker.
func TestStripe_ProcessesAgainstStripeMock(t *testing.T) {
	mock, err := stripetest.NewMock()
	require.NoError(t, err)
	server := httptest.NewServer(mock)
	t.Cleanup(server.Close)
	s := openStripeProcesses(t, server.URL, false)
	product := s.admin.product(s.command, 1)
	_, _, payment := s.begin(product)
	action := payment["nextAction"].(object)
	require.Equal(t, "client_secret", action["type"])
	require.Equal(t, "pk_test_1", action["publishableKey"])
	require.NotEmpty(t, action["clientSecret"])

	// Its webhooks report objects of another store, since the mock's content is fixed.
	sender := &stripetest.Double{WebhookURL: s.command + "/v1/webhooks/stripe", WebhookSecret: stripeSecret}
	for event, object := range map[string]stripetest.Object{
		"payment_intent.succeeded": {"id": "pi_1"}, "refund.updated": {"id": "re_1"}, "charge.dispute.created": {"id": "dp_1"},
	} {
		require.NoError(t, sender.Send(event, object), event)
	}
	// The worker cancels.
	s.users.nobody().refused(http.StatusUnauthorized, "unauthenticated", http.MethodDelete, s.command+"/v1/payments/"+payment["id"].(string), nil)
	s.admin.want(http.StatusAccepted, http.MethodDelete, s.command+"/v1/payments/"+payment["id"].(string), nil)
	testkit.Eventually(t, 30*time.Second, "the worker to cancel at stripe-mock", func() error {
		if refused := mock.Refused(); len(refused) > 0 {
			t.Fatalf("refused: %v", refused)
		}
		accepted := strings.Join(mock.Accepted(), "\n")
		for _, request := range []string{"POST /v1/payment_intents\n", "GET /v1/payment_intents/pi_1", "GET /v1/refunds/re_1", "GET /v1/disputes/dp_1", "/cancel"} {
			if !strings.Contains(accepted+"\n", request) {
				return fmt.Errorf("no %s in %s", request, accepted)
			}
		}
		return nil
	})
	t.Logf("accepted by stripe-mock: %v", mock.Accepted())
}

func toJSON(t *testing.T, v any) string {
	t.Helper()
	text, err := json.Marshal(v)
	require.NoError(t, err)
	return string(text)
}

// webhook sends a callback of the HTTP contract.
func (s *moneySite) webhook(kind string, data object) {
	s.t.Helper()
	body := []byte(toJSON(s.t, object{"type": kind, "timestamp": time.Now(), "data": data}))
	w, err := standardwebhooks.NewWebhook(s.secret)
	require.NoError(s.t, err)
	id, at := uuid.NewString(), time.Now()
	signature, err := w.Sign(id, at, body)
	require.NoError(s.t, err)
	a := s.users.nobody().with("webhook-id", id, "webhook-timestamp", strconv.FormatInt(at.Unix(), 10), "webhook-signature", signature).
		do(http.MethodPost, s.command+"/v1/webhooks/payment", body)
	require.Equal(s.t, http.StatusNoContent, a.status, "%s", a.body)
}

// money calls `dopamine money` on the data folder, as an operator does.
func (s *moneySite) money(status int, args ...string) string {
	s.t.Helper()
	got, stdout, stderr := call(s.t, nil, append([]string{"money", args[0], "--data", s.data}, args[1:]...)...)
	require.Equal(s.t, status, got, "%v: %s", args, stderr)
	return stdout + stderr
}

// TestMoney_NextActionAndOperator, on a live dev with its simulator: the buyer
// confirms on the gateway's page, refunds fail, and an operator decides.
func TestMoney_NextActionAndOperator(t *testing.T) {
	const secret = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"
	sim := freeAddr(t)
	start(t, "gateway-sim", []string{"DOPAMINE_WEBHOOK_SECRETS=" + secret}, "gateway-sim", "--addr", sim, "--success-rate", "1", "--latency", "20ms",
		"--lost", "0", "--repeated", "0", "--reordered", "0", "--action-rate", "1", "--refunds-failed", "1").ready()
	sale := openMoneySite(t, secret, "--gateway-url", "http://"+sim)
	product := sale.admin.product(sale.command, 5)
	confirm := func(t *testing.T, action object) {
		t.Helper()
		resp, err := http.PostForm(action["url"].(string), url.Values{"decision": {"confirm"}})
		require.NoError(t, err)
		require.NoError(t, resp.Body.Close())
		require.Less(t, resp.StatusCode, 400)
	}

	first, _, payment := sale.begin(product)
	id := payment["id"].(string)
	action, _ := payment["nextAction"].(object)
	if !t.Run("the next action is shown to the owner alone", func(t *testing.T) {
		s, buyer := sale.in(t), first.in(t)
		require.Equal(t, "redirect", action["type"], "%v", payment)
		require.Equal(t, action, s.becomes(buyer, id, object{})["nextAction"])
		_, shown := s.admin.want(http.StatusOK, http.MethodGet, s.query+"/v1/payments/"+id, nil)
		require.Nil(t, shown["nextAction"], "the owner's alone")
	}) {
		return
	}
	if !t.Run("a new action is streamed when it becomes known", func(t *testing.T) {
		s := sale.in(t)
		req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, s.query+"/v1/slots/my-slots/stream", nil)
		require.NoError(t, err)
		req.Header.Set("Authorization", "Bearer "+first.token)
		stream, err := http.DefaultClient.Do(req)
		require.NoError(t, err)
		defer stream.Body.Close()
		streamed := make(chan string, 100)
		go func() {
			for lines := bufio.NewScanner(stream.Body); lines.Scan(); {
				if data, ok := strings.CutPrefix(lines.Text(), "data: "); ok && strings.Contains(data, `"paymentStatus"`) {
					streamed <- data
				}
			}
		}()
		other := object{"type": "redirect", "url": "https://pay.example.com/other"}
		s.webhook("payment.requires_action", object{"reference": id, "paymentId": "p", "amount": "259000", "currency": "KRW", "nextAction": other})
		select {
		case data := <-streamed:
			require.Contains(t, data, "https://pay.example.com/other")
		case <-time.After(30 * time.Second):
			t.Fatal("event: payment did not come")
		}
	}) {
		return
	}
	if !t.Run("a confirmed payment succeeds and has no next action", func(t *testing.T) {
		s, buyer := sale.in(t), first.in(t)
		confirm(t, action)
		paid := s.becomes(buyer, id, object{"paymentStatus": "SUCCESS"})
		require.Nil(t, paid["nextAction"])
	}) {
		return
	}
	if !t.Run("a failed refund is retried and then refunded elsewhere", func(t *testing.T) {
		s, buyer := sale.in(t), first.in(t)
		s.admin.want(http.StatusCreated, http.MethodPost, s.command+"/v1/payments/"+id+"/refunds", object{"idempotencyKey": uuid.New()})
		s.becomes(buyer, id, object{"refundStatus": "FAILED"})
		require.Equal(t, []string{"REFUND_FAILED"}, s.waiting(id))
		require.Contains(t, s.money(0, "list"), id)
		s.money(0, "resolve", "--retry", "--note", "TRY_AGAIN", id)
		var refunds object
		testkit.Eventually(t, 60*time.Second, "the second refund to fail", func() error {
			_, refunds = buyer.want(http.StatusOK, http.MethodGet, s.query+"/v1/payments/"+id+"/refunds", nil)
			list := refunds["refunds"].([]any)
			if len(list) != 2 || list[1].(object)["status"] != "FAILED" {
				return errors.New(toJSON(t, list))
			}
			return nil
		})
		s.becomes(buyer, id, object{"refundStatus": "FAILED"})
		require.Contains(t, s.money(0, "list", "--json"), "REFUND_FAILED")
		s.money(0, "resolve", "--refunded-elsewhere", "--note", "BANK_TRANSFER", id)
		s.becomes(buyer, id, object{"refundStatus": "REFUNDED", "refundedAmount": "259000"})
		require.Empty(t, s.waiting(id))
		require.Contains(t, s.money(0, "list"), "nothing waits")
		require.Contains(t, s.money(1, "resolve", "--accept", "--note", "A", id), "nothing")
	}) {
		return
	}
	if !t.Run("a success that the gateway contradicts is reversed if nothing was taken", func(t *testing.T) {
		s := sale.in(t)
		buyer, _, payment := s.begin(product)
		id := payment["id"].(string)
		confirm(t, payment["nextAction"].(object))
		paid := s.becomes(buyer, id, object{"paymentStatus": "SUCCESS"})
		s.webhook("payment.failed", object{"reference": id, "paymentId": paid["paymentId"], "amount": "259000", "currency": "KRW", "failureReason": "BOUNCED"})
		testkit.Eventually(t, 30*time.Second, "the contradiction to be listed", func() error {
			if w := s.waiting(id); len(w) != 1 || w[0] != "CONTRADICTED" {
				return errors.New(strings.Join(w, " "))
			}
			return nil
		})
		s.money(0, "resolve", "--nothing-taken", "--note", "SEEN", id)
		s.becomes(buyer, id, object{"reversed": true, "paymentStatus": "SUCCESS"})
		require.Empty(t, s.waiting(id))
		_, audit := s.admin.want(http.StatusOK, http.MethodGet, s.query+"/v1/audit?limit=1000&type=PaymentResolved&productId="+product, nil)
		require.Len(t, audit["entries"], 4, "NOTHING_TAKEN also accepts the reversal")
		for _, e := range audit["entries"].([]any) {
			require.Equal(t, "operator", e.(object)["actor"])
		}
	}) {
		return
	}
	t.Run("a cancelled sale shows the progress of its refunds", func(t *testing.T) {
		s := sale.in(t)
		_, cancelled := s.admin.want(http.StatusAccepted, http.MethodPost, s.command+"/v1/products/"+product+"/cancel", nil)
		require.Equal(t, "CANCELLED", cancelled["status"])
		testkit.Eventually(t, 30*time.Second, "the cancellation to be shown", func() error {
			_, p := s.admin.want(http.StatusOK, http.MethodGet, s.query+"/v1/products/"+product, nil)
			if counts, _ := p["cancellation"].(object); number(counts["purchases"]) != "2" || number(counts["refunded"]) != "2" || number(counts["open"]) != "0" {
				return errors.New(toJSON(t, p))
			}
			return nil
		})
	})
}
