package rush

import (
	"encoding/json"
	"fmt"
	"testing"

	"github.com/google/uuid"
	"github.com/shopspring/decimal"
	"github.com/stretchr/testify/require"
)

func moneyEvent(kind string, payment uuid.UUID, more string) entry {
	return entry{Type: kind, SlotID: payment, Metadata: json.RawMessage(fmt.Sprintf(`{"paymentId":%q%s}`, payment, more))}
}

func TestDifferences_EachPaymentAgreesToTheUnit(t *testing.T) {
	p, r, d := uuid.New(), uuid.New(), uuid.New()
	dispute := func(kind, more string) entry { return moneyEvent(kind, p, `,"disputeId":"dp_1"`+more) }
	begun := moneyEvent("PaymentInitiated", p, `,"amount":"1000","currency":"KRW"`)
	due := func(id uuid.UUID, cause, amount string) entry {
		return moneyEvent("RefundDue", p, fmt.Sprintf(`,"refundId":%q,"cause":%q,"amount":%q`, id, cause, amount))
	}
	is := func(kind string, id uuid.UUID) entry { return moneyEvent(kind, p, fmt.Sprintf(`,"refundId":%q`, id)) }
	completed, failed := moneyEvent("PaymentCompleted", p, `,"amount":"1000"`), moneyEvent("PaymentFailed", p, "")
	book := func(taken, refunded, reversed, disputes int64) books {
		return books{p: {sums{decimal.NewFromInt(taken), decimal.NewFromInt(refunded), decimal.NewFromInt(reversed)}, int(disputes)}}
	}
	for name, tc := range map[string]struct {
		events  []entry
		gateway books
		agree   bool
	}{
		"bought":                     {[]entry{begun, completed}, book(1000, 0, 0, 0), true},
		"bought, never taken":        {[]entry{begun, completed}, book(0, 0, 0, 0), false},
		"failed":                     {[]entry{begun, failed}, nil, true},
		"failed, but taken":          {[]entry{begun, failed}, book(1000, 0, 0, 0), false},
		"pending":                    {[]entry{begun}, nil, false},
		"late, refunded":             {[]entry{begun, failed, due(r, "LATE", "1000"), is("RefundCompleted", r)}, book(1000, 1000, 0, 0), true},
		"late, refund pending":       {[]entry{begun, failed, due(r, "LATE", "1000"), is("RefundPending", r)}, book(1000, 1000, 0, 0), false},
		"late, refund failed":        {[]entry{begun, failed, due(r, "LATE", "1000"), is("RefundFailed", r)}, book(1000, 0, 0, 0), true},
		"refund failed after all":    {[]entry{begun, failed, due(r, "LATE", "1000"), is("RefundCompleted", r), is("RefundFailed", r)}, book(1000, 0, 0, 0), true},
		"refunded in part":           {[]entry{begun, completed, due(r, "REQUESTED", "300"), is("RefundCompleted", r)}, book(1000, 300, 0, 0), true},
		"refunded, another amount":   {[]entry{begun, completed, due(r, "REQUESTED", "300"), is("RefundCompleted", r)}, book(1000, 301, 0, 0), false},
		"charged twice, one back":    {[]entry{begun, completed, due(d, "DUPLICATE_CHARGE", "1000"), is("RefundCompleted", d)}, book(2000, 1000, 0, 0), true},
		"charged twice, unnoticed":   {[]entry{begun, completed}, book(2000, 0, 0, 0), false},
		"disputed":                   {[]entry{begun, completed, dispute("PaymentDisputed", "")}, book(1000, 0, 0, 1), false},
		"dispute won, in any order":  {[]entry{begun, completed, dispute("PaymentDisputeClosed", `,"won":true`), dispute("PaymentDisputed", "")}, book(1000, 0, 0, 1), true},
		"dispute lost":               {[]entry{begun, completed, dispute("PaymentDisputed", ""), dispute("PaymentDisputeClosed", `,"won":false`), moneyEvent("PaymentReversed", p, "")}, book(1000, 0, 1000, 1), true},
		"dispute unnoticed":          {[]entry{begun, completed}, book(1000, 0, 0, 1), false},
		"dispute lost, not recorded": {[]entry{begun, completed, dispute("PaymentDisputed", ""), dispute("PaymentDisputeClosed", `,"won":true`)}, book(1000, 0, 1000, 1), false},
	} {
		t.Run(name, func(t *testing.T) {
			l := &ledger{payments: map[uuid.UUID]*money{}}
			rep := newReport(1, 1)
			for _, e := range tc.events {
				l.foldMoney(e, rep)
			}
			require.Empty(t, rep.Broken)
			different := l.differences(tc.gateway)
			require.Equal(t, tc.agree, len(different) == 0, "%v", different)
		})
	}
}
