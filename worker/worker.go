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

	"github.com/dopaminestore/dopamine/command/deadlines"
	"github.com/dopaminestore/dopamine/command/gatestore"
	"github.com/dopaminestore/dopamine/command/payments"
	"github.com/dopaminestore/dopamine/eventstore"
	"github.com/dopaminestore/dopamine/internal/guard"
	"github.com/dopaminestore/dopamine/internal/presence"
	"github.com/dopaminestore/dopamine/internal/sleep"
	"github.com/dopaminestore/dopamine/redis"
)

// Gate is the part of the gate that a worker uses; *redis.Gate implements it.
type Gate interface {
	Sync(ctx context.Context, product uuid.UUID) error
	ReadLog(ctx context.Context, product uuid.UUID) (*redis.LogPiece, error)
	TrimLog(ctx context.Context, piece *redis.LogPiece) error
	Pending(ctx context.Context, product uuid.UUID, after, upTo int64, limit int) ([]redis.PendingGrant, error)
	State(ctx context.Context, product uuid.UUID) (redis.State, error)
	Master(product uuid.UUID) string
}

// Payments is the part of the payments that a worker drives; *payments.Service implements it.
type Payments interface {
	// Due lists the payments, or refunds, for which a step is due, those due longest
	// first.
	Due(ctx context.Context, step payments.Step, limit int) ([]uuid.UUID, error)
	// Do executes one step; if it fails, it becomes due again.
	Do(ctx context.Context, step payments.Step, id uuid.UUID) error
	// CancelledSlots and CancelledPurchases list the work that is left for cancelled
	// sales; EndCancelled and RefundCancelled do it.
	CancelledSlots(ctx context.Context, limit int) ([]uuid.UUID, error)
	EndCancelled(ctx context.Context, slot uuid.UUID) (product uuid.UUID, err error)
	CancelledPurchases(ctx context.Context, limit int) ([]uuid.UUID, error)
	RefundCancelled(ctx context.Context, payment uuid.UUID) error
	// Observe sets the gauge of payments that need an operator.
	Observe(ctx context.Context) error
	// TimeOut ends a slot that is due although it has a pending payment.
	TimeOut(ctx context.Context, due deadlines.Slot) error
	// Purge deletes data that is no longer needed.
	Purge(ctx context.Context) error
}

// Config configures a worker. All fields but the last four are required.
type Config struct {
	Gate       *redis.Gate
	GateStore  *gatestore.Store
	Deadlines  *deadlines.Store
	Store      *eventstore.Store
	Reader     *eventstore.Reader
	Notifier   *eventstore.Notifier
	Presence   *presence.Presence    // nil: this worker owns all products
	Payments   Payments              // nil: payments, and slots with a pending payment, are left to others
	Registerer prometheus.Registerer // nil: no metrics
	Logger     *slog.Logger          // nil: slog.Default()
}

// Worker runs the background work. Any number of them run concurrently, in
// one process or in many.
type Worker struct {
	cfg     Config
	gate    Gate
	log     *slog.Logger
	metrics *metrics
	noisy   *rate.Limiter // for failures that may affect thousands at the same time
	owners  *owners
	recent  *recent // other workers' products that had events recently
	expirer *expirer
	began   time.Time

	syncer    *syncer       // set by Run
	watcher   *watcher      // set by Run
	followed  atomic.Int64  // position that follow has reached; -1: it has not begun
	following chan struct{} // closed when it has begun

	followedEvent uuid.UUID     // at followed; belongs to follow, zero if not read yet
	restored      chan struct{} // of capacity 1: the store lost events
	syncAll       atomic.Bool   // catchUp syncs all gates
}

// New creates a worker; Run starts it.
func New(cfg Config) *Worker {
	if cfg.Logger == nil {
		cfg.Logger = slog.Default()
	}
	w := &Worker{
		cfg: cfg, gate: cfg.Gate, log: cfg.Logger.With("component", "worker"),
		metrics: newMetrics(cfg.Registerer), noisy: rate.NewLimiter(noisyLogs, noisyLogs),
		owners: newOwners(cfg.Presence, cfg.Gate.Master), recent: newRecent(), following: make(chan struct{}), restored: make(chan struct{}, 1),
	}
	w.followed.Store(-1)
	w.expirer = newExpirer(w)
	return w
}

// Run works until ctx ends, finishes the work in progress, and returns nil.
// Failures are logged and retried. A worker runs once.
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

// start starts the components to which the loops pass their work.
func (w *Worker) start(ctx context.Context) {
	w.began = time.Now()
	w.syncer = w.newSyncer(ctx)
	w.watcher = w.newWatcher(ctx)
}

// loop is one kind of work that a worker does continuously.
type loop struct {
	name string
	// run works until ctx ends or an error occurs.
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
		{"overdue", w.measureOverdue},
		{"expire", func(ctx context.Context) error { return w.expirer.keepSweeping(ctx, w.ending()) }},
		{"warn", func(ctx context.Context) error { return w.expirer.keepSweeping(ctx, w.warning()) }},
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

// Backoff of a loop that fails: the recovery of Redis or Postgres is noticed
// within a second.
const (
	firstPause = 50 * time.Millisecond
	lastPause  = time.Second
	// recovered is how long a loop must have worked to reset the
	// backoff.
	recovered = 10 * time.Second
)

func pauses() *backoff.ExponentialBackOff {
	p := backoff.NewExponentialBackOff()
	p.InitialInterval, p.MaxInterval = firstPause, lastPause
	return p
}

// keepDoing runs the loop, and restarts it when it fails. A loop that returns nil is
// finished.
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
		w.log.WarnContext(ctx, "worker loop failed, restarting", "loop", l.name, "error", err)
		if sleep.For(ctx, wait.NextBackOff()) != nil {
			return
		}
	}
}

// noisyLogs is how many warnings a second are logged about failures of single slots,
// payments or gates: if a service is unavailable, all of them fail. The metrics
// count them all.
const noisyLogs = 5

// warn logs a warning that may occur thousands of times, at a limited rate.
func (w *Worker) warn(ctx context.Context, message string, args ...any) {
	if w.noisy.Allow() {
		w.log.WarnContext(ctx, message, args...)
	}
}
