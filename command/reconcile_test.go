package command

import (
	"errors"
	"slices"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/stretchr/testify/require"

	"github.com/dopaminestore/dopamine/command/origin"
	"github.com/dopaminestore/dopamine/command/payments"
	"github.com/dopaminestore/dopamine/domain"
	"github.com/dopaminestore/dopamine/internal/auth"
	"github.com/dopaminestore/dopamine/internal/gateway"
	"github.com/dopaminestore/dopamine/tools/dbtest"
	"github.com/dopaminestore/dopamine/tools/testkit"
)

// ask runs the next step of the payment at once.
func (s *system) ask(t testing.TB, n node, payment string) error {
	t.Helper()
	s.askNow(t, payment)
	id := uuid.MustParse(payment)
	for _, step := range []payments.Step{payments.Post, payments.Query} {
		due, err := n.payments.Due(t.Context(), step, 1000)
		require.NoError(t, err)
		if slices.Contains(due, id) {
			return n.payments.Do(t.Context(), step, id)
		}
	}
	t.Fatal("no step is due")
	return nil
}

// refundNow makes the refunds of a payment due.
func (s *system) refundNow(t testing.TB, payment string) {
	t.Helper()
	dbtest.Exec(t, s.pool, `update payment_refunds set ask_at = clock_timestamp() where payment_id = $1 and ask_at is not null`, payment)
}

func (s *system) age(t testing.TB, payment, column, by string) {
	t.Helper()
	dbtest.Exec(t, s.pool, `update payments set `+column+` = `+column+` - $2::text::interval where payment_id = $1`, payment, by)
}

func TestReconcile_RetriesUnavailableGateway(t *testing.T) {
	s, n, product := onSale(t, 1)
	gone := errors.New("no route")
	s.fake.set(func(g *fakeGateway) {
		g.pay = func(uuid.UUID) (gateway.Payment, error) { return gateway.Payment{}, gone }
	})
	_, slot, id := s.paying(t, n, product)
	testkit.Eventually(t, 5*time.Second, "it is tried soon again", func() error {
		jobs, err := n.payments.Due(t.Context(), payments.Post, 10)
		if err == nil && len(jobs) == 0 {
			err = errors.New("nothing due")
		}
		return err
	})
	require.ErrorIs(t, s.ask(t, n, id), gone)
	s.fake.set(func(g *fakeGateway) { g.pay = nil })
	require.NoError(t, s.ask(t, n, id))
	asks := s.fake.asks()
	require.GreaterOrEqual(t, len(asks), 3)
	for _, a := range asks {
		require.Equal(t, asks[0], a, "with the same reference")
	}
	// The gateway knows it now; a query replaces a lost callback.
	require.NoError(t, n.payments.Do(t.Context(), payments.Query, uuid.MustParse(id)), "not due: nothing")
	require.Empty(t, s.fake.looked)
	s.fake.set(func(g *fakeGateway) { g.find = tookAll(t) })
	require.NoError(t, s.ask(t, n, id))
	require.Equal(t, domain.CompletedSlot, s.stored(t, product, slot).Status)
	require.False(t, s.askedAgain(t, id))
}

// If the gateway has lost a payment that it accepted, the payment is posted again.
func TestReconcile_PaymentUnknownToGateway(t *testing.T) {
	s, n, product := onSale(t, 2)
	_, slot, id := s.paying(t, n, product)
	testkit.EventuallyTrue(t, 5*time.Second, "it is accepted", func() bool {
		return dbtest.One[bool](t, s.pool, `select accepted from payments where payment_id = $1`, id)
	})
	require.NoError(t, s.ask(t, n, id))
	require.Len(t, s.fake.asks(), 1)
	require.NoError(t, s.ask(t, n, id))
	require.Len(t, s.fake.asks(), 2)

	// After the timeout, "unknown" is final one hour after the last post.
	s.timeOut(t, n, product, slot)
	require.True(t, s.askedAgain(t, id))
	require.NoError(t, s.ask(t, n, id))
	require.True(t, s.askedAgain(t, id))
	s.age(t, id, "posted_at", "61 min")
	require.NoError(t, s.ask(t, n, id))
	require.False(t, s.askedAgain(t, id))
	require.Empty(t, s.waitsFor(t, id))
}

