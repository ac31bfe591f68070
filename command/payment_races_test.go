package command

import (
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/stretchr/testify/require"

	"github.com/dopaminestore/dopamine/command/claims"
	"github.com/dopaminestore/dopamine/command/payments"
	"github.com/dopaminestore/dopamine/domain"
	"github.com/dopaminestore/dopamine/internal/auth"
	"github.com/dopaminestore/dopamine/tools/dbtest"
	"github.com/dopaminestore/dopamine/tools/testkit"
)

// rounds is how often each race is run. The log shows which side won how often.
const rounds = 200

// arena is a system with two nodes and a product with a unit for each round.
type arena struct {
	*system
	nodes   []node
	product uuid.UUID
}

func newArena(t *testing.T, units int) arena {
	t.Helper()
	s, nodes, product := onTwoNodes(t, units)
	return arena{s, nodes, product}
}

// homes counts where the money of the payment went, and the slot's ends, in
// every stream of the product.
func (a arena) homes(t *testing.T, slot string, payment uuid.UUID) (money, ends int) {
	t.Helper()
	recorded, err := a.reader.Stream(t.Context(), uuid.MustParse(slot), 0)
	require.NoError(t, err)
	for _, r := range recorded {
		switch r.Type {
		case "PaymentCompleted":
			money, ends = money+1, ends+1
		case "PaymentRegranted", "RefundDue":
			money++
		case "SlotExpired":
			ends++
		}
	}
	return money, ends
}

// requireClaims compares the claims with the events: R1, R2 and R3.
func (a arena) requireClaims(t *testing.T) {
	t.Helper()
	held := map[uuid.UUID]string{}
	units, buyers := map[int]bool{}, map[uuid.UUID]bool{}
	for id, slot := range a.slots(t, a.product) {
		if slot.Status == domain.ExpiredSlot {
			continue
		}
		require.False(t, units[slot.Unit], "unit %d is held twice", slot.Unit)
		require.False(t, buyers[slot.UserID], "a buyer holds two")
		units[slot.Unit], buyers[slot.UserID] = true, true
		held[id] = string(slot.Status)
	}
	rows, err := a.pool.Query(t.Context(), `select slot_id, status, due_at is not distinct from deadline from slot_claims where product_id = $1`, a.product)
	require.NoError(t, err)
	defer rows.Close()
	n := 0
	for rows.Next() {
		var id uuid.UUID
		var status string
		var atDeadline bool
		require.NoError(t, rows.Scan(&id, &status, &atDeadline))
		require.Equal(t, held[id], status)
		n++
	}
	require.NoError(t, rows.Err())
	require.Len(t, held, n)
	// The ledger agrees with the events about each payment.
	for _, slot := range a.slots(t, a.product) {
		for _, p := range slot.Payments {
			if p.SlotID != slot.ID {
				continue // re-granted: the new slot has it
			}
			var status, refund string
			var asked bool
			require.NoError(t, a.pool.QueryRow(t.Context(),
				`select status, coalesce((select status from payment_refunds r where r.payment_id = p.payment_id), ''), ask_at is not null
				from payments p where payment_id = $1`, p.ID).Scan(&status, &refund, &asked))
			require.Equal(t, string(p.Status), status)
			require.Equal(t, strings.Replace(string(p.RefundStatus()), "REFUNDED", "COMPLETED", 1), refund)
		}
	}
}

func TestSuccess_RacesExpiry(t *testing.T) {
	a := newArena(t, rounds+10)
	outcomes := map[domain.SlotStatus]int{}
	for range rounds {
		_, slot, id := a.paying(t, a.nodes[0], a.product)
		due := a.endNow(t, a.nodes[0], a.product, slot)
		errs := make([]error, 2)
		status := 0
		crowd(2, func(i int) {
			if i == 0 {
				status = a.nodes[0].rawCallback(uuid.NewString(), succeeded(id, "10"))
				return
			}
			errs[i] = a.nodes[1].payments.TimeOut(t.Context(), due)
		})
		require.Equal(t, 204, status)
		require.NoError(t, errs[1])
		stored := a.stored(t, a.product, slot)
		outcomes[stored.Status]++
		money, ends := a.homes(t, slot, uuid.MustParse(id))
		require.Equal(t, 1, money, "%v", a.story(t, slot))
		require.Equal(t, 1, ends, "%v", a.story(t, slot))
		if stored.Status == domain.ExpiredSlot {
			require.Equal(t, domain.SuccessfulPayment, stored.Payments[0].Status, "there are units: %v", a.story(t, slot))
		}
	}
	t.Logf("%v", outcomes)
	a.requireClaims(t)
}

