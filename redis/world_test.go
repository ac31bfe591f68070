package redis_test

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5/pgxpool"
	goredis "github.com/redis/go-redis/v9"
	"github.com/stretchr/testify/require"

	"github.com/dopaminestore/dopamine/command/claims"
	"github.com/dopaminestore/dopamine/command/gatestore"
	"github.com/dopaminestore/dopamine/domain"
	"github.com/dopaminestore/dopamine/domain/fairness"
	"github.com/dopaminestore/dopamine/eventstore"
	"github.com/dopaminestore/dopamine/redis"
	"github.com/dopaminestore/dopamine/tools/claimstest"
	"github.com/dopaminestore/dopamine/tools/devservices"
	"github.com/dopaminestore/dopamine/tools/storetest"
	"github.com/dopaminestore/dopamine/tools/testkit"
)

// world is a store, its claims and one Redis: a server, or a cluster.
type world struct {
	t         testing.TB
	ctx       context.Context
	claimed   *claimstest.World
	pool      *pgxpool.Pool
	store     *eventstore.Store
	gateStore *gatestore.Store
	redis     *devservices.Redis // nil for a cluster
	url       string
	raw       goredis.UniversalClient

	productsMu sync.Mutex
	products   []uuid.UUID
}

func newWorld(t testing.TB, r *devservices.Redis) *world {
	w := newWorldAt(t, r.URL(), testkit.RedisClient(t, r.URL()))
	w.redis = r
	return w
}

func newWorldAt(t testing.TB, url string, raw goredis.UniversalClient) *world {
	c := claimstest.New(t)
	return &world{t: t, ctx: t.Context(), claimed: c, pool: c.Pool, store: c.Events, gateStore: c.Gates, url: url, raw: raw}
}

// onEach runs a test with a real Redis, miniredis and a Redis Cluster.
func onEach(t *testing.T, test func(t *testing.T, w *world)) {
	onBoth(t, test)
	t.Run("cluster", func(t *testing.T) { t.Parallel(); test(t, clusterWorld(t)) })
}

// onBoth runs a test with a real Redis and with miniredis.
func onBoth(t *testing.T, test func(t *testing.T, w *world)) {
	t.Run("redis-server", func(t *testing.T) { t.Parallel(); test(t, newWorld(t, testkit.OwnRedis(t))) })
	t.Run("miniredis", func(t *testing.T) { t.Parallel(); test(t, newWorld(t, testkit.MiniRedis(t))) })
}

// gate opens the gate of another node.
func (w *world) gate() *redis.Gate { return w.gateOn(w.url, w.gateStore) }

func (w *world) gateOn(url string, store redis.Store) *redis.Gate {
	return w.gateWith(url, store, redis.Options{})
}

func (w *world) gateWith(url string, store redis.Store, opts redis.Options) *redis.Gate {
	g, err := redis.Open(w.ctx, strings.Split(url, ","), store, opts)
	require.NoError(w.t, err)
	w.t.Cleanup(func() { require.NoError(w.t, g.Close()) })
	return g
}

// append appends an event with a guard, in the product's own stream or a slot's.
func (w *world) append(product, stream uuid.UUID, event domain.Event, guard eventstore.GuardItem) error {
	return w.claimed.Append(product, stream, guard, event)
}

// ms returns the time d from now, in whole milliseconds.
func ms(d time.Duration) time.Time { return time.Now().Add(d).UTC().Truncate(time.Millisecond) }

// flush deletes the gates; on a shared cluster, only those of this world's products.
func (w *world) flush() {
	if w.redis != nil {
		require.NoError(w.t, w.raw.FlushAll(w.ctx).Err())
		return
	}
	w.productsMu.Lock()
	defer w.productsMu.Unlock()
	for _, id := range w.products {
		prefix := "product:{" + id.String() + "}:"
		require.NoError(w.t, w.raw.Del(w.ctx, prefix+"stock", prefix+"queue", prefix+"holders", prefix+"pending", prefix+"log").Err())
	}
}

