package redis

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	goredis "github.com/redis/go-redis/v9"

	"github.com/dopaminestore/dopamine/internal/guard"
	"github.com/dopaminestore/dopamine/internal/sleep"
)

const (
	// refreshInterval is how often Sentinels, or nodes of a cluster, are asked for the
	// masters, in addition to each refresh that the error of a call triggers.
	refreshInterval = time.Second
	// minRefreshInterval is the least time between two refreshes.
	minRefreshInterval = 50 * time.Millisecond
	// refreshTimeout bounds one refresh, so that a server that hangs does not delay it further.
	refreshTimeout = 500 * time.Millisecond
	// maxQueried is how many servers one refresh queries at the same time.
	maxQueried = 5
)

// nodes are the masters of one Redis: the one server, the one that the Sentinels
// name, or all of a cluster. It knows which of them has a product's keys.
//
// No decision about trusting a gate is made here. The addresses of the masters may be
// stale: a call that goes to the wrong one meets a process with another instance id,
// or one that does not accept writes.
type nodes struct {
	address    *address
	cluster    bool
	keep, most int
	keyPrefix  string
	prepare    func(*goredis.Client) error
	seen       func(script string, requests int, took time.Duration, err error)

	slotTable atomic.Pointer[slotTable] // what calls read

	mu               sync.Mutex
	lanes            map[string]*lanes          // of the masters, by host:port
	queryClients     map[string]*goredis.Client // of the Sentinels, or of all nodes
	refreshRequested chan struct{}
}

// slotTable maps slots to masters: one entry for all slots, or one for each. An entry is
// nil if no master is known.
type slotTable struct{ slots []*lanes }

// errNoMaster: no master of the keys is known.
var errNoMaster = errors.New("no master is known")

// openNodes discovers the masters. A single server is not asked: it is the master,
// or its lanes detect that it is not. The caller must close the result even after an error.
func openNodes(ctx context.Context, a *address, opts Options) (*nodes, error) {
	n := &nodes{keyPrefix: opts.KeyPrefix,
		address: a, keep: opts.Lanes, most: opts.LanesMax, seen: opts.Observer.Called, prepare: opts.prepare,
		lanes: map[string]*lanes{}, queryClients: map[string]*goredis.Client{}, refreshRequested: make(chan struct{}, 1),
	}
	n.slotTable.Store(&slotTable{slots: []*lanes{nil}})
	switch {
	case a.master != "":
		for _, seed := range a.seeds {
			n.queryClient(seed)
		}
		return n, n.refresh(ctx)
	case a.options.Network != "unix":
		var err error
		if n.cluster, err = n.detectCluster(ctx); err != nil {
			return n, err
		}
	}
	if !n.cluster {
		return n, n.setOwners([]string{a.seeds[0]}, nil)
	}
	if a.options.DB != 0 {
		return n, fmt.Errorf("%w: the server is a node of a Redis Cluster, which has only database 0; the URL names %d", ErrAddress, a.options.DB)
	}
	return n, n.refresh(ctx)
}

// detectCluster asks the seeds whether they are nodes of a cluster.
func (n *nodes) detectCluster(ctx context.Context) (bool, error) {
	several := len(n.address.seeds) > 1
	var errs []error
	for _, seed := range n.address.seeds {
		is, err := isCluster(ctx, n.queryClient(seed))
		if err != nil {
			errs = append(errs, fmt.Errorf("ask %s whether it is a node of a cluster: %w", seed, err))
			continue
		}
		if !is && several {
			return false, fmt.Errorf("%w: several URLs are given, but %s is not a node of a Redis Cluster; for Sentinels add ?master_name=", ErrAddress, seed)
		}
		return is, nil
	}
	return false, fmt.Errorf("redis: no node responded: %w", errors.Join(errs...))
}

