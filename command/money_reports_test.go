package command

import (
	"errors"
	"fmt"
	"sync"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/stretchr/testify/require"

	"github.com/dopaminestore/dopamine/command/payments"
	"github.com/dopaminestore/dopamine/domain"
	"github.com/dopaminestore/dopamine/eventstore"
	"github.com/dopaminestore/dopamine/internal/gateway"
	"github.com/dopaminestore/dopamine/tools/dbtest"
	"github.com/dopaminestore/dopamine/tools/testkit"
)

func refundReport(typ, payment, refund string) string {
	return fmt.Sprintf(`{"type":%q,"timestamp":"2026-01-01T00:00:00Z","data":{"reference":%q,"paymentId":"g1","amount":"7","currency":"KRW",
		"refundReference":%q,"refundId":"r1","failureReason":"ACCOUNT_CLOSED"}}`, typ, payment, refund)
}

// TestRefund_OldResponseIsIgnored: the response to a post, or to a query,
// that was under way while a callback reported the opposite is older than it.
func TestRefund_OldResponseIsIgnored(t *testing.T) {
	s, n, product := onSale(t, 8)
	for name, c := range map[string]struct {
		callback  string
		old, now  gateway.Refund
		want      domain.RefundStatus
		queryOnly bool // the old response is a query's
	}{
		"post: succeeded, failed meanwhile": {callback: "refund.failed", want: domain.FailedRefund,
			old: gateway.Refund{ID: "r1", Status: gateway.RefundSucceeded},
			now: gateway.Refund{ID: "r1", Status: gateway.RefundFailed, FailureReason: "ACCOUNT_CLOSED"}},
		"post: failed, succeeded meanwhile": {callback: "refund.succeeded", want: domain.CompletedRefund,
			old: gateway.Refund{ID: "r1", Status: gateway.RefundFailed, FailureReason: "ACCOUNT_CLOSED"},
			now: gateway.Refund{ID: "r1", Status: gateway.RefundSucceeded}},
		"post: pending, succeeded meanwhile": {callback: "refund.succeeded", want: domain.CompletedRefund,
			old: gateway.Refund{ID: "r1", Status: gateway.RefundPending},
			now: gateway.Refund{ID: "r1", Status: gateway.RefundSucceeded}},
		"query: succeeded, failed meanwhile": {callback: "refund.failed", want: domain.FailedRefund, queryOnly: true,
			old: gateway.Refund{ID: "r1", Status: gateway.RefundSucceeded},
			now: gateway.Refund{ID: "r1", Status: gateway.RefundFailed, FailureReason: "ACCOUNT_CLOSED"}},
	} {
		t.Run(name, func(t *testing.T) {
			_, slot, id := s.paying(t, n, product)
			require.Equal(t, 204, n.callback(t, uuid.NewString(), succeeded(id, "7")).status) // another amount: a refund is due
			refund := s.payment(t, product, slot, id).Refunds[0].ID
			meanwhile := sync.OnceFunc(func() {
				require.Equal(t, 204, n.callback(t, uuid.NewString(), refundReport(c.callback, id, refund.String())).status)
			})
			posted := false
			s.fake.set(func(g *fakeGateway) {
				g.refund = func(gateway.RefundRequest) (gateway.Refund, error) {
					if posted = true; c.queryOnly {
						return gateway.Refund{}, fmt.Errorf("connection reset")
					}
					meanwhile()
					return c.old, nil
				}
				asked := false
				g.findRefund = func(gateway.RefundRequest) (gateway.Refund, error) {
					if c.queryOnly && !asked {
						asked = true
						meanwhile()
						return c.old, nil
					}
					return c.now, nil
				}
			})
			defer s.fake.set(func(g *fakeGateway) { g.refund, g.findRefund = nil, nil })
			s.refundNow(t, id)
			err := n.payments.Do(t.Context(), payments.Refund, refund)
			require.True(t, posted)
			if c.queryOnly {
				require.Error(t, err)
				s.refundNow(t, id)
				err = n.payments.Do(t.Context(), payments.Refund, refund)
			}
			require.NoError(t, err)
			require.Equal(t, c.want, s.payment(t, product, slot, id).Refunds[0].Status, "%v", s.story(t, slot))
		})
	}
}

