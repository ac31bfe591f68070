package redis_test

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/stretchr/testify/require"

	"github.com/dopaminestore/dopamine/redis"
	"github.com/dopaminestore/dopamine/tools/testkit"
)

// rush runs buyers that request several products through several nodes, each one request
// after the other, while a test breaks something. Grants are claimed, and some slots are
// expired again.
type rush struct {
	w        *world
	gates    []*redis.Gate
	products []uuid.UUID
	units    int
	stop     context.CancelFunc
	buyers   sync.WaitGroup

	numbers                sync.Map // of grants: number -> decision, per product
	granted, refused, away atomic.Int64
	ended                  atomic.Int64
}

// maxBuyers is small, so that the machine has capacity for the servers.
const maxBuyers = 8

func (w *world) rush(units int, products []uuid.UUID, gates ...*redis.Gate) *rush {
	ctx, cancel := context.WithCancel(w.ctx)
	r := &rush{w: w, gates: gates, products: products, units: units, stop: cancel}
	for i := range maxBuyers {
		r.buyers.Go(func() { r.buy(ctx, i) })
	}
	w.t.Cleanup(func() { r.stop(); r.buyers.Wait() })
	return r
}

type numbered struct {
	product uuid.UUID
	number  int64
}

func (r *rush) buy(ctx context.Context, buyer int) {
	last := make(map[uuid.UUID]int64)
	rest := time.NewTicker(2 * time.Millisecond)
	defer rest.Stop()
	for i := buyer; ctx.Err() == nil; i++ {
		product := r.products[i%len(r.products)]
		d, err := r.w.acquire(r.gates[(i/len(r.products)+buyer)%len(r.gates)], product, uuid.New())
		switch {
		case errors.Is(err, redis.ErrUnavailable):
			r.away.Add(1)
			<-rest.C
			continue
		case err != nil:
			r.w.t.Errorf("acquire: %v", err)
			return
		case d.Outcome == redis.Granted:
			if twice, there := r.numbers.LoadOrStore(numbered{product, d.Number}, d); there {
				r.w.t.Errorf("number %d twice: %+v, %+v", d.Number, twice, d)
			}
			if r.granted.Add(1)%10 == 0 {
				r.giveUp(d)
			}
		default:
			r.refused.Add(1)
		}
		if d.Number <= last[product] {
			r.w.t.Errorf("number %d after %d was answered", d.Number, last[product])
		}
		last[product] = d.Number
		<-rest.C
	}
}

func (r *rush) giveUp(d redis.Decision) {
	if err := r.w.expire(d); err != nil {
		r.w.t.Errorf("expire: %v", err)
		return
	}
	r.ended.Add(1)
	_ = r.gates[0].Sync(r.w.ctx, d.Product) // unavailable: a later sync applies it
}

// await waits for so many more grants or refusals.
func (r *rush) await(more int64, what string) {
	r.w.t.Helper()
	from := r.granted.Load() + r.refused.Load()
	testkit.Eventually(r.w.t, 30*time.Second, what, func() error {
		if n := r.granted.Load() + r.refused.Load() - from; n < more {
			return fmt.Errorf("%d of %d answers", n, more)
		}
		return nil
	})
}

// serves waits until every product is decided again, and returns their epochs.
func (r *rush) serves() map[uuid.UUID]int64 {
	r.w.t.Helper()
	epochs := make(map[uuid.UUID]int64)
	for _, product := range r.products {
		testkit.Eventually(r.w.t, 30*time.Second, "the gate to decide", func() error {
			d, err := r.w.acquire(r.gates[0], product, uuid.New())
			if err != nil {
				return err
			}
			if d.Outcome == redis.Granted {
				r.granted.Add(1)
			}
			epochs[product] = d.Epoch
			return nil
		})
	}
	return epochs
}

// end stops the buyers and requires R1, R2 and R6: every grant that was returned is
// a claim, every unit is held or goes to the next buyer, and the log folds.
func (r *rush) end() {
	t, w := r.w.t, r.w
	t.Helper()
	r.stop()
	r.buyers.Wait()
	require.Positive(t, r.granted.Load())
	held := 0
	g := r.gates[0]
	for _, product := range r.products {
		require.NoError(t, g.Sync(w.ctx, product))
		pending, err := g.Pending(w.ctx, product, 0, redis.MaxNumber, 1000)
		require.NoError(t, err)
		for _, p := range pending {
			_ = w.withdraw(product, p.Number, p.Unit)
		}
		state := w.agrees(g, product)
		require.Zero(t, state.Pending)
		require.LessOrEqual(t, state.Held, r.units)
		held += state.Held
		for range r.units - state.Held {
			d, err := w.acquire(g, product, uuid.New())
			require.NoError(t, err)
			require.Equal(t, redis.Granted, d.Outcome)
		}
		require.Equal(t, redis.SoldOut, w.decide(g, product, uuid.New(), "").Outcome)
		require.Equal(t, r.units, w.agrees(g, product).Held)
		w.folds(w.log(g, product))
	}
	require.EqualValues(t, r.granted.Load()-r.ended.Load(), held, "every existing slot was returned to its buyer")
	t.Logf("%d granted, %d given up, %d refused, %d unavailable", r.granted.Load(), r.ended.Load(), r.refused.Load(), r.away.Load())
}

func epochsGrew(t testing.TB, before, after map[uuid.UUID]int64, which []uuid.UUID) {
	t.Helper()
	for _, product := range which {
		require.Greater(t, after[product], before[product], "another process is a lost gate")
	}
}
