package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"

	goredis "github.com/redis/go-redis/v9"

	"github.com/dopaminestore/dopamine/tools/devservices"
	"github.com/dopaminestore/dopamine/tools/faults/proxy"
)

var redisScenarios = []*scenario{
	{name: "flushall", about: "Redis forgets everything, again and again", play: func(r *run) error {
		return r.repeat(func() error { r.struck("FLUSHALL"); return r.flushAll() }, 1500*time.Millisecond)
	}},
	{name: "key-deleted", about: "keys of one product's gate are deleted, one at a time", affected: onlyVictim, play: func(r *run) error {
		victim := r.sale.products[r.rand.IntN(steadyProducts)].id
		r.victim = victim
		return r.repeat(func() error { return r.deleteOneKey(victim) }, 600*time.Millisecond)
	}},
	{name: "redis-oom", about: "Redis has no memory left and refuses writes, with and without gates", play: func(r *run) error {
		return r.unwritable("maxmemory", "1", "0")
	}},
	{name: "redis-noreplicas", about: "Redis refuses writes for want of replicas (min-replicas-to-write), with and without gates", play: func(r *run) error {
		return r.unwritable("min-replicas-to-write", "1", "0")
	}},
	{name: "redis-readonly", about: "Redis becomes a replica of an unreachable master: reads work, writes do not", play: func(r *run) error {
		c := redisClient(r.fleet.redis)
		defer func() { _ = c.Close() }()
		return r.repeat(func() error {
			r.struck("REPLICAOF a server that is not there")
			if err := c.ReplicaOf(r.ctx, "127.0.0.1", "1").Err(); err != nil {
				return err
			}
			r.wait(r.between(time.Second, 3*time.Second))
			return c.ReplicaOf(r.ctx, "NO", "ONE").Err()
		}, time.Second)
	}},
	{name: "redis-restart", about: "kill -9 of Redis, which returns with its append-only file", play: func(r *run) error {
		return r.repeat(func() error {
			r.struck("kill -9 of Redis, restarted with its data")
			return r.fleet.redis.Restart(r.ctx)
		}, 2*time.Second)
	}},
	{name: "redis-restart-empty", about: "kill -9 of Redis, which returns without data", play: func(r *run) error {
		return r.repeat(func() error {
			r.struck("kill -9 of Redis, restarted empty")
			r.fleet.redis.Kill9()
			if err := os.RemoveAll(filepath.Join(r.fleet.services.folder("redis"), "appendonlydir")); err != nil {
				return err
			}
			return r.fleet.redis.Restart(r.ctx)
		}, 2*time.Second)
	}},
	{name: "redis-old-copy", about: "Redis returns with data of some seconds ago", play: func(r *run) error {
		dir := filepath.Join(r.fleet.services.folder("redis"), "appendonlydir")
		old := filepath.Join(r.fleet.dir, "redis-copy-"+itoa(int(r.seedNumber)))
		r.wait(time.Second)
		if err := os.CopyFS(old, os.DirFS(dir)); err != nil {
			return err
		}
		r.wait(r.between(time.Second, 3*time.Second))
		r.fleet.redis.Kill9()
		if err := errors.Join(os.RemoveAll(dir), os.CopyFS(dir, os.DirFS(old))); err != nil {
			return err
		}
		r.struck("Redis returned with an old copy")
		if err := r.fleet.redis.Restart(r.ctx); err != nil {
			return err
		}
		r.wait(r.duration / 2)
		return nil
	}},
	{name: "redis-hung", about: "SIGSTOP of Redis for longer than a lease", play: func(r *run) error {
		return r.repeat(func() error {
			d := r.between(leaseTime, leaseTime+2*time.Second)
			r.struck("SIGSTOP of Redis for %s", d.Round(10*time.Millisecond))
			if err := r.fleet.redis.Pause(); err != nil {
				return err
			}
			r.wait(d)
			return r.fleet.redis.Resume()
		}, time.Second)
	}},
	{name: "redis-cut-one-node", about: "one command API is cut off from Redis, in one direction or both", play: func(r *run) error {
		l := r.fleet.links["command-api-"+itoa(r.rand.IntN(2))].redis
		return r.repeat(func() error {
			way := []proxy.Direction{proxy.ToServer, proxy.ToClient, proxy.Both}[r.rand.IntN(3)]
			l.Stall(way)
			r.wait(r.between(2*time.Second, 5*time.Second))
			if l.Struck() > 0 {
				r.struck("cut off (direction %d)", way)
			}
			l.Heal()
			return nil
		}, time.Second)
	}},
	{name: "redis-reset", about: "connections to Redis are reset and delayed", play: resets(func(l *links) *proxy.Proxy { return l.redis }, 10*time.Millisecond, 200*time.Millisecond)},
	{name: "redis-two-masters", about: "one command API sees another Redis master than the others", play: secondMaster("a command API sees another master", nil)},
	{name: "redis-two-masters-fenced", about: "one command API sees a master that refuses writes", play: secondMaster("a command API sees a fenced master", func(ctx context.Context, other *devservices.Redis) error {
		c := redisClient(other)
		defer func() { _ = c.Close() }()
		return c.ConfigSet(ctx, "min-replicas-to-write", "1").Err()
	}), affected: func(*run, string) bool { return false }}, // the other node goes on
	{name: "sentinel-failover", once: true, about: "Sentinel fails over to a replica that lost writes", redis: startSentinels, play: func(r *run) error {
		g := r.fleet.redisGroup
		master, replica := g.Nodes[0], g.Nodes[1]
		// The replica stops receiving writes, then the master dies.
		if err := replica.Pause(); err != nil {
			return err
		}
		mc := redisClient(master)
		_ = mc.Do(r.ctx, "client", "kill", "type", "replica").Err()
		_ = mc.Close()
		r.wait(r.between(300*time.Millisecond, 700*time.Millisecond)) // below the Sentinels' patience
		master.Kill9()
		if err := replica.Resume(); err != nil {
			return err
		}
		r.struck("kill -9 of the master; the replica lacks its last writes")
		return r.awaitMaster(replica)
	}, heal: func(r *run) error {
		return r.fleet.redisGroup.Nodes[0].Restart(r.ctx) // it becomes a replica
	}},
	{name: "sentinel-failback", once: true, about: "Sentinel fails over, and back to the old master with its old copy", redis: startSentinels, play: func(r *run) error {
		g := r.fleet.redisGroup
		first, second := g.Nodes[0], g.Nodes[1]
		first.Kill9()
		r.struck("kill -9 of the master")
		if err := r.awaitMaster(second); err != nil {
			return err
		}
		if err := first.Restart(r.ctx); err != nil {
			return err
		}
		r.wait(2 * time.Second)
		second.Kill9()
		r.struck("kill -9 of the new master, back to the first one")
		if err := r.awaitMaster(first); err != nil {
			return err
		}
		return second.Restart(r.ctx)
	}},
	{name: "sentinel-master-hung", once: true, about: "the master hangs, a replica is promoted, the old one wakes up", redis: startSentinels, play: func(r *run) error {
		g := r.fleet.redisGroup
		if err := g.Nodes[0].Pause(); err != nil {
			return err
		}
		r.struck("SIGSTOP of the master")
		err := r.awaitMaster(g.Nodes[1])
		r.wait(r.between(0, 2*time.Second))
		err = errors.Join(err, g.Nodes[0].Resume())
		r.wait(2 * time.Second)
		return err
	}},
	{name: "cluster-master-hung", about: "one of three cluster masters hangs", redis: startCluster(0), affected: onFirstShard, byID: true, play: func(r *run) error {
		return r.repeat(func() error {
			d := r.between(3*time.Second, 6*time.Second)
			r.struck("SIGSTOP of a cluster master for %s", d.Round(10*time.Millisecond))
			if err := r.fleet.redisGroup.Nodes[0].Pause(); err != nil {
				return err
			}
			r.wait(d)
			return r.fleet.redisGroup.Nodes[0].Resume()
		}, time.Second)
	}},
	{name: "cluster-master-killed", once: true, about: "one of three cluster masters is killed, its replica takes over", redis: startCluster(1), affected: onFirstShard, byID: true, play: func(r *run) error {
		r.struck("kill -9 of a cluster master")
		r.fleet.redisGroup.Nodes[0].Kill9()
		r.wait(max(r.duration, 6*time.Second))
		return r.fleet.redisGroup.Nodes[0].Restart(r.ctx)
	}},
}

