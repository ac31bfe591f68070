package projector_test

import (
	"context"
	"errors"
	"fmt"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"

	"github.com/dopaminestore/dopamine/domain"
	"github.com/dopaminestore/dopamine/internal/kafka"
	"github.com/dopaminestore/dopamine/projections/projector"
	"github.com/dopaminestore/dopamine/tools/storetest"
)

// history appends random events of every type, in an order that can occur.
func (s *system) history(t *rapid.T, steps int) {
	var (
		productIDs []uuid.UUID
		stock      = map[uuid.UUID]int{}
		free       = map[uuid.UUID][]int{}
		holds      = map[[2]uuid.UUID]bool{}
		open       []*live
		due        []*live
		number     int64
	)
	users := []uuid.UUID{uuid.New(), uuid.New(), uuid.New(), uuid.New()}
	remove := func(list []*live, i int) []*live { return append(list[:i:i], list[i+1:]...) }
	for range steps {
		op := rapid.IntRange(0, 11).Draw(t, "op")
		switch {
		case op == 0 || len(productIDs) == 0:
			p := s.Create(2)
			productIDs, stock[p], free[p] = append(productIDs, p), 2, []int{1, 2}
			continue
		case op <= 4: // acquire
			p := rapid.SampledFrom(productIDs).Draw(t, "product")
			u := rapid.SampledFrom(users).Draw(t, "user")
			if len(free[p]) == 0 || holds[[2]uuid.UUID{p, u}] {
				continue
			}
			number++
			l := &live{product: p, slot: domain.SlotID(p, number), user: u, unit: free[p][0], number: number}
			free[p], holds[[2]uuid.UUID{p, u}], open = free[p][1:], true, append(open, l)
			s.Record(p, l.slot, domain.SlotAcquired{UserID: u, Unit: l.unit, ArrivalSequence: number, TTLMillis: 60000, WarningMillis: 1000})
			continue
		case op == 5:
			p := rapid.SampledFrom(productIDs).Draw(t, "product")
			switch rapid.IntRange(0, 5).Draw(t, "change") {
			case 0:
				s.Record(p, p, domain.ProductDetailsChanged{Name: fmt.Sprint("Name ", number), Description: "d"})
			case 1:
				stock[p]++
				free[p] = append(free[p], stock[p])
				s.Record(p, p, domain.ProductStockIncreased{Increase: 1, TotalStock: stock[p]})
			case 2:
				end := time.Now().Add(48 * time.Hour).UTC().Truncate(time.Millisecond)
				s.Record(p, p, domain.ProductSaleRescheduled{SaleDate: end.Add(-time.Hour), SaleEndDate: &end})
			case 3:
				s.Record(p, p, domain.ProductSalePaused{})
			case 4:
				s.Record(p, p, domain.ProductSaleResumed{})
			case 5:
				s.Record(p, p, domain.GrantWithdrawn{ArrivalSequence: number, Unit: 1, SlotID: uuid.New()})
			}
			continue
		case op == 6 && len(due) > 0:
			l := due[0]
			due = due[1:]
			s.Record(l.product, l.slot, domain.RefundCompleted{UserID: l.user, PaymentID: *l.payment, RefundID: *l.payment, GatewayRefundID: "r", Amount: storetest.KRW(s.TB, 5)})
			continue
		case len(open) == 0:
			continue
		}
		i := rapid.IntRange(0, len(open)-1).Draw(t, "slot")
		l := open[i]
		switch {
		case op == 7:
			s.Record(l.product, l.slot, domain.SlotExpiringSoon{UserID: l.user, Deadline: time.UnixMilli(1_800_000_000_000).UTC()})
		case op <= 9: // expire, or start a payment
			if l.payment == nil && op == 9 {
				id := uuid.New()
				l.payment = &id
				s.Record(l.product, l.slot, domain.PaymentInitiated{UserID: l.user, PaymentID: id, Price: storetest.KRW(s.TB, 5), Method: domain.Wallet})
				continue
			}
			s.Record(l.product, l.slot, domain.SlotExpired{UserID: l.user, Unit: l.unit, ArrivalSequence: l.number, ReclaimStatus: domain.AutoExpired, Deadline: time.UnixMilli(1_800_000_000_000).UTC()})
			open, free[l.product] = remove(open, i), append(free[l.product], l.unit)
			delete(holds, [2]uuid.UUID{l.product, l.user})
			if l.payment != nil {
				s.Record(l.product, l.slot, domain.PaymentFailed{UserID: l.user, PaymentID: *l.payment, Reason: "TIMEOUT"})
				s.Record(l.product, l.slot, domain.RefundDue{UserID: l.user, PaymentID: *l.payment, GatewayPaymentID: "g", Amount: storetest.KRW(s.TB, 5), Reason: "LATE",
					RefundID: *l.payment, Cause: domain.RefundLate})
				due = append(due, l)
			}
		case l.payment != nil:
			if op == 10 {
				s.Record(l.product, l.slot, domain.PaymentFailed{UserID: l.user, PaymentID: *l.payment, Reason: "no money"})
				l.payment = nil
				continue
			}
			s.Record(l.product, l.slot, domain.PaymentCompleted{UserID: l.user, PaymentID: *l.payment, GatewayPaymentID: "g", Price: storetest.KRW(s.TB, 5), Method: domain.Wallet})
			open = remove(open, i)
			s.afterPurchase(t, l)
		}
	}
}

