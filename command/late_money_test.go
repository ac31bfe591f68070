package command

import (
	"context"
	"errors"
	"slices"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/stretchr/testify/require"

	"github.com/dopaminestore/dopamine/command/claims"
	"github.com/dopaminestore/dopamine/command/deadlines"
	"github.com/dopaminestore/dopamine/command/payments"
	"github.com/dopaminestore/dopamine/domain"
	"github.com/dopaminestore/dopamine/internal/auth"
	"github.com/dopaminestore/dopamine/internal/gateway"
	"github.com/dopaminestore/dopamine/redis"
	"github.com/dopaminestore/dopamine/tools/testkit"
)

// endNow ends a slot whose payment is pending, as if it had timed out.
func (s *system) endNow(t testing.TB, n node, product uuid.UUID, slot string) deadlines.Slot {
	t.Helper()
	stored := s.stored(t, product, slot)
	return deadlines.Slot{Product: product, SlotID: stored.ID, Deadline: stored.Deadline, At: stored.AcquiredAt}
}

func (s *system) timeOut(t testing.TB, n node, product uuid.UUID, slot string) {
	t.Helper()
	require.NoError(t, n.payments.TimeOut(t.Context(), s.endNow(t, n, product, slot)))
}

// dueNow waits until the slot is due.
func (s *system) dueNow(t testing.TB, slot string) deadlines.Slot {
	t.Helper()
	var due deadlines.Slot
	testkit.Eventually(t, 5*time.Second, "the slot is due", func() error {
		ends, err := s.deadlines.DueForExpiry(t.Context(), 1000)
		timedOut, andErr := s.deadlines.DueForTimeout(t.Context(), 1000)
		for _, d := range slices.Concat(ends, timedOut) {
			if d.SlotID.String() == slot {
				due = d
				return nil
			}
		}
		return errors.Join(errors.New("not due"), err, andErr)
	})
	return due
}

// brief makes slots so short that a test can wait for their end.
func brief(c *Config) { c.SlotTTL = 250 * time.Millisecond }

// briefSale returns a system with one API of brief slots, and a product on sale; the test runs in
// parallel with others.
func briefSale(t *testing.T, stock int) (*system, node, uuid.UUID) {
	t.Helper()
	t.Parallel()
	s := newSystem(t, testkit.Redis(t))
	n := s.node(t, brief)
	return s, n, s.product(t, n, stock)
}

func TestTimeOut(t *testing.T) {
	s, n, product := briefSale(t, 1)
	_, slot, id := s.paying(t, n, product)
	due := s.dueNow(t, slot)
	require.Equal(t, paymentTimeout, due.At.Sub(due.Deadline), "the slot waited for its payment")
	require.NoError(t, n.payments.TimeOut(t.Context(), due))
	require.Equal(t, []string{"SlotAcquired", "PaymentInitiated", "PaymentFailed", "SlotExpired"}, s.story(t, slot))
	p := s.payment(t, product, slot, id)
	require.Equal(t, domain.ReasonTimeout, p.FailureReason)
	require.Equal(t, p.UpdatedAt, s.stored(t, product, slot).EndedAt, "in one append")
	require.Len(t, s.fake.looked, 1, "queried once more")
	require.NoError(t, n.payments.TimeOut(t.Context(), due), "again")
	require.Len(t, s.story(t, slot), 4)
	require.Equal(t, 201, s.acquire(t, n, s.user(t, auth.Buyer), product).status, "the unit is on sale again")
}

// A slot that should have ended long ago, because thousands of others delayed it, does not
// wait for the gateway; that is queried afterwards.
func TestTimeOut_LateDoesNotQuery(t *testing.T) {
	s, n, product := briefSale(t, 1)
	_, slot, id := s.paying(t, n, product)
	due := s.dueNow(t, slot)
	due.At, due.Deadline = due.At.Add(-time.Minute), due.Deadline.Add(-time.Minute)
	require.NoError(t, n.payments.TimeOut(t.Context(), due))
	require.Equal(t, domain.ReasonTimeout, s.payment(t, product, slot, id).FailureReason)
	require.Empty(t, s.fake.looked)
	require.True(t, s.askedAgain(t, id))
}

