package redis_test

import (
	"context"
	"errors"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/stretchr/testify/require"

	"github.com/dopaminestore/dopamine/command/claims"
	"github.com/dopaminestore/dopamine/redis"
)

// acquire does what the command does: decide, claim, and if the claim is refused, sync or
// rebuild the gate and retry.
func (w *world) acquire(g *redis.Gate, product, buyer uuid.UUID) (redis.Decision, error) {
	for {
		d, err := g.Decide(w.ctx, redis.Request{Product: product, Buyer: buyer})
		if err != nil || d.Outcome != redis.Granted {
			return d, err
		}
		err = w.claim(d)
		var taken *claims.UnitTakenError
		switch {
		case err == nil:
			return d, nil
		case errors.Is(err, claims.ErrEpoch), errors.Is(err, claims.ErrWithdrawn):
			if err := g.Sync(w.ctx, product); err != nil {
				return d, err
			}
		case errors.As(err, &taken):
			if err := g.Rebuild(w.ctx, product, d.Epoch); err != nil {
				return d, err
			}
		default:
			return d, err
		}
	}
}

// Requests on three nodes while Redis repeatedly loses everything, keys disappear,
// the sale changes, slots end and grants are withdrawn at any age: no unit is sold
// twice, none is lost, no number repeats, and the log folds.
func TestGate_StaysConsistentWhileRedisLosesData(t *testing.T) {
	onEach(t, func(t *testing.T, w *world) {
		const units, buyers = 200, 1500
		gates, product := []*redis.Gate{w.gate(), w.gate(), w.gate()}, w.product(units)
		var numbers sync.Map
		var granted, refused, away, faults atomic.Int64
		ctx, cancel := context.WithCancel(w.ctx)
		var others, rush sync.WaitGroup
		others.Go(func() {
			tick := time.NewTicker(time.Millisecond)
			defer tick.Stop()
			for i := 0; ctx.Err() == nil; i++ {
				for before := granted.Load(); ctx.Err() == nil && granted.Load() < before+10; {
					<-tick.C // wait until there was traffic
				}
				prefix := "product:{" + product.String() + "}:"
				switch i % 4 {
				case 0, 2:
					w.flush()
				case 1:
					w.raw.Del(w.ctx, prefix+"holders")
				case 3:
					w.pause(product, false) // a change of the sale like any other
				}
				faults.Add(1)
			}
		})
		others.Go(func() {
			for ctx.Err() == nil {
				pending, _ := gates[2].Pending(ctx, product, 0, redis.MaxNumber, 3)
				for _, p := range pending {
					_ = w.withdraw(product, p.Number, p.Unit)
				}
				_ = gates[2].Ship(ctx, product)
				_ = gates[2].Sync(ctx, product)
			}
		})
		atOnce := make(chan struct{}, 15)
		for i := range buyers {
			rush.Go(func() {
				atOnce <- struct{}{}
				defer func() { <-atOnce }()
				d, err := w.acquire(gates[i%3], product, uuid.New())
				switch {
				case errors.Is(err, redis.ErrUnavailable):
					away.Add(1)
				case err != nil:
					t.Errorf("acquire: %v", err)
				case d.Outcome == redis.Granted:
					granted.Add(1)
					if other, twice := numbers.LoadOrStore(d.Number, d); twice {
						t.Errorf("number %d twice: %+v, %+v", d.Number, other, d)
					}
				default:
					refused.Add(1)
				}
			})
		}
		rush.Wait()
		cancel()
		others.Wait()
		require.Greater(t, faults.Load(), int64(5))
		require.EqualValues(t, buyers, granted.Load()+refused.Load()+away.Load())
		require.LessOrEqual(t, granted.Load(), int64(units))

		g := gates[0]
		require.NoError(t, g.Sync(w.ctx, product))
		pending, err := g.Pending(w.ctx, product, 0, redis.MaxNumber, 1000)
		require.NoError(t, err)
		for _, p := range pending {
			_ = w.withdraw(product, p.Number, p.Unit)
		}
		state := w.agrees(g, product)
		require.Zero(t, state.Pending)
		require.EqualValues(t, granted.Load(), state.Held, "every existing slot was returned to its buyer")
		for range units - state.Held { // R2: free units go to the next buyers
			d, err := w.acquire(g, product, uuid.New())
			require.NoError(t, err)
			require.Equal(t, redis.Granted, d.Outcome)
		}
		require.Equal(t, units, w.agrees(g, product).Held)
		w.folds(w.log(g, product))
		t.Logf("%d granted, %d refused, %d unavailable, %d faults, epoch %d", granted.Load(), refused.Load(), away.Load(), faults.Load(), state.Epoch)
	})
}
