package redis_test

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/google/uuid"
	goredis "github.com/redis/go-redis/v9"
	"github.com/stretchr/testify/require"

	"github.com/dopaminestore/dopamine/redis"
	"github.com/dopaminestore/dopamine/redis/topology"
	"github.com/dopaminestore/dopamine/tools/devservices"
	"github.com/dopaminestore/dopamine/tools/testkit"
)

// productsOn creates so many products on each master.
func (w *world) productsOn(g *devservices.RedisGroup, masters, each, units int) map[*devservices.Redis][]uuid.UUID {
	made := make(map[*devservices.Redis][]uuid.UUID)
	for left := masters * each; left > 0; {
		id := uuid.New()
		r := w.masterOf(g, id)
		if len(made[r]) < each {
			w.create(id, units, ms(-time.Hour))
			made[r] = append(made[r], id)
			left--
		}
	}
	return made
}

// masterOf returns the node that owns the product's slot.
func (w *world) masterOf(g *devservices.RedisGroup, product uuid.UUID) *devservices.Redis {
	for _, r := range g.Nodes {
		c := goredis.NewClient(&goredis.Options{Addr: addrOf(r)})
		err := c.Get(w.ctx, "product:{"+product.String()+"}:none").Err()
		role, _ := c.Info(w.ctx, "replication").Result()
		_ = c.Close()
		if errors.Is(err, goredis.Nil) && strings.Contains(role, "role:master") {
			return r
		}
	}
	w.t.Fatalf("no node owns the keys of %s", product)
	return nil
}

func all(of map[*devservices.Redis][]uuid.UUID) (products []uuid.UUID) {
	for _, some := range of {
		products = append(products, some...)
	}
	return products
}

// Gates whose nodes know all servers of the cluster, or only one, decide requests for
// products in all slots.
func TestCluster_Rush(t *testing.T) {
	t.Parallel()
	w := clusterWorld(t)
	of := w.productsOn(theCluster.group, 3, 8, 20)
	one, _, _ := strings.Cut(w.url, ",")
	r := w.rush(20, all(of), w.gate(), w.gateOn(one, w.gateStore))
	r.await(1000, "a rush")
	r.end()
	for node, some := range of {
		c := testkit.RedisClient(t, node.URL())
		for _, product := range some {
			n, err := c.Exists(w.ctx, "product:{"+product.String()+"}:stock").Result()
			require.NoError(t, err)
			require.EqualValues(t, 1, n)
		}
	}
}

// While a slot migrates to another master, no request for its products is decided.
// Afterwards the gate is lost, because it is on another process.
func TestCluster_MovedSlotIsLostGate(t *testing.T) {
	t.Parallel()
	g := testkit.RedisCluster(t, 3, 0)
	w := newClusterWorld(t, g)
	of := w.productsOn(g, 3, 2, 60)
	r := w.rush(60, all(of), w.gate(), w.gate())
	before := r.serves()
	r.await(60, "a rush")
	product := of[g.Nodes[0]][0]
	w.moveSlot(product, g.Nodes[0], g.Nodes[1], func() {
		away := r.away.Load()
		testkit.Eventually(t, 10*time.Second, "requests while the slot migrates", func() error {
			if r.away.Load() == away {
				return errors.New("none yet")
			}
			return nil
		})
	})
	after := r.serves()
	epochsGrew(t, before, after, []uuid.UUID{product})
	for _, other := range of[g.Nodes[2]] {
		require.Equal(t, before[other], after[other], "no other gate was lost")
	}
	r.await(60, "the rush to go on")
	r.end()
}

// moveSlot does what redis-cli --cluster reshard does for the product's slot, and
// calls meanwhile before the target owns it.
func (w *world) moveSlot(product uuid.UUID, from, to *devservices.Redis, meanwhile func()) {
	source, target := testkit.RedisClient(w.t, from.URL()), testkit.RedisClient(w.t, to.URL())
	key := "product:{" + product.String() + "}:stock"
	slot, err := source.ClusterKeySlot(w.ctx, key).Result()
	require.NoError(w.t, err)
	sourceID, err := source.ClusterMyID(w.ctx).Result()
	require.NoError(w.t, err)
	targetID, err := target.ClusterMyID(w.ctx).Result()
	require.NoError(w.t, err)
	require.NoError(w.t, target.Do(w.ctx, "cluster", "setslot", slot, "importing", sourceID).Err())
	require.NoError(w.t, source.Do(w.ctx, "cluster", "setslot", slot, "migrating", targetID).Err())
	host, port, _ := strings.Cut(addrOf(to), ":")
	for moved := 0; ; moved++ {
		keys, err := source.ClusterGetKeysInSlot(w.ctx, int(slot), 1).Result()
		require.NoError(w.t, err)
		if len(keys) == 0 {
			require.Positive(w.t, moved)
			break
		}
		require.NoError(w.t, source.Do(w.ctx, "migrate", host, port, keys[0], 0, 5000, "replace").Err())
	}
	meanwhile()
	for _, c := range []*goredis.Client{target, source} { // the target first, so that the slot always has an owner
		require.NoError(w.t, c.Do(w.ctx, "cluster", "setslot", slot, "node", targetID).Err())
	}
}