func startSentinels(ctx context.Context) (*devservices.RedisGroup, error) {
	return devservices.StartSentinels(ctx, 1, 3, devservices.RedisOptions{})
}

func startCluster(replicas int) func(ctx context.Context) (*devservices.RedisGroup, error) {
	return func(ctx context.Context) (*devservices.RedisGroup, error) {
		return devservices.StartRedisCluster(ctx, 3, replicas, devservices.RedisOptions{})
	}
}

// onlyVictim reports whether a product is the one that was hurt.
func onlyVictim(r *run, product string) bool { return product == r.victim }

// onFirstShard reports whether a product's gate is on the first of three masters.
func onFirstShard(_ *run, product string) bool { return int(keySlot(product)) < 16384/3 }

// keySlot is a Redis Cluster's hash slot of a key's tag: CRC16 (XMODEM) modulo
// 16384, as the cluster specification has it.
func keySlot(tag string) uint16 {
	var crc uint16
	for _, b := range []byte(tag) {
		crc ^= uint16(b) << 8
		for range 8 {
			if crc&0x8000 != 0 {
				crc = crc<<1 ^ 0x1021
			} else {
				crc <<= 1
			}
		}
	}
	return crc % 16384
}

// flushAll makes every server with data forget it.
func (r *run) flushAll() error {
	servers := []*devservices.Redis{r.fleet.redis}
	if r.fleet.redisGroup != nil {
		servers = r.fleet.redisGroup.Nodes
	}
	for _, server := range servers {
		c := redisClient(server)
		err := c.FlushAll(r.ctx).Err()
		_ = c.Close()
		if err != nil && !strings.Contains(err.Error(), "READONLY") {
			return err
		}
	}
	return nil
}

