package claims_test

import (
	"context"
	"errors"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/dopaminestore/dopamine/avsc"
	"github.com/dopaminestore/dopamine/command/claims"
	"github.com/dopaminestore/dopamine/domain"
	"github.com/dopaminestore/dopamine/domain/fairness"
	"github.com/dopaminestore/dopamine/eventstore"
	"github.com/dopaminestore/dopamine/redis"
	"github.com/dopaminestore/dopamine/tools/claimstest"
	"github.com/dopaminestore/dopamine/tools/dbtest"
)

func TestClaim_Refusals(t *testing.T) {
	w := claimstest.New(t)
	product := w.Product(3)
	first := claimstest.Claim(product, 1, 1)
	first.KeyHash = redis.HashKey(product, first.Buyer, "k")
	w.Must(first)

	var holds *claims.BuyerHoldsError
	t.Run("same grant of another request", func(t *testing.T) {
		require.ErrorAs(t, w.Do(first), &holds)
		require.Equal(t, first.SlotID, holds.Claim.SlotID)
		require.Equal(t, first.KeyHash, holds.Claim.KeyHash)
		require.Equal(t, claims.Active, holds.Claim.Status)
		require.Equal(t, 30*time.Minute, holds.Claim.Deadline.Sub(holds.Claim.AcquiredAt))
	})
	t.Run("second slot of the buyer", func(t *testing.T) {
		second := claimstest.Claim(product, 2, 2)
		second.Buyer = first.Buyer
		require.ErrorAs(t, w.Do(second), &holds)
		require.Equal(t, first.SlotID, holds.Claim.SlotID)
	})
	t.Run("unit of another slot", func(t *testing.T) {
		var taken *claims.UnitTakenError
		require.ErrorAs(t, w.Do(claimstest.Claim(product, 2, 1)), &taken)
		require.Equal(t, claims.UnitTakenError{Unit: 1, SlotID: first.SlotID}, *taken)
	})
	t.Run("unknown unit, epoch and product", func(t *testing.T) {
		assert.ErrorIs(t, w.Do(claimstest.Claim(product, 2, 4)), claims.ErrNoUnit)
		assert.ErrorIs(t, w.Do(claimstest.Claim(product, fairness.NumbersPerEpoch+1, 2)), claims.ErrEpoch)
		assert.ErrorIs(t, w.Do(claimstest.Claim(uuid.New(), 1, 1)), claims.ErrGone)
	})
	t.Run("withdrawn number", func(t *testing.T) {
		w.Must(claims.Withdraw{Product: product, Number: 2, Unit: 2})
		assert.ErrorIs(t, w.Do(claimstest.Claim(product, 2, 2)), claims.ErrWithdrawn)
		assert.ErrorIs(t, w.Do(claims.Withdraw{Product: product, Number: 2, Unit: 2}), claims.ErrWithdrawn)
		assert.ErrorIs(t, w.Do(claims.Withdraw{Product: product, Number: 1, Unit: 1}), claims.ErrClaimed)
	})
	t.Run("withdrawal of another epoch, rebuild or product", func(t *testing.T) {
		row, err := w.Gates.Row(t.Context(), product)
		require.NoError(t, err)
		assert.ErrorIs(t, w.Do(claims.Withdraw{Product: product, Number: fairness.NumbersPerEpoch + 1, Unit: 2, Rebuild: row.RebuiltID}), claims.ErrEpoch)
		assert.ErrorIs(t, w.Do(claims.Withdraw{Product: product, Number: 7, Unit: 2, Rebuild: uuid.New()}), claims.ErrEpoch)
		assert.ErrorIs(t, w.Do(claims.Withdraw{Product: uuid.New(), Number: 7, Unit: 2}), claims.ErrGone)
		w.Must(claims.Withdraw{Product: product, Number: 7, Unit: 2, Rebuild: row.RebuiltID})
	})
	t.Run("fewer units than before", func(t *testing.T) {
		w.Must(claims.Stock{Product: product, Total: 4})
		w.Must(claimstest.Claim(product, 3, 4))
		assert.ErrorIs(t, w.Do(claims.Stock{Product: product, Total: 3}), claims.ErrFewerUnits)
	})
	t.Run("slot that has ended", func(t *testing.T) {
		w.Must(claims.Release{Product: product, SlotID: first.SlotID})
		assert.ErrorIs(t, w.Do(claims.Release{Product: product, SlotID: first.SlotID}), claims.ErrNotActive)
		assert.ErrorIs(t, w.Do(first), claims.ErrSlotEnded)
		_, found, err := w.Claims.BySlot(t.Context(), first.SlotID)
		require.NoError(t, err)
		assert.False(t, found)
		counts, _, err := w.Gates.Counts(t.Context(), product)
		require.NoError(t, err)
		assert.Equal(t, 3, counts.Free())
	})
}

