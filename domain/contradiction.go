package domain

import (
	"regexp"
	"slices"
	"strings"
	"time"
)

// ContradictionCode is the way in which the gateway contradicts the recorded state.
type ContradictionCode string

// The codes of contradictions.
const (
	UnreadableAmount      ContradictionCode = "AMOUNT_UNREADABLE"     // the amount taken is not a valid amount of money
	OtherAmountTaken      ContradictionCode = "OTHER_AMOUNT"          // a taken payment is reported with another amount
	FailedAfterSuccess    ContradictionCode = "FAILED_AFTER_SUCCESS"  // a taken payment is reported as failed or canceled
	DisputeOfNothing      ContradictionCode = "DISPUTE_NOT_TAKEN"     // of a payment of which nothing was taken
	ReversalOfNothing     ContradictionCode = "REVERSAL_NOT_TAKEN"    // likewise
	RefundOfNothing       ContradictionCode = "REFUND_NOT_TAKEN"      // likewise
	RefundExceeds         ContradictionCode = "REFUND_EXCEEDS"        // more was returned than was taken
	RefundUnreadable      ContradictionCode = "REFUND_UNREADABLE"     // a refund at the gateway without an id or a readable amount
	RefundedAndReversed   ContradictionCode = "REFUNDED_AND_REVERSED" // the money is gone twice
	DisputeOutcomeChanged ContradictionCode = "DISPUTE_OUTCOME"       // a dispute is closed in both ways
	OtherChargeReversed   ContradictionCode = "OTHER_CHARGE_REVERSED" // a charge that is not the payment's
)

// contradictionContent is the content by which contradictions are compared.
type contradictionContent struct {
	Code             ContradictionCode
	GatewayPaymentID string
	GatewayRefundID  string
	DisputeID        string
	Amount           *Money
	Reported         string // an unreadable amount
}

// Contradiction is a recorded PaymentContradicted.
type Contradiction struct {
	contradictionContent
	At       time.Time
	Resolved bool // an operator has resolved it
}

func contentOf(v PaymentContradicted) contradictionContent {
	return contradictionContent{v.Code, v.GatewayPaymentID, v.GatewayRefundID, v.DisputeID, v.Amount, v.Reported}
}

func (c contradictionContent) equal(o contradictionContent) bool {
	same := c.Amount == nil && o.Amount == nil || c.Amount != nil && o.Amount != nil && c.Amount.Equal(*o.Amount)
	c.Amount, o.Amount = nil, nil
	return same && c == o
}

// contradicts records a contradiction, once for the same content.
func (s Slot) contradicts(p Payment, what contradictionContent) []Event {
	if slices.ContainsFunc(p.Contradictions, func(c Contradiction) bool { return c.equal(what) }) {
		return nil
	}
	return []Event{PaymentContradicted{
		UserID: s.UserID, PaymentID: p.ID, Code: what.Code, GatewayPaymentID: what.GatewayPaymentID,
		GatewayRefundID: what.GatewayRefundID, DisputeID: what.DisputeID, Amount: what.Amount, Reported: what.Reported,
	}}
}

// maxPlainNumber is how much of an unreadable number is kept.
const maxPlainNumber = 40

var plainNumber, plainCurrency = regexp.MustCompile(`^[0-9.,eE+-]+$`), regexp.MustCompile(`^[A-Za-z]{3}$`)

// PlainAmount returns an unreadable amount, "<number> <currency>", in a form that
// can be stored: free text from a gateway may name a person (contract 4.1). A
// number keeps its first 40 characters; what is no number, or no currency code in
// form, becomes "?". It returns "" if nothing was reported.
func PlainAmount(text string) string {
	if text == "" {
		return ""
	}
	number, currency, _ := strings.Cut(text, " ")
	switch {
	case !plainNumber.MatchString(number):
		number = "?"
	case len(number) > maxPlainNumber:
		number = number[:maxPlainNumber] + "..."
	}
	if !plainCurrency.MatchString(currency) {
		currency = "?"
	}
	return number + " " + currency
}