// TestSuccess_OfOtherChargeIsQueriedOnce: the gateway accepted one charge and
// reports success of another. Both may have been taken.
func TestSuccess_OfOtherChargeIsQueriedOnce(t *testing.T) {
	s, n, product := onSale(t, 3)
	for name, c := range map[string]struct {
		find  string // the charge that the gateway reports when it is queried
		story []string
	}{
		"both were taken": {"", []string{"PaymentCompleted", "RefundDue"}},
		"one was taken":   {"g1", []string{"PaymentCompleted"}},
	} {
		t.Run(name, func(t *testing.T) {
			_, slot, id := s.paying(t, n, product)
			accepted := "g-" + id
			testkit.EventuallyEqual(t, 5*time.Second, "the payment is accepted", accepted, func() string {
				return dbtest.One[string](t, s.pool, `select coalesce(gateway_payment_id, '') from payments where payment_id = $1`, id)
			})
			s.fake.set(func(g *fakeGateway) {
				g.find = func(reference uuid.UUID) (gateway.Payment, error) {
					p, err := tookAll(t)(reference)
					if p.ID = c.find; p.ID == "" {
						p.ID = accepted
					}
					return p, err
				}
			})
			require.Equal(t, 204, n.callback(t, uuid.NewString(), succeeded(id, "10")).status) // as charge g1
			require.True(t, s.askedAgain(t, id))
			require.NoError(t, s.ask(t, n, id))
			require.Equal(t, c.story, s.story(t, slot)[2:])
			require.False(t, s.askedAgain(t, id), "once")
		})
	}
}

// TestCancel_IsRepeatedOncePaymentIsKnown: the post was still under way
// when the gateway was to cancel the payment.
func TestCancel_IsRepeatedOncePaymentIsKnown(t *testing.T) {
	s, n, product := onSale(t, 2)
	cancelDue := func(id string) (due bool) {
		require.NoError(t, s.pool.QueryRow(t.Context(), `select cancel_at is not null from payments where payment_id = $1`, id).Scan(&due))
		return due
	}
	for name, refused := range map[string]bool{"unknown": false, "refused": true} {
		t.Run(name, func(t *testing.T) {
			buyer, slot, id := s.paying(t, n, product)
			s.fake.set(func(g *fakeGateway) {
				g.cancel = func(uuid.UUID) (gateway.Payment, error) {
					if refused {
						return gateway.Payment{}, &gateway.Rejected{Reason: "NOT_CANCELABLE", HTTPStatus: 409}
					}
					return gateway.Payment{}, gateway.ErrUnknownReference
				}
				g.find = func(uuid.UUID) (gateway.Payment, error) { return gateway.Payment{Status: gateway.Pending}, nil }
			})
			require.Equal(t, 202, n.do(t, buyer, "DELETE", "/v1/payments/"+id, nil).status)
			require.NoError(t, n.payments.Do(t.Context(), payments.Cancel, uuid.MustParse(id)))
			require.False(t, cancelDue(id), "it was answered")
			require.Equal(t, refused, s.payment(t, product, slot, id).Status == domain.PendingPayment)
			require.NoError(t, s.ask(t, n, id))
			require.Equal(t, !refused, cancelDue(id), "the gateway knows it now")
			if refused {
				return
			}
			s.fake.set(func(g *fakeGateway) { g.cancel = nil })
			require.NoError(t, n.payments.Do(t.Context(), payments.Cancel, uuid.MustParse(id)))
			require.False(t, cancelDue(id))
			require.False(t, s.askedAgain(t, id), "the outcome is known")
		})
	}
}

// TestUnreadableAmount_KeepsWhatWasReported, as far as that is no free text.
func TestUnreadableAmount_KeepsWhatWasReported(t *testing.T) {
	s, n, product := onSale(t, 3)
	for reported, kept := range map[string]string{
		`"amount":"10","currency":"XXQ"`:                "10 XXQ",
		`"amount":"-3","currency":"KRW"`:                "-3 KRW",
		`"amount":"10","currency":"to Jane Doe, Seoul"`: "10 ?",
	} {
		_, slot, id := s.paying(t, n, product)
		body := fmt.Sprintf(`{"type":"payment.succeeded","timestamp":"2026-01-01T00:00:00Z","data":{"reference":%q,"paymentId":"g1",%s}}`, id, reported)
		require.Equal(t, 204, n.callback(t, uuid.NewString(), body).status)
		p := s.payment(t, product, slot, id)
		require.Len(t, p.Contradictions, 1)
		require.Equal(t, kept, p.Contradictions[0].Reported)
	}
}

