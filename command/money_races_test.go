package command

import (
	"context"
	"fmt"
	"net/http"
	"os"
	"slices"
	"strconv"
	"sync"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/shopspring/decimal"
	"github.com/stretchr/testify/require"

	"github.com/dopaminestore/dopamine/avsc"
	"github.com/dopaminestore/dopamine/command/payments"
	"github.com/dopaminestore/dopamine/domain"
	"github.com/dopaminestore/dopamine/eventstore"
	"github.com/dopaminestore/dopamine/internal/auth"
	"github.com/dopaminestore/dopamine/internal/gateway"
	"github.com/dopaminestore/dopamine/tools/dbtest"
	"github.com/dopaminestore/dopamine/tools/testkit"
)

// moneyRounds is how often each race about money is run: DOPAMINE_RACES times, by
// default few times, so that CI stays short.
func moneyRounds(t *testing.T) int {
	text := os.Getenv("DOPAMINE_RACES")
	if text == "" {
		return 25
	}
	n, err := strconv.Atoi(text)
	require.NoError(t, err, "DOPAMINE_RACES")
	return n
}

// bank is a gateway that keeps books. Each payment is of 10, its charge is "g1".
type bank struct {
	mu       sync.Mutex
	accounts map[uuid.UUID]*account
}

type account struct {
	status                    gateway.Status
	taken, refunded, reversed decimal.Decimal
	refunds                   map[uuid.UUID]gateway.Refund
}

var ten = decimal.NewFromInt(10)

// openBank puts a bank behind the system's gateway.
func openBank(s *system) *bank {
	b := &bank{accounts: map[uuid.UUID]*account{}}
	s.fake.set(func(g *fakeGateway) {
		g.pay, g.find, g.cancel, g.refund, g.findRefund = b.pay, b.find, b.cancel, b.refund, b.findRefund
	})
	return b
}

func (b *bank) pay(reference uuid.UUID) (gateway.Payment, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.accounts[reference] == nil {
		b.accounts[reference] = &account{status: gateway.Pending, refunds: map[uuid.UUID]gateway.Refund{}}
	}
	return b.accounts[reference].payment(), nil
}

func (a *account) payment() gateway.Payment {
	p := gateway.Payment{ID: "g1", Status: a.status}
	switch a.status {
	case gateway.Succeeded:
		p.Paid = gateway.Report(ten, "KRW")
	case gateway.Canceled:
		p.FailureReason = domain.ReasonCanceled
	}
	return p
}

func (b *bank) find(reference uuid.UUID) (gateway.Payment, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if a := b.accounts[reference]; a != nil {
		return a.payment(), nil
	}
	return gateway.Payment{}, gateway.ErrUnknownReference
}

func (b *bank) cancel(reference uuid.UUID) (gateway.Payment, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	a := b.accounts[reference]
	if a == nil {
		return gateway.Payment{}, gateway.ErrUnknownReference
	}
	if a.status == gateway.Pending {
		a.status = gateway.Canceled
	}
	return a.payment(), nil
}

// take carries a payment out, and reports whether it was still pending.
func (b *bank) take(id string) bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	a := b.accounts[uuid.MustParse(id)]
	if a == nil || a.status != gateway.Pending {
		return false
	}
	a.status, a.taken = gateway.Succeeded, ten
	return true
}

// reverse takes the money of a payment back, whether or not it was refunded.
func (b *bank) reverse(id string) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.accounts[uuid.MustParse(id)].reversed = ten
}

