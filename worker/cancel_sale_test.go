package worker

import (
	"bytes"
	"context"
	"encoding/json"
	"net/http"
	"net/http/httptest"
	"os"
	"strconv"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/stretchr/testify/require"

	"github.com/dopaminestore/dopamine/command/claims"
	"github.com/dopaminestore/dopamine/command/payments"
	"github.com/dopaminestore/dopamine/domain"
	"github.com/dopaminestore/dopamine/eventstore"
	"github.com/dopaminestore/dopamine/internal/apimodel"
	"github.com/dopaminestore/dopamine/internal/sleep"
	"github.com/dopaminestore/dopamine/tools/dbtest"
	"github.com/dopaminestore/dopamine/tools/gatewaysim"
	"github.com/dopaminestore/dopamine/tools/storetest"
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
	w.TB.Helper()
	product = w.product(n + active)
	w.raise(product)
	const piece = 250
	for from := 0; from < n+active; from += piece {
		a := eventstore.Append{Key: product}
		var ids, slots, buyers []uuid.UUID
		for i := from; i < min(n+active, from+piece); i++ {
			buyer, payment, number := uuid.New(), uuid.New(), int64(i+1)
			slot := domain.SlotID(product, number)
			l := life{ttl: time.Hour}
			events := []eventstore.NewEvent{storetest.NewEvent(w.TB, l.acquired(buyer, number, i+1))}
			claim := l.claim(product, slot, buyer, number, i+1)
			if i < n {
				claim.Paid = true
				events = append(events,
					storetest.NewEvent(w.TB, domain.PaymentInitiated{UserID: buyer, PaymentID: payment, Price: storetest.KRW(w.TB, 1000), Method: domain.Card}),
					storetest.NewEvent(w.TB, domain.PaymentCompleted{UserID: buyer, PaymentID: payment, Price: storetest.KRW(w.TB, 1000), Method: domain.Card}))
				ids, slots, buyers = append(ids, payment), append(slots, slot), append(buyers, buyer)
				body, err := json.Marshal(map[string]any{"reference": payment, "amount": "1000", "currency": "KRW", "paymentMethod": "CARD", "callbackUrl": "http://127.0.0.1:1/"})
				require.NoError(w.TB, err)
				r := httptest.NewRequest(http.MethodPost, "/payments", bytes.NewReader(body))
				r.Header.Set("Idempotency-Key", payment.String())
				rec := httptest.NewRecorder()
				sim.ServeHTTP(rec, r)
				require.Equal(w.TB, http.StatusAccepted, rec.Code)
			}
			a.Streams = append(a.Streams, eventstore.StreamAppend{Stream: slot, Expected: eventstore.None, Events: events})
			a.Guards = append(a.Guards, claim.GuardItem())
		}
		_, err := w.Events.Append(context.Background(), a)
		require.NoError(w.TB, err)
		dbtest.Exec(w.TB, w.Pool, insertPurchasesSQL, product, ids, slots, buyers)
	}
	require.NoError(w.TB, w.gate.Sync(context.Background(), product))
	return product
}

// cancelled is a sale of n purchases that is cancelled, and what the gateway has.
type cancelled struct {
	*world
	n       int
	product uuid.UUID
	taken   *gatewaysim.Server
	service *payments.Service
}

func (c cancelled) progress(t *testing.T) apimodel.Cancellation {
	progress, err := c.service.Cancellation(t.Context(), c.product)
	require.NoError(t, err)
	return progress
}

