package redis_test

import (
	"context"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/stretchr/testify/require"

	"github.com/dopaminestore/dopamine/command/claims"
	"github.com/dopaminestore/dopamine/domain"
	"github.com/dopaminestore/dopamine/domain/fairness"
	"github.com/dopaminestore/dopamine/redis"
	"github.com/dopaminestore/dopamine/tools/storetest"
	"github.com/dopaminestore/dopamine/tools/testkit"
)

func TestSync_FreesUnitsAndOpensStock(t *testing.T) {
	onEach(t, func(t *testing.T, w *world) {
		g, product := w.gate(), w.product(1)
		d := w.granted(g, product)
		require.NoError(t, w.claim(d))
		require.Equal(t, redis.SoldOut, w.decide(g, product, uuid.New(), "").Outcome)
		require.NoError(t, w.expire(d))
		require.NoError(t, g.Sync(w.ctx, product))
		again := w.decide(g, product, d.Buyer, "")
		require.Equal(t, redis.Granted, again.Outcome, "after an expiry the buyer may try again")
		require.Equal(t, d.Unit, again.Unit)
		for range 2 { // applied twice, opened once
			require.NoError(t, w.append(product, product, domain.ProductStockIncreased{Increase: 2, TotalStock: 3},
				claims.Stock{Product: product, Total: 3}.GuardItem()))
			require.NoError(t, g.Sync(w.ctx, product))
		}
		w.granted(g, product)
		w.granted(g, product)
		require.Equal(t, redis.SoldOut, w.decide(g, product, uuid.New(), "").Outcome)
		report := w.folds(w.log(g, product))
		require.EqualValues(t, 1, report.Returned)
		require.EqualValues(t, 4, report.Granted)
	})
}

// Two nodes that sync the gate with the same events at the same time apply them once.
func TestSync_ConcurrentNodesApplyEventsOnce(t *testing.T) {
	onEach(t, func(t *testing.T, w *world) {
		const units = 200
		gates, product := []*redis.Gate{w.gate(), w.gate(), w.gate()}, w.product(units)
		c := w.crowd(product, units, true, gates...)
		require.NoError(t, c.err())
		ctx, cancel := context.WithCancel(w.ctx)
		var feeders sync.WaitGroup
		for _, g := range gates {
			for range 2 {
				feeders.Go(func() {
					for ctx.Err() == nil {
						_ = g.Sync(ctx, product)
					}
				})
			}
		}
		for _, d := range c.granted {
			require.NoError(t, w.expire(d))
		}
		cancel()
		feeders.Wait()
		state := w.agrees(gates[0], product)
		require.Equal(t, units, state.Free)
		require.Zero(t, state.Epoch, "no false alarm")
		report := w.folds(w.log(gates[0], product))
		require.EqualValues(t, units, report.Returned)
	})
}

func TestSync_OpensEpochOfChangedSaleInPlace(t *testing.T) {
	onEach(t, func(t *testing.T, w *world) {
		g, other, product := w.gate(), w.gate(), w.product(5)
		held, onItsWay := w.granted(g, product), w.granted(g, product)
		require.NoError(t, w.claim(held))
		w.pause(product, true)
		require.ErrorIs(t, w.claim(onItsWay), claims.ErrEpoch)
		require.NoError(t, other.Sync(w.ctx, product))
		require.Equal(t, redis.Paused, w.decide(g, product, onItsWay.Buyer, "").Outcome)
		w.pause(product, false)
		w.pause(product, true)
		w.pause(product, false)
		require.NoError(t, g.Sync(w.ctx, product))
		again := w.decide(other, product, onItsWay.Buyer, "")
		require.Equal(t, redis.Granted, again.Outcome)
		require.EqualValues(t, 4, again.Epoch)
		require.EqualValues(t, redis.NoEpoch+1, w.row(product).Rebuilt, "nothing was rebuilt")
		require.NoError(t, w.claim(again))
		require.Equal(t, 2, w.agrees(g, product).Held)
		lines := w.log(g, product)
		w.folds(lines)
		require.Equal(t, fairness.Line{Epoch: 1, Type: fairness.Opened, Units: 4}, lines[3], "the void grant's unit is free again")
		require.True(t, w.complete(product))
	})
}

// shipStore stores no decision log until it is released.
type shipStore struct {
	redis.Store
	released chan struct{}
}

func (s *shipStore) Ship(ctx context.Context, shipments []redis.Shipment) error {
	select {
	case <-s.released:
		return s.Store.Ship(ctx, shipments)
	case <-ctx.Done():
		return ctx.Err()
	}
}

