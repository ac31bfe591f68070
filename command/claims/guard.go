package claims

import (
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"

	"github.com/dopaminestore/dopamine/eventstore"
)

// guard checks and writes all items of this package. They share one guard because they
// can conflict with each other.
type guard struct{}

// Check implements eventstore.Guard. It runs under the append lock, so that what
// it reads is still true when Apply writes.
func (guard) Check(b *pgx.Batch, items []any, refused []error) {
	conflicts := newConflicts()
	var claims, ends, returns, payments, withdrawals picked
	for i, it := range items {
		if !conflicts.admit(it.(item)) {
			refused[i] = eventstore.ErrDefer
			continue
		}
		switch it := it.(type) {
		case Claim:
			claims.add(i)
		case Release, Complete, PaymentEnded, Warned:
			ends.add(i)
		case Return:
			returns.add(i)
		case PaymentBegun:
			payments.add(i)
		case Withdraw:
			withdrawals.add(i)
		case Create:
			checkCreate(b, it, &refused[i])
		case Stock:
			checkStock(b, it, &refused[i])
		case Sale:
			checkSale(b, it, &refused[i])
		case Delete:
			checkDelete(b, it, &refused[i])
		}
	}
	checkClaims(b, items, claims, refused)
	checkEnds(b, items, ends, refused)
	checkReturns(b, items, returns, refused)
	checkPayments(b, items, payments, refused)
	checkWithdrawals(b, items, withdrawals, refused)
}

// Apply implements eventstore.Guard.
func (guard) Apply(b *pgx.Batch, at time.Time, items []eventstore.Applied) {
	var claims []claimAt
	var withdrawals []Withdraw
	var released, completed, waiting, warned []uuid.UUID
	var waits []time.Duration
	for _, it := range items {
		switch data := it.Data.(type) {
		case Claim:
			claims = append(claims, claimAt{Claim: data, position: firstOf(it.Positions)})
		case Withdraw:
			withdrawals = append(withdrawals, data)
		case Release:
			released = append(released, data.SlotID)
		case Return:
			released = append(released, data.SlotID)
		case Complete:
			completed = append(completed, data.SlotID)
		case PaymentBegun:
			if data.Paid {
				completed = append(completed, data.SlotID)
				continue
			}
			waiting, waits = append(waiting, data.SlotID), append(waits, data.Timeout)
		case PaymentEnded:
			waiting, waits = append(waiting, data.SlotID), append(waits, 0)
		case Warned:
			warned = append(warned, data.SlotID)
		}
	}
	applyNumbers(b, claims, withdrawals)
	applyClaims(b, at, claims)
	applyEnds(b, released, completed)
	applyDue(b, waiting, waits)
	applyWarned(b, warned)
	for _, it := range items {
		switch data := it.Data.(type) {
		case Create:
			b.Queue(createSQL, data.Product, data.Stock, data.SaleDate, data.SaleEnd)
		case Stock:
			b.Queue(stockSQL, data.Product, data.Total)
		case Sale:
			b.Queue(raiseSQL, data.Product)
			b.Queue(saleSQL, data.Product, data.SaleDate, data.SaleEnd, data.Paused, data.Units, data.Cancelled)
			if data.Cancelled {
				b.Queue(cancelledSQL, data.Product, at)
			}
		case Delete:
			b.Queue(raiseSQL, data.Product)
			b.Queue(deleteSQL, data.Product)
		}
	}
}

func firstOf(positions []int64) int64 {
	if len(positions) == 0 {
		return 0
	}
	return positions[0]
}

// picked are indexes of items of one kind.
type picked []int

func (p *picked) add(i int) { *p = append(*p, i) }

// conflicts finds items that cannot be decided in the same batch as an earlier one:
// Check reads the tables as they were before the whole batch.
type conflicts struct {
	taken  map[conflictKey]struct{}
	raised map[uuid.UUID]bool // the products of which an item was admitted; true: one that raises the epoch
}

// conflictKey identifies a resource that only one item of a batch may use.
type conflictKey struct {
	kind    byte // 'n'umber, 'u'nit, 'b'uyer, 's'lot
	product uuid.UUID
	number  int64
	id      uuid.UUID
}

func newConflicts() conflicts {
	return conflicts{taken: make(map[conflictKey]struct{}), raised: make(map[uuid.UUID]bool)}
}

// admit reports whether the item can be decided in this batch, and records it.
func (o conflicts) admit(it item) bool {
	product := it.product()
	before, others := o.raised[product]
	var things []conflictKey
	raises := false
	switch it := it.(type) {
	case Create, Stock: // never in conflict: the stream's version orders them
		return true
	case Sale, Delete:
		raises = true
	case Claim:
		things = []conflictKey{
			{kind: 'n', product: product, number: it.Number},
			{kind: 'u', product: product, number: int64(it.Unit)},
			{kind: 'b', product: product, id: it.Buyer},
		}
	case Withdraw:
		things = []conflictKey{{kind: 'n', product: product, number: it.Number}}
	case Release:
		things = []conflictKey{{kind: 's', id: it.SlotID}}
	case Return:
		things = []conflictKey{{kind: 's', id: it.SlotID}}
	case Complete:
		things = []conflictKey{{kind: 's', id: it.SlotID}}
	case PaymentBegun:
		things = []conflictKey{{kind: 's', id: it.SlotID}}
	case PaymentEnded:
		things = []conflictKey{{kind: 's', id: it.SlotID}}
	case Warned:
		things = []conflictKey{{kind: 's', id: it.SlotID}}
	}
	// An item that raises the epoch or ends the product must be the only one of its product.
	if others && (raises || before) {
		return false
	}
	for _, t := range things {
		if _, taken := o.taken[t]; taken {
			return false
		}
	}
	for _, t := range things {
		o.taken[t] = struct{}{}
	}
	o.raised[product] = raises
	return true
}