// run calls do with a lane to the master of the key. If that master answers MOVED, it
// did not execute the command, and run calls do once more with the one that it names. All
// other errors are returned to the caller.
//
// ASK and TRYAGAIN are returned as errors: the slot is migrating, the scripts name keys
// that need not exist, and neither side runs such a script before the slot has
// arrived.
func (n *nodes) run(ctx context.Context, key string, do func(*lane) error) error {
	var at *lanes
	err := errRetired
	for try := 0; try < 2 && errors.Is(err, errRetired); try++ {
		if at = n.of(key); at == nil {
			n.scheduleRefresh()
			return fmt.Errorf("redis: %w", errNoMaster)
		}
		err = at.with(ctx, do)
		at.recordResult(err)
	}
	if err == nil {
		return nil
	}
	if to, moved := n.moved(key, at, err); moved {
		if err = to.with(ctx, do); err == nil {
			return nil
		}
	}
	if topological(err) {
		n.scheduleRefresh()
	}
	return err
}

// of returns the master of the key, or nil if none is known.
func (n *nodes) of(key string) *lanes {
	slots := n.slotTable.Load().slots
	if len(slots) == 1 {
		return slots[0]
	}
	return slots[slotOf(key)]
}

// moved handles a MOVED: until the next refresh the slot belongs to the node that was
// named.
func (n *nodes) moved(key string, from *lanes, err error) (*lanes, bool) {
	addr, ok := goredis.IsMovedError(err)
	if !ok || !n.cluster {
		return nil, false
	}
	host, port, err := net.SplitHostPort(addr)
	if err != nil {
		return nil, false
	}
	if host == "" {
		host, _, _ = net.SplitHostPort(from.addr)
	}
	addr = net.JoinHostPort(host, port)
	n.scheduleRefresh()
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.lanes == nil {
		return nil, false
	}
	to, err := n.lanesTo(addr)
	if err != nil {
		return nil, false
	}
	if old := n.slotTable.Load().slots; len(old) == slotsAll {
		slots := slices.Clone(old)
		slots[slotOf(key)] = to
		n.slotTable.Store(&slotTable{slots: slots})
	}
	return to, true
}

// topological reports whether an error is a reason to refresh the topology.
func topological(err error) bool {
	var refused goredis.Error
	if !errors.As(err, &refused) {
		return !errors.Is(err, errMoved)
	}
	for _, prefix := range []string{"MOVED", "ASK", "TRYAGAIN", "CLUSTERDOWN", "READONLY", "MASTERDOWN"} {
		if strings.HasPrefix(refused.Error(), prefix) {
			return true
		}
	}
	return false
}

// scheduleRefresh requests a refresh without waiting for it.
func (n *nodes) scheduleRefresh() {
	select {
	case n.refreshRequested <- struct{}{}:
	default:
	}
}

// watch keeps the topology up to date until the context ends.
func (n *nodes) watch(ctx context.Context) {
	if n.address.master == "" && !n.cluster {
		return
	}
	tick := time.NewTicker(refreshInterval)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		case <-n.refreshRequested:
		}
		if err := n.refresh(ctx); err != nil && ctx.Err() == nil {
			slog.WarnContext(ctx, "topology refresh failed", "component", "redis", "error", err)
		}
		if sleep.For(ctx, minRefreshInterval) != nil {
			return
		}
	}
}

// refresh queries the topology once.
func (n *nodes) refresh(ctx context.Context) error {
	if n.address.master != "" {
		return n.querySentinels(ctx)
	}
	return n.queryNodes(ctx)
}

// setOwners replaces the slot table: one owner for all slots, or one for each, "" for none.
// views are the configuration epochs of the owners, nil if there are none.
func (n *nodes) setOwners(owners []string, views []int64) error {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.lanes == nil {
		return ErrClosed
	}
	slots, used := make([]*lanes, len(owners)), map[string]bool{}
	for i, addr := range owners {
		if addr == "" {
			continue
		}
		if i > 0 && slots[i-1] != nil && slots[i-1].addr == addr {
			slots[i] = slots[i-1] // a master has the same configuration epoch for all its slots
			continue
		}
		l, err := n.lanesTo(addr)
		if err != nil {
			return err
		}
		slots[i], used[addr] = l, true
		if views != nil {
			l.view.Store(views[i] + 1) // the first one may be 0
		}
	}
	if slices.Equal(slots, n.slotTable.Load().slots) {
		return nil
	}
	n.slotTable.Store(&slotTable{slots: slots})
	for addr, l := range n.lanes {
		if !used[addr] {
			delete(n.lanes, addr)
			l.retire()
		}
	}
	return nil
}

