// Package books reconciles payments: it compares the money that the system's events record with the
// gateway's books, payment by payment and to the smallest unit.
//
// The load test and the fault harness share it. It shares no code with what it checks: it knows the
// events' names and the effect of each on a sum.
package books

import (
	"fmt"
	"maps"
	"slices"

	"github.com/google/uuid"
	"github.com/shopspring/decimal"
)

// Event is an event of a payment, with the parts that concern its money.
type Event struct {
	Kind    string // as in PaymentCompleted
	Payment uuid.UUID
	Slot    uuid.UUID
	Refund  uuid.UUID // the system's id
	Amount  decimal.Decimal
	Cause   string // of a refund
	Dispute string // the gateway's id
}

// Payment is a payment as its events record it.
type Payment struct {
	Completed uuid.UUID // the slot that it completed
	Failed    bool
	Price     decimal.Decimal
	Refunds   map[uuid.UUID]*Refund
	Disputes  map[string]bool // by dispute id: open
	Reversed  bool
}

// Refund is a refund as its events record it.
type Refund struct {
	Amount decimal.Decimal
	Cause  string
	Status string // DUE, PENDING, COMPLETED or FAILED
}

// Payments are the payments by our id.
type Payments map[uuid.UUID]*Payment

// refundStates are the states that events of refunds lead to.
var refundStates = map[string]string{
	"RefundDue": "DUE", "RefundPending": "PENDING", "RefundCompleted": "COMPLETED", "RefundFailed": "FAILED",
}

var paymentEvents = map[string]bool{
	"PaymentInitiated": true, "PaymentFailed": true, "PaymentCompleted": true,
	"PaymentDisputed": true, "PaymentDisputeClosed": true, "PaymentReversed": true,
}

// Concerns reports whether events of a kind are about money.
func Concerns(kind string) bool { return paymentEvents[kind] || refundStates[kind] != "" }

// Apply applies an event; it ignores events that are not about money. The errors are violations of
// R7 or of the order of the log; the event is applied in any case.
func (all Payments) Apply(e Event) (breaches []error) {
	if !Concerns(e.Kind) {
		return nil
	}
	broke := func(format string, args ...any) {
		breaches = append(breaches, fmt.Errorf("payment %s: "+format, append([]any{e.Payment}, args...)...))
	}
	p := all[e.Payment]
	if p == nil {
		if e.Kind != "PaymentInitiated" {
			broke("%s before it was initiated", e.Kind)
		}
		p = &Payment{Refunds: map[uuid.UUID]*Refund{}, Disputes: map[string]bool{}}
		all[e.Payment] = p
	}
	switch e.Kind {
	case "PaymentInitiated":
		p.Price = e.Amount
	case "PaymentFailed":
		p.Failed = true
	case "PaymentCompleted":
		if p.Completed != uuid.Nil {
			broke("completed slot %s and slot %s", p.Completed, e.Slot)
		}
		p.Completed, p.Failed = e.Slot, false
	case "PaymentDisputed":
		if _, known := p.Disputes[e.Dispute]; !known {
			p.Disputes[e.Dispute] = true
		}
	case "PaymentDisputeClosed":
		p.Disputes[e.Dispute] = false
	case "PaymentReversed":
		if p.Reversed {
			broke("was reversed twice")
		}
		p.Reversed = true
	case "RefundDue":
		if p.Refunds[e.Refund] != nil {
			broke("refund %s became due twice", e.Refund)
		}
		p.Refunds[e.Refund] = &Refund{Amount: e.Amount, Cause: e.Cause, Status: "DUE"}
	default:
		f := p.Refunds[e.Refund]
		if f == nil {
			broke("%s of a refund that was never due", e.Kind)
			return breaches
		}
		f.Status = refundStates[e.Kind]
	}
	return breaches
}

// Sums are the totals of a payment, in its currency.
type Sums struct{ Taken, Refunded, Reversed decimal.Decimal }

// Kept returns what the shop keeps.
func (s Sums) Kept() decimal.Decimal { return s.Taken.Sub(s.Refunded).Sub(s.Reversed) }

// Add returns the sum of both.
func (s Sums) Add(o Sums) Sums {
	return Sums{s.Taken.Add(o.Taken), s.Refunded.Add(o.Refunded), s.Reversed.Add(o.Reversed)}
}

// Equal reports whether both are the same amounts.
func (s Sums) Equal(o Sums) bool {
	return s.Taken.Equal(o.Taken) && s.Refunded.Equal(o.Refunded) && s.Reversed.Equal(o.Reversed)
}

func (s Sums) String() string {
	return fmt.Sprintf("taken %s, refunded %s, reversed %s", s.Taken, s.Refunded, s.Reversed)
}

// Sums returns what the events record as taken and returned. A refund of a payment
// that completed no slot, and that of a second charge, also mean that its amount was
// taken.
func (p *Payment) Sums() Sums {
	var s Sums
	if p.Completed != uuid.Nil {
		s.Taken = p.Price
	}
	for _, f := range p.Refunds {
		if f.Cause == "DUPLICATE_CHARGE" || (p.Completed == uuid.Nil && f.Cause != "REQUESTED") {
			s.Taken = s.Taken.Add(f.Amount)
		}
		if f.Status == "COMPLETED" {
			s.Refunded = s.Refunded.Add(f.Amount)
		}
	}
	if p.Reversed {
		s.Reversed = p.Price
	}
	return s
}

// Sums returns the sums of all payments.
func (all Payments) Sums() (s Sums) {
	for _, p := range all {
		s = s.Add(p.Sums())
	}
	return s
}

// Disputed reports whether a dispute is open.
func (p *Payment) Disputed() bool {
	return slices.Contains(slices.Collect(maps.Values(p.Disputes)), true)
}

// Unsettled returns why a payment is not final yet, "" if it is.
func (p *Payment) Unsettled() string {
	if p.Completed == uuid.Nil && !p.Failed {
		return "is pending"
	}
	if p.Disputed() {
		return "is disputed"
	}
	for id, f := range p.Refunds {
		if f.Status == "DUE" || f.Status == "PENDING" {
			return fmt.Sprintf("has refund %s %s", id, f.Status)
		}
	}
	return ""
}

// Differences compares the events with the gateway's books, payment by payment, and names payments
// that are not settled. Payments that only the gateway has belong to another sale.
func (all Payments) Differences(gateway Gateway) (differences []string) {
	for _, id := range slices.SortedFunc(maps.Keys(all), func(a, b uuid.UUID) int { return slices.Compare(a[:], b[:]) }) {
		p := all[id]
		if why := p.Unsettled(); why != "" {
			differences = append(differences, fmt.Sprintf("payment %s %s", id, why))
			continue
		}
		theirs := gateway[id]
		if theirs == nil {
			theirs = &Entry{}
		}
		if ours := p.Sums(); !ours.Equal(theirs.Sums) {
			differences = append(differences, fmt.Sprintf("payment %s: %s here; %s at the gateway", id, ours, theirs.Sums))
		}
		if len(p.Disputes) != theirs.Disputes {
			differences = append(differences, fmt.Sprintf("payment %s: %d disputes here, %d at the gateway", id, len(p.Disputes), theirs.Disputes))
		}
	}
	return differences
}
