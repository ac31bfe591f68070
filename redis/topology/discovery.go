package topology

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"slices"
	"strconv"
	"sync"

	goredis "github.com/redis/go-redis/v9"

	"github.com/dopaminestore/dopamine/internal/guard"
)

// queryServers queries up to maxQueried servers at a time, in random order, and further
// ones only if none of these answered.
func (n *Topology) queryServers(ctx context.Context, addrs []string, ask func(ctx context.Context, addr string) error) error {
	addrs = slices.Clone(addrs)
	rand.Shuffle(len(addrs), func(i, j int) { addrs[i], addrs[j] = addrs[j], addrs[i] })
	var errs []error
	for some := range slices.Chunk(addrs, maxQueried) {
		round, cancel := context.WithTimeout(ctx, refreshTimeout)
		failed := make([]error, len(some))
		var wg sync.WaitGroup
		for i, addr := range some {
			wg.Go(func() {
				defer guard.Log("query masters")
				if failed[i] = ask(round, addr); failed[i] != nil {
					failed[i] = fmt.Errorf("query %s: %w", addr, failed[i])
				}
			})
		}
		wg.Wait()
		cancel()
		if slices.Contains(failed, nil) {
			return nil
		}
		errs = append(errs, failed...)
	}
	return errors.Join(errs...)
}

// known returns the servers that can be queried: those of the URLs and those that
// they named.
func (n *Topology) known() []string {
	n.mu.Lock()
	defer n.mu.Unlock()
	addrs := slices.Clone(n.address.seeds)
	for addr := range n.queryClients {
		if !slices.Contains(addrs, addr) {
			addrs = append(addrs, addr)
		}
	}
	return addrs
}

// dropQueryClients closes the clients of servers that are no longer named.
func (n *Topology) dropQueryClients(named []string) {
	if len(named) == 0 {
		return
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	for addr, c := range n.queryClients {
		if !slices.Contains(named, addr) && !slices.Contains(n.address.seeds, addr) {
			delete(n.queryClients, addr)
			_ = c.Close()
		}
	}
}

// queryNodes asks nodes of the cluster for the owners of the slots.
func (n *Topology) queryNodes(ctx context.Context) error {
	var mu sync.Mutex
	m := &slotMap{}
	err := n.queryServers(ctx, n.known(), func(ctx context.Context, addr string) error {
		view, err := n.queryClient(addr).ClusterNodes(ctx).Result()
		if err != nil {
			return err
		}
		mu.Lock()
		defer mu.Unlock()
		return m.add(view, addr)
	})
	if err != nil {
		return fmt.Errorf("redis: no node of the cluster returned its slots: %w", err)
	}
	n.dropQueryClients(m.nodes)
	for _, addr := range m.nodes {
		n.queryClient(addr)
	}
	return n.setOwners(m.owner[:], m.epoch[:])
}

// querySentinels asks the Sentinels for the master. If they disagree,
// the higher configuration epoch is the later failover.
func (n *Topology) querySentinels(ctx context.Context) error {
	var mu sync.Mutex
	var master string
	var last int64 = -1
	named := map[string]bool{}
	err := n.queryServers(ctx, n.known(), func(ctx context.Context, addr string) error {
		c := n.queryClient(addr)
		says, err := masterOf(ctx, c, n.address.master)
		if err != nil {
			return err
		}
		epoch, err := strconv.ParseInt(says["config-epoch"], 10, 64)
		if err != nil || says["ip"] == "" || says["port"] == "" {
			return errors.New("the Sentinel's reply names no master")
		}
		others := goredis.NewSliceCmd(ctx, "sentinel", "sentinels", n.address.master)
		_ = c.Process(ctx, others) // a Sentinel that is not named here is not queried next time
		mu.Lock()
		defer mu.Unlock()
		named[addr] = true
		for _, other := range sentinelsIn(others.Val()) {
			named[other] = true
		}
		if epoch > last {
			master, last = net.JoinHostPort(says["ip"], says["port"]), epoch
		}
		return nil
	})
	if err != nil {
		return fmt.Errorf("redis: no Sentinel names the master %q: %w", n.address.master, err)
	}
	addrs := make([]string, 0, len(named))
	for addr := range named {
		addrs = append(addrs, addr)
		n.queryClient(addr)
	}
	n.dropQueryClients(addrs)
	return n.setOwners([]string{master}, []int64{last})
}

func masterOf(ctx context.Context, c *goredis.Client, name string) (map[string]string, error) {
	cmd := goredis.NewMapStringStringCmd(ctx, "sentinel", "master", name)
	_ = c.Process(ctx, cmd)
	return cmd.Result()
}

// sentinelsIn parses the reply to SENTINEL SENTINELS, in RESP2 or RESP3.
func sentinelsIn(reply []any) []string {
	var addrs []string
	for _, item := range reply {
		fields := map[string]string{}
		switch item := item.(type) {
		case []any:
			for i := 0; i+1 < len(item); i += 2 {
				name, _ := item[i].(string)
				fields[name], _ = item[i+1].(string)
			}
		case map[any]any:
			for name, value := range item {
				text, _ := name.(string)
				fields[text], _ = value.(string)
			}
		}
		if fields["ip"] != "" && fields["port"] != "" {
			addrs = append(addrs, net.JoinHostPort(fields["ip"], fields["port"]))
		}
	}
	return addrs
}