// keysLike returns the keys of this world that match the pattern, on all masters.
func (w *world) keysLike(pattern string) []string {
	var mu sync.Mutex
	var found []string
	list := func(ctx context.Context, c *goredis.Client) error {
		keys, err := c.Keys(ctx, pattern).Result()
		mu.Lock()
		defer mu.Unlock()
		for _, key := range keys {
			if slices.ContainsFunc(w.products, func(id uuid.UUID) bool { return strings.Contains(key, id.String()) }) {
				found = append(found, key)
			}
		}
		return err
	}
	if cluster, ok := w.raw.(*goredis.ClusterClient); ok {
		require.NoError(w.t, cluster.ForEachMaster(w.ctx, list))
	} else {
		require.NoError(w.t, list(w.ctx, w.raw.(*goredis.Client)))
	}
	return found
}

// product creates a product that has been on sale for an hour.
func (w *world) product(stock int) uuid.UUID { return w.productFrom(stock, ms(-time.Hour)) }

func (w *world) productFrom(stock int, from time.Time) uuid.UUID {
	id := uuid.New()
	w.create(id, stock, from)
	return id
}

func (w *world) create(id uuid.UUID, stock int, from time.Time) {
	w.productsMu.Lock()
	w.products = append(w.products, id)
	w.productsMu.Unlock()
	w.claimed.Create(id, stock, from)
}

const slotTTL = 30 * time.Minute

// claim makes a grant durable.
func (w *world) claim(d redis.Decision) error {
	return w.append(d.Product, d.SlotID,
		domain.SlotAcquired{UserID: d.Buyer, Unit: d.Unit, ArrivalSequence: d.Number, KeyHash: d.KeyHash, TTLMillis: slotTTL.Milliseconds()},
		claims.Claim{
			Product: d.Product, SlotID: d.SlotID, Number: d.Number, Unit: d.Unit, Buyer: d.Buyer,
			KeyHash: d.KeyHash, TTL: slotTTL, Warning: 5 * time.Minute,
		}.GuardItem())
}

func (w *world) expire(d redis.Decision) error {
	return w.append(d.Product, d.SlotID, expiry(d), claims.Release{Product: d.Product, SlotID: d.SlotID}.GuardItem())
}

func expiry(d redis.Decision) domain.Event {
	return domain.SlotExpired{UserID: d.Buyer, Unit: d.Unit, ArrivalSequence: d.Number, ReclaimStatus: domain.AutoExpired, Deadline: ms(0)}
}

// withdrawPending withdraws grants as the worker does.
func (w *world) withdrawPending(g *redis.Gate, product uuid.UUID) {
	pending, err := g.Pending(w.ctx, product, 0, redis.MaxNumber, 1000)
	require.NoError(w.t, err)
	for _, p := range pending {
		_, err := claims.WithdrawGrant(w.ctx, w.store, p, storetest.NewEvent(w.t, domain.GrantWithdrawn{
			ArrivalSequence: p.Number, Unit: p.Unit, SlotID: p.SlotID()}))
		require.NoError(w.t, err)
	}
}

func (w *world) withdraw(product uuid.UUID, number int64, unit int) error {
	return w.append(product, product,
		domain.GrantWithdrawn{ArrivalSequence: number, Unit: unit, SlotID: domain.SlotID(product, number)},
		claims.Withdraw{Product: product, Number: number, Unit: unit}.GuardItem())
}

func (w *world) pause(product uuid.UUID, paused bool) {
	var event domain.Event = domain.ProductSalePaused{}
	if !paused {
		event = domain.ProductSaleResumed{}
	}
	require.NoError(w.t, w.append(product, product, event,
		claims.Sale{Product: product, SaleDate: ms(-time.Hour), Paused: paused}.GuardItem()))
}

func (w *world) decide(g *redis.Gate, product, buyer uuid.UUID, key string) redis.Decision {
	d, err := g.Decide(w.ctx, redis.Request{Product: product, Buyer: buyer, Key: key})
	require.NoError(w.t, err)
	return d
}

func (w *world) granted(g *redis.Gate, product uuid.UUID) redis.Decision {
	d := w.decide(g, product, uuid.New(), "")
	require.Equal(w.t, redis.Granted, d.Outcome)
	return d
}

func (w *world) row(product uuid.UUID) redis.GateRow {
	row, err := w.gateStore.Row(w.ctx, product)
	require.NoError(w.t, err)
	return row
}

