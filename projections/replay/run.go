package replay

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"sync/atomic"
	"time"

	"github.com/jackc/pgx/v5/pgxpool"
	"golang.org/x/sync/errgroup"
	"golang.org/x/time/rate"

	"github.com/dopaminestore/dopamine/eventstore"
	"github.com/dopaminestore/dopamine/projections"
)

// Store is the part of the event store that a replay reads.
type Store interface {
	projections.Store
	Head(ctx context.Context) (int64, error)
	Incarnations(ctx context.Context) ([]eventstore.Incarnation, error)
}

// Config configures a replay.
type Config struct {
	ReadPool *pgxpool.Pool // at least two connections for each projection, and two more
	Store    Store
	// Published returns how far the relay is: it has the topic's partition count and, for Verify,
	// the limit of what the live generation can have.
	Published   func(context.Context) (projections.Head, error)
	Topic       *Topic // if set, published events are read from the topic; if nil, all events are read from Store
	Projections []projections.Rebuildable
	Rate        int  // maximum events per second; 0: unlimited
	Verify      bool // compare with the live generations first; if one differs, swap none
	DropOld     bool // drop older generations after the swap
	Window      int  // approximate number of rows of each projection kept in memory; default 200,000
	// OnProgress is called a few times per second and at each change of phase, from several
	// goroutines. May be nil.
	OnProgress func(Replay)
	// OnDifference is called for each difference that Verify finds. May be nil.
	OnDifference func(Difference)
	Logger       *slog.Logger // default slog.Default()
}

// ErrRunning means that a replay of the projection is running already.
var ErrRunning = errors.New("a replay of it is running already")

// ErrDiffers means that Verify found differences; nothing was swapped.
var ErrDiffers = errors.New("the live rows differ from the event store; nothing was swapped")

var (
	errSkipped = errors.New("an event was skipped that the replay had applied")
	errBehind  = errors.New("the live generation is ahead")
	errNotAll  = errors.New("not swapped, because another projection differs")
)

const (
	defaultWindow = 200_000
	// cleanupTimeout bounds the cleanup after a replay has ended.
	cleanupTimeout = 10 * time.Second
)

type runner struct {
	Config
	limit    *rate.Limiter
	indexing chan struct{} // limits the number of concurrent index builds
}

// Run replays until all generations are swapped. It returns ErrRunning, ErrDiffers, a
// *projections.RefusedError, ctx's error or another error with the projection's name. Projections
// that were swapped before the error remain swapped. In every case it leaves nothing that hinders
// the next replay.
func Run(ctx context.Context, cfg Config) error {
	r := &runner{Config: cfg, limit: rate.NewLimiter(rate.Inf, 0), indexing: make(chan struct{}, indexConcurrency)}
	if r.Window == 0 {
		r.Window = defaultWindow
	}
	if r.Logger == nil {
		r.Logger = slog.Default()
	}
	if r.Rate > 0 {
		r.limit = rate.NewLimiter(rate.Limit(r.Rate), r.page())
	}
	id, err := r.Store.Identity(ctx)
	if err != nil {
		return fmt.Errorf("read the event store's id: %w", err)
	}
	if err := projections.CheckSource(ctx, r.ReadPool, id); err != nil {
		return err
	}
	ctx, unlock, err := r.lock(ctx)
	if err != nil {
		return err
	}
	defer unlock()
	todo := r.Projections
	for len(todo) > 0 {
		todo, err = r.once(ctx, todo)
		if err != nil {
			if cause := context.Cause(ctx); cause != nil && !errors.Is(cause, context.Canceled) {
				err = cause
			}
			return err
		}
	}
	return nil
}

// once replays once. It returns the projections whose replay has to start over.
func (r *runner) once(ctx context.Context, todo []projections.Rebuildable) (again []projections.Rebuildable, err error) {
	var targets []*target
	defer func() {
		for _, t := range targets {
			t.close(err)
		}
	}()
	for _, p := range todo {
		t, err := r.begin(ctx, p)
		if err != nil {
			return nil, fmt.Errorf("begin to replay %s: %w", p.Name(), err)
		}
		targets = append(targets, t)
	}
	if err := r.fill(ctx, targets); err != nil {
		return nil, err
	}
	var mu sync.Mutex
	var failed []error
	var unequal atomic.Bool
	var compared sync.WaitGroup
	compared.Add(len(targets))
	group, ctx := errgroup.WithContext(ctx)
	for _, t := range targets {
		group.Go(func() error {
			err := t.build(ctx)
			if err != nil {
				unequal.Store(true)
			}
			compared.Done()
			if err == nil && r.Verify {
				if compared.Wait(); unequal.Load() {
					err = errNotAll
				}
			}
			if err == nil {
				err = t.goLive(ctx)
			}
			t.close(err)
			mu.Lock()
			defer mu.Unlock()
			switch {
			case errors.Is(err, errSkipped):
				r.Logger.Warn("event skipped during the replay, starting over", "projection", t.Name())
				again = append(again, t.Rebuildable)
			case errors.Is(err, errNotAll):
				r.Logger.Warn(err.Error(), "projection", t.Name())
			case err != nil:
				failed = append(failed, fmt.Errorf("replay of %s: %w", t.Name(), err))
			}
			return nil // the other projections continue
		})
	}
	_ = group.Wait() // the functions return nil
	return again, errors.Join(failed...)
}

// page returns the number of events to read at a time.
func (r *runner) page() int {
	const most, least = 5000, 100
	if r.Rate == 0 {
		return most
	}
	return min(most, max(least, r.Rate/10))
}