// TestRefund_OfPreviousVersionIsAdopted: that program kept refunds in the payments'
// rows, under the payment's id. It may have posted one, so it is queried first.
func TestRefund_OfPreviousVersionIsAdopted(t *testing.T) {
	s, n, product := onSale(t, 2)
	_, slot, id := s.paying(t, n, product)
	s.paying(t, n, product) // another one is not touched
	buyer := s.stored(t, product, slot).UserID
	append1 := func(typ, payload string) {
		_, err := n.store.Append(t.Context(), eventstore.Append{Key: product, Streams: []eventstore.StreamAppend{{
			Stream: uuid.MustParse(slot), Expected: eventstore.Any,
			Events: []eventstore.NewEvent{{ID: uuid.New(), Type: typ, SchemaVersion: 1, Payload: []byte(payload), Meta: eventstore.Meta{Actor: "system"}}},
		}}})
		require.NoError(t, err)
	}
	common := fmt.Sprintf(`"userId":%q,"paymentId":%q,"gatewayPaymentId":"g1"`, buyer, id)
	append1("PaymentFailed", `{`+common+`,"reason":"AMOUNT_MISMATCH"}`)
	append1("RefundDue", `{`+common+`,"amount":{"amount":"7","currency":"KRW"},"reason":"AMOUNT_MISMATCH"}`)
	dbtest.Exec(t, s.pool, `update payments set status = 'FAILED', ask_at = null, gateway_payment_id = 'g1', refund_status = 'DUE', refund_amount = 7,
		refund_currency = 'KRW', refund_due_at = clock_timestamp(), refund_ask_at = clock_timestamp() where payment_id = $1`, id)

	var calls []string
	s.fake.set(func(g *fakeGateway) {
		g.findRefund = func(r gateway.RefundRequest) (gateway.Refund, error) {
			calls = append(calls, "query "+r.RefundID.String())
			return gateway.Refund{}, gateway.ErrUnknownReference
		}
		g.refund = func(r gateway.RefundRequest) (gateway.Refund, error) {
			calls = append(calls, "post "+r.RefundID.String()+" "+r.Amount.String()+" "+r.GatewayPaymentID)
			return gateway.Refund{ID: "r1", Status: gateway.RefundSucceeded}, nil
		}
	})
	due, err := n.payments.Due(t.Context(), payments.Refund, 10)
	require.NoError(t, err)
	require.Equal(t, []uuid.UUID{uuid.MustParse(id)}, due)
	require.NoError(t, n.payments.Do(t.Context(), payments.Refund, due[0]))
	require.Equal(t, []string{"query " + id, "post " + id + " 7 g1"}, calls)
	p := s.payment(t, product, slot, id)
	require.Equal(t, domain.RefundsComplete, p.RefundStatus())
	require.Equal(t, []any{p.ID, domain.RefundAmountMismatch}, []any{p.Refunds[0].ID, p.Refunds[0].Cause})
	due, err = n.payments.Due(t.Context(), payments.Refund, 10)
	require.NoError(t, err)
	require.Empty(t, due, "once")
}

// TestPost_RepeatsTheStoredBytes although another process, which has another callback
// URL, repeats it: a gateway takes another body under the same key for a mistake.
func TestPost_RepeatsTheStoredBytes(t *testing.T) {
	s, n, product := onSale(t, 1)
	s.fake.set(func(g *fakeGateway) {
		g.pay = func(uuid.UUID) (gateway.Payment, error) { return gateway.Payment{}, errors.New("connection reset") }
	})
	_, _, id := s.paying(t, n, product)
	s.awaitPosted(t, id)
	other, err := payments.New(payments.Config{
		Pool: s.pool, Store: n.store, Reader: s.reader, Claims: s.claims, Gate: n.gate, Gateway: s.fake,
		CallbackURL: "http://elsewhere/v1/webhooks/payment", SlotTTL: time.Hour, Registry: registry(),
	})
	require.NoError(t, err)
	s.askNow(t, id)
	require.Error(t, other.Do(t.Context(), payments.Post, uuid.MustParse(id)))
	asks := s.fake.asks()
	require.Len(t, asks, 2)
	require.Equal(t, asks[0], asks[1])
	require.Contains(t, asks[1].Request, "http://here/")
}
