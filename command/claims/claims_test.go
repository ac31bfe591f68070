package claims_test

import (
	"context"
	"errors"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/dopaminestore/dopamine/avsc"
	"github.com/dopaminestore/dopamine/command/claims"
	"github.com/dopaminestore/dopamine/domain"
	"github.com/dopaminestore/dopamine/domain/fairness"
	"github.com/dopaminestore/dopamine/eventstore"
	"github.com/dopaminestore/dopamine/redis"
	"github.com/dopaminestore/dopamine/tools/dbtest"
	"github.com/dopaminestore/dopamine/tools/storetest"
)

type world struct {
	t      testing.TB
	pool   *pgxpool.Pool
	store  *eventstore.Store
	claims *claims.Store
}

func newWorld(t testing.TB) *world {
	pool := dbtest.Write(t)
	return &world{t: t, pool: pool, store: storetest.Open(t, pool), claims: claims.NewStore(pool, avsc.Decode)}
}

type guarded interface{ GuardItem() eventstore.GuardItem }

// do appends guards without events.
func (w *world) do(items ...guarded) error {
	a := eventstore.Append{Key: uuid.New()}
	for _, i := range items {
		a.Guards = append(a.Guards, i.GuardItem())
	}
	_, err := w.store.Append(w.t.Context(), a)
	return err
}

func (w *world) must(items ...guarded) { require.NoError(w.t, w.do(items...)) }

// product creates a product whose epoch was raised to 0.
func (w *world) product(stock int) uuid.UUID {
	id := uuid.New()
	w.must(claims.Create{Product: id, Stock: stock, SaleDate: time.Now()})
	require.True(w.t, w.raise(id, redis.NoEpoch, redis.NoEpoch).Raised)
	return id
}

func claimOf(product uuid.UUID, number int64, unit int) claims.Claim {
	return claims.Claim{Product: product, SlotID: domain.SlotID(product, number), Number: number, Unit: unit,
		Buyer: uuid.New(), TTL: 30 * time.Minute, Warning: 5 * time.Minute}
}

func TestClaim_Refusals(t *testing.T) {
	w := newWorld(t)
	product := w.product(3)
	first := claimOf(product, 1, 1)
	first.KeyHash = redis.HashKey(product, first.Buyer, "k")
	w.must(first)

	var holds *claims.BuyerHoldsError
	t.Run("same grant of another request", func(t *testing.T) {
		require.ErrorAs(t, w.do(first), &holds)
		require.Equal(t, first.SlotID, holds.Claim.SlotID)
		require.Equal(t, first.KeyHash, holds.Claim.KeyHash)
		require.Equal(t, claims.Active, holds.Claim.Status)
		require.Equal(t, 30*time.Minute, holds.Claim.Deadline.Sub(holds.Claim.AcquiredAt))
	})
	t.Run("second slot of the buyer", func(t *testing.T) {
		second := claimOf(product, 2, 2)
		second.Buyer = first.Buyer
		require.ErrorAs(t, w.do(second), &holds)
		require.Equal(t, first.SlotID, holds.Claim.SlotID)
	})
	t.Run("unit of another slot", func(t *testing.T) {
		var taken *claims.UnitTakenError
		require.ErrorAs(t, w.do(claimOf(product, 2, 1)), &taken)
		require.Equal(t, claims.UnitTakenError{Unit: 1, SlotID: first.SlotID}, *taken)
	})
	t.Run("unknown unit, epoch and product", func(t *testing.T) {
		assert.ErrorIs(t, w.do(claimOf(product, 2, 4)), claims.ErrNoUnit)
		assert.ErrorIs(t, w.do(claimOf(product, fairness.NumbersPerEpoch+1, 2)), claims.ErrEpoch)
		assert.ErrorIs(t, w.do(claimOf(uuid.New(), 1, 1)), claims.ErrGone)
	})
	t.Run("withdrawn number", func(t *testing.T) {
		w.must(claims.Withdraw{Product: product, Number: 2, Unit: 2})
		assert.ErrorIs(t, w.do(claimOf(product, 2, 2)), claims.ErrWithdrawn)
		assert.ErrorIs(t, w.do(claims.Withdraw{Product: product, Number: 2, Unit: 2}), claims.ErrWithdrawn)
		assert.ErrorIs(t, w.do(claims.Withdraw{Product: product, Number: 1, Unit: 1}), claims.ErrClaimed)
	})
	t.Run("fewer units than before", func(t *testing.T) {
		w.must(claims.Stock{Product: product, Total: 4})
		w.must(claimOf(product, 3, 4))
		assert.ErrorIs(t, w.do(claims.Stock{Product: product, Total: 3}), claims.ErrFewerUnits)
	})
	t.Run("slot that has ended", func(t *testing.T) {
		w.must(claims.Release{Product: product, SlotID: first.SlotID})
		assert.ErrorIs(t, w.do(claims.Release{Product: product, SlotID: first.SlotID}), claims.ErrNotActive)
		assert.ErrorIs(t, w.do(first), claims.ErrSlotEnded)
		_, found, err := w.claims.BySlot(t.Context(), first.SlotID)
		require.NoError(t, err)
		assert.False(t, found)
		counts, _, err := w.claims.Counts(t.Context(), product)
		require.NoError(t, err)
		assert.Equal(t, 3, counts.Free())
	})
}

