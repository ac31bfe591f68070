package command

import (
	"context"
	"net/http"
	"sync"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/stretchr/testify/require"

	"github.com/dopaminestore/dopamine/command/claims"
	"github.com/dopaminestore/dopamine/domain"
	"github.com/dopaminestore/dopamine/eventstore"
	"github.com/dopaminestore/dopamine/internal/auth"
	"github.com/dopaminestore/dopamine/redis"
	"github.com/dopaminestore/dopamine/tools/dbtest"
	"github.com/dopaminestore/dopamine/tools/testkit"
)

// A buyer whose payment succeeds late and who acquires again at that instant has one
// pending grant, which both requests receive: a grant belongs to its buyer. It
// becomes one slot, of the request that appends it first: the stream must be new
// and its number unclaimed. So the acquire is a 201 and the money is refunded, or the
// money buys the slot and the acquire returns duplicate-slot. The tests below
// execute one of them between the other's grant and its append.

// lateBuyer is a buyer whose slot has expired with a payment that will succeed.
func (s *system) lateBuyer(t testing.TB, n node, product uuid.UUID) (buyer user, slot, payment string) {
	t.Helper()
	buyer, slot, payment = s.paying(t, n, product)
	s.timeOut(t, n, product, slot)
	return buyer, slot, payment
}

// requireUnits compares the gate with the claims after a sync.
func (s *system) requireUnits(t testing.TB, n node, product uuid.UUID, free int) {
	t.Helper()
	require.NoError(t, n.gate.Sync(t.Context(), product))
	state, err := n.gate.State(t.Context(), product)
	require.NoError(t, err)
	require.Equal(t, free, state.Free)
	require.Zero(t, state.Pending)
	difference, err := s.gateStore.Compare(t.Context(), n.gate, product)
	require.NoError(t, err)
	require.Empty(t, difference)
}

// requireBought: the payment bought the slot that the acquire received.
func (s *system) requireBought(t testing.TB, product uuid.UUID, clicked answered, slot, payment string) {
	t.Helper()
	require.Equal(t, "duplicate-slot", clicked.slug(), "%v", clicked.body)
	p := s.payment(t, product, slot, payment)
	require.Equal(t, domain.SuccessfulPayment, p.Status)
	require.Equal(t, clicked.text("slotId"), p.SlotID.String())
	require.Equal(t, []string{"SlotAcquired", "PaymentInitiated", "PaymentFailed", "SlotExpired", "PaymentRegranted"}, s.story(t, slot))
	require.Equal(t, []string{"SlotAcquired", "PaymentCompleted"}, s.story(t, p.SlotID.String()))
}

// requireRefund: the acquire has its own slot, the money is refunded.
func (s *system) requireRefund(t testing.TB, product uuid.UUID, clicked answered, slot, payment string) {
	t.Helper()
	require.Equal(t, 201, clicked.status, "%v", clicked.body)
	require.Equal(t, domain.RefundsDue, s.payment(t, product, slot, payment).RefundStatus())
	require.Equal(t, []string{"SlotAcquired", "PaymentInitiated", "PaymentFailed", "SlotExpired", "RefundDue"}, s.story(t, slot))
	require.Equal(t, []string{"SlotAcquired"}, s.story(t, clicked.text("id")))
	require.Equal(t, domain.ActiveSlot, s.stored(t, product, clicked.text("id")).Status)
}

func TestSameBuyer_LateMoneyUsesGrantOfAcquire(t *testing.T) {
	s, other, product := onSale(t, 2)
	buyer, slot, payment := s.lateBuyer(t, other, product)
	var granted redis.Decision
	n := s.interposed(t, at1(func(d *redis.Decision, _ *error) {
		granted = *d
		require.Equal(t, 204, other.callback(t, "w1", succeeded(payment, "10")).status)
	}))
	key := []string{"Idempotency-Key", "k"}
	clicked := s.acquire(t, n, buyer, product, key...)
	s.requireBought(t, product, clicked, slot, payment)
	require.Equal(t, granted.SlotID.String(), clicked.text("slotId"), "the click's own grant")
	require.Equal(t, clicked.text("slotId"), s.acquire(t, other, buyer, product, key...).text("slotId"), "a repeated request is no 201 either")
	require.Equal(t, 204, other.callback(t, "w2", succeeded(payment, "10")).status)
	s.requireUnits(t, other, product, 1)
}

func TestSameBuyer_AcquireUsesGrantOfLateMoney(t *testing.T) {
	s, other, product := onSale(t, 2)
	buyer, slot, payment := s.lateBuyer(t, other, product)
	var granted redis.Decision
	var clicked answered
	n := s.interposed(t, at1(func(d *redis.Decision, _ *error) {
		granted = *d
		clicked = s.acquire(t, other, buyer, product)
	}))
	require.Equal(t, 204, n.callback(t, "w1", succeeded(payment, "10")).status)
	s.requireRefund(t, product, clicked, slot, payment)
	require.Equal(t, granted.SlotID.String(), clicked.text("id"), "the money's own grant")
	s.requireUnits(t, other, product, 1)
}

