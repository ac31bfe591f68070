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
)

const (
	// watchEvery is how often Sentinels, or nodes of a cluster, are asked who the
	// masters are, beside each time that a call gives reason to.
	watchEvery = time.Second
	// watchRest is the least time between two such rounds.
	watchRest = 50 * time.Millisecond
	// roundWithin bounds one round: a server that sleeps holds nobody up for longer.
	roundWithin = 500 * time.Millisecond
	// askMost is how many servers one round asks at the same time.
	askMost = 5
)

// nodes are the masters of one Redis: the one server, the one that the Sentinels
// name, or all of a cluster. It says which of them has a product's keys.
//
// Nothing here decides whether a gate may be believed. Where the masters are is a
// guess that may be old: a call that went to the wrong one finds a process with
// another stamp, or none that would write.
type nodes struct {
	address    *address
	cluster    bool
	keep, most int
	keyPrefix  string
	prepare    func(*goredis.Client) error
	seen       func(script string, requests int, took time.Duration, err error)

	places atomic.Pointer[places] // what calls read

	mu     sync.Mutex
	lanes  map[string]*lanes          // of the masters, by host:port
	askers map[string]*goredis.Client // of the Sentinels, or of all nodes
	kicked chan struct{}
}

// places is who has which slot: one entry for all slots, or one for each. nil where
// nobody is known.
type places struct{ slots []*lanes }

// errNoMaster says that nobody is known to have the keys.
var errNoMaster = errors.New("no master is known")

// openNodes asks who the masters are. One server is not asked: it is the master,
// or its lanes find out that it is not. Close it, whatever comes back.
func openNodes(ctx context.Context, a *address, opts Options) (*nodes, error) {
	n := &nodes{keyPrefix: opts.KeyPrefix,
		address: a, keep: opts.Lanes, most: opts.LanesMax, seen: opts.Observer.Called, prepare: opts.prepare,
		lanes: map[string]*lanes{}, askers: map[string]*goredis.Client{}, kicked: make(chan struct{}, 1),
	}
	n.places.Store(&places{slots: []*lanes{nil}})
	switch {
	case a.master != "":
		for _, seed := range a.seeds {
			n.asker(seed)
		}
		return n, n.refresh(ctx)
	case a.options.Network != "unix":
		var err error
		if n.cluster, err = n.recognise(ctx); err != nil {
			return n, err
		}
	}
	if !n.cluster {
		return n, n.settle([]string{a.seeds[0]}, nil)
	}
	if a.options.DB != 0 {
		return n, fmt.Errorf("%w: the server is a node of a Redis Cluster, which has the database 0 alone; the URL names %d", ErrAddress, a.options.DB)
	}
	return n, n.refresh(ctx)
}

// recognise asks the servers named whether they are nodes of a cluster.
func (n *nodes) recognise(ctx context.Context) (bool, error) {
	several := len(n.address.seeds) > 1
	var errs []error
	for _, seed := range n.address.seeds {
		is, err := isCluster(ctx, n.asker(seed))
		if err != nil {
			errs = append(errs, fmt.Errorf("ask %s whether it is a node of a cluster: %w", seed, err))
			continue
		}
		if !is && several {
			return false, fmt.Errorf("%w: several nodes are named, but %s is none of a Redis Cluster; for Sentinels add ?master_name=", ErrAddress, seed)
		}
		return is, nil
	}
	return false, fmt.Errorf("redis: no node answers: %w", errors.Join(errs...))
}

// run gives do a lane to the master of the key. Where that master says MOVED, it
// did nothing, and the one that it names is asked: once. All else that goes wrong
// is the caller's to judge.
//
// ASK and TRYAGAIN are no answer: the slot is on its way, the scripts name keys
// that need not exist, and neither side runs such a one before the slot has
// arrived.
func (n *nodes) run(ctx context.Context, key string, do func(*lane) error) error {
	var at *lanes
	err := errRetired
	for try := 0; try < 2 && errors.Is(err, errRetired); try++ {
		if at = n.of(key); at == nil {
			n.kick()
			return fmt.Errorf("redis: %w", errNoMaster)
		}
		err = at.with(ctx, do)
		at.heard(err)
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
		n.kick()
	}
	return err
}

// of is the master of the key, nil where nobody is known.
func (n *nodes) of(key string) *lanes {
	slots := n.places.Load().slots
	if len(slots) == 1 {
		return slots[0]
	}
	return slots[slotOf(key)]
}

