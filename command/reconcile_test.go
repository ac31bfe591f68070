package command

import (
	"errors"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/stretchr/testify/require"

	"github.com/dopaminestore/dopamine/command/payments"
	"github.com/dopaminestore/dopamine/domain"
	"github.com/dopaminestore/dopamine/internal/auth"
	"github.com/dopaminestore/dopamine/internal/gateway"
	"github.com/dopaminestore/dopamine/internal/testkit"
)

// ask takes the next step of the payment at once.
func (s *system) ask(t testing.TB, n node, payment string) error {
	t.Helper()
	s.askNow(t, payment)
	jobs, err := n.payments.Due(t.Context(), 1000)
	require.NoError(t, err)
	job := payments.Job{Payment: uuid.MustParse(payment), Step: payments.Ask}
	require.Contains(t, jobs, job)
	return n.payments.Do(t.Context(), job)
}

func (s *system) age(t testing.TB, payment, column, by string) {
	t.Helper()
	_, err := s.pool.Exec(t.Context(), `update payments set `+column+` = `+column+` - $2::text::interval where payment_id = $1`, payment, by)
	require.NoError(t, err)
}

func TestGatewayThatIsAwayIsAskedAgain(t *testing.T) {
	t.Parallel()
	s := newSystem(t, testkit.Redis(t))
	n := s.node(t)
	product := s.product(t, n, 1)
	gone := errors.New("no route")
	s.fake.set(func(g *fakeGateway) {
		g.pay = func(uuid.UUID) (gateway.Payment, error) { return gateway.Payment{}, gone }
	})
	_, slot, id := s.paying(t, n, product)
	testkit.Eventually(t, 5*time.Second, "it is tried soon again", func() error {
		jobs, err := n.payments.Due(t.Context(), 10)
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
		require.Equal(t, asks[0], a, "under the same reference")
	}
	// It is known there now; a lost callback is found by asking.
	require.NoError(t, n.payments.Do(t.Context(), payments.Job{Payment: uuid.MustParse(id), Step: payments.Ask}), "not due: nothing")
	require.Empty(t, s.fake.looked)
	s.fake.set(func(g *fakeGateway) { g.find = tookAll(t) })
	require.NoError(t, s.ask(t, n, id))
	require.Equal(t, domain.CompletedSlot, s.stored(t, product, slot).Status)
	require.False(t, s.askedAgain(t, id))
}

// A gateway that has forgotten what it took on is asked for the money again.
func TestGatewayThatNeverHeardOfIt(t *testing.T) {
	t.Parallel()
	s := newSystem(t, testkit.Redis(t))
	n := s.node(t)
	product := s.product(t, n, 2)
	_, slot, id := s.paying(t, n, product)
	testkit.Eventually(t, 5*time.Second, "it is accepted", func() error {
		var accepted bool
		err := s.pool.QueryRow(t.Context(), `select accepted from payments where payment_id = $1`, id).Scan(&accepted)
		if err == nil && !accepted {
			err = errors.New("not yet")
		}
		return err
	})
	require.NoError(t, s.ask(t, n, id))
	require.Len(t, s.fake.asks(), 1)
	require.NoError(t, s.ask(t, n, id))
	require.Len(t, s.fake.asks(), 2)

	// After our time-out "never heard of" is believed one hour after we asked last.
	s.timeOut(t, n, product, slot)
	require.True(t, s.askedAgain(t, id))
	require.NoError(t, s.ask(t, n, id))
	require.True(t, s.askedAgain(t, id))
	s.age(t, id, "posted_at", "61 min")
	require.NoError(t, s.ask(t, n, id))
	require.False(t, s.askedAgain(t, id))
	require.Empty(t, s.waitsFor(t, id))
}

func TestAfterOurTimeOutTheGatewayIsAskedUntilItSays(t *testing.T) {
	t.Parallel()
	s := newSystem(t, testkit.Redis(t))
	n := s.node(t)
	product := s.product(t, n, 4)
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
	require.Equal(t, "the gateway never said what became of it", s.waitsFor(t, id))
	require.Equal(t, 204, n.callback(t, "w1", failed(id, "no")).status, "the gateway itself settles it")
	require.Empty(t, s.waitsFor(t, id))
	require.Len(t, s.story(t, slot), 4, "for which there is no event")

	_, slot, id = s.paying(t, n, product)
	s.timeOut(t, n, product, slot)
	s.fake.set(func(g *fakeGateway) {
		g.find = func(uuid.UUID) (gateway.Payment, error) { return gateway.Payment{Status: gateway.Failed}, nil }
	})
	require.NoError(t, s.ask(t, n, id))
	require.False(t, s.askedAgain(t, id))
	require.Len(t, s.story(t, slot), 4)
}

// Money taken after our time-out, and the callback lost: it goes back.
func TestMoneyTakenUnheardIsRefunded(t *testing.T) {
	t.Parallel()
	s := newSystem(t, testkit.Redis(t))
	n := s.node(t)
	product := s.product(t, n, 1)
	_, slot, id := s.paying(t, n, product)
	s.timeOut(t, n, product, slot)
	require.Equal(t, 201, s.acquire(t, n, s.user(t, auth.Buyer), product).status)
	s.fake.set(func(g *fakeGateway) {
		g.find = tookAll(t)
		g.refund = func(gateway.RefundRequest) (gateway.Refund, error) {
			return gateway.Refund{}, &gateway.Rejected{Reason: "account\x00 closed", HTTPStatus: 409}
		}
	})
	require.NoError(t, s.ask(t, n, id))
	require.Equal(t, domain.RefundOwed, s.payment(t, product, slot, id).Refund)
	refund := payments.Job{Payment: uuid.MustParse(id), Step: payments.Refund}
	jobs, err := n.payments.Due(t.Context(), 10)
	require.NoError(t, err)
	require.Equal(t, []payments.Job{refund}, jobs)
	require.NoError(t, n.payments.Do(t.Context(), refund))
	require.Equal(t, "refund refused: account closed", s.waitsFor(t, id))
	require.Equal(t, domain.RefundOwed, s.payment(t, product, slot, id).Refund)

	down := errors.New("down")
	s.fake.set(func(g *fakeGateway) {
		g.refund = func(gateway.RefundRequest) (gateway.Refund, error) { return gateway.Refund{}, down }
	})
	s.age(t, id, "refund_ask_at", "1 hour")
	require.ErrorIs(t, n.payments.Do(t.Context(), refund), down)
	s.fake.set(func(g *fakeGateway) { g.refund = nil })
	s.age(t, id, "refund_ask_at", "1 hour")
	require.NoError(t, n.payments.Do(t.Context(), refund))
	require.Equal(t, domain.RefundMade, s.payment(t, product, slot, id).Refund)
	require.Empty(t, s.waitsFor(t, id))
	jobs, err = n.payments.Due(t.Context(), 10)
	require.NoError(t, err)
	require.Empty(t, jobs)
}

func TestPurgeForgetsOnlyWhatIsOld(t *testing.T) {
	t.Parallel()
	s := newSystem(t, testkit.Redis(t))
	n := s.node(t)
	product := s.product(t, n, 1)
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
		_, err := s.pool.Exec(t.Context(), `update payment_keys set created_at = created_at - $1::text::interval`, step.age)
		require.NoError(t, err)
		_, err = s.pool.Exec(t.Context(), `update webhook_ids set seen_at = seen_at - $1::text::interval`, step.age)
		require.NoError(t, err)
		require.NoError(t, n.payments.Purge(t.Context()))
		keys, ids := count()
		require.Equal(t, []int{step.keys, step.ids}, []int{keys, ids}, step.age)
	}
}