func (b *bank) refund(r gateway.RefundRequest) (gateway.Refund, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	a := b.accounts[r.Reference]
	if f, known := a.refunds[r.RefundID]; known {
		return f, nil
	}
	switch {
	case a.status != gateway.Succeeded:
		return gateway.Refund{}, &gateway.Rejected{Reason: "NOT_TAKEN", HTTPStatus: 422}
	case a.reversed.IsPositive():
		return gateway.Refund{}, &gateway.Rejected{Reason: "CHARGED_BACK", HTTPStatus: 422}
	case a.refunded.Add(r.Amount.Amount()).GreaterThan(a.taken):
		return gateway.Refund{}, &gateway.Rejected{Reason: "OVER_REFUNDS", HTTPStatus: 422}
	}
	a.refunded = a.refunded.Add(r.Amount.Amount())
	a.refunds[r.RefundID] = gateway.Refund{ID: "r-" + r.RefundID.String(), Status: gateway.RefundSucceeded}
	return a.refunds[r.RefundID], nil
}

func (b *bank) findRefund(r gateway.RefundRequest) (gateway.Refund, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if f, known := b.accounts[r.Reference].refunds[r.RefundID]; known {
		return f, nil
	}
	return gateway.Refund{}, gateway.ErrUnknownReference
}

// moneyArena is an arena whose gateway is a bank.
type moneyArena struct {
	arena
	bank *bank
}

func newMoneyArena(t *testing.T, units int) moneyArena {
	a := newArena(t, units)
	return moneyArena{a, openBank(a.system)}
}

// race runs moneyRounds rounds on one product, each of which returns its outcome. In the end the
// product's events break no rule, and the gate has the units back.
func (a moneyArena) race(t *testing.T, units int, round func(round int) (outcome string)) {
	t.Helper()
	outcomes := map[string]int{}
	for i := range moneyRounds(t) {
		outcomes[round(i)]++
	}
	t.Logf("%v", outcomes)
	a.lawful(t, a.product)
	a.unitsBack(t, a.product, units)
}

// posted waits until the gateway knows a payment that was begun.
func (a moneyArena) posted(t *testing.T, id string) {
	t.Helper()
	testkit.EventuallyTrue(t, 5*time.Second, "the payment is posted", func() bool {
		return dbtest.One[bool](t, a.pool, `select accepted from payments where payment_id = $1`, id)
	})
}

// pending is a payment that the gateway has accepted, purchase one that it took.
func (a moneyArena) pending(t *testing.T, product uuid.UUID) (user, string, string) {
	t.Helper()
	u, slot, id := a.paying(t, a.nodes[0], product)
	a.posted(t, id)
	return u, slot, id
}

func (a moneyArena) purchase(t *testing.T, product uuid.UUID) (user, string, string) {
	t.Helper()
	u, slot, id := a.pending(t, product)
	a.take(t, id)
	return u, slot, id
}

// take makes a pending payment a purchase.
func (a moneyArena) take(t *testing.T, id string) {
	t.Helper()
	require.True(t, a.bank.take(id))
	require.Equal(t, 204, a.nodes[0].rawCallback(uuid.NewString(), succeeded(id, "10")))
}

// succeed lets the gateway take the money of a payment that is pending, and report it.
func (a moneyArena) succeed(id string) {
	if a.bank.take(id) {
		a.nodes[1].rawCallback(uuid.NewString(), succeeded(id, "10"))
	}
}

// settle takes every step of the payment that is due, and those of cancelled sales,
// until there is none.
func (a moneyArena) settle(t *testing.T, id string) {
	t.Helper()
	n := a.nodes[1]
	for range 20 {
		dbtest.Exec(t, a.pool, `update payments set ask_at = clock_timestamp() where payment_id = $1 and ask_at is not null`, id)
		a.refundNow(t, id)
		done := true
		a.endSale(t, n)
		for _, step := range payments.Steps {
			due, err := n.payments.Due(t.Context(), step, 1000)
			require.NoError(t, err)
			for _, job := range due {
				done = false
				_ = n.payments.Do(t.Context(), step, job) // repeated if it fails
			}
		}
		if done {
			return
		}
	}
	t.Fatalf("payment %s does not settle", id)
}

