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

	"github.com/dopaminestore/dopamine/projections"
)

// Store is the event store as a replay reads it.
type Store interface {
	projections.Store
	Head(ctx context.Context) (int64, error)
}

// Config says what is replayed and how.
type Config struct {
	ReadPool *pgxpool.Pool // at least two connections for each projection, and two more
	Store    Store
	// Published tells how far the relay is: of how many partitions the topic is,
	// and with Verify, how far the live generation can be.
	Published   func(context.Context) (projections.Head, error)
	Topic       *Topic // read from there what the relay has published; nil: all from Store
	Projections []projections.Rebuildable
	Rate        int  // events a second at most; 0: as many as can be
	Verify      bool // compare with the live generations first, and swap none where one differs
	DropOld     bool // drop older generations after the swap
	Window      int  // rows of each projection that are kept in memory, roughly; default 200,000
	// OnProgress is told of a replay a few times a second and at each change of
	// its phase, from several goroutines; may be nil.
	OnProgress func(Replay)
	// OnDifference is told what Verify finds; may be nil.
	OnDifference func(Difference)
	Logger       *slog.Logger // default slog.Default()
}

// ErrRunning says that a replay of the projection is under way.
var ErrRunning = errors.New("a replay of it is under way")

// ErrDiffers says that Verify found differences; nothing was swapped.
var ErrDiffers = errors.New("the live rows differ from what the event store says; nothing was swapped")

var (
	errSkipped = errors.New("an event was skipped that the replay had applied")
	errBehind  = errors.New("the live generation is ahead")
	errNotAll  = errors.New("not swapped, since not all that were compared with it are equal")
)

const (
	defaultWindow = 200_000
	// endWithin is how long an ended replay may take to tidy up.
	endWithin = 10 * time.Second
)

type runner struct {
	Config
	limit    *rate.Limiter
	indexing chan struct{} // holds as many as are building indexes
}

// Run replays until all generations are swapped. It returns ErrRunning,
// ErrDiffers, a *projections.RefusedError, ctx's error or what went wrong, with
// the projection's name; projections that were swapped before stay so. Whatever
// it returns, it leaves nothing in the way of the next replay.
func Run(ctx context.Context, cfg Config) error {
	r := &runner{Config: cfg, limit: rate.NewLimiter(rate.Inf, 0), indexing: make(chan struct{}, indexedAtOnce)}
	if r.Window == 0 {
		r.Window = defaultWindow
	}
	if r.Logger == nil {
		r.Logger = slog.Default()
	}
	if r.Rate > 0 {
		r.limit = rate.NewLimiter(rate.Limit(r.Rate), r.page())
	}
	if err := projections.CheckSource(ctx, r.ReadPool, r.Store); err != nil {
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

// once replays once and says which projections have to begin again.
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
				r.Logger.Warn("an event was skipped meanwhile, the replay begins again", "projection", t.Name())
				again = append(again, t.Rebuildable)
			case errors.Is(err, errNotAll):
				r.Logger.Warn(err.Error(), "projection", t.Name())
			case err != nil:
				failed = append(failed, fmt.Errorf("replay of %s: %w", t.Name(), err))
			}
			return nil // the others go on
		})
	}
	_ = group.Wait() // always nil
	return again, errors.Join(failed...)
}

// page is how many events are read at a time.
func (r *runner) page() int {
	const most, least = 5000, 100
	if r.Rate == 0 {
		return most
	}
	return min(most, max(least, r.Rate/10))
}