func TestReclaim_RacesPaymentStart(t *testing.T) {
	a := newArena(t, rounds+10)
	outcomes := map[string]int{}
	for range rounds {
		buyer := a.user(t, auth.Buyer)
		slot := a.acquire(t, a.nodes[0], buyer, a.product).text("id")
		var paid, reclaimed answered
		crowd(2, func(i int) {
			if i == 0 {
				paid, _ = a.nodes[0].send(t.Context(), buyer, http.MethodPost, "/v1/payments", paymentOf(slot))
				return
			}
			reclaimed, _ = a.nodes[1].send(t.Context(), a.admin, http.MethodDelete, "/v1/slots/"+slot, nil)
		})
		outcomes[paid.slug()+"/"+reclaimed.slug()]++
		switch {
		case paid.status == 201:
			require.Equal(t, "payment-in-progress", reclaimed.slug())
			require.Equal(t, []string{"SlotAcquired", "PaymentInitiated"}, a.story(t, slot))
		default:
			require.Equal(t, "slot-expired", paid.slug())
			require.Equal(t, 204, reclaimed.status)
			require.Equal(t, []string{"SlotAcquired", "SlotExpired"}, a.story(t, slot))
		}
	}
	t.Logf("%v", outcomes)
	a.requireClaims(t)
}

func TestRelease_RacesExpiry(t *testing.T) {
	const crowds = 50 // groups of slots that are due together
	a := newArena(t, crowds)
	short := a.node(t, brief)
	outcomes := map[string]int{}
	for range rounds / crowds {
		owners := make([]user, crowds)
		slots := make([]string, crowds)
		for i := range owners {
			owners[i] = a.user(t, auth.Buyer)
			acquired := a.acquire(t, short, owners[i], a.product)
			require.Equal(t, 201, acquired.status, acquired.body)
			slots[i] = acquired.text("id")
		}
		a.dueNow(t, slots[crowds-1])
		for i, slot := range slots {
			due := a.dueNow(t, slot)
			var given answered
			var err error
			crowd(2, func(who int) {
				if who == 0 {
					for range i % 4 { // the expiry reads more before it appends
						_, _ = a.gateStore.Now(t.Context())
					}
					given, _ = a.nodes[0].send(t.Context(), owners[i], http.MethodDelete, "/v1/slots/"+slot, nil)
					return
				}
				err = a.nodes[1].payments.TimeOut(t.Context(), due)
			})
			require.NoError(t, err)
			stored := a.stored(t, a.product, slot)
			require.Equal(t, []string{"SlotAcquired", "SlotExpired"}, a.story(t, slot))
			if given.status == 204 {
				require.Equal(t, domain.BuyerReleased, stored.ReclaimStatus)
			} else {
				require.Equal(t, "slot-not-active", given.slug(), "%v", given.body)
				require.Equal(t, domain.AutoExpired, stored.ReclaimStatus)
			}
			outcomes[string(stored.ReclaimStatus)]++
		}
	}
	t.Logf("%v", outcomes)
	a.requireClaims(t)
}

func TestCallbacks_AtTheSameTime(t *testing.T) {
	a := newArena(t, 2*rounds+10)
	for round := range 2 * rounds {
		_, slot, id := a.paying(t, a.nodes[0], a.product)
		same := uuid.NewString()
		status := make([]int, 4)
		crowd(len(status), func(i int) {
			webhook := same
			if round%2 == 0 {
				webhook = uuid.NewString()
			}
			status[i] = a.nodes[i%2].rawCallback(webhook, succeeded(id, "10"))
		})
		require.Equal(t, []int{204, 204, 204, 204}, status)
		require.Equal(t, []string{"SlotAcquired", "PaymentInitiated", "PaymentCompleted"}, a.story(t, slot))
	}
	require.Equal(t, rounds+4*rounds, dbtest.One[int](t, a.pool, `select count(*) from webhook_ids`))
	a.requireClaims(t)
}

