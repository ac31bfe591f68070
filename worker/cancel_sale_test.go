package worker

import (
	"bytes"
	"context"
	"encoding/json"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"strconv"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/stretchr/testify/require"

	"github.com/dopaminestore/dopamine/command/claims"
	"github.com/dopaminestore/dopamine/command/payments"
	"github.com/dopaminestore/dopamine/domain"
	"github.com/dopaminestore/dopamine/eventstore"
	"github.com/dopaminestore/dopamine/internal/apimodel"
	"github.com/dopaminestore/dopamine/internal/gateway"
	"github.com/dopaminestore/dopamine/internal/sleep"
	"github.com/dopaminestore/dopamine/redis"
	"github.com/dopaminestore/dopamine/tools/dbtest"
	"github.com/dopaminestore/dopamine/tools/gatewaysim"
	"github.com/dopaminestore/dopamine/tools/testkit"
)

// purchasesVariable is how many purchases the cancelled sale has; CI cancels a
// small one.
const purchasesVariable = "DOPAMINE_CANCELLED_PURCHASES"

const insertPurchasesSQL = `
insert into payments (payment_id, slot_id, product_id, user_id, amount, currency, method, status, initiated_at, posted_at, accepted)
select payment, slot, $1, buyer, 1000, 'KRW', 'CARD', 'SUCCESS', clock_timestamp(), clock_timestamp(), true
from unnest($2::uuid[], $3::uuid[], $4::uuid[]) as p(payment, slot, buyer)`

// purchases makes a product with n purchases, which the simulator has taken, and
// some active slots.
func (w *world) purchases(sim http.Handler, n, active int) (product uuid.UUID) {
	w.t.Helper()
	product = w.product(n + active)
	raised, err := w.gateStore.Raise(context.Background(), []redis.RaiseRequest{{Product: product, Found: redis.NoEpoch, Above: redis.NoEpoch}})
	require.NoError(w.t, err)
	require.True(w.t, raised[0].Raised)
	// No rebuild is in progress: the gate need not wait for it.
	dbtest.Exec(w.t, w.pool, `update product_gates set lease_epoch = epoch where product_id = $1`, product)
	const piece = 250
	for from := 0; from < n+active; from += piece {
		a := eventstore.Append{Key: product}
		var ids, slots, buyers []uuid.UUID
		for i := from; i < min(n+active, from+piece); i++ {
			buyer, payment, number := uuid.New(), uuid.New(), int64(i+1)
			slot := domain.SlotID(product, number)
			l := life{ttl: time.Hour}
			events := []eventstore.NewEvent{newEvent(w.t, l.acquired(buyer, number, i+1))}
			claim := l.claim(product, slot, buyer, number, i+1)
			if i < n {
				claim.Paid = true
				events = append(events,
					newEvent(w.t, domain.PaymentInitiated{UserID: buyer, PaymentID: payment, Price: won(w.t, 1000), Method: domain.Card}),
					newEvent(w.t, domain.PaymentCompleted{UserID: buyer, PaymentID: payment, Price: won(w.t, 1000), Method: domain.Card}))
				ids, slots, buyers = append(ids, payment), append(slots, slot), append(buyers, buyer)
				body, err := json.Marshal(map[string]any{"reference": payment, "amount": "1000", "currency": "KRW", "paymentMethod": "CARD", "callbackUrl": "http://127.0.0.1:1/"})
				require.NoError(w.t, err)
				r := httptest.NewRequest(http.MethodPost, "/payments", bytes.NewReader(body))
				r.Header.Set("Idempotency-Key", payment.String())
				rec := httptest.NewRecorder()
				sim.ServeHTTP(rec, r)
				require.Equal(w.t, http.StatusAccepted, rec.Code)
			}
			a.Streams = append(a.Streams, eventstore.StreamAppend{Stream: slot, Expected: eventstore.None, Events: events})
			a.Guards = append(a.Guards, claim.GuardItem())
		}
		_, err := w.store.Append(context.Background(), a)
		require.NoError(w.t, err)
		dbtest.Exec(w.t, w.pool, insertPurchasesSQL, product, ids, slots, buyers)
	}
	require.NoError(w.t, w.gate.Sync(context.Background(), product))
	return product
}

