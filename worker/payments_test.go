package worker

import (
	"context"
	"net/http"
	"net/http/httptest"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/stretchr/testify/require"

	"github.com/dopaminestore/dopamine/command/claims"
	"github.com/dopaminestore/dopamine/command/origin"
	"github.com/dopaminestore/dopamine/command/payments"
	"github.com/dopaminestore/dopamine/domain"
	"github.com/dopaminestore/dopamine/internal/gateway"
	"github.com/dopaminestore/dopamine/redis"
	"github.com/dopaminestore/dopamine/tools/dbtest"
	"github.com/dopaminestore/dopamine/tools/gatewaysim"
	"github.com/dopaminestore/dopamine/tools/storetest"
	"github.com/dopaminestore/dopamine/tools/testkit"
)

// switched is a gateway that can be unavailable.
type switched struct {
	away atomic.Bool
	next http.Handler
}

func (s *switched) ServeHTTP(rw http.ResponseWriter, r *http.Request) {
	if s.away.Load() {
		rw.WriteHeader(http.StatusBadGateway)
		return
	}
	s.next.ServeHTTP(rw, r)
}

// payingWorld is a world whose gateway loses every callback, so that everything depends
// on the worker.
type payingWorld struct {
	*world
	sim     *gatewaysim.Server
	gateway *switched
	service *payments.Service
}

const (
	payingLife    = 1200 * time.Millisecond
	payingTimeout = 600 * time.Millisecond
)

func newPayingWorld(t *testing.T) *payingWorld {
	w := &payingWorld{world: newWorld(t), sim: silentGateway(t)}
	w.gateway = &switched{next: w.sim.Handler()}
	w.service, _ = w.openPayments(w.gateway, time.Second)
	w.work(func(c *Config) { c.Payments = w.service })
	return w
}

// silentGateway returns a gateway that takes every payment and loses every callback.
func silentGateway(t *testing.T) *gatewaysim.Server {
	t.Helper()
	sim, err := gatewaysim.New(gatewaysim.Options{
		Addr: "127.0.0.1:0", WebhookSecrets: []string{"whsec_AAECAwQFBgcICQoLDA0ODxAREhMUFRYX"}, Behavior: gatewaysim.Behavior{SuccessRate: 1, Lost: 1},
	})
	require.NoError(t, err)
	return sim
}

// openClient returns a client of the gateway behind a handler, and its URL; timeout 0 is the default.
func openClient(t testing.TB, handler http.Handler, timeout time.Duration) (*gateway.Client, string) {
	t.Helper()
	server := httptest.NewServer(handler)
	t.Cleanup(server.Close)
	client, err := gateway.New(gateway.Options{URL: server.URL, Timeout: timeout})
	require.NoError(t, err)
	t.Cleanup(client.Close)
	return client, server.URL
}

// openPayments returns the payments of a process with the gateway behind a handler, and its URL.
func (w *world) openPayments(handler http.Handler, timeout time.Duration) (service *payments.Service, gatewayURL string) {
	w.TB.Helper()
	client, gatewayURL := openClient(w.TB, handler, timeout)
	service, err := payments.New(payments.Config{
		Pool: w.Pool, Store: w.Events, Reader: w.reader, Claims: w.Claims, Gate: w.gate, Gateway: client,
		CallbackURL: "http://127.0.0.1:1/", PaymentTimeout: payingTimeout, SlotTTL: payingLife, SlotWarning: time.Minute,
		Registry: prometheus.NewRegistry(),
	})
	require.NoError(w.TB, err)
	w.TB.Cleanup(func() { require.NoError(w.TB, service.Close(context.Background())) })
	return service, gatewayURL
}

// pay starts a payment for the slot.
func (w *payingWorld) pay(d redis.Decision) uuid.UUID {
	w.TB.Helper()
	begun, err := w.service.Start(context.Background(), payments.Start{
		By: domain.Caller{User: d.Buyer, Buyer: true}, Slot: d.SlotID, Key: uuid.New(), Offered: storetest.KRW(w.TB, 1000), Method: domain.Card,
	}, &origin.Origin{Actor: d.Buyer.String()})
	require.NoError(w.TB, err)
	return begun.Payment.ID
}

// askNow makes the next query of the gateway due immediately.
func (w *payingWorld) askNow() {
	w.TB.Helper()
	dbtest.Exec(w.TB, w.Pool, `update payments set ask_at = clock_timestamp() where ask_at is not null`)
}

