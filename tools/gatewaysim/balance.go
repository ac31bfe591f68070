package gatewaysim

import (
	"github.com/bojanz/currency"
	"github.com/google/uuid"
	"github.com/shopspring/decimal"

	"github.com/dopaminestore/dopamine/domain"
	"github.com/dopaminestore/dopamine/internal/gateway"
)

// Balance is the response of GET /balance. Amounts are by currency; kept is taken
// less refunded and reversed.
type Balance struct {
	Taken    map[string]string `json:"taken"`
	Refunded map[string]string `json:"refunded"`
	Reversed map[string]string `json:"reversed"`
	Kept     map[string]string `json:"kept"`
	Payments []BalanceEntry    `json:"payments"` // in the order of arrival, one per charge
	Refunds  []BalanceRefund   `json:"refunds"`  // likewise
}

// BalanceEntry is one charge: a payment, or the second charge of one.
type BalanceEntry struct {
	Reference     uuid.UUID      `json:"reference"`
	PaymentID     string         `json:"paymentId"`
	Duplicate     bool           `json:"duplicate"` // charged under a reference that had been charged before
	Status        gateway.Status `json:"status"`
	Amount        string         `json:"amount"`
	Currency      string         `json:"currency"`
	Refunded      string         `json:"refunded"` // completed refunds
	Reversed      string         `json:"reversed"`
	DisputeID     *string        `json:"disputeId"`
	DisputeOpen   bool           `json:"disputeOpen"`
	FailureReason *string        `json:"failureReason"`
}

// BalanceRefund is one refund.
type BalanceRefund struct {
	RefundReference uuid.UUID            `json:"refundReference"`
	RefundID        string               `json:"refundId"`
	Reference       uuid.UUID            `json:"reference"`
	PaymentID       string               `json:"paymentId"`
	Amount          string               `json:"amount"`
	Currency        string               `json:"currency"`
	Status          gateway.RefundStatus `json:"status"`
	Settled         bool                 `json:"settled"` // nothing more will happen to it
}

// Balance reads the books.
func (s *Server) Balance() Balance {
	s.books.mu.Lock()
	defer s.books.mu.Unlock()
	b := Balance{Payments: []BalanceEntry{}, Refunds: []BalanceRefund{}}
	taken, refunded, reversed, kept := sums{}, sums{}, sums{}, sums{}
	byCharge := map[string]decimal.Decimal{}
	for _, r := range s.books.returned {
		b.Refunds = append(b.Refunds, BalanceRefund{
			RefundReference: r.Reference, RefundID: r.ID, Reference: r.Payment, PaymentID: r.Charge,
			Amount: r.Amount.String(), Currency: r.Amount.Currency(), Status: r.Status, Settled: r.Settled,
		})
		if r.Status == gateway.RefundSucceeded {
			refunded.add(r.Amount)
			kept.subtract(r.Amount)
			byCharge[r.Charge] = byCharge[r.Charge].Add(r.Amount.Amount())
		}
	}
	for _, p := range s.books.order {
		for i, c := range p.Charges {
			entry := BalanceEntry{
				Reference: p.Reference, PaymentID: c.ID, Duplicate: i > 0, Status: p.Status,
				Amount: p.Amount.String(), Currency: p.Amount.Currency(), Refunded: "0", Reversed: "0",
				DisputeOpen: c.Open, FailureReason: p.reason(),
			}
			if sum, ok := byCharge[c.ID]; ok {
				entry.Refunded = text(sum, entry.Currency)
			}
			if c.Reversed != nil {
				entry.Reversed = c.Reversed.String()
				reversed.add(*c.Reversed)
				kept.subtract(*c.Reversed)
			}
			if c.Dispute != "" {
				entry.DisputeID = &c.Dispute
			}
			if p.Status == gateway.Succeeded {
				taken.add(p.Amount)
				kept.add(p.Amount)
			}
			b.Payments = append(b.Payments, entry)
		}
	}
	b.Taken, b.Refunded, b.Reversed, b.Kept = taken.texts(), refunded.texts(), reversed.texts(), kept.texts()
	return b
}

// sums are amounts by currency.
type sums map[string]decimal.Decimal

func (s sums) add(m domain.Money)      { s[m.Currency()] = s[m.Currency()].Add(m.Amount()) }
func (s sums) subtract(m domain.Money) { s[m.Currency()] = s[m.Currency()].Sub(m.Amount()) }

func (s sums) texts() map[string]string {
	texts := make(map[string]string, len(s))
	for code, sum := range s {
		texts[code] = text(sum, code)
	}
	return texts
}

func text(sum decimal.Decimal, code string) string {
	digits, _ := currency.GetDigits(code) // it is one: the amounts were Money
	return sum.StringFixed(int32(digits))
}
