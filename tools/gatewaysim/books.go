package gatewaysim

import (
	"sync"

	"github.com/google/uuid"
	"github.com/shopspring/decimal"

	"github.com/dopaminestore/dopamine/domain"
	"github.com/dopaminestore/dopamine/internal/gateway"
)

// payment is one reference: a request for money and what became of it.
type payment struct {
	Reference   uuid.UUID      `json:"reference"`
	Key         string         `json:"key"`  // the request's idempotency key,
	Body        string         `json:"body"` // and the body
	Status      gateway.Status `json:"status"`
	Reason      string         `json:"reason,omitempty"` // of Failed
	Refused     bool           `json:"refused,omitempty"`
	Amount      domain.Money   `json:"amount"`
	CallbackURL string         `json:"callbackUrl"`
	ReturnURL   string         `json:"returnUrl,omitempty"`
	ActionURL   string         `json:"actionUrl,omitempty"` // of the page on which the buyer confirms; "" for none
	Fate        fate           `json:"fate"`
	// Charges has the payment's charge first, whose id is the payment's, and a
	// second one if it was charged twice.
	Charges []charge `json:"charges"`
}

// fate is the random outcome of a payment, drawn at its arrival.
type fate struct {
	Succeeds    bool `json:"succeeds"`
	Duplicated  bool `json:"duplicated,omitempty"`
	Disputed    bool `json:"disputed,omitempty"`
	DisputeLost bool `json:"disputeLost,omitempty"`
	LowerCase   bool `json:"lowerCase,omitempty"`
}

// charge is money that is taken if the payment has succeeded.
type charge struct {
	ID       string        `json:"id"`
	Dispute  string        `json:"dispute,omitempty"`  // id; "" for none
	Open     bool          `json:"open,omitempty"`     // of the dispute
	Reversed *domain.Money `json:"reversed,omitempty"` // what a lost dispute took back
}

// refund is money returned, or on its way.
type refund struct {
	Reference uuid.UUID            `json:"reference"` // the shop's refund id
	Payment   uuid.UUID            `json:"payment"`
	Charge    string               `json:"charge"`
	Key       string               `json:"key"`
	Body      string               `json:"body"`
	ID        string               `json:"id"`
	Amount    domain.Money         `json:"amount"`
	Status    gateway.RefundStatus `json:"status"`
	Reason    string               `json:"reason,omitempty"`
	Fails     bool                 `json:"fails,omitempty"`
	Settled   bool                 `json:"settled,omitempty"` // nothing more will happen to it
}

// message is a callback that must arrive; Done is set when it has.
type message struct {
	ID   string `json:"id"`
	URL  string `json:"url"`
	Body string `json:"body"`
	Done bool   `json:"done,omitempty"`
}

// books are all payments, refunds and callbacks that must arrive.
type books struct {
	mu       sync.Mutex
	payments map[uuid.UUID]*payment
	refunds  map[uuid.UUID]*refund
	messages map[string]*message
	charges  map[string]uuid.UUID // references by the id of the first charge
	order    []*payment           // in the order of arrival
	returned []*refund            // likewise
	journal  *journal             // nil: in memory only
}

func newBooks() *books {
	return &books{payments: map[uuid.UUID]*payment{}, refunds: map[uuid.UUID]*refund{}, messages: map[string]*message{}, charges: map[string]uuid.UUID{}}
}

// record is a line of the journal: the whole entry after a change.
type record struct {
	Payment *payment `json:"payment,omitempty"`
	Refund  *refund  `json:"refund,omitempty"`
	Message *message `json:"message,omitempty"`
}

// apply makes a record's entry the present one.
func (b *books) apply(r record) {
	if p := r.Payment; p != nil {
		if old := b.payments[p.Reference]; old != nil {
			*old = *p
		} else {
			b.payments[p.Reference] = p
			b.charges[p.Charges[0].ID] = p.Reference
			b.order = append(b.order, p)
		}
	}
	if f := r.Refund; f != nil {
		if old := b.refunds[f.Reference]; old != nil {
			*old = *f
		} else {
			b.refunds[f.Reference] = f
			b.returned = append(b.returned, f)
		}
	}
	if m := r.Message; m != nil {
		b.messages[m.ID] = m
		if m.Done {
			delete(b.messages, m.ID)
		}
	}
}

// put records entries. The caller holds mu and passes copies.
func (b *books) put(records ...record) error {
	if b.journal != nil {
		if err := b.journal.write(records...); err != nil {
			return err
		}
	}
	for _, r := range records {
		b.apply(r)
	}
	return nil
}

func (b *books) find(reference uuid.UUID) (payment, bool) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.get(reference)
}

// get is find for a caller that holds mu.
func (b *books) get(reference uuid.UUID) (payment, bool) {
	p, ok := b.payments[reference]
	if !ok {
		return payment{}, false
	}
	c := *p
	c.Charges = append([]charge(nil), p.Charges...)
	return c, true
}

func (b *books) findRefund(reference uuid.UUID) (refund, bool) {
	b.mu.Lock()
	defer b.mu.Unlock()
	r, ok := b.refunds[reference]
	if !ok {
		return refund{}, false
	}
	return *r, true
}

// update changes a payment that is there, if f reports a change.
func (b *books) update(reference uuid.UUID, f func(*payment) bool) (payment, bool, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	p, ok := b.get(reference)
	if !ok || !f(&p) {
		return p, false, nil
	}
	changed := p
	changed.Charges = append([]charge(nil), p.Charges...)
	return p, true, b.put(record{Payment: &changed})
}

// covered returns the sum of a charge's refunds that have not failed. The caller holds mu.
func (b *books) covered(charge string) decimal.Decimal {
	var sum decimal.Decimal
	for _, r := range b.returned {
		if r.Charge == charge && r.Status != gateway.RefundFailed {
			sum = sum.Add(r.Amount.Amount())
		}
	}
	return sum
}

func (p payment) currency() string {
	return cased(p.Amount.Currency(), p.Fate.LowerCase)
}

func (p payment) reason() *string {
	switch p.Status {
	case gateway.Failed:
		return &p.Reason
	}
	return nil
}