// log ships the decision log and returns the stored lines.
func (w *world) log(g *redis.Gate, product uuid.UUID) []fairness.Line {
	require.NoError(w.t, g.Ship(w.ctx, product))
	return w.stored(product)
}

func (w *world) stored(product uuid.UUID) []fairness.Line {
	rows, err := w.pool.Query(w.ctx, `
		select epoch, line, type, coalesce(units,0), coalesce(sequence,0), coalesce(unit,0), coalesce(reason,''),
		       coalesce(from_number,0), coalesce(to_number,0), coalesce(sold_out,0), coalesce(duplicate,0),
		       coalesce(not_started,0), coalesce(closed,0)
		from gate_decisions where product_id = $1 order by epoch, line`, product)
	require.NoError(w.t, err)
	defer rows.Close()
	var lines []fairness.Line
	var epoch, number int64 = -1, 0
	for rows.Next() {
		var l fairness.Line
		var line int64
		var typ, reason string
		require.NoError(w.t, rows.Scan(&l.Epoch, &line, &typ, &l.Units, &l.Sequence, &l.Unit, &reason,
			&l.From, &l.To, &l.Refused.SoldOut, &l.Refused.Duplicate, &l.Refused.NotStarted, &l.Refused.Closed))
		l.Type, l.Reason = fairness.Type(typ), fairness.Reason(reason)
		if l.Epoch != epoch {
			epoch, number = l.Epoch, 0
		}
		number++
		require.Equal(w.t, number, line, "lines of epoch %d are numbered without a gap", epoch)
		lines = append(lines, l)
	}
	require.NoError(w.t, rows.Err())
	return lines
}

// folds requires that the log breaks no rule, and returns the report.
func (w *world) folds(lines []fairness.Line) fairness.Report {
	fold := fairness.NewFold()
	for _, l := range lines {
		require.NoError(w.t, fold.Add(l))
	}
	report := fold.Report()
	require.Zero(w.t, report.Inversions)
	return report
}

// agrees requires that gate and claims are equal once nothing is pending.
func (w *world) agrees(g *redis.Gate, product uuid.UUID) redis.State {
	require.NoError(w.t, g.Sync(w.ctx, product))
	difference, err := w.gateStore.Compare(w.ctx, g, product)
	require.NoError(w.t, err)
	require.Empty(w.t, difference)
	state, err := g.State(w.ctx, product)
	require.NoError(w.t, err)
	require.True(w.t, state.Alive)
	counts, found, err := w.gateStore.Counts(w.ctx, product)
	require.NoError(w.t, err)
	require.True(w.t, found)
	require.Equal(w.t, counts.Held, state.Held)
	require.Equal(w.t, counts.Units, state.Units)
	require.Equal(w.t, counts.Free(), state.Free+state.Pending)
	return state
}

// crowd lets n buyers send requests through the gates and claims the grants.
type crowd struct {
	mu      sync.Mutex
	granted map[int64]redis.Decision
	refused map[redis.Outcome]int
	errs    []error
}

func (w *world) crowd(product uuid.UUID, n int, claim bool, gates ...*redis.Gate) *crowd {
	c := &crowd{granted: make(map[int64]redis.Decision), refused: make(map[redis.Outcome]int)}
	var wg sync.WaitGroup
	for i := range n {
		wg.Go(func() {
			d, err := gates[i%len(gates)].Decide(w.ctx, redis.Request{Product: product, Buyer: uuid.New()})
			if err == nil && d.Outcome == redis.Granted && claim {
				err = w.claim(d)
			}
			c.mu.Lock()
			defer c.mu.Unlock()
			switch {
			case err != nil:
				c.errs = append(c.errs, err)
			case d.Outcome == redis.Granted:
				if twice, there := c.granted[d.Number]; there {
					c.errs = append(c.errs, fmt.Errorf("number %d twice: %+v, %+v", d.Number, twice, d))
				}
				c.granted[d.Number] = d
			default:
				c.refused[d.Outcome]++
			}
		})
	}
	wg.Wait()
	return c
}

func (c *crowd) err() error { return errors.Join(c.errs...) }
