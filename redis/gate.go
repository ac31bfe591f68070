package redis

import (
	"context"
	"crypto/x509"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/google/uuid"
	"github.com/redis/go-redis/extra/redisotel/v9"
	goredis "github.com/redis/go-redis/v9"

	"github.com/dopaminestore/dopamine/internal/telemetry"
	"github.com/dopaminestore/dopamine/redis/topology"
)

// Options configure a Gate. The zero value is valid.
type Options struct {
	Lanes    int      // connections kept open to each master; default 10
	LanesMax int      // connections to each master at most; default 20, or Lanes if that is more
	Observer Observer // receives what the gate does; nil: no observer
	Tracing  bool     // record a span for each call to Redis
	// Node returns this process's number in a list of processes that others watch, 0 while
	// it is in none; nil: it is in none. Pending grants carry it, so that those of
	// a process that died are withdrawn at once.
	Node func() int64
	// CA verifies the certificates of rediss:// servers; nil: the system's authorities.
	CA *x509.CertPool
	// KeyPrefix is put before every key, so that installations can share a Redis;
	// see CheckKeyPrefix.
	KeyPrefix string
}

// prepare makes a client record spans if Tracing is set.
func (o Options) prepare(c *goredis.Client) error {
	if !o.Tracing {
		return nil
	}
	if err := redisotel.InstrumentTracing(c, redisotel.WithTracerProvider(telemetry.WithinTrace())); err != nil {
		return fmt.Errorf("redis: trace calls: %w", err)
	}
	return nil
}

func (o Options) topology() topology.Options {
	return topology.Options{
		Conns: o.Lanes, ConnsMax: o.LanesMax, Builds: maxBuilds, KeyPrefix: o.KeyPrefix, Prepare: o.prepare, Called: o.Observer.Called,
	}
}

func (o Options) withDefaults() Options {
	if o.Lanes <= 0 {
		o.Lanes = 10
	}
	if o.LanesMax <= 0 {
		o.LanesMax = 20
	}
	o.LanesMax = max(o.Lanes, o.LanesMax)
	if o.Observer == nil {
		o.Observer = NoObserver{}
	}
	return o
}

// Observer records what a Gate does, for metrics. Its methods are called from
// many goroutines and must not block.
type Observer interface {
	Called(script string, requests int, took time.Duration, err error) // one call to Redis; requests: how many it decided
	Renewed(took time.Duration, err error)                             // one lease
	Rebuilt(took time.Duration, first bool, err error)                 // one rebuild, from when it may raise the epoch; first: no gate of the product was ever in use
	Raised(epoch int64)                                                // an epoch was raised to this one, of at most MaxEpoch
}

// NoObserver observes nothing. Embed it in an Observer of some of the calls.
type NoObserver struct{}

func (NoObserver) Called(string, int, time.Duration, error) {}
func (NoObserver) Renewed(time.Duration, error)             {}
func (NoObserver) Rebuilt(time.Duration, bool, error)       {}
func (NoObserver) Raised(int64)                             {}

// Gate decides who gets a unit. It is safe for concurrent use.
type Gate struct {
	store     Store
	topology  *topology.Topology
	observer  Observer
	keyPrefix string
	node      func() int64

	ctx  context.Context // for work that no single request owns; canceled by Close
	stop context.CancelFunc
	runs sync.WaitGroup

	id         uuid.UUID // identifies this node among those that rebuild
	rows       *batcher[uuid.UUID, *GateRow]
	leases     *batcher[LeaseRequest, LeaseResult]
	raises     *batcher[RaiseRequest, RaiseResult]
	alive      *batcher[AliveRequest, bool]
	otherRedis recent // products that are in use on another Redis

	closing  sync.RWMutex // held for writing by Close, so that nothing starts after it
	closed   bool
	products sync.Map // uuid.UUID -> *product
	unknown  unknown
}