// Requests after a change of the sale need only a lease: they do not wait until the log of the
// epoch that ended is stored. It is stored nevertheless.
func TestSync_DoesNotWaitForTheLogOfTheEndedEpoch(t *testing.T) {
	onBoth(t, func(t *testing.T, w *world) {
		store := &shipStore{Store: w.gateStore, released: make(chan struct{})}
		g, product := w.gateOn(w.url, store), w.product(5)
		require.NoError(t, w.claim(w.granted(g, product)))
		w.pause(product, true)
		ctx, cancel := context.WithTimeout(w.ctx, 5*time.Second)
		defer cancel()
		require.NoError(t, g.Sync(ctx, product))
		w.pause(product, false)
		require.NoError(t, g.Sync(ctx, product))
		d, err := g.Decide(ctx, redis.Request{Product: product, Buyer: uuid.New()})
		require.NoError(t, err)
		require.Equal(t, redis.Granted, d.Outcome)
		require.Empty(t, w.stored(product))
		close(store.released)
		testkit.EventuallyTrue(t, 10*time.Second, "the log to be stored", func() bool { return len(w.stored(product)) > 0 })
	})
}

// complete reports whether the log of every epoch is complete.
func (w *world) complete(product uuid.UUID) bool {
	var complete bool
	require.NoError(w.t, w.pool.QueryRow(w.ctx,
		`select coalesce(bool_and(complete), true) from gate_epochs_complete where product_id = $1`, product).Scan(&complete))
	return complete
}

// completeEpoch reports whether the log of the epoch is complete.
func (w *world) completeEpoch(product uuid.UUID, epoch int64) (complete bool) {
	require.NoError(w.t, w.pool.QueryRow(w.ctx,
		`select complete from gate_epochs_complete where product_id = $1 and epoch = $2`, product, epoch).Scan(&complete))
	return complete
}

func TestSync_SaleChangedWhileGateWasLost(t *testing.T) {
	onEach(t, func(t *testing.T, w *world) {
		g, product := w.gate(), w.product(5)
		w.granted(g, product)
		w.flush()
		w.pause(product, true)
		require.Equal(t, redis.Paused, w.decide(g, product, uuid.New(), "").Outcome)
		w.pause(product, false)
		require.NoError(t, g.Sync(w.ctx, product))
		w.granted(g, product)
		w.agrees(g, product)
	})
}

// A change of the sale opens the next epoch in place, on the gate as it is:
// that is not a rebuild.
func TestRebuild_ReplacesWrongGateAfterSaleChange(t *testing.T) {
	onEach(t, func(t *testing.T, w *world) {
		g, other, product := w.gate(), w.gate(), w.product(3)
		d := w.granted(g, product)
		require.NoError(t, w.claim(d))
		require.NoError(t, g.Sync(w.ctx, product))
		prefix := "product:{" + product.String() + "}:"
		require.NoError(t, w.raw.HDel(w.ctx, prefix+"holders", string(d.Buyer[:])).Err())
		require.NoError(t, w.raw.HSet(w.ctx, prefix+"stock", "held", 0, "next", 1).Err())
		wrong := w.granted(g, product)
		var taken *claims.UnitTakenError
		require.ErrorAs(t, w.claim(wrong), &taken)
		w.pause(product, true)
		w.pause(product, false)
		require.NoError(t, other.Sync(w.ctx, product)) // does not know that the gate is wrong
		require.NoError(t, g.Rebuild(w.ctx, product, wrong.Epoch))
		require.Greater(t, w.row(product).Rebuilt, wrong.Epoch)
		right := w.decide(g, product, wrong.Buyer, "")
		require.NoError(t, w.claim(right))
		require.Equal(t, 2, w.agrees(g, product).Held)
	})
}

