package worker

import (
	"context"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/uuid"
	goredis "github.com/redis/go-redis/v9"
	"github.com/stretchr/testify/require"

	"github.com/dopaminestore/dopamine/internal/sleep"
	"github.com/dopaminestore/dopamine/redis"
	"github.com/dopaminestore/dopamine/tools/dbtest"
	"github.com/dopaminestore/dopamine/tools/devservices"
	"github.com/dopaminestore/dopamine/tools/testkit"
)

// isolation measures products that do not depend on a fault, in a cluster of three masters with a
// worker. Many buyers ask for the products that do depend on it.
type isolation struct {
	*world
	group     *devservices.RedisGroup
	raw       *goredis.ClusterClient
	healthy   []uuid.UUID
	dependent []uuid.UUID
}

// figures are what the products without a fault took.
type figures struct{ decision, freed, logged []time.Duration }

// BenchmarkIsolation compares products while another part is at fault with the same products
// before: the latency of decisions, the time from the end of a slot until its unit is granted
// again, and the time until a decision is in the stored log.
func BenchmarkIsolation(b *testing.B) {
	b.Run("hung-master", func(b *testing.B) {
		w := newIsolation(b)
		hung := w.group.Nodes[0]
		w.classify(24, func(p uuid.UUID) bool { return w.masterOf(p) == hung })
		w.compare(b, func(during func()) {
			require.NoError(b, hung.Pause())
			during()
			require.NoError(b, hung.Resume())
		})
	})
	b.Run("rebuild", func(b *testing.B) {
		w := newIsolation(b)
		big := w.holders(50_000, func(int) life { return life{ttl: time.Hour} })
		w.classify(8, func(uuid.UUID) bool { return false })
		w.dependent = []uuid.UUID{big}
		w.compare(b, func(during func()) {
			ctx, stop := context.WithCancel(context.Background())
			var losing sync.WaitGroup
			losing.Go(func() {
				for ctx.Err() == nil { // a rebuild begins as soon as the one before has ended
					_ = w.raw.Del(ctx, "product:{"+big.String()+"}:stock").Err()
					_ = sleep.For(ctx, 100*time.Millisecond)
				}
			})
			began := w.epoch(big)
			during()
			stop()
			losing.Wait()
			require.Greater(b, w.epoch(big), began, "the gate was rebuilt")
		})
	})
}

func newIsolation(b *testing.B) *isolation {
	group := testkit.RedisCluster(b, 3, 0)
	w := &isolation{world: newWorldOn(b, dbtest.Write(b), group.URL()), group: group}
	var addrs []string
	for _, r := range group.Nodes {
		addrs = append(addrs, addrOf(r))
	}
	w.raw = goredis.NewClusterClient(&goredis.ClusterOptions{Addrs: addrs})
	b.Cleanup(func() { require.NoError(b, w.raw.Close()) })
	return w
}

func (w *isolation) epoch(product uuid.UUID) (epoch int64) {
	require.NoError(w.TB, w.Pool.QueryRow(context.Background(), `select epoch from product_gates where product_id = $1`, product).Scan(&epoch))
	return epoch
}

func addrOf(r *devservices.Redis) string {
	return strings.TrimSuffix(strings.TrimPrefix(r.URL(), "redis://"), "/0")
}

func (w *isolation) masterOf(product uuid.UUID) *devservices.Redis {
	master, err := w.raw.MasterForKey(context.Background(), "product:{"+product.String()+"}:stock")
	require.NoError(w.TB, err)
	for _, r := range w.group.Nodes {
		if _, port, _ := strings.Cut(addrOf(r), ":"); strings.HasSuffix(master.Options().Addr, ":"+port) {
			return r
		}
	}
	w.TB.Fatalf("%s is no master of this cluster", master.Options().Addr)
	return nil
}

// classify creates n products with one unit each.
func (w *isolation) classify(n int, dependent func(uuid.UUID) bool) {
	for range n {
		product := w.product(1)
		if dependent(product) {
			w.dependent = append(w.dependent, product)
			w.acquire(product, life{ttl: time.Hour})
		} else {
			w.healthy = append(w.healthy, product)
		}
	}
}

