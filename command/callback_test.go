package command

import (
	"fmt"
	"net/http"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/stretchr/testify/require"

	"github.com/dopaminestore/dopamine/domain"
	"github.com/dopaminestore/dopamine/internal/attention"
)

func TestCallback_RefusalsInOrder(t *testing.T) {
	s, n, product := onSale(t, 1)
	_, slot, id := s.paying(t, n, product)
	post := func(body string, headers ...string) answered {
		return n.do(t, user{}, http.MethodPost, "/v1/webhooks/payment", body, headers...)
	}
	large := post(strings.Repeat("x", 64<<10+1))
	require.Equal(t, 413, large.status)
	unsigned := post("{")
	requireProblem(t, 401, "invalid-signature", unsigned)
	require.Empty(t, unsigned.header.Get("WWW-Authenticate"))
	unknown := uuid.NewString()
	for _, body := range []string{
		"{", "", "[]", `"x"`, "null", "{}", `{"type":1}`, `{"type":"payment.failed"}`, `{"type":"payment.failed","data":{}}`,
		`{"type":"payment.failed","data":{"reference":null}}`,
	} {
		a := n.callback(t, uuid.NewString(), body)
		require.Equal(t, 400, a.status, body)
		require.Equal(t, "invalid-request", a.slug())
	}
	for _, reference := range []string{unknown, "x"} {
		a := n.callback(t, "w1", succeeded(reference, "10"))
		require.Equal(t, 404, a.status, reference)
		require.Equal(t, "payment-not-found", a.slug())
	}
	require.Equal(t, 400, n.callback(t, strings.Repeat("w", 256), succeeded(id, "10")).status)
	for _, body := range []string{`{"type":"payment.pending"}`, `{"type":"refund.made","data":7,"x":1}`} {
		require.Equal(t, 204, n.callback(t, "w1", body).status)
	}
	require.Len(t, s.story(t, slot), 2)
	// Refused callbacks do not use up the id, and the media type does not matter.
	body := succeeded(id, "10")
	require.Equal(t, 204, post(body, append(signed(t, webhookSecret, "w1", time.Now(), body), "Content-Type", "text/plain")...).status)
	require.Len(t, s.story(t, slot), 3)
}

// A success with another amount than requested is refunded; an amount that is not
// money waits for an operator.
func TestCallback_OtherAmounts(t *testing.T) {
	s, n, product := onSale(t, 20)
	for i, c := range []struct{ amount, currency, owed, waits string }{
		{`"9"`, `"KRW"`, "9 KRW", ""},
		{`11`, `"KRW"`, "11 KRW", ""},
		{`"10"`, `"USD"`, "10.00 USD", ""},
		{`"0"`, `"KRW"`, "", ""},
		{`"10.5"`, `"KRW"`, "10.5 KRW", ""},
		{`10.0001`, `"USD"`, "10.0001 USD", ""},
		{`"10.00001"`, `"KRW"`, "", `AMOUNT_UNREADABLE`},
		{`"-10"`, `"KRW"`, "", `AMOUNT_UNREADABLE`},
		{`1e20`, `"KRW"`, "", `AMOUNT_UNREADABLE`},
		{`"10"`, `"w\u0000n"`, "", `AMOUNT_UNREADABLE`},
		{`"ten"`, `"KRW"`, "", `AMOUNT_UNREADABLE`},
		{`null`, `"KRW"`, "", `AMOUNT_UNREADABLE`},
		{`{"value":10}`, `"KRW"`, "", `AMOUNT_UNREADABLE`},
		{`"10"`, `null`, "", `AMOUNT_UNREADABLE`},
	} {
		buyer, slot, id := s.paying(t, n, product)
		body := fmt.Sprintf(`{"type":"payment.succeeded","data":{"reference":%q,"paymentId":"g1","amount":%s,"currency":%s}}`, id, c.amount, c.currency)
		require.Equal(t, 204, n.callback(t, "w"+strconv.Itoa(i), body).status, body)
		p := s.payment(t, product, slot, id)
		require.Equal(t, domain.FailedPayment, p.Status, body)
		require.Equal(t, domain.ReasonAmountMismatch, p.FailureReason)
		if c.owed == "" {
			require.Empty(t, p.Refunds, body)
		} else {
			require.Equal(t, c.owed, p.Refunds[0].Amount.String()+" "+p.Refunds[0].Amount.Currency())
		}
		waiting := s.waitsFor(t, id)
		if c.waits == "" {
			require.Empty(t, waiting, body)
		} else {
			require.Equal(t, "CONTRADICTED "+c.waits, waiting)
		}
		require.Equal(t, 201, s.pay(t, n, buyer, slot).status, "the slot stays ACTIVE")
		if c.owed != "" {
			require.Equal(t, 204, n.callback(t, "again"+strconv.Itoa(i), succeeded(id, "10")).status)
			require.Equal(t, c.owed, p.Refunds[0].Amount.String()+" "+p.Refunds[0].Amount.Currency())
			require.Equal(t, "CONTRADICTED OTHER_AMOUNT", s.waitsFor(t, id), "another amount of the same charge")
		}
	}
}

// waitsFor returns why the payment waits for an operator, "" if it does not.
func (s *system) waitsFor(t testing.TB, payment string) string {
	t.Helper()
	list, err := attention.List(t.Context(), s.pool, nil, 1000)
	require.NoError(t, err)
	for _, w := range list {
		if w.PaymentID.String() == payment {
			return string(w.Cause) + " " + w.Code
		}
	}
	return ""
}
