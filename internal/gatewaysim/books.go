package gatewaysim

import (
	"sync"

	"github.com/bojanz/currency"
	"github.com/google/uuid"
	"github.com/shopspring/decimal"

	"github.com/dopaminestore/dopamine/domain"
	"github.com/dopaminestore/dopamine/internal/gateway"
)

// payment is an entry of the books.
type payment struct {
	Reference   uuid.UUID
	PaymentID   string
	Status      gateway.Status
	Amount      domain.Money
	Reason      string // of Failed
	Refused     bool   // at once: never more than a refusal
	CallbackURL string
	asked       once[payBody]

	Refunded domain.Money // no money: none
	RefundID string
	refund   once[refundBody] // what it was given back with
}

// once is a request that takes effect once: the same again, key and body, is
// answered like the first, anything else under its reference is refused.
type once[B comparable] struct {
	key  string
	body B
}

// books are all payments, by reference.
type books struct {
	mu       sync.Mutex
	payments map[uuid.UUID]*payment
	keys     map[string]*payment // by the idempotency key they came with
	order    []*payment          // as they came
}

func newBooks() *books {
	return &books{payments: make(map[uuid.UUID]*payment), keys: make(map[string]*payment)}
}

// enter gives the payment that came with the key, or else that of the reference,
// and whether it is new: what begins it.
func (b *books) enter(key string, reference uuid.UUID, begin func() *payment) (payment, bool) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if p, there := b.keys[key]; there {
		return *p, false
	}
	if p, there := b.payments[reference]; there {
		return *p, false
	}
	p := begin()
	b.payments[reference], b.keys[key] = p, p
	b.order = append(b.order, p)
	return *p, true
}

func (b *books) find(reference uuid.UUID) (payment, bool) {
	b.mu.Lock()
	defer b.mu.Unlock()
	p, there := b.payments[reference]
	if !there {
		return payment{}, false
	}
	return *p, true
}

// change changes a payment that is there and gives it as it is then.
func (b *books) change(reference uuid.UUID, f func(*payment)) payment {
	b.mu.Lock()
	defer b.mu.Unlock()
	p := b.payments[reference]
	f(p)
	return *p
}

// Balance is what `GET /balance` answers.
type Balance struct {
	Taken    map[string]string `json:"taken"`    // by currency, what succeeded, refunded or not
	Refunded map[string]string `json:"refunded"` // by currency
	Payments []BalanceEntry    `json:"payments"` // in the order in which they came
}

// BalanceEntry is one payment in a Balance.
type BalanceEntry struct {
	Reference     uuid.UUID      `json:"reference"`
	PaymentID     string         `json:"paymentId"`
	Status        gateway.Status `json:"status"`
	Amount        string         `json:"amount"`
	Currency      string         `json:"currency"`
	Refunded      string         `json:"refunded"` // "0" where nothing went back
	FailureReason *string        `json:"failureReason"`
}

// Balance reads the books.
func (s *Server) Balance() Balance {
	s.books.mu.Lock()
	order := make([]payment, len(s.books.order))
	for i, p := range s.books.order {
		order[i] = *p
	}
	s.books.mu.Unlock()

	b := Balance{Payments: make([]BalanceEntry, len(order))}
	taken, refunded := sums{}, sums{}
	for i, p := range order {
		entry := BalanceEntry{
			Reference: p.Reference, PaymentID: p.PaymentID, Status: p.Status,
			Amount: p.Amount.String(), Currency: p.Amount.Currency(), Refunded: "0", FailureReason: p.reason(),
		}
		if p.Status == gateway.Succeeded {
			taken.add(p.Amount)
		}
		if p.RefundID != "" {
			refunded.add(p.Refunded)
			entry.Refunded = p.Refunded.String()
		}
		b.Payments[i] = entry
	}
	b.Taken, b.Refunded = taken.texts(), refunded.texts()
	return b
}

func (p payment) reason() *string {
	if p.Status != gateway.Failed {
		return nil
	}
	return &p.Reason
}

// sums are amounts by currency.
type sums map[string]decimal.Decimal

func (s sums) add(m domain.Money) { s[m.Currency()] = s[m.Currency()].Add(m.Amount()) }

func (s sums) texts() map[string]string {
	texts := make(map[string]string, len(s))
	for code, sum := range s {
		digits, _ := currency.GetDigits(code) // it is one: the amounts were Money
		texts[code] = sum.StringFixed(int32(digits))
	}
	return texts
}