// endSale expires slots of cancelled sales and makes their refunds due.
func (a moneyArena) endSale(t *testing.T, n node) {
	t.Helper()
	slots, err := n.payments.CancelledSlots(t.Context(), 100)
	require.NoError(t, err)
	for _, slot := range slots {
		_, err := n.payments.EndCancelled(t.Context(), slot)
		require.NoError(t, err)
	}
	purchases, err := n.payments.CancelledPurchases(t.Context(), 100)
	require.NoError(t, err)
	for _, payment := range purchases {
		require.NoError(t, n.payments.RefundCancelled(t.Context(), payment))
	}
}

// folded is the slot as its own stream has it.
func (a moneyArena) folded(t *testing.T, slot string) domain.Slot {
	t.Helper()
	recorded, err := a.reader.Stream(t.Context(), uuid.MustParse(slot), 0)
	require.NoError(t, err)
	var s domain.Slot
	for _, r := range recorded {
		e, err := avsc.Decode(r)
		require.NoError(t, err)
		s = domain.EvolveSlot(s, e)
	}
	return s
}

// conserved asserts that events and the bank's books agree on a payment: taken =
// refunded + reversed + kept.
func (a moneyArena) conserved(t *testing.T, slot, id string, kept int64) domain.Payment {
	t.Helper()
	p, ok := a.folded(t, slot).Payment(uuid.MustParse(id))
	require.True(t, ok)
	if p.SlotID.String() != slot { // re-granted
		slot = p.SlotID.String()
		p, _ = a.folded(t, slot).Payment(uuid.MustParse(id))
	}
	books := a.bank.accounts[p.ID]
	story := a.story(t, slot)
	taken, refunded, reversed := p.Taken.Amount(), p.Refunded().Amount(), decimal.Zero
	if p.Reversed {
		reversed = taken
	}
	require.True(t, books.taken.Equal(taken), "taken %s here, %s at the gateway: %v", taken, books.taken, story)
	require.True(t, books.refunded.Equal(refunded), "refunded %s here, %s at the gateway: %v", refunded, books.refunded, story)
	require.True(t, books.reversed.Equal(reversed), "reversed %s here, %s at the gateway: %v", reversed, books.reversed, story)
	require.Equal(t, kept, taken.Sub(refunded).Sub(reversed).IntPart(), "%v", story)
	require.False(t, slices.ContainsFunc(p.Refunds, domain.Refund.Open), "%v", story)
	return p
}

// count returns how often an event is in a slot's stream.
func (a moneyArena) count(t *testing.T, slot, typ string) (n int) {
	t.Helper()
	for _, s := range a.story(t, slot) {
		if s == typ {
			n++
		}
	}
	return n
}

// lawful folds the product's events in their order: R1, R3 and R5, and that
// nothing is sold after a cancellation.
func (a moneyArena) lawful(t *testing.T, product uuid.UUID) {
	t.Helper()
	head, err := a.reader.Head(t.Context())
	require.NoError(t, err)
	recorded, err := a.reader.ReadPartition(t.Context(), product, 0, head, 1_000_000)
	require.NoError(t, err)
	units, buyers := map[int]uuid.UUID{}, map[uuid.UUID]uuid.UUID{}
	status := map[uuid.UUID]domain.SlotStatus{}
	cancelled := false
	free := func(slot, user uuid.UUID, unit int, from, to domain.SlotStatus) {
		require.Equal(t, from, status[slot], "R5: slot %s becomes %s", slot, to)
		require.Equal(t, slot, units[unit])
		status[slot] = to
		delete(units, unit)
		delete(buyers, user)
	}
	for _, r := range recorded {
		e, err := avsc.Decode(r)
		require.NoError(t, err)
		switch v := e.Event.(type) {
		case domain.ProductSaleCancelled:
			cancelled = true
		case domain.SlotAcquired:
			require.False(t, cancelled, "a unit was sold after the cancellation")
			require.Zero(t, units[v.Unit], "R1: unit %d is held twice", v.Unit)
			require.Zero(t, buyers[v.UserID], "R3: buyer %s holds two", v.UserID)
			units[v.Unit], buyers[v.UserID], status[e.StreamID] = e.StreamID, e.StreamID, domain.ActiveSlot
		case domain.PaymentInitiated:
			require.False(t, cancelled, "a payment began after the cancellation")
		case domain.PaymentCompleted:
			require.Equal(t, domain.ActiveSlot, status[e.StreamID], "R5")
			status[e.StreamID] = domain.CompletedSlot
		case domain.SlotExpired:
			free(e.StreamID, v.UserID, v.Unit, domain.ActiveSlot, domain.ExpiredSlot)
		case domain.SlotReturned:
			free(e.StreamID, v.UserID, v.Unit, domain.CompletedSlot, domain.ReturnedSlot)
		}
	}
}