func TestProduct_Lifecycle(t *testing.T) {
	w := newWorld(t)
	product := w.product(2)
	date := time.Now().Add(time.Hour).UTC().Truncate(time.Millisecond)
	require.ErrorIs(t, w.do(claims.Create{Product: product, Stock: 1, SaleDate: date}), claims.ErrExists)
	w.must(claims.Sale{Product: product, SaleDate: date, OnlyIfNeverHadSlot: true})
	row, err := w.claims.Row(t.Context(), product)
	require.NoError(t, err)
	require.EqualValues(t, 1, row.Epoch)
	require.EqualValues(t, 0, row.Rebuilt)
	require.True(t, date.Equal(row.SaleDate))

	c := claimOf(product, fairness.NumbersPerEpoch+1, 1)
	w.must(c)
	require.ErrorIs(t, w.do(claims.Sale{Product: product, SaleDate: date, OnlyIfNeverHadSlot: true}), claims.ErrHadSlot)
	active, _, err := w.claims.HasActive(t.Context(), product)
	require.NoError(t, err)
	require.True(t, active)
	w.must(claims.Complete{Product: product, SlotID: c.SlotID})
	active, _, err = w.claims.HasActive(t.Context(), product)
	require.NoError(t, err)
	require.False(t, active)
	require.ErrorIs(t, w.do(claims.Release{Product: product, SlotID: c.SlotID}), claims.ErrNotActive)
	found, _, err := w.claims.ByBuyer(t.Context(), product, c.Buyer)
	require.NoError(t, err)
	require.Equal(t, claims.Completed, found.Status)

	live, err := w.claims.Products(t.Context())
	require.NoError(t, err)
	require.Equal(t, []uuid.UUID{product}, live)
	w.must(claims.Delete{Product: product})
	require.ErrorIs(t, w.do(claims.Delete{Product: product}), claims.ErrGone)
	require.ErrorIs(t, w.do(claimOf(product, 2*fairness.NumbersPerEpoch+1, 2)), claims.ErrGone)
	require.Equal(t, redis.LeaseRefused, w.lease(product, 2, "here"), "no lease for a deleted product")
	require.False(t, w.raise(product, 2, redis.NoEpoch).Raised)
}

// Writes that bypass the guards are rejected by Postgres.
func TestConstraints_EnforceR1AndR3(t *testing.T) {
	w := newWorld(t)
	product := w.product(2)
	w.must(claimOf(product, 1, 1))
	buyer := uuid.New()
	insert := func(unit int, number int64, buyer uuid.UUID) error {
		_, err := w.pool.Exec(t.Context(), `
			with n as (insert into slot_numbers values ($1, $2, 'claimed', $3))
			select 1`, product, number, unit)
		require.NoError(t, err)
		_, err = w.pool.Exec(t.Context(), `
			insert into slot_claims (product_id, unit, slot_id, number, buyer, acquired_at, deadline, due_at, position)
			values ($1, $2, gen_random_uuid(), $3, $4, now(), now() + interval '1 h', now() + interval '1 h', 1)`,
			product, unit, number, buyer)
		return err
	}
	require.ErrorContains(t, insert(1, 10, uuid.New()), "slot_claims_pkey")
	require.ErrorContains(t, insert(3, 11, uuid.New()), "has no unit 3")
	require.ErrorContains(t, insert(2, fairness.NumbersPerEpoch+1, uuid.New()), "has no unit 2")
	require.NoError(t, insert(2, 12, buyer))
	w.must(claims.Stock{Product: product, Total: 3})
	require.ErrorContains(t, insert(3, 13, buyer), "slot_claims_buyer_key")
	for _, sql := range []string{
		`update slot_claims set unit = 3 where unit = 2`,
		`update slot_claims set buyer = gen_random_uuid()`,
		`delete from slot_numbers`,
		`update slot_numbers set state = 'withdrawn'`,
		`update product_gates set units = 1`,
		`update product_gates set epoch = epoch - 1`,
	} {
		_, err := w.pool.Exec(t.Context(), sql)
		require.Error(t, err, sql)
	}
}

// acquire appends the grant's event with its claim.
func (w *world) acquire(c claims.Claim) error { return w.append(c, c.GuardItem()) }

