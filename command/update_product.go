package command

import (
	"context"
	"errors"
	"time"

	"github.com/google/uuid"

	"github.com/dopaminestore/dopamine/command/claims"
	"github.com/dopaminestore/dopamine/domain"
	"github.com/dopaminestore/dopamine/eventstore"
	"github.com/dopaminestore/dopamine/internal/apimodel"
	"github.com/dopaminestore/dopamine/internal/guard"
	"github.com/dopaminestore/dopamine/internal/httpapi"
)

// updateProduct is a domain.UpdateProduct of one product.
type updateProduct struct {
	product uuid.UUID
	change  domain.UpdateProduct
	// match is the If-Match precondition.
	match httpapi.IfMatch
}

type updateProductHandler struct{ command }

// Handle changes a product, completely or not at all. An update
// without changes appends nothing and returns the product's last
// event.
func (s updateProductHandler) Handle(ctx context.Context, by *invocation, c updateProduct) (commandResult[apimodel.Product], error) {
	ctx, cancel := detached(ctx, appendTimeout)
	defer cancel()
	if err := c.change.Check(s.now()); err != nil {
		return commandResult[apimodel.Product]{}, err
	}
	p, err := s.catalogue.product(ctx, c.product)
	if err != nil {
		return commandResult[apimodel.Product]{}, err
	}
	reserved, err := s.store.Reserve()
	if err != nil {
		return commandResult[apimodel.Product]{}, err
	}
	defer reserved.Release()
	// Concurrently with the append, not before it: without the gate this takes longer the more
	// claims there are, and just then it must be possible to change the sale.
	held := s.countHeld(ctx, p)
	events, err := p.Update(c.change, s.now())
	// The content of the request is checked before its precondition, its conflict with
	// the state after it.
	if invalid := (*domain.InvalidError)(nil); errors.As(err, &invalid) {
		return commandResult[apimodel.Product]{}, err
	}
	if !c.match.Matches(apimodel.ProductOf(p, 0, s.now()).Version()) {
		return commandResult[apimodel.Product]{}, errPrecondition
	}
	if err != nil {
		return commandResult[apimodel.Product]{}, err
	}
	var cancellation *apimodel.Cancellation
	if p.Cancelled {
		counts, err := s.payments.Cancellation(ctx, p.ID)
		if err != nil {
			return commandResult[apimodel.Product]{}, err
		}
		cancellation = &counts
	}
	if len(events) > 0 {
		result, err := s.commit(ctx, by, reserved, streamOfProduct(p), events, guardsOf(p, events)...)
		if err != nil {
			return commandResult[apimodel.Product]{}, err
		}
		p = fold(p, p.ID, result, events...)
	}
	shown := apimodel.ProductOf(p, held(), s.now())
	shown.Cancellation = cancellation
	return commandResult[apimodel.Product]{shown, p.ID, p.Position}, nil
}

const (
	// stateTimeout is how long a command waits to read the gate's state.
	stateTimeout = 500 * time.Millisecond
	// countTimeout is how long a response waits for the count of the units held.
	countTimeout = 500 * time.Millisecond
)

// countHeld starts counting the units of the product that slots hold, and returns a
// function that waits for the count. If it is not available in time, because the gate
// is unavailable and there are very many claims, all units count as held: none can be
// acquired at this moment.
func (s *services) countHeld(ctx context.Context, p domain.Product) func() int {
	counted := make(chan int, 1)
	go func() {
		defer guard.Log("count held units")
		defer close(counted)
		held, err := s.unitsHeld(ctx, p.ID)
		if err != nil {
			s.log.WarnContext(ctx, "counting claims failed", "product", p.ID, "error", err)
			return
		}
		counted <- held
	}()
	return func() int {
		select {
		case held, ok := <-counted:
			if ok {
				return held
			}
		case <-time.After(countTimeout):
		}
		return p.TotalStock
	}
}

// unitsHeld returns how many of the product's units slots hold: those that the gate has
// counted, and those of later events. Only if there is no gate, or if it
// is far behind, are the claims counted, which takes longer the more there are.
func (s *services) unitsHeld(ctx context.Context, product uuid.UUID) (int, error) {
	looking, cancel := context.WithTimeout(ctx, stateTimeout)
	state, err := s.gate.State(looking, product)
	cancel()
	if err == nil && state.Alive {
		if more, ok, err := s.counter.HeldSince(ctx, product, state.Position); ok || err != nil {
			return state.Held + more, err
		}
	}
	counts, _, err := s.counter.Counts(ctx, product)
	return counts.Held, err
}

// guardsOf returns the claims' guards for a product's events.
func guardsOf(before domain.Product, events []domain.Event) []eventstore.GuardItem {
	var guards []eventstore.GuardItem
	sale := claims.Sale{Product: before.ID, SaleDate: before.SaleDate, SaleEnd: before.SaleEndDate, Paused: before.Paused, Cancelled: before.Cancelled}
	changed := false
	for _, e := range events {
		switch ev := e.(type) {
		case domain.ProductStockIncreased:
			guards = append(guards, claims.Stock{Product: before.ID, Total: ev.TotalStock}.GuardItem())
		case domain.ProductPriceChanged:
			sale.OnlyIfNeverHadSlot, sale.OnlyBeforeSale, changed = true, true, true
		case domain.ProductStockDecreased:
			sale.OnlyIfNeverHadSlot, sale.OnlyBeforeSale, sale.Units, changed = true, true, ev.TotalStock, true
		case domain.ProductSaleRescheduled:
			sale.OnlyIfNeverHadSlot = sale.OnlyIfNeverHadSlot || !ev.SaleDate.Equal(before.SaleDate)
			sale.SaleDate, sale.SaleEnd, changed = ev.SaleDate, ev.SaleEndDate, true
		case domain.ProductSalePaused:
			sale.Paused, changed = true, true
		case domain.ProductSaleResumed:
			sale.Paused, changed = false, true
		}
	}
	if changed {
		guards = append(guards, sale.GuardItem())
	}
	return guards
}