func TestTimeOut_QueriesGatewayOnceMore(t *testing.T) {
	s, n, product := briefSale(t, 2)
	_, paid, _ := s.paying(t, n, product)
	_, unpaid, id := s.paying(t, n, product)
	s.fake.set(func(g *fakeGateway) { g.find = tookAll(t) })
	require.NoError(t, n.payments.TimeOut(t.Context(), s.dueNow(t, paid)))
	require.Equal(t, domain.CompletedSlot, s.stored(t, product, paid).Status)
	s.fake.set(func(g *fakeGateway) {
		g.find = func(uuid.UUID) (gateway.Payment, error) {
			return gateway.Payment{Status: gateway.Failed, FailureReason: "no"}, nil
		}
	})
	require.NoError(t, n.payments.TimeOut(t.Context(), s.dueNow(t, unpaid)))
	require.Equal(t, "NO", s.payment(t, product, unpaid, id).FailureReason)
	require.Equal(t, domain.ExpiredSlot, s.stored(t, product, unpaid).Status, "at once: its deadline is over")
	require.False(t, s.askedAgain(t, id))
}

// tookAll is a gateway that has taken the price of every payment that is queried.
func tookAll(t testing.TB) func(uuid.UUID) (gateway.Payment, error) {
	amount, err := domain.ParseDecimal("10")
	require.NoError(t, err)
	return func(id uuid.UUID) (gateway.Payment, error) {
		return gateway.Payment{ID: "g-" + id.String(), Status: gateway.Succeeded, Paid: gateway.Report(amount, "KRW")}, nil
	}
}

func TestLateSuccess_IsRegranted(t *testing.T) {
	s, n, product := onSale(t, 1)
	buyer, slot, id := s.paying(t, n, product)
	s.timeOut(t, n, product, slot)
	heard := n.callback(t, "w1", succeeded(id, "10"))
	require.Equal(t, 204, heard.status, heard.body)
	require.Equal(t, []string{"SlotAcquired", "PaymentInitiated", "PaymentFailed", "SlotExpired", "PaymentRegranted"}, s.story(t, slot))
	p := s.payment(t, product, slot, id)
	require.Equal(t, domain.SuccessfulPayment, p.Status)
	require.NotEqual(t, slot, p.SlotID.String())
	require.Equal(t, []string{"SlotAcquired", "PaymentCompleted"}, s.story(t, p.SlotID.String()))
	again := s.stored(t, product, p.SlotID.String())
	require.Equal(t, domain.CompletedSlot, again.Status)
	require.Equal(t, slot, again.RegrantOf.String())
	require.Greater(t, again.ArrivalSequence, s.stored(t, product, slot).ArrivalSequence, "a separate number")
	claim, ok, err := s.claims.ByBuyer(t.Context(), product, buyer.id)
	require.NoError(t, err)
	require.True(t, ok)
	require.Equal(t, claims.Completed, claim.Status)
	require.Equal(t, p.SlotID, claim.SlotID)
	a := s.acquire(t, n, buyer, product)
	require.Equal(t, "duplicate-slot", a.slug())
	require.Equal(t, p.SlotID.String(), a.text("slotId"))
	for _, id2 := range []string{"w1", "w2"} {
		require.Equal(t, 204, n.callback(t, id2, succeeded(id, "10")).status)
	}
	require.Len(t, s.slots(t, product), 3, "those of awaitSale, the expired slot and the re-grant")
}

