package devservices

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/redis/go-redis/v9"
)

const (
	// groupReadyTimeout bounds how long the servers may take to form a group.
	groupReadyTimeout = 30 * time.Second
	// masterDownAfter is how long a master may be silent before it is considered down.
	masterDownAfter = time.Second
	// clusterSlots is the number of hash slots of a Redis Cluster.
	clusterSlots = 16384
)

// RedisGroup is several redis-servers of our own that are one Redis: a Redis
// Cluster, or a master with replicas and Sentinels. What it keeps ends with it.
type RedisGroup struct {
	// Nodes are the servers with data: the masters, then their replicas, all first
	// ones before all second ones.
	Nodes []*Redis
	// Sentinels watch over the master; none for a cluster.
	Sentinels []*Redis
}

// SentinelMaster is the master's name at the Sentinels.
const SentinelMaster = "gates"

// StartRedisCluster starts a Redis Cluster with that many replicas of each master. It returns when
// every node reports that the cluster is ok. Without redis-server it returns ErrNotHere.
func StartRedisCluster(ctx context.Context, masters, replicas int, opts RedisOptions) (*RedisGroup, error) {
	g := &RedisGroup{}
	var buses []int
	err := g.startNodes(ctx, masters*(1+replicas), opts, func() ([]string, error) {
		bus, err := FreePort() // the default, port + 10000, may lie in the range for outgoing connections
		if err != nil {
			return nil, err
		}
		buses = append(buses, bus)
		return []string{"--cluster-enabled", "yes", "--cluster-port", strconv.Itoa(bus), "--repl-diskless-sync-delay", "0",
			"--cluster-node-timeout", strconv.FormatInt(masterDownAfter.Milliseconds(), 10), "--cluster-require-full-coverage", "no",
			// a replica that lags is promoted all the same
			"--cluster-replica-validity-factor", "0"}, nil
	})
	if err == nil {
		err = g.formCluster(ctx, masters, buses[0])
	}
	if err != nil {
		return nil, errors.Join(err, g.Stop(ctx))
	}
	return g, nil
}

// StartSentinels starts a master with replicas, and Sentinels that watch over them.
// It returns when each Sentinel knows all others and the replicas. ErrNotHere
// without redis-server.
func StartSentinels(ctx context.Context, replicas, sentinels int, opts RedisOptions) (*RedisGroup, error) {
	g := &RedisGroup{}
	err := g.startNodes(ctx, 1+replicas, opts, func() ([]string, error) {
		args := []string{"--repl-diskless-sync-delay", "0"}
		if len(g.Nodes) > 0 {
			args = append(args, "--replicaof", "127.0.0.1", strconv.Itoa(g.Nodes[0].port))
		}
		return args, nil
	})
	for i := 0; i < sentinels && err == nil; i++ {
		err = g.startSentinel(ctx, sentinels/2+1, opts)
	}
	if err == nil {
		err = g.awaitSentinels(ctx, replicas, sentinels)
	}
	if err != nil {
		return nil, errors.Join(err, g.Stop(ctx))
	}
	return g, nil
}

func (g *RedisGroup) startNodes(ctx context.Context, n int, opts RedisOptions, args func() ([]string, error)) error {
	for range n {
		more, err := args()
		if err != nil {
			return err
		}
		opts.Dir, opts.Port, opts.Real, opts.args = "", 0, true, more
		r, err := StartRedis(ctx, opts)
		if err != nil {
			return fmt.Errorf("start node %d of %d: %w", len(g.Nodes)+1, n, err)
		}
		g.Nodes = append(g.Nodes, r)
	}
	return nil
}

func (g *RedisGroup) startSentinel(ctx context.Context, quorum int, opts RedisOptions) error {
	opts.Dir, opts.Port, opts.Real = "", 0, true
	opts.sentinel = fmt.Sprintf("sentinel monitor %[1]s 127.0.0.1 %[2]d %[3]d\nsentinel down-after-milliseconds %[1]s %[4]d\nsentinel failover-timeout %[1]s %[5]d\n",
		SentinelMaster, g.Nodes[0].port, quorum, masterDownAfter.Milliseconds(), (5 * masterDownAfter).Milliseconds())
	r, err := StartRedis(ctx, opts)
	if err != nil {
		return fmt.Errorf("start a Sentinel: %w", err)
	}
	g.Sentinels = append(g.Sentinels, r)
	return nil
}