func (w *world) append(c claims.Claim, guards ...eventstore.GuardItem) error {
	typ, version, payload, err := avsc.Encode(domain.SlotAcquired{
		UserID: c.Buyer, Unit: c.Unit, ArrivalSequence: c.Number, TTLMillis: c.TTL.Milliseconds()})
	if err != nil {
		return err
	}
	_, err = w.store.Append(w.t.Context(), eventstore.Append{
		Key: c.Product,
		Streams: []eventstore.StreamAppend{{Stream: c.SlotID, Expected: eventstore.None, Events: []eventstore.NewEvent{
			{ID: uuid.New(), Type: typ, SchemaVersion: version, Payload: payload}}}},
		Guards: guards,
	})
	return err
}

// A deletion is based on an earlier read: a slot of this product that was acquired since
// makes the guard refuse it, whether that slot has ended or not.
func TestDelete_RefusedAfterLaterAcquisition(t *testing.T) {
	w := newWorld(t)
	product, other := w.product(2), w.product(1)
	active, at, err := w.claims.HasActive(t.Context(), product)
	require.NoError(t, err)
	require.False(t, active)
	require.NoError(t, w.acquire(claimOf(other, 1, 1)))
	c := claimOf(product, 1, 1)
	require.NoError(t, w.acquire(c))
	require.ErrorIs(t, w.do(claims.Delete{Product: product, NoneActiveAt: at}), claims.ErrAcquiredSince)
	w.must(claims.Release{Product: product, SlotID: c.SlotID})
	require.ErrorIs(t, w.do(claims.Delete{Product: product, NoneActiveAt: at}), claims.ErrAcquiredSince)
	active, at, err = w.claims.HasActive(t.Context(), product)
	require.NoError(t, err)
	require.False(t, active)
	w.must(claims.Delete{Product: product, NoneActiveAt: at})
}

// If deletion and claims happen at the same time, in any order, no deleted
// product has an active slot.
func TestDelete_RacesClaims(t *testing.T) {
	w := newWorld(t)
	for range 30 {
		product := w.product(40)
		var wg sync.WaitGroup
		var claimed atomic.Int32
		var deleted atomic.Bool
		for i := range 40 {
			wg.Go(func() {
				if i == 20 {
					deleted.Store(w.do(claims.Delete{Product: product}) == nil)
					return
				}
				err := w.acquire(claimOf(product, int64(i+1), i+1))
				if err == nil {
					claimed.Add(1)
				} else if !errors.Is(err, claims.ErrGone) {
					t.Errorf("claim: %v", err)
				}
			})
		}
		wg.Wait()
		require.False(t, deleted.Load() && claimed.Load() > 0, "%d slots of a deleted product", claimed.Load())
	}
}

// An append that waits for the lock while the epoch rises is refused.
func TestClaim_RefusedIfEpochRoseWhileItWaited(t *testing.T) {
	w := newWorld(t)
	product := w.product(1)
	tx, err := w.pool.Begin(t.Context())
	require.NoError(t, err)
	defer func() { _ = tx.Rollback(context.Background()) }()
	_, err = tx.Exec(t.Context(), `select pg_advisory_xact_lock($1)`, eventstore.AppendLock)
	require.NoError(t, err)
	waiting := make(chan error, 1)
	go func() { waiting <- w.do(claimOf(product, 1, 1)) }()
	for waits := 0; waits == 0; { // until it waits for the lock
		require.NoError(t, w.pool.QueryRow(t.Context(),
			`select count(*) from pg_locks where locktype = 'advisory' and not granted and database = (select oid from pg_database where datname = current_database())`).Scan(&waits))
	}
	_, err = tx.Exec(t.Context(), `update product_gates set epoch = epoch + 1 where product_id = $1`, product)
	require.NoError(t, err)
	require.NoError(t, tx.Commit(t.Context()))
	require.ErrorIs(t, <-waiting, claims.ErrEpoch)
}

// BenchmarkClaims makes grants durable with 64 callers, compared with the same events
// without a claim.
func BenchmarkClaims(b *testing.B) {
	b.Run("events-alone", func(b *testing.B) { benchmarkClaims(b, false) })
	b.Run("with-claims", func(b *testing.B) { benchmarkClaims(b, true) })
}

func benchmarkClaims(b *testing.B, guarded bool) {
	w := newWorld(b)
	const units = 10_000_000
	product := w.product(units)
	var number atomic.Int64
	b.SetParallelism(32)
	b.RunParallel(func(pb *testing.PB) {
		for pb.Next() {
			n := number.Add(1)
			c := claimOf(product, n, int(n))
			var guards []eventstore.GuardItem
			if guarded {
				guards = append(guards, c.GuardItem())
			}
			if err := w.append(c, guards...); err != nil {
				b.Error(err)
				return
			}
		}
	})
	b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "claims/s")
}
