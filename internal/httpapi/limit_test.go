package httpapi

import (
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"

	"github.com/dopaminestore/dopamine/internal/problem"
)

type clock struct{ at time.Time }

func (c *clock) now() time.Time { return c.at }

func TestLimiter_BurstAndRefill(t *testing.T) {
	c := &clock{time.Now()}
	l := newLimiter(50, c.now)
	buyer, other := uuid.New(), uuid.New()
	for range 100 {
		require.NoError(t, l.take(limitKey(buyer), errBuyerRate))
	}
	err := l.take(limitKey(buyer), errBuyerRate)
	require.Equal(t, problem.TooManyRequests, problem.From(err).Slug())
	require.Equal(t, 1, problem.From(err).RetryAfter())
	require.NoError(t, l.take(limitKey(other), errBuyerRate), "one buyer's haste is another's refusal")

	c.at = c.at.Add(20 * time.Millisecond)
	require.NoError(t, l.take(limitKey(buyer), errBuyerRate), "one interval is one request")
	require.Error(t, l.take(limitKey(buyer), errBuyerRate))
	c.at = c.at.Add(time.Hour)
	for range 100 {
		require.NoError(t, l.take(limitKey(buyer), errBuyerRate))
	}
	require.Error(t, l.take(limitKey(buyer), errBuyerRate))
}

func TestNoLimit(t *testing.T) {
	l := newLimiter(0, time.Now)
	for range 1000 {
		require.NoError(t, l.take(limitKey(uuid.Nil), errBuyerRate))
	}
}

// TestLimiter_IsATokenBucket compares with a bucket that never forgets a buyer.
func TestLimiter_IsATokenBucket(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		rate := rapid.IntRange(1, 20).Draw(t, "rate")
		c := &clock{time.Unix(1_000_000, 0)}
		l := newLimiter(rate, c.now)
		interval := time.Second / time.Duration(rate)
		type bucket struct {
			missing time.Duration // tokens missing, as the time to refill them
			at      time.Time
		}
		model := map[uuid.UUID]*bucket{}
		for i := range rapid.IntRange(1, 200).Draw(t, "requests") {
			c.at = c.at.Add(rapid.SampledFrom([]time.Duration{0, 0, interval / 2, interval, limitPeriod / 2, limitPeriod, 3 * limitPeriod}).Draw(t, "pause"))
			buyer := uuid.UUID{byte(rapid.IntRange(0, 3).Draw(t, "buyer"))}
			b := model[buyer]
			if b == nil {
				b = &bucket{at: c.at}
				model[buyer] = b
			}
			b.missing = max(0, b.missing-c.at.Sub(b.at))
			b.at = c.at
			allowed := b.missing+interval <= limitPeriod
			if allowed {
				b.missing += interval
			}
			require.Equal(t, allowed, l.take(limitKey(buyer), errBuyerRate) == nil, "request %d", i)
		}
	})
}

func TestLimiter_DropsUnusedKeys(t *testing.T) {
	c := &clock{time.Now()}
	l := newLimiter(1, c.now)
	const crowd = 20_000
	for round := range 10 {
		for i := range crowd {
			require.NoError(t, l.take(limitKey{byte(round), byte(i), byte(i >> 8), byte(i >> 16)}, errBuyerRate))
		}
		c.at = c.at.Add(limitPeriod)
	}
	kept := 0
	for i := range l.shards {
		kept += len(l.shards[i].current) + len(l.shards[i].before)
	}
	require.LessOrEqual(t, kept, 2*crowd)
}

func BenchmarkLimiter(b *testing.B) {
	l := newLimiter(1_000_000, time.Now)
	buyer := uuid.New()
	b.ReportAllocs()
	for b.Loop() {
		_ = l.take(limitKey(buyer), errBuyerRate)
	}
}