// Success and failure of one payment, under separate ids, and a query by the worker
// at the same time: one of them is the payment's outcome.
func TestCallback_RacesReconciliation(t *testing.T) {
	a := newArena(t, rounds+10)
	a.fake.set(func(g *fakeGateway) { g.find = tookAll(t) })
	dbtest.Exec(t, a.pool, `create function due_at_once() returns trigger language plpgsql as $$
		begin new.ask_at = new.initiated_at; new.accepted = true; return new; end $$;
		create trigger due_at_once before insert on payments for each row execute function due_at_once()`)
	outcomes := map[domain.PaymentStatus]int{}
	for round := range rounds {
		_, slot, id := a.paying(t, a.nodes[0], a.product)
		job := uuid.MustParse(id)
		// The same charge as the query reports: another id would be a duplicate charge.
		body := strings.Replace(succeeded(id, "10"), `"g1"`, `"g-`+id+`"`, 1)
		if round%2 == 0 {
			body = failed(id, "no")
		}
		var status int
		errs := make([]error, 3)
		crowd(3, func(i int) {
			if i == 0 {
				status = a.nodes[0].rawCallback(uuid.NewString(), body)
				return
			}
			errs[i] = a.nodes[i%2].payments.Do(t.Context(), payments.Query, job)
		})
		require.Equal(t, 204, status)
		require.NoError(t, errs[1])
		require.NoError(t, errs[2])
		p := a.payment(t, a.product, slot, id)
		money, _ := a.homes(t, slot, p.ID)
		require.LessOrEqual(t, money, 1)
		require.Equal(t, p.Status == domain.SuccessfulPayment, money == 1)
		require.NotEqual(t, domain.PendingPayment, p.Status)
		outcomes[p.Status]++
	}
	t.Logf("%v", outcomes)
	a.requireClaims(t)
}

// A late success and a new buyer compete for the last unit: one gets it, and the money
// of the other is refunded or was never taken.
func TestLateSuccess_RacesNewBuyer(t *testing.T) {
	t.Parallel()
	s := newSystem(t, testkit.Redis(t))
	nodes := []node{s.node(t), s.node(t)}
	products := make([]uuid.UUID, rounds)
	for i := range products {
		products[i] = s.upcoming(t, nodes[0], 1, opening)
	}
	s.awaitSale(t, nodes[0], products[rounds-1])
	outcomes := map[string]int{}
	for _, product := range products {
		_, slot, id := s.paying(t, nodes[0], product)
		s.timeOut(t, nodes[0], product, slot)
		fresh := s.user(t, auth.Buyer)
		var acquired answered
		status := make([]int, 2)
		crowd(3, func(i int) {
			if i == 2 {
				acquired, _ = nodes[1].send(t.Context(), fresh, http.MethodPost, "/v1/slots/acquire", map[string]any{"productId": product})
				return
			}
			status[i] = nodes[i].rawCallback(uuid.NewString(), succeeded(id, "10")) // both report the same
		})
		require.Equal(t, []int{204, 204}, status)
		p := s.payment(t, product, slot, id)
		money, _ := (arena{system: s}).homes(t, slot, p.ID)
		require.Equal(t, 1, money, "%v", s.story(t, slot))
		switch acquired.status {
		case 201:
			require.Equal(t, domain.RefundsDue, p.RefundStatus())
			outcomes["fresh buyer"]++
		default:
			require.Equal(t, "sold-out", acquired.slug(), "%v", acquired.body)
			require.Equal(t, domain.SuccessfulPayment, p.Status, "%v", s.story(t, slot))
			outcomes["late money"]++
		}
		(arena{system: s, product: product}).requireClaims(t)
	}
	t.Logf("%v", outcomes)
}

// The buyer of an expired slot acquires again while their late payment succeeds: they
// have one slot, and the money paid for it or is refunded.
func TestLateSuccess_RacesSameBuyer(t *testing.T) {
	a := newArena(t, rounds+10)
	outcomes := map[string]int{}
	for range rounds {
		buyer, slot, id := a.paying(t, a.nodes[0], a.product)
		a.timeOut(t, a.nodes[0], a.product, slot)
		var acquired answered
		var status int
		crowd(2, func(i int) {
			if i == 0 {
				status = a.nodes[0].rawCallback(uuid.NewString(), succeeded(id, "10"))
				return
			}
			acquired, _ = a.nodes[1].send(t.Context(), buyer, http.MethodPost, "/v1/slots/acquire", map[string]any{"productId": a.product})
		})
		require.Equal(t, 204, status)
		p := a.payment(t, a.product, slot, id)
		switch acquired.status {
		case 201:
			require.Equal(t, domain.RefundsDue, p.RefundStatus(), "%v", a.story(t, slot))
			outcomes["acquired"]++
		default:
			require.Equal(t, "duplicate-slot", acquired.slug(), "%v", acquired.body)
			require.Equal(t, domain.SuccessfulPayment, p.Status)
			outcomes["bought"]++
		}
		claim, held, err := a.claims.ByBuyer(t.Context(), a.product, buyer.id)
		require.NoError(t, err)
		require.True(t, held)
		require.Equal(t, acquired.status != 201, claim.Status == claims.Completed)
	}
	t.Logf("%v", outcomes)
	a.requireClaims(t)
	require.Eventually(t, func() bool { // R2: no unit remains with an unused grant
		state, err := a.nodes[0].gate.State(t.Context(), a.product)
		if err == nil {
			err = a.nodes[0].gate.Sync(t.Context(), a.product)
		}
		return err == nil && state.Pending == 0
	}, 5*time.Second, 10*time.Millisecond)
}