// TestCancelledSale_RefundsEachPurchaseOnce although workers are killed by SIGKILL on
// the way, and shows how far it has got.
func TestCancelledSale_RefundsEachPurchaseOnce(t *testing.T) {
	t.Parallel()
	n := 300
	if text := os.Getenv(purchasesVariable); text != "" {
		var err error
		n, err = strconv.Atoi(text)
		require.NoError(t, err, purchasesVariable)
	}
	active := n / 10
	w := newWorld(t)
	reliable := gatewaysim.Behavior{SuccessRate: 1, Lost: 1}
	taken, err := gatewaysim.New(gatewaysim.Options{
		Addr: "127.0.0.1:0", WebhookSecrets: []string{"whsec_AAECAwQFBgcICQoLDA0ODxAREhMUFRYX"}, Behavior: reliable,
	})
	require.NoError(t, err)
	product := w.purchases(taken.Handler(), n, active)
	testkit.EventuallyEqual(t, time.Minute, "the money is taken", strconv.Itoa(1000*n), func() string { return taken.Balance().Taken["KRW"] })
	server := httptest.NewServer(unsteady(taken.Handler()))
	t.Cleanup(server.Close)
	client, err := gateway.New(gateway.Options{URL: server.URL})
	require.NoError(t, err)
	t.Cleanup(client.Close)
	service, err := payments.New(payments.Config{
		Pool: w.pool, Store: w.store, Reader: w.reader, Claims: w.claims, Gate: w.gate, Gateway: client,
		SlotTTL: payingLife, Registry: prometheus.NewRegistry(),
	})
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, service.Close(context.Background())) })
	progress := func() apimodel.Cancellation {
		c, err := service.Cancellation(t.Context(), product)
		require.NoError(t, err)
		return c
	}

	require.NoError(t, w.append(product, product, claims.Sale{Product: product, SaleDate: time.Now().Add(-time.Hour), Cancelled: true}.GuardItem(), domain.ProductSaleCancelled{}))
	lives, shown := 0, map[int64]bool{}
	for last := int64(0); last < int64(n); lives++ {
		require.Less(t, lives, 60, "%+v", progress())
		process := exec.CommandContext(t.Context(), os.Args[0])
		process.Env = append(os.Environ(), processDatabase+"="+w.pool.Config().ConnString(), processRedis+"="+w.redis, processGateway+"="+server.URL)
		process.Stderr = os.Stderr
		require.NoError(t, process.Start())
		// The first one is killed when refunds become due, the others after a part.
		enough := last + int64(n)/5
		for deadline := time.Now().Add(2 * time.Minute); time.Now().Before(deadline); {
			require.NoError(t, sleep.For(t.Context(), 10*time.Millisecond))
			c := progress()
			require.Equal(t, int64(n), int64(c.Purchases))
			require.GreaterOrEqual(t, int64(c.Refunded), last, "it only rises")
			last = int64(c.Refunded)
			shown[last] = true
			if last >= min(enough, int64(n)) || lives == 0 && w.count(product, "RefundDue") > 0 {
				break
			}
		}
		require.NoError(t, process.Process.Kill())
		_ = process.Wait() // it was killed
	}
	t.Logf("%d lives, %d counts seen", lives, len(shown))
	require.Greater(t, lives, 2, "it was killed too late to show anything")
	require.Greater(t, len(shown), 2, "no progress was shown")

	// What the last one left: slots that have not ended yet, and the gate.
	w.work(func(c *Config) { c.Payments = service })
	w.awaitCount(time.Minute, product, "SlotExpired", active)
	require.Equal(t, apimodel.Cancellation{Purchases: progress().Purchases, Refunded: progress().Purchases}, progress())
	books := taken.Balance()
	require.Equal(t, map[string]string{"KRW": strconv.Itoa(1000 * n)}, books.Refunded)
	require.Len(t, books.Refunds, n)
	once := map[uuid.UUID]bool{}
	for _, r := range books.Refunds {
		require.Equal(t, "1000", r.Amount)
		require.False(t, once[r.Reference], "refunded twice")
		once[r.Reference] = true
	}
	due, completed := map[uuid.UUID]int{}, map[uuid.UUID]int{}
	for _, e := range w.events(product) {
		switch v := e.Event.(type) {
		case domain.RefundDue:
			require.Equal(t, domain.RefundSaleCancelled, v.Cause)
			due[v.PaymentID]++
		case domain.RefundCompleted:
			completed[v.PaymentID]++
		}
	}
	require.Len(t, due, n)
	require.Equal(t, due, completed)
	for payment, times := range due {
		require.Equal(t, 1, times, "payment %s", payment)
	}
	for _, s := range w.slots(product) {
		require.Contains(t, []domain.SlotStatus{domain.CompletedSlot, domain.ExpiredSlot}, s.Status)
	}
}

// unsteady loses the response of each seventh POST, which has taken effect.
func unsteady(next http.Handler) http.Handler {
	calls := make(chan int, 1)
	calls <- 0
	return http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) {
		n := <-calls
		calls <- n + 1
		if r.Method == http.MethodPost && n%7 == 0 {
			next.ServeHTTP(httptest.NewRecorder(), r)
			panic(http.ErrAbortHandler)
		}
		next.ServeHTTP(rw, r)
	})
}
