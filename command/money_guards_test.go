package command

import (
	"errors"
	"net/http"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/stretchr/testify/require"

	"github.com/dopaminestore/dopamine/command/payments"
	"github.com/dopaminestore/dopamine/domain"
	"github.com/dopaminestore/dopamine/eventstore"
	"github.com/dopaminestore/dopamine/internal/auth"
	"github.com/dopaminestore/dopamine/internal/gateway"
	"github.com/dopaminestore/dopamine/tools/dbtest"
	"github.com/dopaminestore/dopamine/tools/testkit"
)

// TestStartPayment_StrangerDoesNotReadTheHistory: ownership is checked before anything whose cost
// grows with the slot's history (contract 4.5). The history cannot be decoded here, so whatever
// reads it fails.
func TestStartPayment_StrangerDoesNotReadTheHistory(t *testing.T) {
	s, n, product := onSale(t, 1)
	buyer := s.user(t, auth.Buyer)
	slot := s.acquire(t, n, buyer, product).text("id")
	_, err := n.store.Append(t.Context(), eventstore.Append{Key: product, Streams: []eventstore.StreamAppend{{
		Stream: uuid.MustParse(slot), Expected: eventstore.Any,
		Events: []eventstore.NewEvent{{ID: uuid.New(), Type: "SlotOfALaterVersion", SchemaVersion: 1, Payload: []byte(`{}`), Meta: eventstore.Meta{Actor: domain.ActorSystem}}},
	}}})
	require.NoError(t, err)
	pay := func(u user) int { return n.do(t, u, http.MethodPost, "/v1/payments", paymentOf(slot)).status }
	require.Equal(t, 403, pay(s.user(t, auth.Buyer)))
	require.Equal(t, 403, pay(s.admin))
	require.Equal(t, 503, pay(buyer), "the owner's request reads it; a newer process can decide it")
}

// TestRefund_IsQueriedBeforeItIsPostedAgain, because the gateway may have forgotten the key.
func TestRefund_IsQueriedBeforeItIsPostedAgain(t *testing.T) {
	s, n, product := onSale(t, 1)
	_, slot, id := s.bought(t, n, product)
	refund := s.refund(t, n, id, map[string]any{})
	require.Equal(t, 201, refund.status, refund.body)
	posts, answered := 0, gateway.Refund{}
	s.fake.set(func(g *fakeGateway) {
		g.refund = func(gateway.RefundRequest) (gateway.Refund, error) {
			posts++
			return gateway.Refund{}, errors.New("the response was lost")
		}
		g.findRefund = func(gateway.RefundRequest) (gateway.Refund, error) {
			if answered.Status == "" {
				return answered, errors.New("no answer")
			}
			return answered, nil
		}
	})
	step := func() error {
		s.refundNow(t, id)
		return n.payments.Do(t.Context(), payments.Refund, uuid.MustParse(refund.text("id")))
	}
	require.Error(t, step())
	require.Error(t, step(), "without an answer it is neither posted nor failed")
	require.Equal(t, 1, posts)
	answered = gateway.Refund{ID: "re_1", Status: gateway.RefundSucceeded}
	require.NoError(t, step())
	require.Equal(t, 1, posts)
	require.Equal(t, []string{"RefundDue", "RefundCompleted"}, s.story(t, slot)[3:])
}