// awaitPurchase waits until the product has a purchase.
func (w *payingWorld) awaitPurchase(product uuid.UUID) {
	w.TB.Helper()
	testkit.EventuallyTrue(w.TB, 30*time.Second, "the purchase", func() bool {
		w.askNow()
		return w.count(product, "PaymentCompleted") == 1
	})
}

func (w *payingWorld) types(slot uuid.UUID) (types []string) {
	w.TB.Helper()
	recorded, err := w.reader.Stream(context.Background(), slot, 0)
	require.NoError(w.TB, err)
	for _, r := range recorded {
		types = append(types, r.Type)
	}
	return types
}

func TestPayments_QueryGatewayAfterLostCallback(t *testing.T) {
	t.Parallel()
	w := newPayingWorld(t)
	product := w.product(2)
	asked, timedOut := w.acquire(product, life{ttl: time.Hour}), w.acquire(product, life{ttl: payingLife})
	w.pay(asked)
	w.pay(timedOut)
	testkit.EventuallyTrue(t, 5*time.Second, "both at the gateway", func() bool { return w.sim.Balance().Taken["KRW"] == "2000" })
	// The payment that has timed out is queried once more automatically.
	w.awaitCount(10*time.Second, product, "PaymentCompleted", 1)
	require.Equal(t, []string{"SlotAcquired", "PaymentInitiated", "PaymentCompleted"}, w.types(timedOut.SlotID))
	w.askNow()
	w.awaitCount(10*time.Second, product, "PaymentCompleted", 2)
	w.awaitGate(5*time.Second, product, 0, 2, 0)
	require.Empty(t, w.sim.Balance().Refunded)
}

func TestPayments_GatewayOutageDelaysNoExpiry(t *testing.T) {
	t.Parallel()
	w := newPayingWorld(t)
	product := w.product(1)
	d := w.acquire(product, life{ttl: payingLife})
	w.gateway.away.Store(true)
	payment := w.pay(d)

	w.awaitCount(10*time.Second, product, "SlotExpired", 1)
	require.Equal(t, []string{"SlotAcquired", "PaymentInitiated", "PaymentFailed", "SlotExpired"}, w.types(d.SlotID))
	slot := w.slots(product)[d.SlotID]
	late := slot.EndedAt.Sub(slot.Deadline.Add(payingTimeout))
	require.GreaterOrEqual(t, late, time.Duration(0))
	require.Less(t, late, 2*time.Second)
	p, _ := slot.Payment(payment)
	require.Equal(t, domain.ReasonTimeout, p.FailureReason)

	// Another buyer has the unit when the gateway comes back, and it turns out to
	// have taken the money: the request had reached it, and its response was lost.
	w.awaitGate(5*time.Second, product, 1, 0, 0)
	w.acquire(product, life{ttl: time.Hour})
	w.gateway.away.Store(false)
	client, _ := openClient(t, w.sim.Handler(), 0) // at which the gateway is available
	request, err := client.EncodePayment(gateway.PaymentRequest{Reference: payment, Amount: storetest.KRW(t, 1000), Method: domain.Card, CallbackURL: "http://127.0.0.1:1/"})
	require.NoError(t, err)
	_, err = client.Pay(t.Context(), payment, request)
	require.NoError(t, err)
	testkit.EventuallyTrue(t, 30*time.Second, "the money to go back", func() bool {
		w.askNow()
		return w.count(product, "RefundCompleted") == 1
	})
	require.Equal(t, map[string]string{"KRW": "1000"}, w.sim.Balance().Refunded)
	require.Equal(t, 1, w.count(product, "RefundDue"))
}

// TestCancelledSale_EventsHaveATrace ends a cancelled sale with a purchase and with an
// active slot. No request causes these events, so the worker starts their traces.
func TestCancelledSale_EventsHaveATrace(t *testing.T) {
	t.Parallel()
	w := newPayingWorld(t)
	product := w.product(2)
	bought := w.acquire(product, life{ttl: time.Hour})
	w.acquire(product, life{ttl: time.Hour})
	w.pay(bought)
	w.awaitPurchase(product)
	sale := claims.Sale{Product: product, SaleDate: time.Now().Add(-time.Hour), Cancelled: true}
	require.NoError(t, w.Append(product, product, sale.GuardItem(), domain.ProductSaleCancelled{}))
	w.awaitCount(30*time.Second, product, "SlotExpired", 1)
	w.awaitCount(30*time.Second, product, "RefundDue", 1)
	for _, e := range w.events(product) {
		if typ := e.Event.EventType(); typ == "SlotExpired" || typ == "RefundDue" {
			require.Len(t, e.TraceID(), 32, typ)
			require.NotEmpty(t, e.CorrelationID, typ)
		}
	}
}
