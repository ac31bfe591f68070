package payments

import (
	"context"
	"errors"
	"fmt"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"

	"github.com/dopaminestore/dopamine/command/claims"
	"github.com/dopaminestore/dopamine/command/origin"
	"github.com/dopaminestore/dopamine/domain"
	"github.com/dopaminestore/dopamine/eventstore"
)

// maxAttempts is how often one transition is decided again because another append
// came first or the gate knew less than Postgres. It is the only retry of what
// happens to a payment; its callers do not retry.
const maxAttempts = 20

// errRetry reports that a decision was made on a past state.
var errRetry = errors.New("payments: decided on a past state")

// entry is the ledger's row of a payment, and what is remembered of a callback.
type entry struct {
	slot      uuid.UUID // in whose stream the payment is
	product   uuid.UUID
	gatewayID string          // the gateway's id of the payment; "" if it is not known
	open      bool            // the gateway is to be queried about it
	seen      bool            // the callback was received before,
	recorded  ProductPosition // and this is what it led to then
}

const entrySQL = `
select p.slot_id, p.product_id, coalesce(p.gateway_payment_id, ''), p.ask_at is not null or p.unsettled,
       w.id is not null, coalesce(w.product_id, p.product_id), coalesce(w.position, 0)
from payments p left join webhook_ids w on w.id = $2
where p.payment_id = $1`

func (s *Service) entry(ctx context.Context, payment uuid.UUID, webhookID string) (entry, error) {
	var e entry
	err := s.Pool.QueryRow(ctx, entrySQL, payment, webhookID).Scan(&e.slot, &e.product, &e.gatewayID, &e.open,
		&e.seen, &e.recorded.Product, &e.recorded.Position)
	if errors.Is(err, pgx.ErrNoRows) {
		return entry{}, ErrNoPayment
	}
	if err != nil {
		return entry{}, fmt.Errorf("read payment %s: %w", payment, err)
	}
	return e, nil
}

// state is what a transition decides on.
type state struct {
	entry   entry
	slot    domain.Slot
	payment domain.Payment
	last    int64 // position of the slot's last event
}

// state reads the slot in whose stream the payment is: after a re-grant the new
// one, with the payment's history in the previous stream.
func (s *Service) state(ctx context.Context, payment uuid.UUID, e entry) (*state, error) {
	slot, last, err := s.Slot(ctx, e.slot)
	if err != nil {
		return nil, err
	}
	p, _ := slot.Payment(payment)
	if p.SlotID != slot.ID && p.SlotID != uuid.Nil {
		e.slot = p.SlotID
		if slot, last, err = s.Slot(ctx, e.slot); err != nil {
			return nil, err
		}
	}
	if slot.RegrantOf != nil {
		before, _, err := s.Slot(ctx, *slot.RegrantOf)
		if err != nil {
			return nil, err
		}
		if first, ok := before.Payment(payment); ok {
			slot.AdoptHistory(first)
		}
	}
	p, _ = slot.Payment(payment)
	return &state{entry: e, slot: slot, payment: p, last: last}, nil
}

// plan is what becomes of the queries about a payment.
type plan string

const (
	planKeep   plan = ""       // as before
	planSettle plan = "settle" // the gateway has reported a final status: no more queries
	planQuery  plan = "query"  // we failed it without one: it is queried further
	planNow    plan = "now"    // it is queried now, whatever its status is
	planOnce   plan = "once"   // final, and queried once more for what else was taken
)

// change is what a transition decides.
type change struct {
	events       []domain.Event // of the slot's own stream
	regrant      *domain.Regrant
	plan         plan
	write        bool                   // the ledger changes even if there are no events
	cancel       bool                   // the gateway is to be asked to cancel the payment
	gatewayID    string                 // learned outside of the events
	post         []uuid.UUID            // refunds to be posted at once
	unposted     []uuid.UUID            // refunds that must never have been posted
	saleRefunded bool                   // what was left was made due for a cancelled sale
	key          *refundKey             // idempotency key of a refund by an admin
	guards       []eventstore.GuardItem // further ones
}

// transition is one change of a payment on its way into the store.
type transition struct {
	*Service
	payment   uuid.UUID
	webhookID string // "" for none
	by        origin.Origin
	decide    func(ctx context.Context, st *state) (change, error)

	after  domain.Payment // the payment after it, as it is shown
	result eventstore.Result
	reservedGrant
}

// run reads, decides and appends, and retries if another append came first.
func (t *transition) run(ctx context.Context) (ProductPosition, error) {
	defer t.giveBack(ctx)
	for range maxAttempts {
		e, err := t.entry(ctx, t.payment, t.webhookID)
		if err != nil {
			return ProductPosition{}, err
		}
		if e.seen {
			return e.recorded, nil
		}
		recorded, err := t.once(ctx, e)
		if errors.Is(err, errRetry) || errors.Is(err, errSeen) {
			continue
		}
		return recorded, err
	}
	return ProductPosition{}, fmt.Errorf("change payment %s: %w", t.payment, eventstore.ErrConflict)
}