// unitsBack asserts R2: the gate has each unit that no slot holds.
func (a moneyArena) unitsBack(t *testing.T, product uuid.UUID, units int) {
	t.Helper()
	held := 0
	for _, s := range a.slots(t, product) {
		if s.Status == domain.ActiveSlot || s.Status == domain.CompletedSlot {
			held++
		}
	}
	testkit.Eventually(t, 5*time.Second, "the gate has the units back", func() error {
		if err := a.nodes[0].gate.Sync(t.Context(), product); err != nil {
			return err
		}
		state, err := a.nodes[0].gate.State(t.Context(), product)
		if err == nil && (state.Free != units-held || state.Pending != 0) {
			err = fmt.Errorf("%d held by slots, gate %+v", held, state)
		}
		return err
	})
}

// dawdle lets the other side of a race go ahead by some round trips.
func (a moneyArena) dawdle(t *testing.T, trips int) {
	for range trips {
		_, _ = a.gateStore.Now(t.Context())
	}
}

func report(typ, payment, more string) string {
	return fmt.Sprintf(`{"type":%q,"timestamp":"2026-01-01T00:00:00Z",
		"data":{"reference":%q,"paymentId":"g1","amount":"10","currency":"KRW","failureReason":null%s}}`, typ, payment, more)
}

// dying returns a service whose process ends before it can record anything.
func (a moneyArena) dying(t *testing.T) *payments.Service {
	t.Helper()
	closed, err := eventstore.Open(t.Context(), a.pool, eventstore.Options{})
	require.NoError(t, err)
	require.NoError(t, closed.Close(t.Context()))
	s, err := payments.New(payments.Config{
		Pool: a.pool, Store: closed, Reader: a.reader, Claims: a.claims, Gate: keepsGrants{a.nodes[0].gate}, Gateway: a.fake,
		SlotTTL: time.Hour, Registry: registry(),
	})
	require.NoError(t, err)
	return s
}

// TestRace_RefundAndDispute: a refund is posted while the buyer's bank takes the
// money back. Half of the processes that post it end before they record it.
func TestRace_RefundAndDispute(t *testing.T) {
	units := moneyRounds(t) + 1
	a := newMoneyArena(t, units)
	dying := a.dying(t)
	a.race(t, units, func(round int) string {
		_, slot, id := a.purchase(t, a.product)
		var refunded answered
		crowd(2, func(i int) {
			if i == 0 {
				refunded, _ = a.nodes[0].send(t.Context(), a.admin, http.MethodPost, "/v1/payments/"+id+"/refunds",
					map[string]any{"idempotencyKey": uuid.New()})
				if refunded.status != 201 {
					return
				}
				poster := dying
				if round%2 == 0 {
					poster = a.nodes[1].payments
				}
				_ = poster.Do(t.Context(), payments.Refund, uuid.MustParse(refunded.text("id")))
				return
			}
			a.dawdle(t, round%12) // the refund is posted, or not yet
			if round%3 == 0 {
				a.nodes[1].rawCallback(uuid.NewString(), report("payment.disputed", id, `,"disputeId":"d1"`))
			}
			a.bank.reverse(id)
			a.nodes[1].rawCallback(uuid.NewString(), report("payment.dispute_closed", id, `,"disputeId":"d1","won":false`))
		})
		a.settle(t, id)
		require.True(t, a.folded(t, slot).Payments[0].Reversed)
		books := a.bank.accounts[uuid.MustParse(id)]
		p := a.conserved(t, slot, id, -books.refunded.IntPart())
		switch {
		case books.refunded.IsPositive():
			require.Equal(t, 1, a.count(t, slot, "PaymentContradicted"), "the money is gone twice: an operator must know")
			return "both"
		case refunded.status == 201:
			require.Equal(t, domain.FailedRefund, p.Refunds[0].Status)
			return "reversed, refund failed"
		default:
			require.Equal(t, "payment-not-refundable", refunded.slug())
			return "reversed, refund refused"
		}
	})
}