// TestCancelledSale_RefundsEachPurchaseOnce although workers are killed by SIGKILL on
// the way, and shows how far it has got.
func TestCancelledSale_RefundsEachPurchaseOnce(t *testing.T) {
	t.Parallel()
	c := cancelled{world: newWorld(t), n: 300, taken: silentGateway(t)}
	if text := os.Getenv(purchasesVariable); text != "" {
		var err error
		c.n, err = strconv.Atoi(text)
		require.NoError(t, err, purchasesVariable)
	}
	active := c.n / 10
	c.product = c.purchases(c.taken.Handler(), c.n, active)
	testkit.EventuallyEqual(t, time.Minute, "the money is taken", strconv.Itoa(1000*c.n), func() string { return c.taken.Balance().Taken["KRW"] })
	var gatewayURL string
	c.service, gatewayURL = c.openPayments(unsteady(c.taken.Handler()), 0)
	sale := claims.Sale{Product: c.product, SaleDate: time.Now().Add(-time.Hour), Cancelled: true}
	require.NoError(t, c.Append(c.product, c.product, sale.GuardItem(), domain.ProductSaleCancelled{}))
	if !t.Run("workers that are killed refund, and show progress", func(t *testing.T) { c.killWorkers(t, gatewayURL) }) {
		return
	}
	if !t.Run("the last worker ends what is left", func(t *testing.T) {
		c.work(func(cfg *Config) { cfg.Payments = c.service }) // slots that have not ended yet, and the gate
		c.awaitCount(time.Minute, c.product, "SlotExpired", active)
		all := c.progress(t).Purchases
		require.Equal(t, apimodel.Cancellation{Purchases: all, Refunded: all}, c.progress(t))
	}) {
		return
	}
	t.Run("the gateway refunded each purchase once", func(t *testing.T) {
		books := c.taken.Balance()
		require.Equal(t, map[string]string{"KRW": strconv.Itoa(1000 * c.n)}, books.Refunded)
		require.Len(t, books.Refunds, c.n)
		once := map[uuid.UUID]bool{}
		for _, r := range books.Refunds {
			require.Equal(t, "1000", r.Amount)
			require.False(t, once[r.Reference], "refunded twice")
			once[r.Reference] = true
		}
	})
	t.Run("each purchase has the events of one refund", func(t *testing.T) {
		due, completed := map[uuid.UUID]int{}, map[uuid.UUID]int{}
		for _, e := range c.events(c.product) {
			switch v := e.Event.(type) {
			case domain.RefundDue:
				require.Equal(t, domain.RefundSaleCancelled, v.Cause)
				due[v.PaymentID]++
			case domain.RefundCompleted:
				completed[v.PaymentID]++
			}
		}
		require.Len(t, due, c.n)
		require.Equal(t, due, completed)
		for payment, times := range due {
			require.Equal(t, 1, times, "payment %s", payment)
		}
		for _, s := range c.slots(c.product) {
			require.Contains(t, []domain.SlotStatus{domain.CompletedSlot, domain.ExpiredSlot}, s.Status)
		}
	})
}

// killWorkers starts workers and kills them until all purchases are refunded: the first one when
// refunds become due, the others after a part.
func (c cancelled) killWorkers(t *testing.T, gatewayURL string) {
	lives, shown, n := 0, map[int64]bool{}, int64(c.n)
	for last := int64(0); last < n; lives++ {
		require.Less(t, lives, 60, "%+v", c.progress(t))
		kill := c.spawn(gatewayURL)
		enough := min(last+n/5, n)
		for deadline := time.Now().Add(2 * time.Minute); time.Now().Before(deadline); {
			require.NoError(t, sleep.For(t.Context(), 10*time.Millisecond))
			progress := c.progress(t)
			require.Equal(t, n, int64(progress.Purchases))
			require.GreaterOrEqual(t, int64(progress.Refunded), last, "it only rises")
			last = int64(progress.Refunded)
			shown[last] = true
			if last >= enough || lives == 0 && c.count(c.product, "RefundDue") > 0 {
				break
			}
		}
		kill()
	}
	t.Logf("%d lives, %d counts seen", lives, len(shown))
	require.Greater(t, lives, 2, "it was killed too late to show anything")
	require.Greater(t, len(shown), 2, "no progress was shown")
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