// Both in one transaction of one node, which decides them one after the other.
func TestSameBuyer_BothInOneBatch(t *testing.T) {
	s, n := oneNode(t)
	other := s.node(t)
	product := s.product(t, other, 2)
	outcomes := map[string]int{}
	for round := range 2 {
		buyer, slot, payment := s.lateBuyer(t, other, product)
		lock, err := s.pool.Begin(t.Context())
		require.NoError(t, err)
		dbtest.Exec(t, lock, `select pg_advisory_xact_lock($1)`, eventstore.AppendLock)
		var clicked answered
		var status int
		var running sync.WaitGroup
		running.Go(func() { // a separate batch, during which the two queue up
			_, err := n.store.Append(context.Background(), eventstore.Append{Key: uuid.New(), Streams: []eventstore.StreamAppend{{
				Stream: uuid.New(), Events: []eventstore.NewEvent{{ID: uuid.New(), Type: "Bare", SchemaVersion: 1, Payload: []byte("{}")}}}}})
			if err != nil {
				t.Error(err)
			}
		})
		awaitQueued(t, n, 1)
		both := []func(){
			func() {
				clicked, _ = n.send(context.Background(), buyer, http.MethodPost, "/v1/slots/acquire", map[string]any{"productId": product})
			},
			func() { status = n.rawCallback(uuid.NewString(), succeeded(payment, "10")) },
		}
		running.Go(both[round])
		awaitQueued(t, n, 2)
		running.Go(both[1-round])
		awaitQueued(t, n, 3)
		require.NoError(t, lock.Commit(t.Context()))
		running.Wait()
		require.Equal(t, 204, status)
		if clicked.status == 201 {
			s.requireRefund(t, product, clicked, slot, payment)
			outcomes["clicked"]++
			require.Equal(t, 204, s.release(t, other, buyer, clicked.text("id")).status)
		} else {
			s.requireBought(t, product, clicked, slot, payment)
			outcomes["bought"]++
		}
	}
	t.Logf("%v", outcomes)
	s.requireUnits(t, other, product, 2-outcomes["bought"])
}

func awaitQueued(t testing.TB, n node, want int) {
	t.Helper()
	testkit.EventuallyTrue(t, 5*time.Second, "the appends to be queued", func() bool { return n.store.Queued() == want })
}

// An acquire that fails to append does not give back a unit that the money
// received too, nor does the money lose it.
func TestSameBuyer_FailedAcquireLeavesGrantToLateMoney(t *testing.T) {
	t.Parallel()
	for _, first := range []string{"click", "money"} {
		t.Run(first, func(t *testing.T) {
			s, other, product := onSale(t, 1)
			buyer, slot, payment := s.lateBuyer(t, other, product)
			var clicked answered
			failing := func(before func()) node { // its store closes between grant and append
				store, err := eventstore.Open(t.Context(), s.pool, eventstore.Options{})
				require.NoError(t, err)
				return s.node(t, func(c *Config) {
					c.Store = store
					c.Gate = &between{Gate: c.Gate, after: at1(func(*redis.Decision, *error) {
						before()
						now, cancel := context.WithCancel(context.Background())
						cancel()
						require.Error(t, store.Close(now))
					})}
				})
			}
			if first == "click" {
				n := failing(func() { require.Equal(t, 204, other.callback(t, "w1", succeeded(payment, "10")).status) })
				clicked = s.acquire(t, n, buyer, product)
			} else {
				broken := failing(func() {})
				n := s.interposed(t, at1(func(*redis.Decision, *error) { clicked = s.acquire(t, broken, buyer, product) }))
				require.Equal(t, 204, n.callback(t, "w1", succeeded(payment, "10")).status)
			}
			require.Equal(t, "unavailable", clicked.slug(), "%v", clicked.body)
			s.requireBought(t, product, s.acquire(t, other, buyer, product), slot, payment)
			require.Equal(t, "sold-out", s.acquire(t, other, s.user(t, auth.Buyer), product).slug())
			s.requireUnits(t, other, product, 0)
		})
	}
}

// Two payments of one buyer succeed late at the same instant: one buys the slot that
// the buyer may hold, the other is refunded.
func TestSameBuyer_TwoLateSuccesses(t *testing.T) {
	a := newArena(t, rounds+10)
	outcomes := map[string]int{}
	for range rounds / 4 {
		buyer, first, payment1 := a.lateBuyer(t, a.nodes[0], a.product)
		second := a.acquire(t, a.nodes[1], buyer, a.product).text("id")
		payment2 := a.pay(t, a.nodes[1], buyer, second).text("id")
		a.timeOut(t, a.nodes[1], a.product, second)
		status := make([]int, 2)
		crowd(2, func(i int) {
			status[i] = a.nodes[i].rawCallback(uuid.NewString(), succeeded([]string{payment1, payment2}[i], "10"))
		})
		require.Equal(t, []int{204, 204}, status)
		p1, p2 := a.payment(t, a.product, first, payment1), a.payment(t, a.product, second, payment2)
		outcomes[string(p1.Status)+"/"+string(p2.Status)]++
		require.NotEqual(t, p1.Status == domain.SuccessfulPayment, p2.Status == domain.SuccessfulPayment)
		for slot, p := range map[string]domain.Payment{first: p1, second: p2} {
			require.Equal(t, p.Status == domain.FailedPayment, p.RefundStatus() == domain.RefundsDue)
			money, _ := a.homes(t, slot, p.ID)
			require.Equal(t, 1, money, "%v", a.story(t, slot))
		}
		claim, held, err := a.claims.ByBuyer(t.Context(), a.product, buyer.id)
		require.NoError(t, err)
		require.True(t, held)
		require.Equal(t, claims.Completed, claim.Status)
	}
	t.Logf("%v", outcomes)
	a.requireClaims(t)
	a.requireUnits(t, a.nodes[0], a.product, rounds+10-rounds/4)
}