// A master dies in a rush, and a replica that did not receive the last grants is
// promoted.
func TestCluster_FailsOverToLaggingReplica(t *testing.T) {
	t.Parallel()
	g := testkit.RedisCluster(t, 3, 1)
	w := newClusterWorld(t, g)
	of := w.productsOn(g, 3, 2, 100)
	gate := w.gate()
	r := w.rush(100, all(of), gate, w.gate())
	before := r.serves()
	r.await(60, "a rush")
	w.lag(g.Nodes[0], g.Nodes[3])
	r.await(60, "grants that the replica does not receive")
	g.Nodes[0].Kill9()
	require.NoError(t, g.Nodes[3].Resume())
	serving, n, err := gate.Health(w.ctx)
	require.Error(t, err)
	require.Less(t, serving, n, "the cluster is incomplete")
	require.Positive(t, serving)
	after := r.serves()
	epochsGrew(t, before, after, of[g.Nodes[0]])
	for _, other := range of[g.Nodes[2]] {
		require.Equal(t, before[other], after[other], "no other gate was lost")
	}
	require.NoError(t, g.Nodes[0].Restart(w.ctx)) // as the new master's replica
	r.await(60, "the rush to go on")
	r.end()
	testkit.Eventually(t, 20*time.Second, "all masters to serve", func() error {
		serving, n, err := gate.Health(w.ctx)
		if serving != n {
			return fmt.Errorf("%d of %d: %w", serving, n, err)
		}
		return err
	})
}

// lag pauses a replica and disconnects it, so that it misses its master's next writes.
func (w *world) lag(master, replica *devservices.Redis) {
	require.NoError(w.t, replica.Pause())
	require.NoError(w.t, testkit.RedisClient(w.t, master.URL()).Do(w.ctx, "client", "kill", "type", "replica").Err())
}

// Sentinels promote a lagging replica while the master is paused. When the old master
// resumes, it still considers itself the master for a while.
func TestSentinelsFailOver_IgnoresResumedMaster(t *testing.T) {
	t.Parallel()
	g := testkit.Sentinels(t)
	w := newWorldAt(t, g.URL(), testkit.RedisClient(t, g.Nodes[0].URL()))
	products := []uuid.UUID{w.product(100), w.product(100)}
	gate := w.gate()
	one, _, _ := strings.Cut(w.url, ",")
	r := w.rush(100, products, gate, w.gateOn(one, w.gateStore))
	before := r.serves()
	r.await(60, "a rush")
	w.lag(g.Nodes[0], g.Nodes[1])
	r.await(20, "grants that the replica does not receive")
	require.NoError(t, g.Nodes[0].Pause())
	t.Cleanup(func() { _ = g.Nodes[0].Resume() })
	require.NoError(t, g.Nodes[1].Resume())
	after := r.serves()
	epochsGrew(t, before, after, products)
	require.NoError(t, g.Nodes[0].Resume())
	r.await(100, "the rush to go on")
	for product, epoch := range r.serves() {
		require.Equal(t, after[product], epoch, "the old master is not used")
	}
	r.end()
}

// A master is killed and comes back as a replica.
func TestSentinelsFailOver_AfterMasterCrash(t *testing.T) {
	t.Parallel()
	g := testkit.Sentinels(t)
	w := newWorldAt(t, g.URL(), testkit.RedisClient(t, g.Nodes[0].URL()))
	products := []uuid.UUID{w.product(60), w.product(60)}
	gate := w.gate()
	r := w.rush(60, products, gate)
	before := r.serves()
	g.Nodes[0].Kill9()
	serving, n, err := gate.Health(w.ctx)
	require.Error(t, err)
	require.Equal(t, []int{0, 1}, []int{serving, n})
	epochsGrew(t, before, r.serves(), products)
	require.NoError(t, g.Sentinels[0].Pause()) // one of three is enough
	require.NoError(t, g.Nodes[0].Restart(w.ctx))
	r.await(60, "the rush to go on")
	r.end()
	require.NoError(t, g.Sentinels[0].Resume())
}

func TestOpen_RejectsWrongKindOfRedis(t *testing.T) {
	t.Parallel()
	w := clusterWorld(t)
	one := theCluster.group.Nodes[0].URL()
	alone := testkit.Redis(t)
	ctx, cancel := context.WithTimeout(w.ctx, 10*time.Second)
	defer cancel()
	for name, c := range map[string]struct {
		urls []string
		says string
	}{
		"a database of a cluster's node": {[]string{strings.TrimSuffix(one, "/0") + "/3"}, "only database 0"},
		"several servers of no cluster":  {[]string{alone, one}, "is not a node of a Redis Cluster"},
	} {
		_, err := redis.Open(ctx, c.urls, w.gateStore, redis.Options{})
		require.ErrorIs(t, err, topology.ErrAddress, name)
		require.ErrorContains(t, err, c.says, name)
	}
	_, err := redis.Open(ctx, []string{alone + "?master_name=nobody"}, w.gateStore, redis.Options{})
	require.ErrorContains(t, err, "no Sentinel names the master")
	require.NotErrorIs(t, err, topology.ErrAddress)
	serving, n, err := redis.CheckHealth(ctx, []string{one}, redis.Options{})
	require.NoError(t, err)
	require.Equal(t, []int{3, 3}, []int{serving, n})
	serving, n, err = redis.CheckHealth(ctx, []string{alone}, redis.Options{})
	require.NoError(t, err)
	require.Equal(t, []int{1, 1}, []int{serving, n})
}