// TestReversal_WaitsForARefundThatIsBeingPosted: only a refund that was never posted fails with the
// reversal, and whether it was is decided under its row's lock.
func TestReversal_WaitsForARefundThatIsBeingPosted(t *testing.T) {
	s, n, product := onSale(t, 1)
	_, slot, id := s.bought(t, n, product)
	refund := s.refund(t, n, id, map[string]any{})
	require.Equal(t, 201, refund.status, refund.body)

	posting, err := s.pool.Begin(t.Context()) // what a worker does before it posts
	require.NoError(t, err)
	defer posting.Rollback(t.Context()) //nolint:errcheck // after the commit it does nothing
	dbtest.Exec(t, posting, `update payment_refunds set posted_at = clock_timestamp(), posts = posts + 1 where refund_id = $1`, refund.text("id"))
	reversed := make(chan int, 1)
	go func() {
		reversed <- n.callback(t, uuid.NewString(), `{"type":"payment.reversed","data":{"reference":"`+id+`","paymentId":"g1"}}`).status
	}()
	testkit.EventuallyTrue(t, 5*time.Second, "the reversal to wait for the row", func() bool {
		return dbtest.One[bool](t, s.pool, `select exists (select from pg_locks where not granted and locktype = 'transactionid'
			and database is null and pid in (select pid from pg_stat_activity where datname = current_database()))`)
	})
	require.NoError(t, posting.Commit(t.Context()))
	require.Equal(t, 204, <-reversed)
	require.Equal(t, []string{"PaymentCompleted", "RefundDue", "PaymentReversed"}, s.story(t, slot)[2:], "the refund was posted, so the gateway decides about it")
}

// TestTimeOut_OutcomeArrivesDuringTheLastQuery: the slot's end was decided on a history that has
// changed, and is decided again.
func TestTimeOut_OutcomeArrivesDuringTheLastQuery(t *testing.T) {
	t.Parallel()
	s := newSystem(t, testkit.Redis(t))
	n := s.node(t, func(c *Config) { c.SlotTTL = 2 * time.Second })
	product := s.product(t, n, 1)
	_, slot, id := s.paying(t, n, product)
	due := s.dueNow(t, slot)
	s.fake.set(func(g *fakeGateway) {
		g.find = func(uuid.UUID) (gateway.Payment, error) {
			if a := n.callback(t, uuid.NewString(), failed(id, "NO_FUNDS")); a.status != 204 {
				return gateway.Payment{}, errors.New(a.slug())
			}
			return gateway.Payment{Status: gateway.Pending}, nil
		}
	})
	require.NoError(t, n.payments.TimeOut(t.Context(), due))
	require.Equal(t, []string{"SlotAcquired", "PaymentInitiated", "PaymentFailed", "SlotExpired"}, s.story(t, slot))
	require.Equal(t, "NO_FUNDS", s.payment(t, product, slot, id).FailureReason)
}

// TestReports_BeforeTheSuccessTakeEffectAfterIt: what a gateway reports of a payment of which nothing
// was taken is a contradiction; once the success is recorded, the same report is none.
func TestReports_BeforeTheSuccessTakeEffectAfterIt(t *testing.T) {
	s, n, product := onSale(t, 3)
	s.fake.set(func(g *fakeGateway) {
		g.find = func(uuid.UUID) (gateway.Payment, error) { return gateway.Payment{Status: gateway.Pending}, nil }
	})
	for typ, c := range map[string]struct {
		data   string
		events []string
	}{
		"payment.refunded": {`"refundId":"re_1","amount":"4","currency":"KRW"`, []string{"RefundDue", "RefundCompleted"}},
		"payment.disputed": {`"disputeId":"dp_1"`, []string{"PaymentDisputed"}},
		"payment.reversed": {`"failureReason":"BOUNCED"`, []string{"PaymentReversed"}},
	} {
		t.Run(typ, func(t *testing.T) {
			_, slot, id := s.paying(t, n, product)
			report := func() {
				body := `{"type":"` + typ + `","data":{"reference":"` + id + `","paymentId":"g1",` + c.data + `}}`
				require.Equal(t, 204, n.callback(t, uuid.NewString(), body).status)
			}
			report()
			report()
			require.Equal(t, []string{"PaymentContradicted"}, s.story(t, slot)[2:])
			require.Equal(t, 204, n.callback(t, uuid.NewString(), succeeded(id, "10")).status)
			report()
			report()
			require.Equal(t, append([]string{"PaymentContradicted", "PaymentCompleted"}, c.events...), s.story(t, slot)[2:])
		})
	}
}
