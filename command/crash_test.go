package command

import (
	"context"
	"testing"

	"github.com/google/uuid"
	"github.com/stretchr/testify/require"

	"github.com/dopaminestore/dopamine/command/payments"
	"github.com/dopaminestore/dopamine/domain"
	"github.com/dopaminestore/dopamine/eventstore"
	"github.com/dopaminestore/dopamine/internal/auth"
	"github.com/dopaminestore/dopamine/internal/gateway"
	"github.com/dopaminestore/dopamine/redis"
)

// If a process ends after it has started a payment, the worker posts
// it.
func TestPayment_WorkerPostsAfterProcessEnded(t *testing.T) {
	s, dying, product := onSale(t, 1)
	worker := s.node(t)
	require.NoError(t, dying.payments.Close(t.Context())) // posts nothing any more
	_, slot, id := s.paying(t, dying, product)
	require.Empty(t, s.fake.asks())
	require.NoError(t, s.ask(t, worker, id))
	require.Len(t, s.fake.asks(), 1)
	require.Equal(t, 204, worker.callback(t, "w1", succeeded(id, "10")).status)
	require.Equal(t, domain.CompletedSlot, s.stored(t, product, slot).Status)
}

// A refund that was made but not recorded is queried, and posted again under the
// same id if the gateway does not know it.
func TestRefund_UnrecordedIsMadeOnce(t *testing.T) {
	s, n, product := onSale(t, 1)
	_, slot, id := s.paying(t, n, product)
	require.Equal(t, 204, n.callback(t, "w1", succeeded(id, "7")).status)

	closed, err := eventstore.Open(t.Context(), s.pool, eventstore.Options{})
	require.NoError(t, err)
	require.NoError(t, closed.Close(t.Context()))
	dying, err := payments.New(payments.Config{
		Pool: s.pool, Store: closed, Reader: s.reader, Claims: s.claims, Gate: n.gate, Gateway: s.fake,
		SlotTTL: 1e9, Registry: registry(),
	})
	require.NoError(t, err)
	refund := s.payment(t, product, slot, id).Refunds[0].ID
	require.ErrorIs(t, dying.Do(t.Context(), payments.Refund, refund), eventstore.ErrClosed)
	require.Equal(t, domain.RefundsDue, s.payment(t, product, slot, id).RefundStatus())
	require.NoError(t, n.payments.Do(t.Context(), payments.Refund, refund), "not due yet: nothing")
	require.Equal(t, domain.RefundsDue, s.payment(t, product, slot, id).RefundStatus())
	s.refundNow(t, id)
	require.NoError(t, n.payments.Do(t.Context(), payments.Refund, refund))
	require.Equal(t, domain.RefundsComplete, s.payment(t, product, slot, id).RefundStatus())
	require.Len(t, s.fake.refunded, 1)
	require.Equal(t, "7", s.fake.refunded[uuid.MustParse(id)].String())
}

// A process that ends between the gate's grant and its append leaves a pending grant;
// the repeated report gets the same one.
func TestLateSuccess_AfterProcessEndedWithGrant(t *testing.T) {
	s, n, product := onSale(t, 1)
	_, slot, id := s.paying(t, n, product)
	s.timeOut(t, n, product, slot)
	closed, err := eventstore.Open(t.Context(), s.pool, eventstore.Options{})
	require.NoError(t, err)
	require.NoError(t, closed.Close(t.Context()))
	dying, err := payments.New(payments.Config{
		Pool: s.pool, Store: closed, Reader: s.reader, Claims: s.claims, Gate: keepsGrants{n.gate}, Gateway: s.fake,
		SlotTTL: 1e9, Registry: registry(),
	})
	require.NoError(t, err)
	_, err = dying.ApplyReport(t.Context(), payments.Report{Reference: uuid.MustParse(id), Payment: gateway.Payment{
		Status: gateway.Succeeded, Paid: &gateway.Paid{Money: s.payment(t, product, slot, id).Price},
	}})
	require.ErrorIs(t, err, eventstore.ErrClosed)
	state, err := n.gate.State(t.Context(), product)
	require.NoError(t, err)
	require.Equal(t, 1, state.Pending)
	require.Equal(t, "sold-out", s.acquire(t, n, s.user(t, auth.Buyer), product).slug())
	require.Equal(t, 204, n.callback(t, "w1", succeeded(id, "10")).status)
	require.Equal(t, domain.SuccessfulPayment, s.payment(t, product, slot, id).Status)
}

// keepsGrants is a process that ends before it gives a grant back.
type keepsGrants struct{ Gate }

func (keepsGrants) GiveBack(context.Context, redis.Decision) error { return nil }