// lanesTo returns the lanes to an address. The caller holds mu.
func (n *nodes) lanesTo(addr string) (*lanes, error) {
	if l, ok := n.lanes[addr]; ok {
		return l, nil
	}
	l := newLanes(n.address.of(addr), n.keep, n.most, n.seen)
	l.addr = addr
	if n.prepare != nil {
		if err := n.prepare(l.client); err != nil {
			return nil, errors.Join(err, l.close())
		}
	}
	n.lanes[addr] = l
	return l, nil
}

// queryClient returns a client for queries to a server that need no lane.
func (n *nodes) queryClient(addr string) *goredis.Client {
	n.mu.Lock()
	defer n.mu.Unlock()
	c, ok := n.queryClients[addr]
	if !ok {
		opt := n.address.of(addr)
		if n.address.master != "" {
			opt = n.address.ofSentinel(addr)
		}
		opt.DB = 0 // a node of a cluster has no other database, and must be reachable to be detected
		disableRetries(opt, 2)
		opt.DialTimeout, opt.ReadTimeout, opt.WriteTimeout = refreshTimeout, refreshTimeout, refreshTimeout
		c = goredis.NewClient(opt)
		if n.queryClients == nil { // closed meanwhile: the caller's query fails
			_ = c.Close()
			return c
		}
		n.queryClients[addr] = c
	}
	return c
}

// masters returns the servers that have slots.
func (n *nodes) masters() []*lanes {
	var found []*lanes
	for _, l := range n.slotTable.Load().slots {
		if l != nil && !slices.Contains(found, l) {
			found = append(found, l)
		}
	}
	return found
}

// checkNoEviction returns an error if a master may evict keys of a gate. A master
// that does not answer is skipped if another one does.
func (n *nodes) checkNoEviction(ctx context.Context) error {
	var errs []error
	answered := false
	for _, l := range n.masters() {
		err := l.checkNoEviction(ctx)
		if errors.Is(err, errEvicts) {
			return err
		}
		answered = answered || err == nil
		errs = append(errs, err)
	}
	if answered {
		return nil
	}
	return errors.Join(append(errs, errNoMaster)...)
}

// health checks for each master that it is one and accepts a write.
func (n *nodes) health(ctx context.Context) (serving, all int, err error) {
	masters := n.masters()
	errs := make([]error, len(masters))
	var wg sync.WaitGroup
	for i, l := range masters {
		wg.Go(func() {
			defer guard.Log("probe masters")
			errs[i] = l.with(ctx, func(ln *lane) error {
				if err := ln.identify(ctx); err != nil {
					return err
				}
				if err := n.probeWrite(ctx, l, ln); err != nil || !n.cluster {
					return err
				}
				info, err := ln.conn.ClusterInfo(ctx).Result()
				if err == nil && infoField(info, "cluster_state") != "ok" {
					err = errors.New("the cluster's state is not ok")
				}
				return err
			})
			if errs[i] != nil {
				errs[i] = fmt.Errorf("redis at %s: %w", l.addr, errs[i])
			}
		})
	}
	wg.Wait()
	all = max(1, len(masters))
	for _, err := range errs {
		if err == nil {
			serving++
		}
	}
	if slices.Contains(n.slotTable.Load().slots, nil) && len(masters) > 0 {
		all++ // slots without a master
	}
	if serving < all {
		n.scheduleRefresh()
	}
	if len(masters) == 0 {
		errs = append(errs, errNoMaster)
	}
	return serving, all, errors.Join(errs...)
}

// close closes all connections. close is idempotent.
func (n *nodes) close() error {
	n.mu.Lock()
	all, askers := n.lanes, n.queryClients
	n.lanes, n.queryClients = nil, nil
	n.mu.Unlock()
	var errs []error
	for _, l := range all {
		errs = append(errs, l.close())
	}
	for _, c := range askers {
		errs = append(errs, c.Close())
	}
	return errors.Join(errs...)
}