// Units that no longer exist were handed out by grants that became no slots: they were given back,
// or are void with the epoch.
func TestSync_DecreasedStock(t *testing.T) {
	for name, end := range map[string]func(*world, *redis.Gate, redis.Decision){
		"grants given back": func(w *world, g *redis.Gate, d redis.Decision) { require.NoError(w.t, g.GiveBack(w.ctx, d)) },
		"grants void":       func(*world, *redis.Gate, redis.Decision) {},
	} {
		t.Run(name, func(t *testing.T) {
			onEach(t, func(t *testing.T, w *world) {
				g, product := w.gate(), w.product(3)
				for _, d := range []redis.Decision{w.granted(g, product), w.granted(g, product), w.granted(g, product)} {
					end(w, g, d)
				}
				require.NoError(t, w.append(product, product, domain.ProductStockDecreased{Decrease: 1, TotalStock: 2},
					claims.Sale{Product: product, SaleDate: ms(-time.Hour), Units: 2, OnlyIfNeverHadSlot: true}.GuardItem()))
				require.NoError(t, g.Sync(w.ctx, product))
				require.NoError(t, w.claim(w.granted(g, product)))
				require.NoError(t, w.claim(w.granted(g, product)))
				require.Equal(t, redis.SoldOut, w.decide(g, product, uuid.New(), "").Outcome)
				require.Equal(t, 2, w.agrees(g, product).Held)
				w.folds(w.log(g, product))
				require.True(t, w.complete(product))
			})
		})
	}
}

// eventsStore calls before, once it is set, before the next read of events.
type eventsStore struct {
	redis.Store
	before atomic.Pointer[func()]
}

func (s *eventsStore) Events(ctx context.Context, product uuid.UUID, after redis.LogPosition, limit int) ([]redis.GateEvent, error) {
	if before := s.before.Swap(nil); before != nil {
		(*before)()
	}
	return s.Store.Events(ctx, product, after, limit)
}

// syncObserver calls synced after each sync script.
type syncObserver struct {
	redis.NoObserver
	synced func()
}

func (o syncObserver) Called(script string, _ int, _ time.Duration, _ error) {
	if script == "sync" {
		o.synced()
	}
}

// The stock is decreased between the reads of the row and of the events. The decision log of the
// epoch before has more units, so its gate must not refuse as sold out what the log has as free.
func TestSync_DecreasedStockAfterTheRowWasRead(t *testing.T) {
	onBoth(t, func(t *testing.T, w *world) {
		product := w.product(3)
		store := &eventsStore{Store: w.gateStore}
		var seen [][]any // epoch and units after each sync
		g := w.gateWith(w.url, store, redis.Options{Observer: syncObserver{synced: func() {
			values, err := w.raw.HMGet(w.ctx, "product:{"+product.String()+"}:stock", "epoch", "units").Result()
			require.NoError(t, err)
			seen = append(seen, values)
		}}})
		require.NoError(t, g.GiveBack(w.ctx, w.granted(g, product)))
		decrease := func() {
			require.NoError(t, w.append(product, product, domain.ProductStockDecreased{Decrease: 1, TotalStock: 2},
				claims.Sale{Product: product, SaleDate: ms(-time.Hour), Units: 2, OnlyIfNeverHadSlot: true}.GuardItem()))
		}
		store.before.Store(&decrease)
		require.NoError(t, g.Sync(w.ctx, product))
		require.Equal(t, []any{"1", "2"}, seen[len(seen)-1])
		require.NotContains(t, seen, []any{"0", "2"}, "the epoch before has opened three units")
		w.granted(g, product)
		w.granted(g, product)
		require.Equal(t, redis.SoldOut, w.decide(g, product, uuid.New(), "").Outcome)
		w.folds(w.log(g, product))
	})
}

func TestGiveBack_FreesGrantDeliveredOnce(t *testing.T) {
	onEach(t, func(t *testing.T, w *world) {
		g, product := w.gate(), w.product(1)
		d := w.granted(g, product)
		require.NoError(t, g.GiveBack(w.ctx, d))
		require.NoError(t, g.GiveBack(w.ctx, d), "giving back is idempotent")
		again := w.granted(g, product)
		require.Equal(t, d.Unit, again.Unit)
		require.NoError(t, g.GiveBack(w.ctx, d))
		w.decide(g, product, again.Buyer, "") // another request has received it too
		require.NoError(t, g.GiveBack(w.ctx, again))
		require.Equal(t, redis.SoldOut, w.decide(g, product, uuid.New(), "").Outcome)
		require.EqualValues(t, 1, w.folds(w.log(g, product)).Returned)
	})
}

