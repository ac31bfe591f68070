package books_test

import (
	"testing"

	"github.com/google/uuid"
	"github.com/shopspring/decimal"
	"github.com/stretchr/testify/require"

	"github.com/dopaminestore/dopamine/tools/books"
)

func TestDifferences_EachPaymentAgreesToTheUnit(t *testing.T) {
	p, r, d, slot := uuid.New(), uuid.New(), uuid.New(), uuid.New()
	price := decimal.NewFromInt(1000)
	is := func(kind string, refund uuid.UUID) books.Event {
		return books.Event{Kind: kind, Payment: p, Refund: refund}
	}
	dispute := func(kind string) books.Event { return books.Event{Kind: kind, Payment: p, Dispute: "dp_1"} }
	due := func(id uuid.UUID, cause string, amount int64) books.Event {
		return books.Event{Kind: "RefundDue", Payment: p, Refund: id, Cause: cause, Amount: decimal.NewFromInt(amount)}
	}
	begun := books.Event{Kind: "PaymentInitiated", Payment: p, Amount: price}
	completed, failed := books.Event{Kind: "PaymentCompleted", Payment: p, Slot: slot, Amount: price}, is("PaymentFailed", uuid.Nil)
	book := func(taken, refunded, reversed, disputes int64) books.Gateway {
		return books.Gateway{p: {Sums: books.Sums{Taken: decimal.NewFromInt(taken), Refunded: decimal.NewFromInt(refunded), Reversed: decimal.NewFromInt(reversed)}, Disputes: int(disputes)}}
	}
	for name, tc := range map[string]struct {
		events  []books.Event
		gateway books.Gateway
		agree   bool
	}{
		"bought":                     {[]books.Event{begun, completed}, book(1000, 0, 0, 0), true},
		"bought, never taken":        {[]books.Event{begun, completed}, book(0, 0, 0, 0), false},
		"failed":                     {[]books.Event{begun, failed}, nil, true},
		"failed, but taken":          {[]books.Event{begun, failed}, book(1000, 0, 0, 0), false},
		"pending":                    {[]books.Event{begun}, nil, false},
		"late, refunded":             {[]books.Event{begun, failed, due(r, "LATE", 1000), is("RefundCompleted", r)}, book(1000, 1000, 0, 0), true},
		"late, refund pending":       {[]books.Event{begun, failed, due(r, "LATE", 1000), is("RefundPending", r)}, book(1000, 1000, 0, 0), false},
		"late, refund failed":        {[]books.Event{begun, failed, due(r, "LATE", 1000), is("RefundFailed", r)}, book(1000, 0, 0, 0), true},
		"refund failed after all":    {[]books.Event{begun, failed, due(r, "LATE", 1000), is("RefundCompleted", r), is("RefundFailed", r)}, book(1000, 0, 0, 0), true},
		"refunded in part":           {[]books.Event{begun, completed, due(r, "REQUESTED", 300), is("RefundCompleted", r)}, book(1000, 300, 0, 0), true},
		"refunded, another amount":   {[]books.Event{begun, completed, due(r, "REQUESTED", 300), is("RefundCompleted", r)}, book(1000, 301, 0, 0), false},
		"charged twice, one back":    {[]books.Event{begun, completed, due(d, "DUPLICATE_CHARGE", 1000), is("RefundCompleted", d)}, book(2000, 1000, 0, 0), true},
		"charged twice, unnoticed":   {[]books.Event{begun, completed}, book(2000, 0, 0, 0), false},
		"disputed":                   {[]books.Event{begun, completed, dispute("PaymentDisputed")}, book(1000, 0, 0, 1), false},
		"dispute won, in any order":  {[]books.Event{begun, completed, dispute("PaymentDisputeClosed"), dispute("PaymentDisputed")}, book(1000, 0, 0, 1), true},
		"dispute lost":               {[]books.Event{begun, completed, dispute("PaymentDisputed"), dispute("PaymentDisputeClosed"), is("PaymentReversed", uuid.Nil)}, book(1000, 0, 1000, 1), true},
		"dispute unnoticed":          {[]books.Event{begun, completed}, book(1000, 0, 0, 1), false},
		"dispute lost, not recorded": {[]books.Event{begun, completed, dispute("PaymentDisputed"), dispute("PaymentDisputeClosed")}, book(1000, 0, 1000, 1), false},
	} {
		t.Run(name, func(t *testing.T) {
			all := books.Payments{}
			for _, e := range tc.events {
				require.Empty(t, all.Apply(e))
			}
			different := all.Differences(tc.gateway)
			require.Equal(t, tc.agree, len(different) == 0, "%v", different)
		})
	}
}

func TestApply_ReportsWhatMustNotHappen(t *testing.T) {
	p, r := uuid.New(), uuid.New()
	is := func(kind string) books.Event { return books.Event{Kind: kind, Payment: p, Refund: r, Slot: uuid.New()} }
	for name, events := range map[string][]books.Event{
		"not initiated":    {is("PaymentCompleted")},
		"completed twice":  {is("PaymentInitiated"), is("PaymentCompleted"), is("PaymentCompleted")},
		"due twice":        {is("PaymentInitiated"), is("RefundDue"), is("RefundDue")},
		"refund never due": {is("PaymentInitiated"), is("RefundCompleted")},
		"reversed twice":   {is("PaymentInitiated"), is("PaymentReversed"), is("PaymentReversed")},
	} {
		t.Run(name, func(t *testing.T) {
			all, breaches := books.Payments{}, []error(nil)
			for _, e := range events {
				breaches = append(breaches, all.Apply(e)...)
			}
			require.Len(t, breaches, 1)
		})
	}
}