// deleteOneKey removes one key of a gate.
func (r *run) deleteOneKey(product string) error {
	c := redisClient(r.fleet.redis)
	defer func() { _ = c.Close() }()
	keys, err := c.Keys(r.ctx, "*"+product+"*").Result()
	if err != nil || len(keys) == 0 {
		return err
	}
	key := keys[r.rand.IntN(len(keys))]
	n, err := c.Del(r.ctx, key).Result()
	if n > 0 {
		r.struck("DEL %s", key)
	}
	return err
}

// redisConfig changes a setting for a while.
func (r *run) redisConfig(name, bad, good string, d time.Duration) error {
	c := redisClient(r.fleet.redis)
	defer func() { _ = c.Close() }()
	if err := c.ConfigSet(r.ctx, name, bad).Err(); err != nil {
		return err
	}
	r.wait(d)
	return c.ConfigSet(context.WithoutCancel(r.ctx), name, good).Err()
}

// unwritable makes Redis refuse writes: once with its gates, once after they were
// lost, when they have to be rebuilt.
func (r *run) unwritable(name, bad, good string) error {
	c := redisClient(r.fleet.redis)
	defer func() { _ = c.Close() }()
	before, err := r.epochs()
	if err != nil {
		return err
	}
	err = r.repeat(func() error {
		if r.rand.IntN(2) == 0 || len(r.strikes) == 0 {
			if err := r.flushAll(); err != nil {
				return err
			}
		}
		r.struck("%s %s", name, bad)
		return r.redisConfig(name, bad, good, r.between(1500*time.Millisecond, 4*time.Second))
	}, 1500*time.Millisecond)
	after, countErr := r.epochs()
	if err == nil && countErr == nil {
		// A rebuild is tried on a Redis that takes no writes, but costs no epochs.
		if raised, allowed := after-before, int64(len(r.sale.products)*(2*len(r.strikes)+4)); raised > allowed {
			r.verdict.broke("R9", "%d epochs were raised while Redis took no writes, want at most %d", raised, allowed)
		}
	}
	return errors.Join(err, countErr)
}

// epochs is the sum over all products.
func (r *run) epochs() (sum int64, err error) {
	err = r.fleet.db.QueryRow(r.ctx, `SELECT coalesce(sum(epoch), 0)::bigint FROM product_gates`).Scan(&sum)
	return sum, err
}

// awaitMaster waits until the Sentinels name the server as master.
func (r *run) awaitMaster(server *devservices.Redis) error {
	ctx, cancel := context.WithTimeout(r.ctx, 30*time.Second)
	defer cancel()
	sentinel := goredis.NewSentinelClient(&goredis.Options{Addr: hostOf(r.fleet.redisGroup.Sentinels[0].URL()), MaxRetries: -1})
	defer func() { _ = sentinel.Close() }()
	return poll(ctx, pollInterval, "a failover", func() error {
		addr, err := sentinel.GetMasterAddrByName(ctx, devservices.SentinelMaster).Result()
		if err == nil && strings.Join(addr, ":") != hostOf(server.URL()) {
			err = fmt.Errorf("the master is %v", addr)
		}
		return err
	})
}

// secondMaster lets one command API see another Redis master than the others, after prepare.
func secondMaster(what string, prepare func(context.Context, *devservices.Redis) error) func(*run) error {
	return func(r *run) error {
		other, err := devservices.StartRedis(r.ctx, devservices.RedisOptions{Real: true})
		if err != nil {
			return err
		}
		defer func() { _ = other.Stop(context.WithoutCancel(r.ctx)) }()
		if prepare != nil {
			if err := prepare(r.ctx, other); err != nil {
				return err
			}
		}
		l := r.fleet.links["command-api-"+itoa(r.rand.IntN(2))].redis
		l.Retarget(hostOf(other.URL()))
		r.struck("%s", what)
		r.wait(max(r.duration, 8*time.Second))
		l.Retarget(hostOf(r.fleet.redis.URL()))
		return nil
	}
}