// TestRace_TwoRefundsOfOneRemainder: two admins, and in some rounds the provider's
// dashboard, refund what is left.
func TestRace_TwoRefundsOfOneRemainder(t *testing.T) {
	units := moneyRounds(t) + 1
	a := newMoneyArena(t, units)
	a.race(t, units, func(round int) string {
		_, slot, id := a.purchase(t, a.product)
		whole := 10
		if round%2 == 0 { // a part went back before
			part := a.nodes[0].do(t, a.admin, http.MethodPost, "/v1/payments/"+id+"/refunds", map[string]any{"idempotencyKey": uuid.New(), "amount": "4"})
			require.Equal(t, 201, part.status, part.body)
			whole = 6
		}
		answers := make([]answered, 2)
		crowd(2, func(i int) {
			answers[i], _ = a.nodes[i].send(t.Context(), a.admin, http.MethodPost, "/v1/payments/"+id+"/refunds",
				map[string]any{"idempotencyKey": uuid.New(), "amount": strconv.Itoa(whole)})
		})
		granted, outcome := 0, ""
		for i, r := range answers {
			if r.status == 201 {
				granted++
				outcome = fmt.Sprintf("node %d", i)
				continue
			}
			require.Equal(t, "refund-exceeds-payment", r.slug(), "%v", r.body)
		}
		require.Equal(t, 1, granted, "%v", a.story(t, slot))
		a.settle(t, id)
		p := a.conserved(t, slot, id, 0)
		require.True(t, p.WhollyRefunded())
		require.Equal(t, domain.CompletedSlot, a.folded(t, slot).Status)
		return outcome
	})
}

// TestRace_CancelAndSuccess: the buyer cancels while the gateway takes the money.
// What the gateway did decides, and is recorded as the only outcome.
func TestRace_CancelAndSuccess(t *testing.T) {
	units := moneyRounds(t) + 1
	a := newMoneyArena(t, units)
	a.race(t, units, func(round int) string {
		buyer, slot, id := a.pending(t, a.product)
		crowd(2, func(i int) {
			if i == 0 {
				_, _ = a.nodes[0].send(t.Context(), buyer, http.MethodDelete, "/v1/payments/"+id, nil)
				_ = a.nodes[0].payments.Do(t.Context(), payments.Cancel, uuid.MustParse(id))
				return
			}
			a.dawdle(t, round%60)
			a.succeed(id)
		})
		a.settle(t, id)
		taken := a.bank.accounts[uuid.MustParse(id)].taken.IntPart()
		p := a.conserved(t, slot, id, taken)
		require.Equal(t, taken > 0, p.Status == domain.SuccessfulPayment)
		require.Equal(t, 1, a.count(t, slot, "PaymentFailed")+a.count(t, slot, "PaymentCompleted"), "one outcome: %v", a.story(t, slot))
		if p.Status == domain.FailedPayment {
			require.Equal(t, domain.ReasonCanceled, p.FailureReason)
			require.Equal(t, 201, a.pay(t, a.nodes[0], buyer, slot).status, "the buyer may pay again at once")
		}
		return string(p.Status)
	})
}