func TestProduct_Lifecycle(t *testing.T) {
	w := claimstest.New(t)
	product := w.Product(2)
	date := time.Now().Add(time.Hour).UTC().Truncate(time.Millisecond)
	var c claims.Claim
	for _, stage := range []struct {
		name string
		run  func(t *testing.T)
	}{
		{"a sale that never had a slot is moved in the next epoch", func(t *testing.T) {
			require.ErrorIs(t, w.Do(claims.Create{Product: product, Stock: 1, SaleDate: date}), claims.ErrExists)
			w.Must(claims.Sale{Product: product, SaleDate: date, OnlyIfNeverHadSlot: true})
			row, err := w.Gates.Row(t.Context(), product)
			require.NoError(t, err)
			require.EqualValues(t, 1, row.Epoch)
			require.EqualValues(t, 0, row.Rebuilt)
			require.True(t, date.Equal(row.SaleDate))
		}},
		{"a withdrawn grant is no slot, a claim is one", func(t *testing.T) {
			w.Must(claims.Withdraw{Product: product, Number: fairness.NumbersPerEpoch + 2, Unit: 2})
			w.Must(claims.Sale{Product: product, SaleDate: date, Units: 1, OnlyIfNeverHadSlot: true}) // a withdrawn grant is no slot
			c = claimstest.Claim(product, 2*fairness.NumbersPerEpoch+1, 1)
			w.Must(c)
			require.ErrorIs(t, w.Do(claims.Sale{Product: product, SaleDate: date, OnlyIfNeverHadSlot: true}), claims.ErrHadSlot)
		}},
		{"a completed slot is not active and cannot be released", func(t *testing.T) {
			active, _, err := w.Claims.HasActive(t.Context(), product)
			require.NoError(t, err)
			require.True(t, active)
			w.Must(claims.Complete{Product: product, SlotID: c.SlotID})
			active, _, err = w.Claims.HasActive(t.Context(), product)
			require.NoError(t, err)
			require.False(t, active)
			require.ErrorIs(t, w.Do(claims.Release{Product: product, SlotID: c.SlotID}), claims.ErrNotActive)
			found, _, err := w.Claims.ByBuyer(t.Context(), product, c.Buyer)
			require.NoError(t, err)
			require.Equal(t, claims.Completed, found.Status)
		}},
		{"a deleted product is gone", func(t *testing.T) {
			live, err := w.Gates.Products(t.Context())
			require.NoError(t, err)
			require.Equal(t, []uuid.UUID{product}, live)
			w.Must(claims.Delete{Product: product})
			require.ErrorIs(t, w.Do(claims.Delete{Product: product}), claims.ErrGone)
			require.ErrorIs(t, w.Do(claimstest.Claim(product, 3*fairness.NumbersPerEpoch+1, 2)), claims.ErrGone)
			leases, err := w.Gates.Leases(t.Context(), []redis.LeaseRequest{{Product: product, Epoch: 3, Instance: "here", Renew: true}})
			require.NoError(t, err)
			require.Equal(t, []redis.LeaseResult{redis.LeaseRefused}, leases, "no lease for a deleted product")
			require.False(t, w.Raise(product, 3, redis.NoEpoch).Raised)
		}},
	} {
		if !t.Run(stage.name, stage.run) {
			return // the next stages depend on it
		}
	}
}