// formCluster introduces the nodes to the first one, at its bus, distributes the slots and assigns
// replicas to each master.
func (g *RedisGroup) formCluster(ctx context.Context, masters, bus int) error {
	first := g.Nodes[0]
	ids := make([]string, len(g.Nodes))
	for i, r := range g.Nodes {
		err := r.ask(ctx, func(c *redis.Client) (err error) {
			if i < masters {
				from, to := i*clusterSlots/masters, (i+1)*clusterSlots/masters-1
				err = errors.Join(c.Do(ctx, "cluster", "set-config-epoch", i+1).Err(), c.ClusterAddSlotsRange(ctx, from, to).Err())
			}
			if err == nil && i > 0 {
				err = c.Do(ctx, "cluster", "meet", "127.0.0.1", first.port, bus).Err()
			}
			if err == nil {
				ids[i], err = c.ClusterMyID(ctx).Result()
			}
			return err
		})
		if err != nil {
			return fmt.Errorf("form a cluster: %w", err)
		}
	}
	return g.await(ctx, g.Nodes, "the nodes to form a cluster", func(i int, c *redis.Client) error {
		nodes, err := c.ClusterNodes(ctx).Result()
		if err != nil {
			return err
		}
		for _, id := range ids {
			if !strings.Contains(nodes, id) {
				return fmt.Errorf("node %d does not know all others", i)
			}
		}
		if i >= masters && strings.Contains(nodes, "myself,master") {
			return errors.Join(errors.New("no replica yet"), c.ClusterReplicate(ctx, ids[i%masters]).Err())
		}
		if info, err := c.ClusterInfo(ctx).Result(); err != nil || !strings.Contains(info, "cluster_state:ok") {
			return fmt.Errorf("node %d reports that the cluster is not ok (%w)", i, err)
		}
		if i >= masters {
			if info, err := c.Info(ctx, "replication").Result(); err != nil || !strings.Contains(info, "master_link_status:up") {
				return fmt.Errorf("node %d does not follow its master (%w)", i, err)
			}
		}
		return nil
	})
}

func (g *RedisGroup) awaitSentinels(ctx context.Context, replicas, sentinels int) error {
	return g.await(ctx, g.Sentinels, "the Sentinels to find together", func(i int, c *redis.Client) error {
		cmd := redis.NewMapStringStringCmd(ctx, "sentinel", "master", SentinelMaster)
		_ = c.Process(ctx, cmd)
		says, err := cmd.Result()
		if err != nil {
			return err
		}
		if says["num-slaves"] != strconv.Itoa(replicas) || says["num-other-sentinels"] != strconv.Itoa(sentinels-1) {
			return fmt.Errorf("sentinel %d knows %s replicas and %s others", i, says["num-slaves"], says["num-other-sentinels"])
		}
		return nil
	})
}

func (g *RedisGroup) await(ctx context.Context, all []*Redis, what string, check func(i int, c *redis.Client) error) error {
	ctx, cancel := context.WithTimeout(ctx, groupReadyTimeout)
	defer cancel()
	tick := time.NewTicker(readyPoll)
	defer tick.Stop()
	for {
		var err error
		for i, r := range all {
			if err = r.ask(ctx, func(c *redis.Client) error { return check(i, c) }); err != nil {
				break
			}
		}
		if err == nil {
			return nil
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("waited for %s: %w", what, err)
		case <-tick.C:
		}
	}
}

// ask calls do with a separate connection to the server.
func (r *Redis) ask(ctx context.Context, do func(*redis.Client) error) error {
	r.mu.Lock()
	port := r.port
	r.mu.Unlock()
	c := redis.NewClient(&redis.Options{Addr: loopback(port), MaxRetries: -1, PoolSize: 1})
	return errors.Join(do(c), c.Close())
}

// URL returns a value for --redis-url: the nodes of the cluster, or the Sentinels.
func (g *RedisGroup) URL() string {
	servers, suffix := g.Nodes, ""
	if len(g.Sentinels) > 0 {
		servers, suffix = g.Sentinels, "?master_name="+SentinelMaster
	}
	urls := make([]string, len(servers))
	for i, r := range servers {
		urls[i] = r.URL() + suffix
	}
	return strings.Join(urls, ",")
}

// Stop stops all servers immediately; their data ends with them. It is idempotent.
func (g *RedisGroup) Stop(ctx context.Context) error {
	all := append(append([]*Redis(nil), g.Sentinels...), g.Nodes...)
	errs := make([]error, len(all))
	var wg sync.WaitGroup
	for i, r := range all {
		wg.Go(func() {
			r.Kill9()
			errs[i] = r.Stop(ctx)
		})
	}
	wg.Wait()
	return errors.Join(errs...)
}

// Pause suspends the server (SIGSTOP) until Resume. Only for a real one.
func (r *Redis) Pause() error { return r.signal(syscall.SIGSTOP) }

// Resume continues a paused server.
func (r *Redis) Resume() error { return r.signal(syscall.SIGCONT) }

func (r *Redis) signal(sig syscall.Signal) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.child == nil || r.child.ended() {
		return errors.New("the server does not run")
	}
	return r.child.cmd.Process.Signal(sig)
}

// writeSentinel writes a Sentinel's configuration, which it rewrites later.
func writeSentinel(dir, text string) (string, error) {
	path := filepath.Join(dir, "sentinel.conf")
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		return "", fmt.Errorf("the Sentinel's file: %w", err)
	}
	return path, nil
}
