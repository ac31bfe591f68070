package worker

import (
	"context"
	"errors"
	"sync"
	"sync/atomic"
	"time"

	"github.com/google/uuid"

	"github.com/dopaminestore/dopamine/internal/sleep"
	"github.com/dopaminestore/dopamine/redis"
)

const (
	// maxFollowed is how many events are read at a time to find their products.
	maxFollowed = 10_000
	// syncConcurrency is how many gates of one Redis master are synced at the same
	// time; more than there are connections to it would only queue there.
	syncConcurrency = 16
	// syncRest is the least time between two syncs of a gate: in a rush the next
	// sync applies all events that arrived meanwhile.
	syncRest = 20 * time.Millisecond
	// syncTimeout bounds one sync. A rebuild continues in the background, so that
	// it delays no other product of its master.
	syncTimeout = 2 * time.Second
	// readTimeout bounds a read of the log.
	readTimeout = 5 * time.Second
	// recentFor is for how long a worker remembers events of other workers'
	// products: longer than it takes to detect that one died.
	recentFor = 15 * time.Second
)

// syncer syncs gates, and retries each until it succeeds.
type syncer struct {
	*schedule
}

func (w *Worker) newSyncer(ctx context.Context) *syncer {
	var warned sync.Map // products that fail, so that each is logged once
	return &syncer{newSchedule(ctx, syncConcurrency, syncRest, w.gate.Master, w.owners.turned, func(ctx context.Context, product uuid.UUID) (time.Duration, bool, error) {
		syncing, cancel := context.WithTimeout(ctx, syncTimeout)
		defer cancel()
		began := time.Now()
		err := w.gate.Sync(syncing, product)
		if err == nil || errors.Is(err, redis.ErrUnknownProduct) { // synced, or removed with its product
			warned.Delete(product)
			w.metrics.fed.Observe(time.Since(began).Seconds())
			return -1, false, nil
		}
		if ctx.Err() == nil {
			w.metrics.failures.WithLabelValues("feed").Inc()
			if _, already := warned.LoadOrStore(product, true); !already {
				w.warn(ctx, "gate sync failed, retrying", "product", product, "error", err)
			}
		}
		// If it takes long it may be waiting for a rebuild: its master is not down.
		return 0, errors.Is(err, redis.ErrUnavailable) && syncing.Err() == nil, err
	})}
}

// mark syncs the product's gate with everything that is durable now.
func (s *syncer) mark(product uuid.UUID) { s.after(product, 0) }

// syncOwn syncs a gate at once after an append of this worker, if it owns the
// product; another owner finds the append in the log.
func (w *Worker) syncOwn(product uuid.UUID) {
	if w.owners.ours(product) {
		w.syncer.mark(product)
	}
}

// follow syncs the gate of every product of this worker that has new
// events.
func (w *Worker) follow(ctx context.Context) error {
	position, err := w.followFrom(ctx)
	if err != nil {
		return err
	}
	for {
		if position, err = w.checkFollowed(ctx, position); err != nil {
			return err
		}
		products, upTo, err := w.concerned(ctx, position)
		if err != nil {
			return err
		}
		for _, p := range products {
			if w.owners.ours(p) {
				w.syncer.mark(p)
			} else {
				w.recent.add(p)
			}
		}
		if upTo != position {
			w.followedEvent = uuid.Nil // read by the next check
		}
		position = upTo
		w.metrics.position.Set(float64(position))
		w.followed.Store(position)
		if len(products) > 0 { // events that arrive now would wait for the gate's next sync anyway
			err = sleep.For(ctx, syncRest)
		} else {
			err = w.cfg.Notifier.Wait(ctx, position)
		}
		if err != nil {
			return err
		}
	}
}

// checkFollowed compares the last event that was followed with the store. If that was
// restored to an earlier moment, and has another event there or none, what follows would
// be skipped, and what is remembered of stored decision logs is not true any more: then
// follow continues at the head, and all gates are synced. It returns where to continue.
func (w *Worker) checkFollowed(ctx context.Context, position int64) (int64, error) {
	if position == 0 {
		return 0, nil
	}
	ctx, cancel := context.WithTimeout(ctx, readTimeout)
	defer cancel()
	ids, err := w.cfg.Reader.IDs(ctx, []int64{position})
	if err != nil {
		return position, err
	}
	event, there := ids[position]
	if there && (w.followedEvent == uuid.Nil || w.followedEvent == event) {
		w.followedEvent = event
		return position, nil
	}
	head, err := w.cfg.Reader.Head(ctx)
	if err != nil {
		return position, err
	}
	w.log.WarnContext(ctx, "the store lost events, syncing all gates", "position", position, "head", head)
	w.followedEvent = uuid.Nil
	w.followed.Store(head)
	w.watcher.history.Add(1)
	select {
	case w.restored <- struct{}{}:
	default:
	}
	return head, nil
}