// TestRace_CancelAndTimeout: the buyer cancels a payment whose time is over. It
// fails once, the slot ends once, and the gateway has cancelled it in the end.
func TestRace_CancelAndTimeout(t *testing.T) {
	units := moneyRounds(t) + 1
	a := newMoneyArena(t, units)
	a.race(t, units, func(round int) string {
		buyer, slot, id := a.pending(t, a.product)
		due := a.endNow(t, a.nodes[0], a.product, slot)
		var timedOut error
		crowd(2, func(i int) {
			if i == 0 {
				_, _ = a.nodes[0].send(t.Context(), buyer, http.MethodDelete, "/v1/payments/"+id, nil)
				_ = a.nodes[0].payments.Do(t.Context(), payments.Cancel, uuid.MustParse(id))
				return
			}
			a.dawdle(t, round%16)
			timedOut = a.nodes[1].payments.TimeOut(t.Context(), due)
		})
		require.NoError(t, timedOut)
		a.settle(t, id)
		p := a.conserved(t, slot, id, 0)
		require.Equal(t, domain.FailedPayment, p.Status)
		require.Equal(t, 1, a.count(t, slot, "PaymentFailed"), "%v", a.story(t, slot))
		ended := 1 // with the payment, if the time-out came first
		if p.FailureReason != domain.ReasonTimeout {
			ended = 0
		}
		require.Equal(t, ended, a.count(t, slot, "SlotExpired"), "%v", a.story(t, slot))
		require.Equal(t, gateway.Canceled, a.bank.accounts[p.ID].status)
		return p.FailureReason
	})
}

// TestRace_ReturnedUnitAndNewBuyer: a refund gives the only unit back while
// others click for it.
func TestRace_ReturnedUnitAndNewBuyer(t *testing.T) {
	a := newMoneyArena(t, 1)
	owner, slot, id := a.purchase(t, a.product)
	a.race(t, 1, func(round int) (outcome string) {
		refund := a.nodes[0].do(t, a.admin, http.MethodPost, "/v1/payments/"+id+"/refunds", map[string]any{"idempotencyKey": uuid.New(), "returnUnit": true})
		require.Equal(t, 201, refund.status, refund.body)
		buyers := []user{owner, a.user(t, auth.Buyer), a.user(t, auth.Buyer)} // who had it may click again
		if round%3 == 0 {
			buyers = buyers[:1]
		}
		var mu sync.Mutex
		won := map[int]string{}
		ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
		crowd(len(buyers)+2, func(i int) {
			if i >= len(buyers) {
				_ = a.nodes[i%2].payments.Do(t.Context(), payments.Refund, uuid.MustParse(refund.text("id")))
				return
			}
			for ctx.Err() == nil {
				r, err := a.nodes[i%2].send(ctx, buyers[i], http.MethodPost, "/v1/slots/acquire", map[string]any{"productId": a.product})
				mu.Lock()
				if r.status == 201 && err == nil {
					won[i] = r.text("id")
				}
				over := len(won) > 0
				mu.Unlock()
				if over {
					return
				}
			}
		})
		cancel()
		require.Len(t, won, 1, "exactly one has the unit: %v", a.story(t, slot))
		require.Equal(t, domain.ReturnedSlot, a.folded(t, slot).Status)
		require.Equal(t, 1, a.count(t, slot, "SlotReturned"))
		a.conserved(t, slot, id, 0)
		for i, next := range won {
			owner, slot = buyers[i], next
			outcome = []string{"the same buyer", "another", "another"}[i]
		}
		paid := a.pay(t, a.nodes[0], owner, slot)
		require.Equal(t, 201, paid.status, paid.body)
		id = paid.text("id")
		a.posted(t, id)
		a.take(t, id)
		return outcome
	})
}