// Open connects to the Redis at the URLs: redis://host:port/db, or rediss:// with
// TLS. One URL is a server, or a node of a Redis Cluster, which is detected; several
// are nodes of a cluster; with ?master_name= they are the Sentinels of that master.
// Open rejects a Redis that may evict keys. The context bounds the opening only. If the
// URLs themselves are invalid the error is a topology.ErrAddress.
func Open(ctx context.Context, urls []string, store Store, opts Options) (*Gate, error) {
	opts = opts.withDefaults()
	where, err := topology.ParseURLs(urls)
	if err == nil {
		err = where.Trust(opts.CA)
	}
	if err != nil {
		return nil, err
	}
	masters, err := topology.Open(ctx, where, opts.topology())
	if err == nil {
		err = masters.CheckNoEviction(ctx)
	}
	if err != nil {
		return nil, errors.Join(topology.CredentialsError(err), masters.Close())
	}
	g := &Gate{store: store, topology: masters, keyPrefix: opts.KeyPrefix, observer: opts.Observer, node: opts.Node, id: uuid.New()}
	g.ctx, g.stop = context.WithCancel(context.Background())
	g.rows = &batcher[uuid.UUID, *GateRow]{do: store.Rows, timeout: rowsTimeout, maxSize: maxRows}
	g.leases = &batcher[LeaseRequest, LeaseResult]{do: store.Leases, timeout: leaseTimeout, interval: leaseInterval, maxSize: maxLeases}
	g.raises = &batcher[RaiseRequest, RaiseResult]{do: store.Raise, timeout: raiseTimeout, interval: raiseInterval, maxSize: maxRaises}
	g.alive = &batcher[AliveRequest, bool]{do: store.Alive, timeout: rowsTimeout, interval: leaseInterval, maxSize: maxLeases}
	g.rows.ctx, g.leases.ctx, g.raises.ctx, g.alive.ctx = g.ctx, g.ctx, g.ctx, g.ctx
	g.rows.start, g.leases.start, g.raises.start, g.alive.start = g.start, g.start, g.start, g.start
	g.start(func() { masters.Watch(g.ctx) })
	return g, nil
}

// CheckHealth connects to a Redis, checks its masters as Gate.Health does, and
// disconnects. It is for processes that have no gate.
func CheckHealth(ctx context.Context, urls []string, opts Options) (serving, all int, err error) {
	where, err := topology.ParseURLs(urls)
	if err == nil {
		err = where.Trust(opts.CA)
	}
	if err != nil {
		return 0, 1, err
	}
	opts.Lanes, opts.LanesMax = 1, 1
	masters, err := topology.Open(ctx, where, opts.withDefaults().topology())
	if err != nil {
		return 0, 1, errors.Join(err, masters.Close())
	}
	serving, all, err = masters.Health(ctx)
	return serving, all, errors.Join(err, masters.Close())
}

// Close stops all background work and closes the connections. Close is idempotent.
func (g *Gate) Close() error {
	g.closing.Lock()
	already := g.closed
	g.closed = true
	g.closing.Unlock()
	if already {
		return nil
	}
	g.stop()
	g.runs.Wait()
	return g.topology.Close()
}

// start runs f in a goroutine owned by the gate; it returns false once the gate is closed.
func (g *Gate) start(f func()) bool {
	g.closing.RLock()
	defer g.closing.RUnlock()
	if g.closed {
		return false
	}
	g.runs.Go(f)
	return true
}

// Health reports how many of Redis' masters take writes, and how many there should be,
// at least 1. The error names what is wrong with those that do not.
func (g *Gate) Health(ctx context.Context) (serving, all int, err error) {
	serving, all, err = g.topology.Health(ctx)
	return serving, all, unavailable("ask the masters", err)
}

// callTarget identifies the process that answered a call.
type callTarget struct {
	sent     time.Time // not later than the call
	instance string
	view     int64 // the configuration epoch by which that instance was found, 0 for none
	server   *topology.Server
}

func targetOf(c *topology.Conn, sent time.Time) callTarget {
	return callTarget{sent: sent, instance: c.Instance, view: c.Server.View(), server: c.Server}
}

// ClockSkew returns how far the clock of a master is ahead of this process's, and the uncertainty
// of the measurement; see topology.Topology.ClockSkew.
func (g *Gate) ClockSkew(ctx context.Context) (ahead, uncertainty time.Duration, err error) {
	ahead, uncertainty, err = g.topology.ClockSkew(ctx)
	return ahead, uncertainty, unavailable("read the masters' clocks", err)
}

