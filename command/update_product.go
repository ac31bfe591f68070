package command

import (
	"context"
	"time"

	"github.com/google/uuid"

	"github.com/dopaminestore/dopamine/command/claims"
	"github.com/dopaminestore/dopamine/domain"
	"github.com/dopaminestore/dopamine/eventstore"
	"github.com/dopaminestore/dopamine/internal/httpapi"
	"github.com/dopaminestore/dopamine/internal/view"
)

// updateProduct is a domain.UpdateProduct of one product.
type updateProduct struct {
	product uuid.UUID
	change  domain.UpdateProduct
	// match is what the client requires of the product's version.
	match httpapi.IfMatch
}

// updateProduct changes a product, all that is asked for or nothing. An update
// that changes nothing appends nothing and answers with the product's last
// event.
func (s *services) updateProduct(ctx context.Context, by *invocation, c updateProduct) (done[view.Product], error) {
	ctx, cancel := detached(ctx, appendWithin)
	defer cancel()
	if err := c.change.Check(s.now()); err != nil {
		return done[view.Product]{}, err
	}
	p, err := s.catalogue.product(ctx, c.product)
	if err != nil {
		return done[view.Product]{}, err
	}
	place, err := s.store.Reserve()
	if err != nil {
		return done[view.Product]{}, err
	}
	defer place.Release()
	// Read before the append: once that is done, nothing may keep the answer back.
	held, err := s.unitsHeld(ctx, p.ID)
	if err != nil {
		return done[view.Product]{}, reading("the claims of product", p.ID, err)
	}
	if now := s.now(); !c.match.Matches(view.ProductOf(p, held, now).Version()) {
		return done[view.Product]{}, errPrecondition
	}
	events, err := p.Update(c.change, s.now())
	if err != nil {
		return done[view.Product]{}, err
	}
	if len(events) > 0 {
		encoded, err := by.Encode(ctx, events...)
		if err != nil {
			return done[view.Product]{}, err
		}
		guards := guardsOf(p, events)
		result, err := s.append(ctx, place, eventstore.Append{
			Key:     p.ID,
			Streams: []eventstore.StreamAppend{{Stream: p.ID, Expected: eventstore.Expected(p.Version), Events: encoded}},
			Guards:  guards,
		})
		if err != nil {
			return done[view.Product]{}, err
		}
		p = fold(p, p.ID, result, events...)
		if len(guards) > 0 {
			s.feed(ctx, p.ID)
		}
	}
	return done[view.Product]{view.ProductOf(p, held, s.now()), p.ID, p.Position}, nil
}

// lookWithin is how long a command waits for a look at the gate.
const lookWithin = 500 * time.Millisecond

// unitsHeld is how many of the product's units slots hold: what the gate has
// counted, and what it was not told yet. Only where there is no gate, or one that
// is far behind, are the claims counted, which takes the longer the more there are.
func (s *services) unitsHeld(ctx context.Context, product uuid.UUID) (int, error) {
	looking, cancel := context.WithTimeout(ctx, lookWithin)
	state, err := s.gate.State(looking, product)
	cancel()
	if err == nil && state.Alive {
		if more, ok, err := s.claims.HeldSince(ctx, product, state.Position); ok || err != nil {
			return state.Held + more, err
		}
	}
	counts, _, err := s.claims.Counts(ctx, product)
	return counts.Held, err
}

// guardsOf are the claims' side of a product's events.
func guardsOf(before domain.Product, events []domain.Event) []eventstore.Guarded {
	var guards []eventstore.Guarded
	sale := claims.Sale{Product: before.ID, SaleDate: before.SaleDate, SaleEnd: before.SaleEndDate, Paused: before.Paused}
	changed := false
	for _, e := range events {
		switch ev := e.(type) {
		case domain.ProductStockIncreased:
			guards = append(guards, claims.Stock{Product: before.ID, Total: ev.TotalStock}.Guarded())
		case domain.ProductSaleRescheduled:
			sale.OnlyIfNeverHadSlot = !ev.SaleDate.Equal(before.SaleDate)
			sale.SaleDate, sale.SaleEnd, changed = ev.SaleDate, ev.SaleEndDate, true
		case domain.ProductSalePaused:
			sale.Paused, changed = true, true
		case domain.ProductSaleResumed:
			sale.Paused, changed = false, true
		}
	}
	if changed {
		guards = append(guards, sale.Guarded())
	}
	return guards
}