func TestReconcile_QueriesAfterTimeout(t *testing.T) {
	s, n, product := onSale(t, 4)
	until := func(id string) (d time.Duration) {
		require.NoError(t, s.pool.QueryRow(t.Context(), `select ask_at - clock_timestamp() from payments where payment_id = $1`, id).Scan(&d))
		return d
	}
	s.fake.set(func(g *fakeGateway) {
		g.find = func(uuid.UUID) (gateway.Payment, error) { return gateway.Payment{Status: gateway.Pending}, nil }
	})
	_, slot, id := s.paying(t, n, product)
	s.timeOut(t, n, product, slot)
	require.InDelta(t, time.Minute, until(id), float64(5*time.Second))
	require.NoError(t, s.ask(t, n, id))
	require.InDelta(t, time.Minute, until(id), float64(5*time.Second))
	s.age(t, id, "ask_until", "61 min")
	require.NoError(t, s.ask(t, n, id))
	require.InDelta(t, time.Hour, until(id), float64(5*time.Second))
	require.Empty(t, s.waitsFor(t, id))
	s.age(t, id, "ask_until", "7 days")
	require.NoError(t, s.ask(t, n, id))
	require.False(t, s.askedAgain(t, id))
	require.Equal(t, "OUTCOME_UNKNOWN FAILED", s.waitsFor(t, id))
	require.Equal(t, 204, n.callback(t, "w1", failed(id, "no")).status, "the gateway's report settles it")
	require.Empty(t, s.waitsFor(t, id))
	require.Len(t, s.story(t, slot), 4, "without an event")

	_, slot, id = s.paying(t, n, product)
	s.timeOut(t, n, product, slot)
	s.fake.set(func(g *fakeGateway) {
		g.find = func(uuid.UUID) (gateway.Payment, error) { return gateway.Payment{Status: gateway.Failed}, nil }
	})
	require.NoError(t, s.ask(t, n, id))
	require.False(t, s.askedAgain(t, id))
	require.Len(t, s.story(t, slot), 4)
}

// Money taken after the timeout, with a lost callback, is refunded.
func TestReconcile_RefundsMoneyTakenUnnoticed(t *testing.T) {
	s, n, product := onSale(t, 1)
	_, slot, id := s.paying(t, n, product)
	s.timeOut(t, n, product, slot)
	s.granted(t, n, s.user(t, auth.Buyer), product)
	s.fake.set(func(g *fakeGateway) {
		g.find = tookAll(t)
		g.refund = func(gateway.RefundRequest) (gateway.Refund, error) {
			return gateway.Refund{}, &gateway.Rejected{Reason: "ACCOUNT_CLOSED", HTTPStatus: 409}
		}
	})
	require.NoError(t, s.ask(t, n, id))
	require.Equal(t, domain.RefundsDue, s.payment(t, product, slot, id).RefundStatus())
	refund := s.payment(t, product, slot, id).Refunds[0].ID
	jobs, err := n.payments.Due(t.Context(), payments.Refund, 10)
	require.NoError(t, err)
	require.Equal(t, []uuid.UUID{refund}, jobs)
	require.NoError(t, n.payments.Do(t.Context(), payments.Refund, refund))
	require.Equal(t, "REFUND_FAILED ACCOUNT_CLOSED", s.waitsFor(t, id), "nothing had reached the gateway before")
	require.Equal(t, domain.RefundsFailed, s.payment(t, product, slot, id).RefundStatus())

	// An operator retries it, under another id.
	by := &origin.Origin{Actor: payments.ActorOperator}
	_, err = n.payments.Resolve(t.Context(), payments.Resolve{Payment: uuid.MustParse(id), Action: domain.RetryItem, Note: "NEW_CARD"}, by)
	require.NoError(t, err)
	require.Empty(t, s.waitsFor(t, id))
	refund = s.payment(t, product, slot, id).Refunds[1].ID
	down := errors.New("down")
	s.fake.set(func(g *fakeGateway) {
		g.refund = func(gateway.RefundRequest) (gateway.Refund, error) { return gateway.Refund{}, down }
	})
	require.ErrorIs(t, n.payments.Do(t.Context(), payments.Refund, refund), down)
	s.fake.set(func(g *fakeGateway) { g.refund = nil })
	s.refundNow(t, id)
	require.NoError(t, n.payments.Do(t.Context(), payments.Refund, refund))
	require.Equal(t, domain.RefundsComplete, s.payment(t, product, slot, id).RefundStatus())
	require.Empty(t, s.waitsFor(t, id))
	jobs, err = n.payments.Due(t.Context(), payments.Refund, 10)
	require.NoError(t, err)
	require.Empty(t, jobs)
}

func TestPurge_DeletesOnlyOldRows(t *testing.T) {
	s, n, product := onSale(t, 1)
	_, _, id := s.paying(t, n, product)
	require.Equal(t, 204, n.callback(t, "w1", succeeded(id, "10")).status)
	count := func() (keys, ids int) {
		require.NoError(t, s.pool.QueryRow(t.Context(),
			`select (select count(*) from payment_keys), (select count(*) from webhook_ids)`).Scan(&keys, &ids))
		return keys, ids
	}
	for _, step := range []struct {
		age       string
		keys, ids int
	}{{"25 hours", 1, 1}, {"30 days", 0, 1}, {"10 days", 0, 0}} {
		dbtest.Exec(t, s.pool, `update payment_keys set created_at = created_at - $1::text::interval`, step.age)
		dbtest.Exec(t, s.pool, `update webhook_ids set seen_at = seen_at - $1::text::interval`, step.age)
		require.NoError(t, n.payments.Purge(t.Context()))
		keys, ids := count()
		require.Equal(t, []int{step.keys, step.ids}, []int{keys, ids}, step.age)
	}
}