// live is a slot that is open or was paid.
type live struct {
	product, slot, user uuid.UUID
	unit                int
	number              int64
	payment             *uuid.UUID
}

// afterPurchase appends a random event that can follow a purchase.
func (s *system) afterPurchase(t *rapid.T, l *live) {
	refund, pay := uuid.New(), *l.payment
	due := domain.RefundDue{UserID: l.user, PaymentID: pay, GatewayPaymentID: "g", Amount: storetest.KRW(s.TB, 5), Reason: "REQUESTED",
		RefundID: refund, Cause: domain.RefundRequested, ReturnUnit: true}
	var events []domain.Event
	switch rapid.IntRange(0, 4).Draw(t, "after the purchase") {
	case 0:
		events = []domain.Event{due, domain.RefundPending{UserID: l.user, PaymentID: pay, RefundID: refund, GatewayRefundID: "r", Amount: storetest.KRW(s.TB, 5)},
			domain.RefundCompleted{UserID: l.user, PaymentID: pay, RefundID: refund, GatewayRefundID: "r", Amount: storetest.KRW(s.TB, 5)},
			domain.SlotReturned{UserID: l.user, PaymentID: pay, Unit: l.unit, ArrivalSequence: l.number}}
	case 1:
		events = []domain.Event{due, domain.RefundFailed{UserID: l.user, PaymentID: pay, RefundID: refund, Amount: storetest.KRW(s.TB, 5), Reason: "CLOSED"},
			domain.PaymentResolved{UserID: l.user, PaymentID: pay, Cause: domain.CauseRefundFailed, RefundID: &refund, Action: domain.AcceptItem, Note: "N"}}
	case 2:
		events = []domain.Event{domain.PaymentDisputed{UserID: l.user, PaymentID: pay, DisputeID: "d"},
			domain.PaymentDisputeClosed{UserID: l.user, PaymentID: pay, DisputeID: "d"}, domain.PaymentReversed{UserID: l.user, PaymentID: pay},
			domain.PaymentContradicted{UserID: l.user, PaymentID: pay, Code: domain.FailedAfterSuccess}}
	}
	for _, e := range events {
		s.Record(l.product, l.slot, e)
	}
}

// Gapless relays, deposed relays that continue, records that fail inside a chunk, and two owners of
// the partitions: whatever they do, the rows equal those of a plain fold over the store (R8, contract 2).
func TestProjector_RowsEqualAPlainFoldForAnyDelivery(t *testing.T) {
	t.Parallel()
	s := newSystem(t, nil)
	ctx := context.Background()
	s.createGeneration(2)
	const partitions = 2
	rapid.Check(t, func(rt *rapid.T) {
		s.Exec(`TRUNCATE projection_checkpoints, products_g1, purchase_slots_g1, purchase_slots_names_g1, purchases_g1, refunds_g1, slot_audit_log_g1,
		        products_g2, purchase_slots_g2, purchase_slots_names_g2, purchases_g2, refunds_g2, slot_audit_log_g2`)
		before, err := s.Reader.Head(ctx)
		require.NoError(t, err)
		s.history(rt, rapid.IntRange(1, 40).Draw(rt, "steps"))
		f := newFakeTopic(s, partitions)
		// The partitions begin at the beginning of this history.
		if before > 0 {
			at, err := s.Reader.At(ctx, before)
			require.NoError(t, err)
			newOwner(t, s, partitions)
			s.Exec("UPDATE projection_checkpoints SET position = $1, event_id = $2", before, at.ID)
			for p := range int32(partitions) {
				f.last[p] = before
			}
		}
		events := f.eventsAfter(before)
		owners := []*projector.Owner{newOwner(t, s, partitions), newOwner(t, s, partitions)}

		// deliver appends records to the topic and delivers to an owner, in batches, all that it
		// has not acknowledged.
		deliver := func(es []published) {
			f.produceAll(es)
			who := rapid.IntRange(0, 1).Draw(rt, "owner")
			if name := rapid.SampledFrom(s.names()).Draw(rt, "detached"); rapid.IntRange(0, 2).Draw(rt, "a read model fails") == 0 {
				owners[who].Detach(name)
				defer func() { // unless the owner was replaced, which continues at the checkpoints
					if err := owners[who].CatchUp(ctx, name); err != nil {
						require.ErrorIs(t, err, projector.ErrMoved)
						owners[who] = newOwner(t, s, partitions)
					}
				}()
			}
			for try := 0; ; try++ {
				batch := f.unacknowledged(owners[who], s.names())
				err := owners[who].Apply(ctx, batch)
				if err == nil {
					break
				}
				require.ErrorIs(t, err, projector.ErrMoved)
				require.Less(t, try, 2, "an owner that reloaded its checkpoints is refused")
				owners[who] = newOwner(t, s, partitions)
			}
		}
		for at := 0; at < len(events); {
			chunk := events[at:min(len(events), at+rapid.IntRange(1, 8).Draw(rt, "chunk"))]
			for rapid.IntRange(0, 2).Draw(rt, "fails") == 0 {
				// Some arrive, in any order, as sarama's retries can reorder them.
				kept := rapid.SliceOfNDistinct(rapid.IntRange(0, len(chunk)-1), 0, len(chunk), rapid.ID[int]).Draw(rt, "arrive")
				var some []published
				for _, i := range kept {
					some = append(some, chunk[i])
				}
				deliver(some)
			}
			// All of them are acknowledged, each possibly several times and out of order.
			order := rapid.Permutation(chunk).Draw(rt, "order")
			deliver(order)
			at += len(chunk)
			if back := rapid.IntRange(0, 10).Draw(rt, "deposed"); back < at && back > 7 {
				deliver(events[at-back : at]) // a deposed relay, or one that lost its checkpoint
			}
		}
		s.foldInto(2, before)
		require.Equal(t, s.Rows(2), s.Rows(1))
		require.Zero(t, s.Count("SELECT count(*) FROM parked_events"))
	})
}