func (t *transition) once(ctx context.Context, e entry) (ProductPosition, error) {
	st, err := t.state(ctx, t.payment, e)
	if err != nil {
		return ProductPosition{}, err
	}
	c, err := t.decide(ctx, st)
	if err != nil {
		return ProductPosition{st.slot.ProductID, st.last}, err
	}
	t.after = st.payment
	if len(c.events) == 0 && !c.write && t.webhookID == "" {
		return ProductPosition{st.slot.ProductID, st.last}, nil
	}
	a, after, err := t.append(ctx, st, c)
	if err != nil {
		return ProductPosition{}, err
	}
	result, err := t.Store.Append(ctx, a)
	if err != nil {
		return ProductPosition{}, t.refused(ctx, st.slot.ProductID, c.regrant != nil, err)
	}
	if c.regrant != nil {
		t.grant = nil // it is a slot now
	}
	t.after, t.result = after(result), result
	if freesUnit(c.events) {
		t.sync(ctx, st.slot.ProductID)
	}
	if result.Position > 0 {
		return ProductPosition{st.slot.ProductID, result.Position}, nil
	}
	return ProductPosition{st.slot.ProductID, st.last}, nil
}

func freesUnit(events []domain.Event) bool {
	for _, e := range events {
		switch e.(type) {
		case domain.SlotExpired, domain.SlotReturned:
			return true
		}
	}
	return false
}

// append is what a change comes to: its events, the claims and the ledger. after
// computes the payment as it is once the append was made.
func (t *transition) append(ctx context.Context, st *state, c change) (a eventstore.Append, after func(eventstore.Result) domain.Payment, err error) {
	a = eventstore.Append{Key: st.slot.ProductID, Guards: c.guards}
	if r := c.regrant; r != nil {
		encoded, err := t.by.Encode(ctx, r.Events...)
		if err != nil {
			return a, nil, err
		}
		a.Streams = append(a.Streams, eventstore.StreamAppend{Stream: r.Slot, Expected: eventstore.None, Events: encoded})
		a.Guards = append(a.Guards, t.grants.Claim(*t.grant, nil, true))
	}
	a.Guards = append(a.Guards, claimsOf(st.slot, c.events)...)
	evolved := st.slot
	for _, e := range c.events {
		evolved = domain.EvolveSlot(evolved, domain.Envelope{StreamID: st.slot.ID, ProductID: st.slot.ProductID, Event: e})
	}
	payment, _ := evolved.Payment(t.payment)
	item := ledgerChange{change: c, before: st.payment, after: payment, webhookID: t.webhookID, product: st.slot.ProductID, position: st.last}
	a.Guards = append(a.Guards, item.GuardItem())
	if len(c.events) > 0 {
		encoded, err := t.by.Encode(ctx, c.events...)
		if err != nil {
			return a, nil, err
		}
		a.Streams = append(a.Streams, eventstore.StreamAppend{
			Stream: st.slot.ID, Expected: eventstore.Expected(st.slot.Version), Events: encoded,
		})
	}
	return a, func(r eventstore.Result) domain.Payment {
		p := st.payment
		for _, e := range c.events {
			p = domain.EvolvePayment(p, domain.Envelope{StreamID: st.slot.ID, ProductID: st.slot.ProductID, RecordedAt: r.RecordedAt, Event: e})
		}
		return p
	}, nil
}

// claimsOf are the claims' side of a slot's events.
func claimsOf(slot domain.Slot, events []domain.Event) []eventstore.GuardItem {
	var guards []eventstore.GuardItem
	var failed, expired bool
	for _, e := range events {
		switch e := e.(type) {
		case domain.PaymentCompleted:
			guards = append(guards, claims.Complete{Product: slot.ProductID, SlotID: slot.ID}.GuardItem())
		case domain.SlotReturned:
			guards = append(guards, claims.Return{Product: slot.ProductID, SlotID: slot.ID}.GuardItem())
		case domain.SlotExpired:
			expired = true
			guards = append(guards, claims.Release{Product: slot.ProductID, SlotID: slot.ID}.GuardItem())
		case domain.PaymentFailed:
			pending, ok := slot.Pending()
			failed = failed || ok && pending.ID == e.PaymentID
		}
	}
	if failed && !expired && slot.Status == domain.ActiveSlot {
		guards = append(guards, claims.PaymentEnded{Product: slot.ProductID, SlotID: slot.ID}.GuardItem())
	}
	return guards
}
