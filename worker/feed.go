package worker

import (
	"context"
	"errors"
	"sync"
	"time"

	"github.com/google/uuid"

	"github.com/dopaminestore/dopamine/redis"
)

const (
	// followMost is how many events are looked at in one go for whom they concern.
	followMost = 10_000
	// feedsAtOnce is how many gates are fed at the same time; more than the
	// connections to Redis would only queue there.
	feedsAtOnce = 16
	// feedEvery is how soon a gate is fed again at the earliest: in a rush the
	// next feeding takes all that came meanwhile.
	feedEvery = 20 * time.Millisecond
	// readWithin bounds a look into the log: a Postgres that says nothing is away.
	readWithin = 5 * time.Second
)

// follow feeds the gate of every product to which something happens.
func (w *Worker) follow(ctx context.Context) error {
	position, err := w.followFrom(ctx)
	if err != nil {
		return err
	}
	for {
		products, upTo, err := w.concerned(ctx, position)
		if err != nil {
			return err
		}
		for _, p := range products {
			w.feeder.mark(p)
		}
		position = upTo
		w.metrics.position.Set(float64(position))
		w.followed.Store(position)
		if len(products) > 0 { // what comes now would wait for its gate's next feeding anyway
			err = pause(ctx, feedEvery)
		} else {
			err = w.cfg.Waker.Wait(ctx, position)
		}
		if err != nil {
			return err
		}
	}
}

// concerned is to which products something happened beyond a position, and up to
// where that was looked at.
func (w *Worker) concerned(ctx context.Context, position int64) ([]uuid.UUID, int64, error) {
	ctx, cancel := context.WithTimeout(ctx, readWithin)
	defer cancel()
	return w.cfg.Reader.Keys(ctx, position, followMost)
}

// followFrom is where to go on: where this worker was when something failed, or
// at the end of the log, since catchUp sees to what lies before.
func (w *Worker) followFrom(ctx context.Context) (int64, error) {
	if at := w.followed.Load(); at >= 0 {
		return at, nil
	}
	ctx, cancel := context.WithTimeout(ctx, readWithin)
	defer cancel()
	head, err := w.cfg.Reader.Head(ctx)
	if err != nil {
		return 0, err
	}
	w.followed.Store(head)
	close(w.following)
	return head, nil
}

// catchUp looks once at every gate that ever decided: what happened to its
// product while no worker ran is told, what it decided and nobody settled or
// wrote down is put on watch. A gate that is not there is built when it is asked.
func (w *Worker) catchUp(ctx context.Context) error {
	select { // what comes after the head that follow has read is its affair
	case <-w.following:
	case <-ctx.Done():
		return nil
	}
	led, err := w.cfg.Claims.EverLed(ctx)
	if err != nil {
		return err
	}
	products := make([]uuid.UUID, len(led))
	known := make(map[uuid.UUID]int, len(led))
	for i, l := range led {
		products[i], known[l.Product] = l.Product, i
	}
	each(products, func(p uuid.UUID) {
		l := led[known[p]]
		for wait := pauses(); ; {
			state, err := w.gate.State(ctx, p)
			if err == nil {
				if state.Exists && (l.Deleted || state.Alive && state.Position < l.Position) {
					w.feeder.mark(p)
				}
				if state.Exists && (!l.Carried || state.Pending > 0) {
					w.watched.add(p)
				}
				return
			}
			if pause(ctx, wait.NextBackOff()) != nil {
				return
			}
		}
	})
	return nil
}

// feeder feeds gates: each by one goroutine at a time, which goes on for as long
// as the product is marked anew, and tries again until it is told.
type feeder struct {
	ctx     context.Context // the worker's, which ends all feeding
	gate    Gate
	warn    func(ctx context.Context, message string, args ...any)
	metrics *metrics
	places  chan struct{} // one for each feeding under way

	mu    sync.Mutex
	again map[uuid.UUID]bool // the products that are being fed; true: marked since
	runs  sync.WaitGroup
}

func newFeeder(ctx context.Context, gate Gate, warn func(context.Context, string, ...any), m *metrics) *feeder {
	return &feeder{
		ctx: ctx, gate: gate, warn: warn, metrics: m,
		places: make(chan struct{}, feedsAtOnce), again: make(map[uuid.UUID]bool),
	}
}

// mark has the product's gate told of everything that is durable now. Only the
// loops call it, so that none comes while the worker waits for the feedings.
func (f *feeder) mark(product uuid.UUID) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if _, running := f.again[product]; running {
		f.again[product] = true
		return
	}
	f.again[product] = false
	f.runs.Go(func() { f.keepFed(f.ctx, product) })
}

// wait returns when nothing is fed any more; the feeder's context must have ended.
func (f *feeder) wait() { f.runs.Wait() }

func (f *feeder) keepFed(ctx context.Context, product uuid.UUID) {
	for {
		f.feed(ctx, product)
		_ = pause(ctx, feedEvery) // when ctx ends, so does what follows
		f.mu.Lock()
		if !f.again[product] || ctx.Err() != nil {
			delete(f.again, product)
			f.mu.Unlock()
			return
		}
		f.again[product] = false
		f.mu.Unlock()
	}
}

// feed tells the gate, and tries until that works or ctx ends.
func (f *feeder) feed(ctx context.Context, product uuid.UUID) {
	for wait, warned := pauses(), false; ; {
		select {
		case f.places <- struct{}{}:
		case <-ctx.Done():
			return
		}
		began := time.Now()
		err := f.gate.Feed(ctx, product)
		<-f.places
		switch {
		case err == nil || errors.Is(err, redis.ErrUnknownProduct): // told, or gone with its product
			f.metrics.fed.Observe(time.Since(began).Seconds())
			return
		case ctx.Err() != nil:
			return
		}
		f.metrics.failures.WithLabelValues("feed").Inc()
		if !warned {
			warned = true
			f.warn(ctx, "a gate could not be told, trying again", "product", product, "error", err)
		}
		if pause(ctx, wait.NextBackOff()) != nil {
			return
		}
	}
}
