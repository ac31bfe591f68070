package redis_test

import (
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/stretchr/testify/require"

	"github.com/dopaminestore/dopamine/command/claims"
	"github.com/dopaminestore/dopamine/domain"
	"github.com/dopaminestore/dopamine/domain/fairness"
	"github.com/dopaminestore/dopamine/redis"
)

func TestDecide_GrantsInOrderAndNumbersDecisions(t *testing.T) {
	onEach(t, func(t *testing.T, w *world) {
		g, product := w.gate(), w.product(2)
		a, b := w.granted(g, product), w.granted(g, product)
		c := w.decide(g, product, uuid.New(), "")
		require.Equal(t, []int64{1, 2, 3}, []int64{a.Number, b.Number, c.Number})
		require.Equal(t, []int{1, 2}, []int{a.Unit, b.Unit})
		require.Equal(t, redis.SoldOut, c.Outcome)
		require.Equal(t, domain.SlotID(product, 1), a.SlotID)
		require.EqualValues(t, 0, a.Epoch, "epochs are counted from 0")

		require.Equal(t, []fairness.Line{
			{Epoch: 0, Type: fairness.Opened, Units: 2},
			{Epoch: 0, Type: fairness.Granted, Sequence: 1, Unit: 1},
			{Epoch: 0, Type: fairness.Granted, Sequence: 2, Unit: 2},
			{Epoch: 0, Type: fairness.Refused, From: 3, To: 3, Refused: fairness.Counts{SoldOut: 1}},
		}, w.log(g, product))
		w.decide(g, product, uuid.New(), "")
		lines := w.log(g, product)
		require.Equal(t, fairness.Line{Epoch: 0, Type: fairness.Refused, From: 3, To: 4, Refused: fairness.Counts{SoldOut: 2}},
			lines[len(lines)-1], "the open run grows under its number")
	})
}

func TestDecide_ChecksSaleByGateClockFirst(t *testing.T) {
	onEach(t, func(t *testing.T, w *world) {
		g := w.gate()
		from := ms(400 * time.Millisecond)
		product := w.productFrom(1, from)
		d := w.decide(g, product, uuid.New(), "")
		require.Equal(t, redis.NotStarted, d.Outcome)
		require.True(t, from.Equal(d.SaleDate))
		buyer := uuid.New()
		for d.Outcome == redis.NotStarted { // until the sale begins
			d = w.decide(g, product, buyer, "")
		}
		require.Equal(t, redis.Granted, d.Outcome)
		require.NoError(t, w.claim(d))
		require.NoError(t, g.Sync(w.ctx, product))

		w.pause(product, true)
		require.NoError(t, g.Sync(w.ctx, product))
		require.Equal(t, redis.Paused, w.decide(g, product, buyer, "").Outcome, "before duplicate-slot")
		end := ms(-time.Minute)
		require.NoError(t, w.append(product, product, domain.ProductSaleRescheduled{SaleDate: end.Add(-time.Hour), SaleEndDate: &end},
			claims.Sale{Product: product, SaleDate: end.Add(-time.Hour), SaleEnd: &end, Paused: true}.GuardItem()))
		require.NoError(t, g.Sync(w.ctx, product))
		require.Equal(t, redis.Ended, w.decide(g, product, buyer, "").Outcome, "before sale-paused")
		report := w.folds(w.log(g, product))
		require.EqualValues(t, 2, report.Refused.Closed)
		require.Positive(t, report.Refused.NotStarted)
		require.EqualValues(t, 3, report.Epochs, "each change of the sale has an epoch of its own")
	})
}

func TestDecide_SecondRequestOfBuyer(t *testing.T) {
	onEach(t, func(t *testing.T, w *world) {
		g, product, buyer := w.gate(), w.product(5), uuid.New()
		first := w.decide(g, product, buyer, "k")
		require.Equal(t, 1, first.Deliveries)
		again := w.decide(g, product, buyer, "other")
		require.Equal(t, redis.Granted, again.Outcome, "a pending grant is returned again")
		require.Equal(t, 2, again.Deliveries)
		require.Equal(t, first.Number, again.Number)
		require.Equal(t, first.Unit, again.Unit)

		require.NoError(t, w.claim(first))
		require.NoError(t, g.Sync(w.ctx, product))
		duplicate := w.decide(g, product, buyer, "other")
		require.Equal(t, redis.Held, duplicate.Outcome)
		require.False(t, duplicate.Repeated)
		require.Equal(t, first.SlotID, duplicate.SlotID)
		require.Equal(t, redis.Held, w.decide(g, product, buyer, "").Outcome)
		w.pause(product, true)
		require.NoError(t, g.Sync(w.ctx, product))
		repeated := w.decide(g, product, buyer, "k")
		require.Equal(t, redis.Held, repeated.Outcome, "an equal key is checked before the state")
		require.True(t, repeated.Repeated)

		// A rebuilt gate knows the key too.
		require.Len(t, w.log(g, product), 4)
		w.flush()
		require.True(t, w.decide(g, product, buyer, "k").Repeated)

		report := w.folds(w.log(g, product))
		require.EqualValues(t, 3, report.Decided, "repeated answers are not decisions")
		require.EqualValues(t, 2, report.Refused.Duplicate)
	})
}

func TestDecide_GrantsExactlyStock(t *testing.T) {
	onEach(t, func(t *testing.T, w *world) {
		const units, buyers = 300, 4000
		product := w.product(units)
		c := w.crowd(product, buyers, true, w.gate(), w.gate())
		require.NoError(t, c.err())
		require.Len(t, c.granted, units)
		require.Equal(t, buyers-units, c.refused[redis.SoldOut])
		g := w.gate()
		require.Equal(t, units, w.agrees(g, product).Held)
		report := w.folds(w.log(g, product))
		require.EqualValues(t, buyers, report.Decided)
		require.EqualValues(t, units, report.Granted)
	})
}

func TestUnknownProduct_IsCachedBriefly(t *testing.T) {
	onEach(t, func(t *testing.T, w *world) {
		g, id := w.gate(), uuid.New()
		for range 2 {
			_, err := g.Decide(w.ctx, redis.Request{Product: id, Buyer: uuid.New()})
			require.ErrorIs(t, err, redis.ErrUnknownProduct)
		}
		product := w.product(1)
		w.granted(g, product)
		require.NoError(t, w.append(product, product, domain.ProductDeleted{}, claims.Delete{Product: product}.GuardItem()))
		require.ErrorIs(t, g.Sync(w.ctx, product), redis.ErrUnknownProduct)
		_, err := g.Decide(w.ctx, redis.Request{Product: product, Buyer: uuid.New()})
		require.ErrorIs(t, err, redis.ErrUnknownProduct)
		keys := w.keysLike("product:{" + product.String() + "}*")
		require.Empty(t, keys, "its gate is removed")
		require.Len(t, w.stored(product), 2, "its log is not")
	})
}