// compare reports the figures without and with a fault: medians of the rounds, which alternate.
func (w *isolation) compare(b *testing.B, fault func(during func())) {
	const each = 3 * time.Second
	w.work()
	held := make(map[uuid.UUID]redis.Decision)
	for _, product := range w.healthy {
		held[product] = w.acquire(product, life{ttl: time.Hour})
	}
	p99s := map[string][]time.Duration{}
	samples := map[string]int{}
	add := func(f figures, label string) {
		for name, all := range map[string][]time.Duration{"decision": f.decision, "freed": f.freed, "logged": f.logged} {
			p99s[name+label] = append(p99s[name+label], percentile(all, 0.99))
			samples[name+label] += len(all)
		}
	}
	for b.Loop() {
		for _, product := range w.dependent { // they recover from the round before
			testkit.EventuallyTrue(b, time.Minute, "a decision", func() bool {
				_, err := w.gate.Decide(context.Background(), redis.Request{Product: product, Buyer: uuid.New()})
				return err == nil
			})
		}
		add(w.measure(each, held), "-healthy")
		fault(func() { add(w.measure(each, held), "") })
	}
	b.ReportMetric(0, "ns/op")
	for name, rounds := range p99s {
		slices.Sort(rounds)
		b.ReportMetric(float64(percentile(rounds, 0.5).Microseconds()), name+"-p99-µs")
		b.ReportMetric(float64(samples[name]), name+"-samples")
	}
}

func (w *isolation) measure(d time.Duration, held map[uuid.UUID]redis.Decision) (all figures) {
	ctx, cancel := context.WithTimeout(context.Background(), d)
	defer cancel()
	var mu sync.Mutex
	var running sync.WaitGroup
	record := func(into *[]time.Duration, since time.Time) {
		mu.Lock()
		defer mu.Unlock()
		*into = append(*into, time.Since(since))
	}
	for i := range 200 {
		running.Go(func() {
			for ctx.Err() == nil {
				_, _ = w.gate.Decide(ctx, redis.Request{Product: w.dependent[i%len(w.dependent)], Buyer: uuid.New()})
				_ = sleep.For(ctx, 10*time.Millisecond)
			}
		})
	}
	for _, product := range w.healthy {
		mine := held[product]
		running.Go(func() {
			for ctx.Err() == nil {
				w.expire(mine)
				freed := time.Now()
				for { // the buyers who ask meanwhile are the measured decisions
					began := time.Now()
					d, err := w.gate.Decide(context.Background(), redis.Request{Product: product, Buyer: uuid.New()})
					require.NoError(w.TB, err)
					record(&all.decision, began)
					if d.Outcome == redis.Granted {
						mine = d
						break
					}
					_ = sleep.For(context.Background(), 5*time.Millisecond)
				}
				record(&all.freed, freed)
				granted := time.Now()
				require.NoError(w.TB, w.Append(product, mine.SlotID,
					life{ttl: time.Hour}.claim(product, mine.SlotID, mine.Buyer, mine.Number, mine.Unit).GuardItem(),
					life{ttl: time.Hour}.acquired(mine.Buyer, mine.Number, mine.Unit)))
				for w.stored(product) < mine.Number {
					_ = sleep.For(context.Background(), 10*time.Millisecond)
				}
				record(&all.logged, granted)
			}
			mu.Lock()
			held[product] = mine
			mu.Unlock()
		})
	}
	running.Wait()
	for _, took := range [][]time.Duration{all.decision, all.freed, all.logged} {
		require.NotEmpty(w.TB, took)
		slices.Sort(took)
	}
	return all
}

// stored returns the highest number in the product's stored decision log.
func (w *isolation) stored(product uuid.UUID) (number int64) {
	require.NoError(w.TB, w.Pool.QueryRow(context.Background(),
		`select coalesce(max(greatest(sequence, to_number)), 0) from gate_decisions where product_id = $1`, product).Scan(&number))
	return number
}