// If no other unit can be granted, the money is refunded.
func TestLateSuccess_IsRefunded(t *testing.T) {
	s, n := oneNode(t)
	for name, obstacle := range map[string]func(product uuid.UUID, buyer user){
		"no unit":            func(p uuid.UUID, _ user) { s.granted(t, n, s.user(t, auth.Buyer), p) },
		"buyer holds a slot": func(p uuid.UUID, b user) { require.Equal(t, 201, s.acquire(t, n, b, p).status) },
		"paused": func(p uuid.UUID, _ user) {
			require.Equal(t, 200, s.update(t, n, p, map[string]any{"paused": true}).status)
		},
		"product gone": func(p uuid.UUID, _ user) { require.Equal(t, 204, s.remove(t, n, p).status) },
	} {
		product := s.product(t, n, 1)
		buyer, slot, id := s.paying(t, n, product)
		s.timeOut(t, n, product, slot)
		obstacle(product, buyer)
		require.Equal(t, 204, n.callback(t, uuid.NewString(), succeeded(id, "10")).status, name)
		p := s.payment(t, product, slot, id)
		require.Equal(t, domain.FailedPayment, p.Status, name)
		require.Equal(t, domain.RefundsDue, p.RefundStatus(), name)

		require.NoError(t, n.payments.Do(t.Context(), payments.Refund, p.Refunds[0].ID))
		p = s.payment(t, product, slot, id)
		require.Equal(t, domain.RefundsComplete, p.RefundStatus(), name)
		require.Equal(t, "10", s.fake.refunded[p.ID].String())
		require.NoError(t, n.payments.Do(t.Context(), payments.Refund, p.Refunds[0].ID))
		require.Equal(t, 204, n.callback(t, uuid.NewString(), succeeded(id, "10")).status)
		require.Equal(t, []string{"SlotAcquired", "PaymentInitiated", "PaymentFailed", "SlotExpired", "RefundDue", "RefundCompleted"}, s.story(t, slot), name)
	}
}

// switched is a gate that can be unavailable.
type switched struct {
	Gate
	away *bool
}

func (g switched) Decide(ctx context.Context, r redis.Request) (redis.Decision, error) {
	if *g.away {
		return redis.Decision{}, redis.ErrUnavailable
	}
	return g.Gate.Decide(ctx, r)
}

// A gate that cannot answer delays the decision about late money.
func TestLateSuccess_WaitsForGate(t *testing.T) {
	t.Parallel()
	s := newSystem(t, testkit.Redis(t))
	away := false
	n := s.node(t, func(c *Config) { c.Gate = switched{c.Gate, &away} })
	product := s.product(t, n, 2)
	buyer, slot, id := s.paying(t, n, product)
	require.Equal(t, 204, n.callback(t, "w0", failed(id, "no")).status)
	require.Equal(t, 204, s.release(t, n, buyer, slot).status)
	away = true
	delayed := n.callback(t, "w1", succeeded(id, "10"))
	require.Equal(t, 503, delayed.status)
	require.NotEmpty(t, delayed.header.Get("Retry-After"))
	before := s.story(t, slot)
	require.Empty(t, s.waitsFor(t, id))

	// The gateway does not call again: the worker queries it.
	s.fake.set(func(g *fakeGateway) { g.find = tookAll(t) })
	job := uuid.MustParse(id)
	s.askNow(t, id)
	require.ErrorIs(t, n.payments.Do(t.Context(), payments.Query, job), payments.ErrDelayed)
	require.Equal(t, before, s.story(t, slot))
	away = false
	s.askNow(t, id)
	require.NoError(t, n.payments.Do(t.Context(), payments.Query, job))
	require.Equal(t, append(before, "PaymentRegranted"), s.story(t, slot))
	require.Equal(t, 204, n.callback(t, "w1", succeeded(id, "10")).status)
	require.False(t, s.askedAgain(t, id))
}

// askNow makes the next query of the payment due.
func (s *system) askNow(t testing.TB, payment string) {
	t.Helper()
	tag, err := s.pool.Exec(t.Context(), `update payments set ask_at = clock_timestamp() where payment_id = $1 and ask_at is not null`, payment)
	require.NoError(t, err)
	require.EqualValues(t, 1, tag.RowsAffected(), "payment %s is to be asked about", payment)
}

// askedAgain reports whether a query of the payment is due.
func (s *system) askedAgain(t testing.TB, payment string) (asked bool) {
	t.Helper()
	require.NoError(t, s.pool.QueryRow(t.Context(), `select ask_at is not null from payments where payment_id = $1`, payment).Scan(&asked))
	return asked
}
