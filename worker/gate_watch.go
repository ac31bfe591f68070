package worker

import (
	"context"
	"errors"
	"sync"
	"sync/atomic"
	"time"

	"github.com/google/uuid"

	"github.com/dopaminestore/dopamine/command/gatestore"
	"github.com/dopaminestore/dopamine/redis"
)

const (
	// watchInterval is how often a gate that decides is read: its stored decision log
	// is at most two seconds behind.
	watchInterval = time.Second
	// idleInterval is how often a gate is read that has nothing left to be stored.
	idleInterval = 5 * time.Second
	// watchConcurrency is how many gates of one Redis master are read at the
	// same time. More than there are connections to it: they wait for Postgres, too.
	watchConcurrency = 32
	// watchFor is how long after its last lease a gate is watched at least.
	watchFor = 30 * time.Second
	// tailInterval is how often to search for gates whose log was not stored
	// completely, however long ago they decided.
	tailInterval = 30 * time.Second
	// watchTimeout bounds one read of a gate.
	watchTimeout = 3 * time.Second
	// noteInterval is how often it is recorded that a log without new lines is
	// stored.
	noteInterval = 2 * time.Second
	// maxLost is how many reads in a row must find a gate lost for it to be rebuilt.
	// Requests rebuild it too; this is for a gate that receives none.
	maxLost = 2
)

// watcher reads the gates of this worker's products that decided recently, or
// have lines that were not stored: it ships their decision logs and withdraws
// grants that were never appended. Gates that have not decided for a while cost
// nothing.
type watcher struct {
	*Worker
	looks   *schedule
	shipper *shipper
	soon    chan struct{} // of capacity 1: poll now, for tails too

	// history changes when the store lost events: what was stored may be gone.
	history atomic.Int64

	mu    sync.Mutex
	gates map[uuid.UUID]*watchedGate
}

// watchedGate is a worker's state of a gate between two reads. All fields except
// lease belong to the goroutine that reads it.
type watchedGate struct {
	product uuid.UUID
	mu      sync.Mutex
	lease   gatestore.Lease // as of the last poll

	history int64           // of the watcher, at the last look
	last    *redis.LogPiece // as it was last read and stored
	noted   time.Time       // when that was last noted in Postgres
	whole   int64           // epochs of the same gate below it are recorded as complete
	mark    leaseMark
	covered redis.LeaseID // see redis.Shipment
	pending bool          // there were pending grants at the last read
	lost    int           // reads in a row that found the gate lost
	sights  sights
}

// leaseMark is a lease, and the gate as it was read at some time after the lease
// was taken.
type leaseMark struct {
	id   redis.LeaseID
	read *redis.LogPiece
}

func (w *Worker) newWatcher(ctx context.Context) *watcher {
	x := &watcher{
		Worker: w, shipper: &shipper{ctx: ctx, ship: w.cfg.GateStore.Ship},
		soon: make(chan struct{}, 1), gates: map[uuid.UUID]*watchedGate{},
	}
	x.looks = newSchedule(ctx, watchConcurrency, 0, w.gate.Master, w.owners.turned, x.watchOnce)
	return x
}

func (x *watcher) wait() {
	x.looks.wait()
	x.shipper.wait()
}

// pollSoon requests a poll of all gates: this worker may own other products now.
func (x *watcher) pollSoon() {
	select {
	case x.soon <- struct{}{}:
	default:
	}
}

// poll updates the list of watched gates, about once a second.
func (x *watcher) poll(ctx context.Context) error {
	tick := time.NewTicker(watchInterval)
	defer tick.Stop()
	var tails time.Time
	for {
		began := time.Now()
		leases, err := x.cfg.GateStore.RecentLeases(ctx, watchFor)
		if err != nil {
			return err
		}
		x.watchAll(leases, true)
		if time.Since(tails) >= tailInterval {
			if leases, err = x.cfg.GateStore.UnshippedGates(ctx); err != nil {
				return err
			}
			x.watchAll(leases, false)
			tails = time.Now()
		}
		x.metrics.watched.Set(float64(x.count()))
		x.metrics.watchSeconds.Observe(time.Since(began).Seconds())
		select {
		case <-tick.C:
		case <-x.soon:
			tails = time.Time{}
		case <-ctx.Done():
			return nil
		}
	}
}

func (x *watcher) count() int {
	x.mu.Lock()
	defer x.mu.Unlock()
	return len(x.gates)
}

// list returns the watched products.
func (x *watcher) list() []uuid.UUID {
	x.mu.Lock()
	defer x.mu.Unlock()
	products := make([]uuid.UUID, 0, len(x.gates))
	for p := range x.gates {
		products = append(products, p)
	}
	return products
}

// watchAll adds gates by their leases. all: these are all gates
// that decided recently.
func (x *watcher) watchAll(leases []gatestore.Lease, all bool) {
	x.mu.Lock()
	defer x.mu.Unlock()
	leased := make(map[uuid.UUID]bool, len(leases))
	for _, l := range leases {
		if !x.owners.ours(l.Product) {
			continue
		}
		leased[l.Product] = true
		g := x.gates[l.Product]
		if g == nil {
			g = &watchedGate{product: l.Product}
			x.gates[l.Product] = g
			x.looks.after(l.Product, 0)
		}
		g.mu.Lock()
		news := !g.lease.ID.Equal(l.ID)
		g.lease = l
		g.mu.Unlock()
		if news {
			x.looks.after(l.Product, watchInterval)
		}
	}
	if !all {
		return
	}
	for p, g := range x.gates {
		g.mu.Lock()
		settled := g.settled(g.lease) && !g.pending
		g.mu.Unlock()
		if !x.owners.ours(p) || !leased[p] && settled {
			delete(x.gates, p)
			x.looks.remove(p)
		}
	}
}