// concerned returns the products with events after a position, and the position
// up to which it read.
func (w *Worker) concerned(ctx context.Context, position int64) ([]uuid.UUID, int64, error) {
	ctx, cancel := context.WithTimeout(ctx, readTimeout)
	defer cancel()
	return w.cfg.Reader.Keys(ctx, position, maxFollowed)
}

// followFrom returns where to continue: the position reached before a failure, or
// the end of the log at the start, because catchUp handles earlier events.
func (w *Worker) followFrom(ctx context.Context) (int64, error) {
	if at := w.followed.Load(); at >= 0 {
		return at, nil
	}
	ctx, cancel := context.WithTimeout(ctx, readTimeout)
	defer cancel()
	head, err := w.cfg.Reader.Head(ctx)
	if err != nil {
		return 0, err
	}
	w.followed.Store(head)
	close(w.following)
	return head, nil
}

// takeOver syncs, whenever the live workers have changed, recent events of
// products that this worker owns from then on: the former owner may have died
// before its sync.
func (w *Worker) takeOver(ctx context.Context) error {
	for {
		changed := w.owners.changed()
		for _, p := range w.recent.list() {
			if w.owners.ours(p) {
				w.syncer.mark(p)
			}
		}
		w.watcher.pollSoon()
		select {
		case <-changed:
		case <-ctx.Done():
			return nil
		}
	}
}

// catchUp checks once every gate that ever decided, and syncs those whose product had
// events while no worker ran. A gate that does not exist is built by the next request. If
// the store lost events, it runs again, and syncs every gate that exists.
func (w *Worker) catchUp(ctx context.Context) error {
	select { // later events are handled by follow
	case <-w.following:
	case <-ctx.Done():
		return nil
	}
	for {
		if err := w.syncOutdated(ctx); err != nil || ctx.Err() != nil {
			return err
		}
		w.syncAll.Store(false)
		select {
		case <-w.restored:
			w.syncAll.Store(true)
		case <-ctx.Done():
			return nil
		}
	}
}

// syncOutdated syncs the gates that have not applied all events, or every gate that exists
// if the store lost events.
func (w *Worker) syncOutdated(ctx context.Context) error {
	led, err := w.cfg.GateStore.Histories(ctx)
	if err != nil {
		return err
	}
	known := make(map[uuid.UUID]int, len(led))
	for i, l := range led {
		known[l.Product] = i
	}
	var left atomic.Int64
	all := make(chan struct{})
	looking, done := context.WithCancel(ctx)
	defer done()
	looks := newSchedule(looking, syncConcurrency, 0, w.gate.Master, nil, func(ctx context.Context, product uuid.UUID) (time.Duration, bool, error) {
		l := led[known[product]]
		state, err := w.gate.State(ctx, product)
		if err != nil {
			return 0, errors.Is(err, redis.ErrUnavailable), err
		}
		if state.Exists && (l.Deleted || state.Alive && state.Position < l.Position || w.syncAll.Load()) {
			w.syncer.mark(product)
		}
		if left.Add(-1) == 0 {
			close(all)
		}
		return -1, false, nil
	})
	left.Add(1)
	for _, l := range led {
		if w.owners.ours(l.Product) {
			left.Add(1)
			looks.after(l.Product, 0)
		}
	}
	if left.Add(-1) > 0 {
		select {
		case <-all:
		case <-ctx.Done():
		}
	}
	done()
	looks.wait()
	return nil
}

// recent remembers products for a while.
type recent struct {
	mu sync.Mutex
	at map[uuid.UUID]time.Time
}

func newRecent() *recent { return &recent{at: map[uuid.UUID]time.Time{}} }

func (r *recent) add(product uuid.UUID) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.at[product] = time.Now()
}

// list returns the products added recently and drops the others.
func (r *recent) list() []uuid.UUID {
	r.mu.Lock()
	defer r.mu.Unlock()
	var products []uuid.UUID
	for p, at := range r.at {
		if time.Since(at) > recentFor {
			delete(r.at, p)
		} else {
			products = append(products, p)
		}
	}
	return products
}