// TestRace_SaleCancelled: a sale is cancelled while a payment starts or succeeds,
// late money asks for another unit, or a slot expires. Nothing is sold afterwards,
// and what was taken goes back once.
func TestRace_SaleCancelled(t *testing.T) {
	succeeds := func(_ *testing.T, a moneyArena, _ func() error, _ user, _, id string) { a.succeed(id) }
	for name, c := range map[string]struct {
		against func(t *testing.T, a moneyArena, due func() error, buyer user, slot, id string)
		expired bool // the slot has expired before
		begins  bool // the payment begins only now
	}{
		"a payment that starts": {begins: true, against: func(t *testing.T, a moneyArena, _ func() error, buyer user, slot, _ string) {
			r, _ := a.nodes[0].send(t.Context(), buyer, http.MethodPost, "/v1/payments", paymentOf(slot))
			if r.status == 201 {
				a.succeed(r.text("id"))
			}
		}},
		"a payment that succeeds": {against: succeeds},
		"a re-grant":              {expired: true, against: succeeds},
		"an expiry": {against: func(t *testing.T, a moneyArena, due func() error, _ user, _, _ string) {
			_ = due()
		}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			rounds := moneyRounds(t)
			s := newSystem(t, testkit.Redis(t))
			a := moneyArena{arena{system: s, nodes: []node{s.node(t), s.node(t)}}, openBank(s)}
			products := make([]uuid.UUID, rounds)
			for i := range products {
				products[i] = s.upcoming(t, a.nodes[0], 1, opening)
			}
			s.awaitSale(t, a.nodes[0], products[rounds-1])
			outcomes := map[string]int{}
			for round, product := range products {
				buyer := s.user(t, auth.Buyer)
				acquired := a.acquire(t, a.nodes[0], buyer, product)
				require.Equal(t, 201, acquired.status, acquired.body)
				slot, id := acquired.text("id"), ""
				if !c.begins {
					id = a.pay(t, a.nodes[0], buyer, slot).text("id")
					a.posted(t, id)
				}
				if c.expired {
					a.timeOut(t, a.nodes[0], product, slot)
				}
				end := a.endNow(t, a.nodes[0], product, slot)
				var cancelled answered
				crowd(2, func(i int) {
					if i == 0 {
						a.dawdle(t, round%11)
						cancelled, _ = a.nodes[0].send(t.Context(), a.admin, http.MethodPost, "/v1/products/"+product.String()+"/cancel", nil)
						a.endSale(t, a.nodes[0])
						return
					}
					a.dawdle(t, round%8)
					c.against(t, a, func() error { return a.nodes[1].payments.TimeOut(t.Context(), end) }, buyer, slot, id)
				})
				require.Equal(t, 202, cancelled.status, cancelled.body)
				a.endSale(t, a.nodes[1])
				outcome := ""
				for _, p := range a.folded(t, slot).Payments {
					a.settle(t, p.ID.String())
					p = a.conserved(t, slot, p.ID.String(), 0)
					require.NotEqual(t, gateway.Pending, a.bank.accounts[p.ID].status, "it is cancelled at the gateway")
					outcome = string(p.Status) + " " + p.FailureReason
					require.LessOrEqual(t, len(p.Refunds), 1, "what is taken goes back once")
					for _, r := range p.Refunds {
						outcome += " " + string(r.Cause)
					}
					if p.SlotID.String() != slot {
						outcome += " re-granted"
					}
				}
				outcomes[outcome]++
				a.lawful(t, product)
				require.NotEqual(t, domain.ActiveSlot, a.folded(t, slot).Status)
				require.Equal(t, "sale-ended", a.acquire(t, a.nodes[1], buyer, product).slug())
				counts, err := a.nodes[0].payments.Cancellation(t.Context(), product)
				require.NoError(t, err)
				require.Zero(t, counts.Open+counts.Failed, "%+v", counts)
			}
			t.Logf("%v", outcomes)
		})
	}
}