// moved takes note of a MOVED: until the next round the node that was named has
// the slot.
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
	n.kick()
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.lanes == nil {
		return nil, false
	}
	to, err := n.lanesTo(addr)
	if err != nil {
		return nil, false
	}
	if old := n.places.Load().slots; len(old) == slotsAll {
		slots := slices.Clone(old)
		slots[slotOf(key)] = to
		n.places.Store(&places{slots: slots})
	}
	return to, true
}

// topological says whether an error is a reason to ask who the masters are.
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

// kick asks for a round soon.
func (n *nodes) kick() {
	select {
	case n.kicked <- struct{}{}:
	default:
	}
}

// watch keeps the places up to date until the context ends.
func (n *nodes) watch(ctx context.Context) {
	if n.address.master == "" && !n.cluster {
		return
	}
	tick := time.NewTicker(watchEvery)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		case <-n.kicked:
		}
		if err := n.refresh(ctx); err != nil && ctx.Err() == nil {
			slog.WarnContext(ctx, "nobody says where the masters are", "component", "redis", "error", err)
		}
		if pause(ctx, watchRest) != nil {
			return
		}
	}
}

// refresh is one round.
func (n *nodes) refresh(ctx context.Context) error {
	if n.address.master != "" {
		return n.askSentinels(ctx)
	}
	return n.askNodes(ctx)
}

// settle makes these the places: one for all slots, or one for each, "" for nobody.
// views are the configuration epochs by which they are, nil if there are none.
func (n *nodes) settle(owners []string, views []int64) error {
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
			slots[i] = slots[i-1] // a master has one configuration epoch for all its slots
			continue
		}
		l, err := n.lanesTo(addr)
		if err != nil {
			return err
		}
		slots[i], used[addr] = l, true
		if views != nil {
			l.view.Store(views[i] + 1) // a first one may be 0
		}
	}
	if slices.Equal(slots, n.places.Load().slots) {
		return nil
	}
	n.places.Store(&places{slots: slots})
	for addr, l := range n.lanes {
		if !used[addr] {
			delete(n.lanes, addr)
			l.retire()
		}
	}
	return nil
}

// lanesTo is called with the lock held.
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

// asker is a client for questions to a server that need no lane.
func (n *nodes) asker(addr string) *goredis.Client {
	n.mu.Lock()
	defer n.mu.Unlock()
	c, ok := n.askers[addr]
	if !ok {
		opt := n.address.of(addr)
		if n.address.master != "" {
			opt = n.address.ofSentinel(addr)
		}
		opt.DB = 0 // a node of a cluster has no other, and must be recognised to say so
		plain(opt, 2)
		opt.DialTimeout, opt.ReadTimeout, opt.WriteTimeout = roundWithin, roundWithin, roundWithin
		c = goredis.NewClient(opt)
		if n.askers == nil { // closed meanwhile: whoever asks is refused
			_ = c.Close()
			return c
		}
		n.askers[addr] = c
	}
	return c
}

// masters are those who have slots.
func (n *nodes) masters() []*lanes {
	var found []*lanes
	for _, l := range n.places.Load().slots {
		if l != nil && !slices.Contains(found, l) {
			found = append(found, l)
		}
	}
	return found
}

// checkNoEviction refuses a Redis of which a master may throw keys of a gate away.
// A master that does not answer is passed over where another does.
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

// reach asks each master whether it is one and takes a write.
func (n *nodes) reach(ctx context.Context) (serving, all int, err error) {
	masters := n.masters()
	errs := make([]error, len(masters))
	var wg sync.WaitGroup
	for i, l := range masters {
		wg.Go(func() {
			defer guard.Log("probe masters")
			errs[i] = l.with(ctx, func(ln *lane) error {
				if err := ln.look(ctx); err != nil {
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
	if slices.Contains(n.places.Load().slots, nil) && len(masters) > 0 {
		all++ // slots without a master
	}
	if serving < all {
		n.kick()
	}
	if len(masters) == 0 {
		errs = append(errs, errNoMaster)
	}
	return serving, all, errors.Join(errs...)
}

// close ends all connections. Closing twice is fine.
func (n *nodes) close() error {
	n.mu.Lock()
	all, askers := n.lanes, n.askers
	n.lanes, n.askers = nil, nil
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
