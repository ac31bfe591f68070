package command

import (
	"errors"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/stretchr/testify/require"

	"github.com/dopaminestore/dopamine/domain"
	"github.com/dopaminestore/dopamine/internal/gateway"
	"github.com/dopaminestore/dopamine/tools/dbtest"
	"github.com/dopaminestore/dopamine/tools/testkit"
)

// TestRejection_IsNotTrustedAfterUnknownOutcome: the first post is accepted and its
// response lost; the repeat is rejected. The gateway's state decides.
func TestRejection_IsNotTrustedAfterUnknownOutcome(t *testing.T) {
	s, n, product := onSale(t, 24)
	away := errors.New("connection reset")
	for name, c := range map[string]struct {
		find   func(uuid.UUID) (gateway.Payment, error)
		status domain.PaymentStatus
		reason string
		open   bool // it is queried further
	}{
		"succeeded": {find: tookAll(t), status: domain.SuccessfulPayment},
		"pending": {find: func(uuid.UUID) (gateway.Payment, error) { return gateway.Payment{Status: gateway.Pending}, nil },
			status: domain.PendingPayment, open: true},
		"unknown": {find: func(uuid.UUID) (gateway.Payment, error) { return gateway.Payment{}, gateway.ErrUnknownReference },
			status: domain.FailedPayment, reason: "KEY_IN_USE", open: true},
		"no answer": {find: func(uuid.UUID) (gateway.Payment, error) { return gateway.Payment{}, away },
			status: domain.PendingPayment, open: true},
	} {
		for _, status := range []int{401, 403, 404, 407, 409, 422} {
			s.fake.set(func(g *fakeGateway) {
				g.find = c.find
				g.pay = func(uuid.UUID) (gateway.Payment, error) { return gateway.Payment{}, away }
			})
			_, slot, id := s.paying(t, n, product)
			s.awaitPosted(t, id)
			s.fake.set(func(g *fakeGateway) {
				g.pay = func(uuid.UUID) (gateway.Payment, error) {
					return gateway.Payment{}, &gateway.Rejected{Reason: "KEY_IN_USE", HTTPStatus: status}
				}
			})
			if err := s.ask(t, n, id); name != "no answer" {
				require.NoError(t, err, name)
			}
			p := s.payment(t, product, slot, id)
			require.Equal(t, c.status, p.Status, "%s after %d", name, status)
			require.Equal(t, c.reason, p.FailureReason, name)
			require.Equal(t, c.open, s.askedAgain(t, id), name)
		}
	}
}

// awaitPosted waits until the first attempt has ended without an outcome.
func (s *system) awaitPosted(t testing.TB, payment string) {
	t.Helper()
	testkit.EventuallyTrue(t, 5*time.Second, "the payment is to be posted again", func() bool {
		return dbtest.One[bool](t, s.pool, `select ask_at < initiated_at + interval '5 s' from payments where payment_id = $1`, payment)
	})
}
