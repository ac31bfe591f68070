package worker

import (
	"context"
	"log/slog"
	"sync"
	"sync/atomic"
	"time"

	"github.com/cenkalti/backoff/v5"
	"github.com/google/uuid"
	"github.com/prometheus/client_golang/prometheus"
	"golang.org/x/time/rate"

	"github.com/dopaminestore/dopamine/command/claims"
	"github.com/dopaminestore/dopamine/command/payments"
	"github.com/dopaminestore/dopamine/eventstore"
	"github.com/dopaminestore/dopamine/internal/guard"
	"github.com/dopaminestore/dopamine/internal/presence"
	"github.com/dopaminestore/dopamine/redis"
)

// Gate is what a worker asks of the gates; *redis.Gate is one.
type Gate interface {
	Sync(ctx context.Context, product uuid.UUID) error
	ReadLog(ctx context.Context, product uuid.UUID) (*redis.LogPiece, error)
	TrimLog(ctx context.Context, piece *redis.LogPiece) error
	Pending(ctx context.Context, product uuid.UUID, after, upTo int64, limit int) ([]redis.PendingGrant, error)
	State(ctx context.Context, product uuid.UUID) (redis.State, error)
	Master(product uuid.UUID) string
}

// Payments is what a worker does for payments; *payments.Service does it.
type Payments interface {
	// Due lists the payments, or refunds, for which a step is due, the longest due
	// first.
	Due(ctx context.Context, step payments.Step, limit int) ([]uuid.UUID, error)
	// Do takes one; it becomes due again by itself if that fails.
	Do(ctx context.Context, step payments.Step, id uuid.UUID) error
	// CancelledSlots and CancelledPurchases list what is left to be done for sales
	// that were cancelled; EndCancelled and RefundCancelled do it.
	CancelledSlots(ctx context.Context, limit int) ([]uuid.UUID, error)
	EndCancelled(ctx context.Context, slot uuid.UUID) (product uuid.UUID, err error)
	CancelledPurchases(ctx context.Context, limit int) ([]uuid.UUID, error)
	RefundCancelled(ctx context.Context, payment uuid.UUID) error
	// Observe sets the gauge of what waits for an operator.
	Observe(ctx context.Context) error
	// TimeOut ends a slot that is due although a payment of it is pending.
	TimeOut(ctx context.Context, due claims.Due) error
	// Purge deletes what needs not be kept any longer.
	Purge(ctx context.Context) error
}

// Config is what a worker works on. All fields but the last four are required.
type Config struct {
	Gate       *redis.Gate
	Claims     *claims.Store
	Store      *eventstore.Store
	Reader     *eventstore.Reader
	Waker      *eventstore.Waker
	Presence   *presence.Presence    // nil: this worker shares its work with no other
	Payments   Payments              // nil: payments, and slots that wait for one, are left to others
	Registerer prometheus.Registerer // nil: no metrics
	Logger     *slog.Logger          // nil: slog.Default()
}

// Worker does what happens by itself. Any number of them work side by side, in
// one process or in many.
type Worker struct {
	cfg     Config
	gate    Gate
	log     *slog.Logger
	metrics *metrics
	noisy   *rate.Limiter // of what may fail for thousands at the same time
	owners  *owners
	recent  *recent // other workers' products to which something happened
	sweeper *sweeper
	began   time.Time

	syncer    *syncer       // set by Run
	watcher   *watcher      // set by Run
	followed  atomic.Int64  // up to where follow has got; -1: it has not begun
	following chan struct{} // closed when it has
}

// New makes a worker; Run starts it.
func New(cfg Config) *Worker {
	if cfg.Logger == nil {
		cfg.Logger = slog.Default()
	}
	w := &Worker{
		cfg: cfg, gate: cfg.Gate, log: cfg.Logger.With("component", "worker"),
		metrics: newMetrics(cfg.Registerer), noisy: rate.NewLimiter(noisyLogs, noisyLogs),
		owners: newOwners(cfg.Presence, cfg.Gate.Master), recent: newRecent(), following: make(chan struct{}),
	}
	w.followed.Store(-1)
	w.sweeper = newSweeper(w)
	return w
}

// Run works until ctx ends, finishes what it has begun, and returns nil. What
// fails is logged and retried. A worker runs once.
func (w *Worker) Run(ctx context.Context) error {
	w.start(ctx)
	defer w.syncer.wait()
	defer w.watcher.wait()
	var loops sync.WaitGroup
	defer loops.Wait()
	for _, loop := range w.loops() {
		loops.Go(func() {
			defer guard.Log("run a task of the worker")
			w.keepDoing(ctx, loop)
		})
	}
	<-ctx.Done()
	return nil
}

// start starts what the loops give their work to.
func (w *Worker) start(ctx context.Context) {
	w.began = time.Now()
	w.syncer = w.newSyncer(ctx)
	w.watcher = w.newWatcher(ctx)
}

// loop is one thing that a worker does all the time.
type loop struct {
	name string
	// run goes on until ctx ends or something fails.
	run func(ctx context.Context) error
}

func (w *Worker) loops() []loop {
	all := []loop{
		{"feed", w.follow},
		{"catch up", w.catchUp},
		{"take over", w.takeOver},
		{"watch", w.watcher.poll},
		{"reach", w.keepTrying},
		{"compare", w.audit},
		{"unload", w.unload},
		{"expire", func(ctx context.Context) error { return w.sweeper.keepSweeping(ctx, w.ending()) }},
		{"warn", func(ctx context.Context) error { return w.sweeper.keepSweeping(ctx, w.warning()) }},
	}
	if w.cfg.Payments != nil {
		all = append(all, loop{"time out", w.timeOut}, loop{"purge", w.purge}, loop{"attention", w.observe},
			loop{"cancelled sales: slots", w.endSlots}, loop{"cancelled sales: refunds", w.refundSales})
		for _, step := range payments.Steps {
			all = append(all, loop{"payments: " + string(step), func(ctx context.Context) error { return w.pay(ctx, step) }})
		}
	}
	return all
}

// Pauses of a loop that fails: a Redis or a Postgres that comes back is found
// within a second.
const (
	firstPause = 50 * time.Millisecond
	lastPause  = time.Second
	// recovered is for how long a loop must have worked to begin with the first
	// pause again.
	recovered = 10 * time.Second
)

func pauses() *backoff.ExponentialBackOff {
	p := backoff.NewExponentialBackOff()
	p.InitialInterval, p.MaxInterval = firstPause, lastPause
	return p
}

// keepDoing runs the loop, and again when it failed. A loop that returns nil is
// done.
func (w *Worker) keepDoing(ctx context.Context, l loop) {
	wait := pauses()
	for {
		began := time.Now()
		err := l.run(ctx)
		if err == nil || ctx.Err() != nil {
			return
		}
		if time.Since(began) > recovered {
			wait.Reset()
		}
		w.metrics.failures.WithLabelValues(l.name).Inc()
		w.log.WarnContext(ctx, "a worker's loop failed, beginning again", "loop", l.name, "error", err)
		if pause(ctx, wait.NextBackOff()) != nil {
			return
		}
	}
}

// noisyLogs is how many warnings a second are logged of what fails for each slot,
// payment or gate alone: when something is away, all of them fail. The metrics
// count them all.
const noisyLogs = 5

// warn logs something that may come in thousands.
func (w *Worker) warn(ctx context.Context, message string, args ...any) {
	if w.noisy.Allow() {
		w.log.WarnContext(ctx, message, args...)
	}
}

// pause waits; the error is ctx's where that ends first.
func pause(ctx context.Context, d time.Duration) error {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}
