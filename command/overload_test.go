package command

import (
	"context"
	"fmt"
	"net/http"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/stretchr/testify/require"

	"github.com/dopaminestore/dopamine/internal/auth"
	"github.com/dopaminestore/dopamine/tools/dbtest"
	"github.com/dopaminestore/dopamine/tools/testkit"
)

// answers counts responses by status and slug, and the longest time for each.
type answers struct {
	mu      sync.Mutex
	counts  map[string]int
	took    map[string][]time.Duration
	without int // 503 without Retry-After
}

func newAnswers() *answers {
	return &answers{counts: map[string]int{}, took: map[string][]time.Duration{}}
}

func (a *answers) add(r answered, took time.Duration) {
	a.mu.Lock()
	defer a.mu.Unlock()
	name := fmt.Sprintf("%d %s", r.status, r.slug())
	a.counts[name]++
	a.took[name] = append(a.took[name], took)
	if r.status == http.StatusServiceUnavailable && r.header.Get("Retry-After") == "" {
		a.without++
	}
}

func (a *answers) acquire(ctx context.Context, n node, u user, product uuid.UUID) {
	start := time.Now()
	r, err := n.send(ctx, u, http.MethodPost, "/v1/slots/acquire", map[string]any{"productId": product})
	if err == nil && ctx.Err() == nil {
		a.add(r, time.Since(start))
	}
}

// Another node rebuilds one product's gate, indefinitely, and
// many requests for it arrive: the append queue remains available to others. All
// buyers of a healthy product get their slot.
func TestOverload_ProductUnderRebuildDelaysNoOther(t *testing.T) {
	t.Parallel()
	s := newSystem(t, testkit.Redis(t))
	const queue, crowd, buyers = 64, 400, 40
	n := s.node(t, func(c *Config) { c.AppendQueue = queue })
	sick, healthy := s.product(t, n, 10), s.product(t, n, buyers)
	ctx, stop := context.WithCancel(t.Context())
	var background sync.WaitGroup
	defer background.Wait()
	defer stop()
	dbtest.Exec(t, s.pool, `update product_gates set epoch = epoch + 1, rebuilt = epoch + 1, raised_at = clock_timestamp(),
		rebuild_beat = rebuild_beat + 1, rebuild_owner = gen_random_uuid() where product_id = $1`, sick)
	background.Go(func() { // its heartbeats
		for ctx.Err() == nil {
			_, _ = s.pool.Exec(ctx, `update product_gates set raised_at = clock_timestamp(), rebuild_beat = rebuild_beat + 1 where product_id = $1`, sick)
			select {
			case <-ctx.Done():
			case <-time.After(300 * time.Millisecond):
			}
		}
	})
	before := newAnswers()
	before.acquire(ctx, n, s.user(t, auth.Buyer), healthy)
	refused, sold := newAnswers(), newAnswers()
	asking := s.user(t, auth.Buyer)
	for range crowd {
		background.Go(func() {
			for ctx.Err() == nil {
				refused.acquire(ctx, n, asking, sick)
			}
		})
	}
	testkit.Eventually(t, 15*time.Second, "the crowd to be refused", func() error {
		refused.mu.Lock()
		defer refused.mu.Unlock()
		if refused.counts["503 unavailable"] == 0 {
			return fmt.Errorf("%v", refused.counts)
		}
		return nil
	})
	for range buyers - 1 {
		sold.acquire(ctx, n, s.user(t, auth.Buyer), healthy)
	}
	stop()
	background.Wait()
	require.Equal(t, map[string]int{"201 ": buyers - 1}, sold.counts)
	require.Zero(t, refused.without, "each refusal says when to retry")
	require.NotContains(t, refused.counts, "503 overloaded", "the gate is the reason, not the load: %v", refused.counts)
	slices.Sort(sold.took["201 "])
	slices.Sort(refused.took["503 unavailable"])
	t.Logf("healthy product: p50 %s, longest %s (before the crowd %s); the other: %v, first refusal after %s",
		sold.took["201 "][buyers/2], sold.took["201 "][buyers-2], before.took["201 "], refused.counts, refused.took["503 unavailable"][0])
}

// A Redis master that hangs holds a bounded part of the requests; it is
// used again as soon as it responds.
func TestOverload_RecoversFromHungRedis(t *testing.T) {
	t.Parallel()
	own := testkit.OwnRedis(t)
	s := newSystem(t, own.URL())
	n := s.node(t, func(c *Config) { c.AppendQueue = 64 })
	product := s.product(t, n, 1000)
	require.NoError(t, own.Pause())
	resume := sync.OnceFunc(func() { require.NoError(t, own.Resume()) })
	defer resume()
	got := newAnswers()
	start := time.Now()
	users := s.buyers(t, 300)
	crowd(len(users), func(i int) { got.acquire(t.Context(), n, users[i], product) })
	require.Less(t, time.Since(start), 20*time.Second)
	require.Equal(t, len(users), got.counts["503 unavailable"]+got.counts["503 overloaded"], "%v", got.counts)
	require.Zero(t, got.without)
	require.Zero(t, n.store.Queued(), "all entries were released")
	resume()
	s.acquireUntil(t, 10*time.Second, n, s.user(t, auth.Buyer), product, "")
	s.requireLawful(t, product)
}