func TestWithdraw_MakesGrantUnclaimable(t *testing.T) {
	onEach(t, func(t *testing.T, w *world) {
		g, product := w.gate(), w.product(2)
		late, claimed := w.granted(g, product), w.granted(g, product)
		pending, err := g.Pending(w.ctx, product, claimed.Number, redis.MaxNumber, 10)
		require.NoError(t, err)
		require.Empty(t, pending)
		pending, err = g.Pending(w.ctx, product, 0, redis.MaxNumber, 10)
		require.NoError(t, err)
		require.Len(t, pending, 2)
		require.Equal(t, redis.PendingGrant{Product: product, Buyer: late.Buyer, Number: late.Number, Unit: late.Unit,
			Deliveries: 1, Rebuild: w.row(product).RebuiltID}, pending[0], "lowest number first")
		require.Equal(t, late.SlotID, pending[0].SlotID())

		require.NoError(t, w.claim(claimed))
		withdraw := func(p redis.PendingGrant) bool {
			withdrawn, err := claims.WithdrawGrant(w.ctx, w.store, p, storetest.NewEvent(t, domain.GrantWithdrawn{
				ArrivalSequence: p.Number, Unit: p.Unit, SlotID: p.SlotID()}))
			require.NoError(t, err)
			return withdrawn
		}
		require.True(t, withdraw(pending[0]))
		require.False(t, withdraw(pending[0]), "by another worker, too")
		require.False(t, withdraw(pending[1]), "claimed: nothing to withdraw")
		require.ErrorIs(t, w.claim(late), claims.ErrWithdrawn)
		require.ErrorIs(t, w.withdraw(product, claimed.Number, claimed.Unit), claims.ErrClaimed)
		require.NoError(t, w.expire(claimed))
		require.ErrorIs(t, w.claim(claimed), claims.ErrSlotEnded, "the number outlives the claim")
		require.ErrorIs(t, w.withdraw(product, claimed.Number, claimed.Unit), claims.ErrClaimed)

		require.NoError(t, g.Sync(w.ctx, product))
		state := w.agrees(g, product)
		require.Equal(t, 2, state.Free)
		lines := w.log(g, product)
		w.folds(lines)
		require.Equal(t, []fairness.Reason{"", "", "", fairness.AutoExpired, fairness.Withdrawn}[3:],
			reasons(lines), "in the order of the store")
	})
}

func reasons(lines []fairness.Line) (found []fairness.Reason) {
	for _, l := range lines {
		if l.Type == fairness.Returned {
			found = append(found, l.Reason)
		}
	}
	slices.Sort(found)
	return found
}

// Many processes ship the log at once, some die before they trim, and every line is stored
// exactly once.
func TestShip_ConcurrentProcessesStoreEachLineOnce(t *testing.T) {
	onEach(t, func(t *testing.T, w *world) {
		const units, buyers = 150, 1500
		gates, product := []*redis.Gate{w.gate(), w.gate()}, w.product(units)
		ctx, cancel := context.WithCancel(w.ctx)
		var carriers sync.WaitGroup
		for i := range 4 {
			carriers.Go(func() {
				for ctx.Err() == nil {
					dies, stop := context.WithTimeout(ctx, time.Duration(1+i)*3*time.Millisecond)
					_ = gates[i%2].Ship(dies, product)
					stop()
				}
			})
		}
		c := w.crowd(product, buyers, true, gates...)
		require.NoError(t, c.err())
		for _, d := range c.granted {
			if d.Unit%2 == 0 {
				require.NoError(t, w.expire(d))
			}
		}
		require.NoError(t, gates[0].Sync(w.ctx, product))
		c = w.crowd(product, buyers, true, gates...)
		require.NoError(t, c.err())
		require.Len(t, c.granted, units/2)
		cancel()
		carriers.Wait()
		report := w.folds(w.log(gates[0], product))
		require.EqualValues(t, 2*buyers, report.Decided)
		require.EqualValues(t, units+units/2, report.Granted)
		n, err := w.raw.LLen(w.ctx, "product:{"+product.String()+"}:log").Result()
		require.NoError(t, err)
		require.Zero(t, n, "shipped lines are trimmed")
	})
}

func TestShip_LogOfLostGateIsIncomplete(t *testing.T) {
	onEach(t, func(t *testing.T, w *world) {
		g, product := w.gate(), w.product(2)
		w.granted(g, product)
		w.log(g, product)
		require.True(t, w.complete(product))
		w.flush()
		d := w.granted(g, product)
		require.EqualValues(t, 1, d.Epoch)
		require.False(t, w.complete(product), "it may have decided until its lease ran out")

		other := w.product(2)
		d = w.granted(g, other)
		require.NoError(t, g.Rebuild(w.ctx, other, d.Epoch))
		require.True(t, w.complete(other), "the log of a closed gate is complete")
		require.Len(t, w.stored(other), 2)
	})
}
