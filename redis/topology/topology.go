package topology

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

// Options configure a Topology.
type Options struct {
	Conns     int    // connections kept open to each master
	ConnsMax  int    // connections to each master at most, besides one for each build
	Builds    int    // weight of Server.Builds
	KeyPrefix string // of the key that health checks write
	// Prepare is called with each new client of a master; nil: not called.
	Prepare func(*goredis.Client) error
	// Called is called after each script.
	Called func(script string, requests int, took time.Duration, err error)
}

// Topology knows the masters of one Redis (the one server, the one that the Sentinels name, or all
// of a cluster) and which of them has a key.
//
// No decision about trusting a gate is made here. The addresses of the masters may be
// stale: a call that goes to the wrong one meets a process with another instance id,
// or one that does not accept writes.
type Topology struct {
	address *Address
	opts    Options
	cluster bool

	slotTable atomic.Pointer[slotTable] // what calls read

	mu               sync.Mutex
	servers          map[string]*Server         // the masters, by host:port
	queryClients     map[string]*goredis.Client // of the Sentinels, or of all nodes
	refreshRequested chan struct{}
}

// slotTable maps slots to masters: one entry for all slots, or one for each. An entry is
// nil if no master is known.
type slotTable struct{ slots []*Server }

var (
	// ErrNoMaster: no master of the keys is known.
	ErrNoMaster = errors.New("no master is known")
	errClosed   = errors.New("redis: the topology is closed")
)

// Open discovers the masters. A single server is not asked: it is the master,
// or its connections detect that it is not. The caller must close the result even after an error.
func Open(ctx context.Context, a *Address, opts Options) (*Topology, error) {
	n := &Topology{
		address: a, opts: opts, servers: map[string]*Server{}, queryClients: map[string]*goredis.Client{},
		refreshRequested: make(chan struct{}, 1),
	}
	n.slotTable.Store(&slotTable{slots: []*Server{nil}})
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
func (n *Topology) detectCluster(ctx context.Context) (bool, error) {
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

// Run calls do with a connection to the master of the key. If that master answers MOVED, it
// did not execute the command, and Run calls do once more with the one that it names. All
// other errors are returned to the caller.
//
// ASK and TRYAGAIN are returned as errors: the slot is migrating, the scripts name keys
// that need not exist, and neither side runs such a script before the slot has
// arrived.
func (n *Topology) Run(ctx context.Context, key string, do func(*Conn) error) error {
	var at *Server
	err := errRetired
	for try := 0; try < 2 && errors.Is(err, errRetired); try++ {
		if at = n.Of(key); at == nil {
			n.scheduleRefresh()
			return fmt.Errorf("redis: %w", ErrNoMaster)
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

// Of returns the master of the key, or nil if none is known.
func (n *Topology) Of(key string) *Server {
	slots := n.slotTable.Load().slots
	if len(slots) == 1 {
		return slots[0]
	}
	return slots[slotOf(key)]
}

// moved handles a MOVED: until the next refresh the slot belongs to the node that was
// named.
func (n *Topology) moved(key string, from *Server, err error) (*Server, bool) {
	addr, ok := goredis.IsMovedError(err)
	if !ok || !n.cluster {
		return nil, false
	}
	host, port, err := net.SplitHostPort(addr)
	if err != nil {
		return nil, false
	}
	if host == "" {
		host, _, _ = net.SplitHostPort(from.Addr)
	}
	addr = net.JoinHostPort(host, port)
	n.scheduleRefresh()
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.servers == nil {
		return nil, false
	}
	to, err := n.serverAt(addr)
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
		return !errors.Is(err, ErrMoved)
	}
	for _, prefix := range []string{"MOVED", "ASK", "TRYAGAIN", "CLUSTERDOWN", "READONLY", "MASTERDOWN"} {
		if strings.HasPrefix(refused.Error(), prefix) {
			return true
		}
	}
	return false
}

// scheduleRefresh requests a refresh without waiting for it.
func (n *Topology) scheduleRefresh() {
	select {
	case n.refreshRequested <- struct{}{}:
	default:
	}
}

// Watch keeps the topology up to date until the context ends.
func (n *Topology) Watch(ctx context.Context) {
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
func (n *Topology) refresh(ctx context.Context) error {
	if n.address.master != "" {
		return n.querySentinels(ctx)
	}
	return n.queryNodes(ctx)
}

// setOwners replaces the slot table: one owner for all slots, or one for each, "" for none.
// views are the configuration epochs of the owners, nil if there are none.
func (n *Topology) setOwners(owners []string, views []int64) error {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.servers == nil {
		return errClosed
	}
	slots, used := make([]*Server, len(owners)), map[string]bool{}
	for i, addr := range owners {
		if addr == "" {
			continue
		}
		if i > 0 && slots[i-1] != nil && slots[i-1].Addr == addr {
			slots[i] = slots[i-1] // a master has the same configuration epoch for all its slots
			continue
		}
		l, err := n.serverAt(addr)
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
	for addr, l := range n.servers {
		if !used[addr] {
			delete(n.servers, addr)
			l.retire()
		}
	}
	return nil
}

// serverAt returns the server at an address. The caller holds mu.
func (n *Topology) serverAt(addr string) (*Server, error) {
	if l, ok := n.servers[addr]; ok {
		return l, nil
	}
	l := newServer(n.address.of(addr), n.opts.Conns, n.opts.ConnsMax, n.opts.Builds, n.opts.Called)
	l.Addr = addr
	if n.opts.Prepare != nil {
		if err := n.opts.Prepare(l.client); err != nil {
			return nil, errors.Join(err, l.close())
		}
	}
	n.servers[addr] = l
	return l, nil
}

// queryClient returns a client for queries to a server that need no identified connection.
func (n *Topology) queryClient(addr string) *goredis.Client {
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
func (n *Topology) masters() []*Server {
	var found []*Server
	for _, l := range n.slotTable.Load().slots {
		if l != nil && !slices.Contains(found, l) {
			found = append(found, l)
		}
	}
	return found
}

// CheckNoEviction returns an error if a master may evict keys of a gate. A master
// that does not answer is skipped if another one does.
func (n *Topology) CheckNoEviction(ctx context.Context) error {
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
	return errors.Join(append(errs, ErrNoMaster)...)
}

// Close closes all connections. Close is idempotent.
func (n *Topology) Close() error {
	n.mu.Lock()
	all, askers := n.servers, n.queryClients
	n.servers, n.queryClients = nil, nil
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