// watchOnce ships the product's log and withdraws grants that have been pending for too long.
func (x *watcher) watchOnce(ctx context.Context, product uuid.UUID) (next time.Duration, down bool, err error) {
	x.mu.Lock()
	g := x.gates[product]
	x.mu.Unlock()
	if g == nil {
		return -1, false, nil
	}
	looking, cancel := context.WithTimeout(ctx, watchTimeout)
	defer cancel()
	next, err = x.watchGate(looking, g)
	if err != nil && ctx.Err() == nil {
		x.metrics.failures.WithLabelValues("watch").Inc()
		x.warn(ctx, "gate watch failed, retrying", "product", product, "error", err)
	}
	return next, errors.Is(err, redis.ErrUnavailable), err
}

func (x *watcher) watchGate(ctx context.Context, g *watchedGate) (next time.Duration, err error) {
	if history := x.history.Load(); g.history != history {
		g.history = history
		g.last, g.mark, g.noted, g.whole = nil, leaseMark{}, time.Time{}, 0
		g.setCovered(redis.LeaseID{})
	}
	g.mu.Lock()
	lease := g.lease
	g.mu.Unlock()
	var shipped error
	for {
		log, err := x.gate.ReadLog(ctx, g.product)
		if err != nil {
			return 0, err
		}
		if !log.Alive {
			x.lostGate(g, lease, log)
			return watchInterval, nil
		}
		g.lost = 0
		g.sights.add(log)
		// A log that cannot be stored does not prevent withdrawals.
		if shipped = x.store(ctx, g, lease, log); shipped != nil || !log.More {
			if err := x.withdrawOld(ctx, g, log); err != nil {
				return 0, errors.Join(err, shipped)
			}
			if shipped == nil && log.Pending == 0 && g.settled(lease) {
				return idleInterval, nil
			}
			return watchInterval, shipped
		}
	}
}

// lostGate rebuilds a gate that does not exist, or removes it if its product is gone.
func (x *watcher) lostGate(g *watchedGate, lease gatestore.Lease, log *redis.LogPiece) {
	g.last, g.mark, g.sights = nil, leaseMark{}, sights{}
	if lease.Deleted {
		if log.Exists {
			x.syncer.mark(g.product)
		} else { // there is nothing left to be stored
			g.setCovered(lease.ID)
		}
		return
	}
	if g.lost++; g.lost >= maxLost {
		g.lost = 0
		x.syncer.mark(g.product)
	}
}

func (g *watchedGate) settled(lease gatestore.Lease) bool { return g.covered.Equal(lease.ID) }

func (g *watchedGate) setCovered(lease redis.LeaseID) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.covered = lease
}

// store ships the new lines of a log, and how far it is complete.
func (x *watcher) store(ctx context.Context, g *watchedGate, lease gatestore.Lease, log *redis.LogPiece) error {
	if log.Err != nil {
		return log.Err
	}
	if !log.SameGate(g.last) {
		g.whole = log.FirstEpoch
	}
	covered := g.cover(lease, log)
	unchanged := log.Unchanged(g.last)
	pending := log.Pending > 0
	noted := pending == g.pending && (time.Since(g.noted) < noteInterval || g.settled(lease))
	if unchanged && noted && (covered.IsZero() || covered.Equal(g.covered)) {
		return nil
	}
	s := log.Shipment()
	s.At, s.Covered, s.FirstEpoch = lease.Now, covered, max(s.FirstEpoch, g.whole)
	if err := x.shipper.store(ctx, s); err != nil {
		return err
	}
	x.metrics.carried.Inc()
	g.last, g.noted = log, time.Now()
	g.mu.Lock()
	g.pending = pending
	g.mu.Unlock()
	if s.Live {
		g.whole = s.Epoch
	}
	switch {
	case !covered.IsZero():
		g.setCovered(covered)
	case s.Live && lease.Epoch >= log.FirstEpoch && lease.Epoch < log.Epoch: // the lease's epoch is stored completely
		g.setCovered(lease.ID)
	}
	return x.gate.TrimLog(ctx, log)
}

// cover returns the lease up to which the log contains all decisions that leases allowed, or
// zero if that is unknown. A gate decides until redis.LeaseTime after the time that its
// clock showed before the lease was recorded in Postgres. So once its clock shows
// that much more than at some read after the lease was seen there, and its own lease
// has run out, no decision that the leases up to that one allowed is missing from the
// log. No other clock is compared with it.
func (g *watchedGate) cover(lease gatestore.Lease, log *redis.LogPiece) redis.LeaseID {
	if !log.LeasedBy(lease.Epoch, lease.Instance) {
		g.mark = leaseMark{}
		return redis.LeaseID{}
	}
	m := g.mark
	if !m.id.Equal(lease.ID) || !log.SameGate(m.read) {
		g.mark = leaseMark{lease.ID, log}
	}
	if log.SameGate(m.read) && !log.More && !log.Leased && log.Now >= m.read.Now+redis.LeaseTime {
		return m.id
	}
	return redis.LeaseID{}
}