// call runs a script once, on any connection to the master of the keys, and returns its target.
func (g *Gate) call(ctx context.Context, s *topology.Script, keys []string, args ...any) (reply any, on callTarget, err error) {
	err = g.topology.Run(ctx, keys[0], func(c *topology.Conn) (err error) {
		sent := time.Now()
		reply, err = c.Call(ctx, s, keys, args...)
		on = targetOf(c, sent)
		return err
	})
	return reply, on, err
}

// State returns the state of the product's gate.
func (g *Gate) State(ctx context.Context, product uuid.UUID) (State, error) {
	state, err := g.readState(ctx, g.keys(product))
	return state, unavailable("read the gate's state", err)
}

// readState reads a gate's state.
func (g *Gate) readState(ctx context.Context, keys []string) (State, error) {
	reply, on, err := g.call(ctx, stateScript, keys)
	if err != nil {
		return State{}, err
	}
	r, err := parseReply(reply, 1)
	if err != nil {
		return State{}, err
	}
	if r.text(0) == "none" {
		return State{Epoch: NoEpoch, on: on}, r.err
	}
	state := r.basis(on)
	state.Alive = r.text(0) == "alive"
	state.Units, state.Free = int(r.number(7)), int(r.number(8))
	state.Held, state.Pending, state.Decided = int(r.number(9)), int(r.number(10)), r.number(11)
	return state, r.err
}

// GiveBack frees the unit of a grant that was never sent to the event store, if it was
// delivered only once. A grant that was delivered more often is withdrawn by the worker.
func (g *Gate) GiveBack(ctx context.Context, d Decision) error {
	if d.Outcome != Granted || d.Deliveries != 1 {
		return nil
	}
	_, _, err := g.call(ctx, giveBackScript, g.keys(d.Product), string(d.Buyer[:]), d.Number)
	return unavailable("give a grant back", err)
}

// Pending lists pending grants by number: those above after, up to upTo, at
// most limit. A lost gate has none: it must be rebuilt (Sync).
func (g *Gate) Pending(ctx context.Context, product uuid.UUID, after, upTo int64, limit int) ([]PendingGrant, error) {
	found, err := g.pending(ctx, product, after, upTo, limit)
	return found, unavailable("list pending grants", err)
}

func (g *Gate) pending(ctx context.Context, product uuid.UUID, after, upTo int64, limit int) ([]PendingGrant, error) {
	reply, _, err := g.call(ctx, pendingScript, g.keys(product), after, upTo, limit)
	if err != nil || reply == nil {
		return nil, err
	}
	r, err := parseReply(reply, 1)
	if err != nil {
		return nil, err
	}
	rebuild := r.id(0)
	found := make([]PendingGrant, 0, len(r.items)/2)
	for i := 1; i+1 < len(r.items); i += 2 {
		buyer, err := uuid.FromBytes([]byte(r.text(i)))
		detail := r.fields(i+1, 3)
		if r.err != nil || err != nil {
			return nil, errors.Join(r.err, err)
		}
		_, nodes, _ := cutLast(r.text(i+1), " ")
		found = append(found, PendingGrant{
			Product: product, Buyer: buyer, Number: detail[0], Unit: int(detail[1]), Deliveries: int(detail[2]),
			Nodes: parseNodes(nodes), Rebuild: rebuild,
		})
	}
	return found, nil
}

// cutLast is like strings.Cut, but at the last separator.
func cutLast(s, sep string) (before, after string, found bool) {
	if i := strings.LastIndex(s, sep); i >= 0 {
		return s[:i], s[i+len(sep):], true
	}
	return s, "", false
}

// parseNodes returns the nodes of a pending grant; nil if one of them is not known.
func parseNodes(text string) []int64 {
	if text == "" || strings.Contains(text, "*") {
		return nil
	}
	var nodes []int64
	for name := range strings.SplitSeq(text, ",") {
		id, err := parseInt(name)
		if err != nil {
			return nil
		}
		nodes = append(nodes, id)
	}
	return nodes
}

// nodeName returns this process's number as it is stored in grants.
func (g *Gate) nodeName() string {
	if g.node == nil {
		return "*"
	}
	if id := g.node(); id != 0 {
		return strconv.FormatInt(id, 10)
	}
	return "*"
}

// Master returns the address of the Redis master that has the product's gate, as far as
// it is known, or "".
func (g *Gate) Master(product uuid.UUID) string {
	if l := g.topology.Of(g.keys(product)[0]); l != nil {
		return l.Addr
	}
	return ""
}