// unacknowledged returns the records that an owner has not applied yet in at least one projection.
func (f *fakeTopic) unacknowledged(o *projector.Owner, names []string) []projector.Delivered {
	var out []projector.Delivered
	for p, log := range f.log {
		low := int64(len(log))
		for _, n := range names {
			low = min(low, o.Offset(n, p))
		}
		out = append(out, log[low:]...)
	}
	return out
}

func TestProjector_FillsAGapOfAnyLengthFromTheStore(t *testing.T) {
	s, f, owner := newOfflineSystem(t)
	ctx := context.Background()
	product := s.Create(3000)
	for i := range 300 {
		s.Acquire(product, i+1, int64(i+1))
	}
	other := s.Create(10)
	s.Acquire(other, 1, 1)
	var last published
	for _, e := range f.eventsAfter(0) {
		if e.event.Key == product {
			last = e
		}
	}
	require.NoError(t, owner.Apply(ctx, []projector.Delivered{f.produce(last)}))
	require.EqualValues(t, 2700, s.Count("SELECT stock FROM products WHERE id = $1", product))
	require.EqualValues(t, 300, s.Count("SELECT count(*) FROM slot_audit_log WHERE product_id = $1", product))
	if kafka.Partition(other, 3) != kafka.Partition(product, 3) {
		require.Zero(t, s.Count("SELECT count(*) FROM products WHERE id = $1", other), "another partition's events are left to it")
	}
	require.False(t, errors.Is(owner.Apply(ctx, nil), projector.ErrMoved))
}

func TestProjector_FencesAnOwnerThatWasSuspended(t *testing.T) {
	s, f, asleep := newOfflineSystem(t)
	ctx := context.Background()
	product := s.Create(10)
	records := f.produceAll(f.eventsAfter(0))
	awake := newOwner(t, s, 3)
	require.NoError(t, awake.Apply(ctx, records))
	before := s.Rows(1)
	require.ErrorIs(t, asleep.Apply(ctx, records), projector.ErrMoved)
	require.Equal(t, before, s.Rows(1))
	_, _, at := s.Acquire(product, 1, 1)
	require.NoError(t, awake.Apply(ctx, f.produceAll(f.eventsAfter(at-1))))
	require.EqualValues(t, 9, s.Count("SELECT stock FROM products"))
}

func TestProjector_ContinuesWithASwappedGeneration(t *testing.T) {
	s, f, owner := newOfflineSystem(t)
	ctx := context.Background()
	product := s.Create(10)
	_, _, at := s.Acquire(product, 1, 1)
	require.NoError(t, owner.Apply(ctx, f.produceAll(f.eventsAfter(0))))
	s.createGeneration(2)
	s.foldInto(2, 0)
	s.Exec("UPDATE projection_generations SET state = 'old'")
	s.Exec("INSERT INTO projection_generations (projection, generation, state, live_at) SELECT projection, 2, 'live', now() FROM projection_generations")
	s.Exec(`INSERT INTO projection_checkpoints (projection, generation, topic, partition, partitions, topic_id, next_offset, position, event_id)
		SELECT projection, 2, topic, partition, partitions, topic_id, next_offset, $1, (SELECT event_id FROM projection_checkpoints WHERE position = $1 LIMIT 1) FROM projection_checkpoints`, at)
	_, _, at = s.Acquire(product, 2, 2)
	require.NoError(t, owner.Apply(ctx, f.produceAll(f.eventsAfter(at-1))), "it stays the owner")
	require.EqualValues(t, 8, s.Count("SELECT stock FROM products_g2"))
	require.EqualValues(t, 9, s.Count("SELECT stock FROM products_g1"), "the old one is left alone")
}
