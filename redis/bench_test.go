package redis_test

import (
	"fmt"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/uuid"
	goredis "github.com/redis/go-redis/v9"
	"github.com/stretchr/testify/require"

	"github.com/dopaminestore/dopamine/redis"
	"github.com/dopaminestore/dopamine/tools/testkit"
)

// BenchmarkSoldOut compares the refusals of the gate per second with those of raw
// pipelined script calls that refuse one request each, in the same run.
//
//	go test -run '^$' -bench SoldOut -benchtime 3s ./redis
func BenchmarkSoldOut(b *testing.B) {
	w := newWorld(b, testkit.OwnRedis(b))
	g, product := w.gate(), w.product(1)
	w.granted(g, product)
	for _, callers := range []int{1, 100, 1000, 10_000} {
		b.Run(fmt.Sprintf("%d-callers", callers), func(b *testing.B) {
			var left atomic.Int64
			left.Store(int64(b.N))
			callUntilFalse(b, callers, func() bool {
				if left.Add(-1) < 0 {
					return false
				}
				d, err := g.Decide(w.ctx, redis.Request{Product: product, Buyer: uuid.New()})
				require.NoError(b, err)
				require.Equal(b, redis.SoldOut, d.Outcome)
				return true
			})
			b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "refusals/s")
		})
	}
	// The raw limit: a minimal script that refuses, pipelined by 256 on two
	// connections.
	b.Run("raw-pipelined", func(b *testing.B) {
		script := goredis.NewScript(`
			if redis.call('HGET', KEYS[1], ARGV[1]) then return 1 end
			if redis.call('LLEN', KEYS[2]) == 0 then return redis.call('HINCRBY', KEYS[3], 'counter', 1) end
			return 0`)
		require.NoError(b, script.Load(w.ctx, w.raw).Err())
		var left atomic.Int64
		left.Store(int64(b.N))
		callUntilFalse(b, 2, func() bool {
			n := min(256, left.Add(-256)+256)
			if n <= 0 {
				return false
			}
			pipe := w.raw.Pipeline()
			for range n {
				id := uuid.New()
				pipe.EvalSha(w.ctx, script.Hash(), []string{"{raw}:holders", "{raw}:queue", "{raw}:stock"}, string(id[:]))
			}
			_, err := pipe.Exec(w.ctx)
			require.NoError(b, err)
			return true
		})
		b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "refusals/s")
	})
}

// callUntilFalse calls next from many goroutines until it returns false.
func callUntilFalse(b *testing.B, callers int, next func() bool) {
	done := make(chan struct{})
	for range callers {
		go func() {
			defer func() { done <- struct{}{} }()
			for next() {
			}
		}()
	}
	for range callers {
		<-done
	}
}

// BenchmarkRebuild measures for how long a gate with 100,000 holders is unavailable.
func BenchmarkRebuild(b *testing.B) {
	const holders = 100_000
	w := newWorld(b, testkit.OwnRedis(b))
	g, product := w.gate(), w.product(holders)
	_, err := w.pool.Exec(w.ctx, `
		with numbers as (
			insert into slot_numbers (product_id, number, state, unit)
			select $1, (epoch + 1) * 10000000000 + i, 'claimed', i from product_gates, generate_series(1, $2::int) i where product_id = $1)
		update product_gates set epoch = epoch + 1 where product_id = $1`, product, holders)
	require.NoError(b, err)
	_, err = w.pool.Exec(w.ctx, `
		insert into slot_claims (product_id, unit, slot_id, number, buyer, acquired_at, deadline, due_at, position)
		select product_id, unit, gen_random_uuid(), number, gen_random_uuid(), now(), now() + interval '1 h', now() + interval '1 h', 1
		from slot_numbers where product_id = $1`, product)
	require.NoError(b, err)
	for b.Loop() {
		w.flush()
		began := time.Now()
		require.Equal(b, redis.SoldOut, w.decide(g, product, uuid.New(), "").Outcome)
		b.ReportMetric(float64(time.Since(began).Milliseconds()), "ms-away")
	}
}