// Writes that bypass the guards are rejected by Postgres.
func TestConstraints_EnforceR1AndR3(t *testing.T) {
	w := claimstest.New(t)
	product := w.Product(2)
	w.Must(claimstest.Claim(product, 1, 1))
	buyer := uuid.New()
	insert := func(unit int, number int64, buyer uuid.UUID) error {
		dbtest.Exec(t, w.Pool, `
			with n as (insert into slot_numbers values ($1, $2, 'claimed', $3))
			select 1`, product, number, unit)
		_, err := w.Pool.Exec(t.Context(), `
			insert into slot_claims (product_id, unit, slot_id, number, buyer, acquired_at, deadline, due_at, position)
			values ($1, $2, gen_random_uuid(), $3, $4, now(), now() + interval '1 h', now() + interval '1 h', 1)`,
			product, unit, number, buyer)
		return err
	}
	require.ErrorContains(t, insert(1, 10, uuid.New()), "slot_claims_pkey")
	require.ErrorContains(t, insert(3, 11, uuid.New()), "has no unit 3")
	require.ErrorContains(t, insert(2, fairness.NumbersPerEpoch+1, uuid.New()), "has no unit 2")
	require.NoError(t, insert(2, 12, buyer))
	w.Must(claims.Stock{Product: product, Total: 3})
	require.ErrorContains(t, insert(3, 13, buyer), "slot_claims_buyer_key")
	for _, sql := range []string{
		`update slot_claims set unit = 3 where unit = 2`,
		`update slot_claims set buyer = gen_random_uuid()`,
		`delete from slot_numbers`,
		`update slot_numbers set state = 'withdrawn'`,
		`update product_gates set units = 1`,
		`update product_gates set epoch = epoch - 1`,
	} {
		_, err := w.Pool.Exec(t.Context(), sql)
		require.Error(t, err, sql)
	}
}

// acquire appends the grant's event with its claim.
func acquire(w *claimstest.World, c claims.Claim) error { return appendAcquired(w, c, c.GuardItem()) }

func appendAcquired(w *claimstest.World, c claims.Claim, guards ...eventstore.GuardItem) error {
	typ, version, payload, err := avsc.Encode(domain.SlotAcquired{
		UserID: c.Buyer, Unit: c.Unit, ArrivalSequence: c.Number, TTLMillis: c.TTL.Milliseconds()})
	if err != nil {
		return err
	}
	_, err = w.Events.Append(w.TB.Context(), eventstore.Append{
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
	w := claimstest.New(t)
	product, other := w.Product(2), w.Product(1)
	active, at, err := w.Claims.HasActive(t.Context(), product)
	require.NoError(t, err)
	require.False(t, active)
	require.NoError(t, acquire(w, claimstest.Claim(other, 1, 1)))
	c := claimstest.Claim(product, 1, 1)
	require.NoError(t, acquire(w, c))
	require.ErrorIs(t, w.Do(claims.Delete{Product: product, NoneActiveAt: at}), claims.ErrAcquiredSince)
	w.Must(claims.Release{Product: product, SlotID: c.SlotID})
	require.ErrorIs(t, w.Do(claims.Delete{Product: product, NoneActiveAt: at}), claims.ErrAcquiredSince)
	active, at, err = w.Claims.HasActive(t.Context(), product)
	require.NoError(t, err)
	require.False(t, active)
	w.Must(claims.Delete{Product: product, NoneActiveAt: at})
}

// If deletion and claims happen at the same time, in any order, no deleted
// product has an active slot.
func TestDelete_RacesClaims(t *testing.T) {
	w := claimstest.New(t)
	for range 30 {
		product := w.Product(40)
		var wg sync.WaitGroup
		var claimed atomic.Int32
		var deleted atomic.Bool
		for i := range 40 {
			wg.Go(func() {
				if i == 20 {
					deleted.Store(w.Do(claims.Delete{Product: product}) == nil)
					return
				}
				err := acquire(w, claimstest.Claim(product, int64(i+1), i+1))
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
	w := claimstest.New(t)
	product := w.Product(1)
	tx, err := w.Pool.Begin(t.Context())
	require.NoError(t, err)
	defer func() { _ = tx.Rollback(context.Background()) }()
	dbtest.Exec(t, tx, `select pg_advisory_xact_lock($1)`, eventstore.AppendLock)
	waiting := make(chan error, 1)
	go func() { waiting <- w.Do(claimstest.Claim(product, 1, 1)) }()
	for waits := 0; waits == 0; { // until it waits for the lock
		require.NoError(t, w.Pool.QueryRow(t.Context(),
			`select count(*) from pg_locks where locktype = 'advisory' and not granted and database = (select oid from pg_database where datname = current_database())`).Scan(&waits))
	}
	dbtest.Exec(t, tx, `update product_gates set epoch = epoch + 1 where product_id = $1`, product)
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
	w := claimstest.New(b)
	const units = 10_000_000
	product := w.Product(units)
	var number atomic.Int64
	b.SetParallelism(32)
	b.RunParallel(func(pb *testing.PB) {
		for pb.Next() {
			n := number.Add(1)
			c := claimstest.Claim(product, n, int(n))
			var guards []eventstore.GuardItem
			if guarded {
				guards = append(guards, c.GuardItem())
			}
			if err := appendAcquired(w, c, guards...); err != nil {
				b.Error(err)
				return
			}
		}
	})
	b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "claims/s")
}
