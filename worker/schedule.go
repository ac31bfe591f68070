package worker

import (
	"container/heap"
	"context"
	"sync"
	"time"

	"github.com/google/uuid"

	"github.com/dopaminestore/dopamine/internal/guard"
)

const (
	// openAfter is how many products of a master must fail in a row, without a success
	// between them, before only one of them at a time calls the master.
	openAfter = 3
	// probeInterval is how soon a failing master is called again.
	probeInterval = 100 * time.Millisecond
	// firstRetry and maxRetry bound the backoff of a product that fails.
	firstRetry = 50 * time.Millisecond
	maxRetry   = time.Second
)

// schedule runs a task for each of many products, each at its own time. It limits
// how many run at the same time for each Redis master, and has a circuit breaker
// for each: a master that hangs delays only the products that are on it.
type schedule struct {
	ctx   context.Context
	limit int           // tasks that run at the same time for one master
	rest  time.Duration // least time between two runs of a product's task
	// run executes a product's task. The task runs again after next, or only on
	// request if next is negative, and after a growing backoff if it failed. down: the
	// product's master cannot be reached.
	run    func(ctx context.Context, product uuid.UUID) (next time.Duration, down bool, err error)
	master func(product uuid.UUID) string
	// turned is called when a master's breaker opened or closed; it must not block.
	turned func(master string, product uuid.UUID, open bool)

	mu     sync.Mutex
	tasks  map[uuid.UUID]*task
	queue  taskQueue // tasks that wait for their time
	lanes  map[string]*lane
	wake   chan struct{} // of capacity 1: the queue's head changed
	runs   sync.WaitGroup
	closed bool
}

// task is the task of one product.
type task struct {
	product uuid.UUID
	at      time.Time // when it is due
	index   int       // in the queue; -1: it is not in the queue
	waits   bool      // in a lane
	running bool
	again   time.Time // when it was requested while it waited or ran; zero: it was not
	removed bool
	retry   time.Duration // the next backoff after a failure
}

// lane contains a master's due tasks.
type lane struct {
	master  string
	due     []*task
	running int
	open    bool // the circuit breaker
	failing map[uuid.UUID]struct{}
	probeAt time.Time
}

// newSchedule starts a schedule, which ends with ctx. turned may be nil.
func newSchedule(ctx context.Context, limit int, rest time.Duration, master func(uuid.UUID) string, turned func(string, uuid.UUID, bool),
	run func(context.Context, uuid.UUID) (time.Duration, bool, error)) *schedule {
	if turned == nil {
		turned = func(string, uuid.UUID, bool) {}
	}
	s := &schedule{
		ctx: ctx, limit: limit, rest: rest, run: run, master: master, turned: turned,
		tasks: map[uuid.UUID]*task{}, lanes: map[string]*lane{}, wake: make(chan struct{}, 1),
	}
	s.runs.Go(s.dispatch)
	return s
}

// after requests the product's task in d, or sooner if it is to be run sooner anyway.
func (s *schedule) after(product uuid.UUID, d time.Duration) {
	at := time.Now().Add(d)
	s.mu.Lock()
	defer s.mu.Unlock()
	t := s.tasks[product]
	switch {
	case s.closed:
	case t == nil:
		t = &task{product: product, at: at, index: -1}
		s.tasks[product] = t
		heap.Push(&s.queue, t)
		s.wakeDispatcher()
	case t.waits:
		t.removed = false
	case t.running:
		t.removed = false
		if t.again.IsZero() || at.Before(t.again) {
			t.again = at
		}
	case t.index >= 0 && at.Before(t.at):
		t.at = at
		heap.Fix(&s.queue, t.index)
		s.wakeDispatcher()
	}
}

// remove drops a product; a running task of it is not waited for.
func (s *schedule) remove(product uuid.UUID) {
	s.mu.Lock()
	defer s.mu.Unlock()
	t := s.tasks[product]
	switch {
	case t == nil:
	case t.index >= 0:
		heap.Remove(&s.queue, t.index)
		delete(s.tasks, product)
	default:
		t.removed, t.again = true, time.Time{}
	}
}

// wait returns when no task runs any more; the schedule's context must have ended.
func (s *schedule) wait() { s.runs.Wait() }

func (s *schedule) wakeDispatcher() {
	select {
	case s.wake <- struct{}{}:
	default:
	}
}

// dispatch moves tasks to their masters' lanes when they are due.
func (s *schedule) dispatch() {
	timer := time.NewTimer(0)
	defer timer.Stop()
	for {
		select {
		case <-s.ctx.Done():
			s.mu.Lock()
			s.closed = true
			s.mu.Unlock()
			return
		case <-s.wake:
		case <-timer.C:
		}
		s.mu.Lock()
		now := time.Now()
		for len(s.queue) > 0 && !s.queue[0].at.After(now) {
			s.enter(heap.Pop(&s.queue).(*task))
		}
		next := now.Add(time.Minute)
		if len(s.queue) > 0 {
			next = s.queue[0].at
		}
		for _, l := range s.lanes {
			s.fill(l, now)
			if l.open && len(l.due) > 0 && l.running == 0 && l.probeAt.Before(next) {
				next = l.probeAt
			}
		}
		s.mu.Unlock()
		timer.Reset(max(0, time.Until(next)))
	}
}

// enter adds a task to its master's lane.
func (s *schedule) enter(t *task) {
	name := s.master(t.product)
	l := s.lanes[name]
	if l == nil {
		l = &lane{master: name, failing: map[uuid.UUID]struct{}{}}
		s.lanes[name] = l
	}
	t.waits = true
	l.due = append(l.due, t)
}

// fill starts as many of the lane's tasks as may run.
func (s *schedule) fill(l *lane, now time.Time) {
	if l.open {
		s.reroute(l)
	}
	for len(l.due) > 0 {
		limit := s.limit
		if l.open {
			limit = 1
		}
		if l.running >= limit || l.open && now.Before(l.probeAt) || s.ctx.Err() != nil {
			return
		}
		t := l.due[0]
		l.due = l.due[1:]
		t.waits = false
		if t.removed {
			delete(s.tasks, t.product)
			continue
		}
		t.running, t.again = true, time.Time{}
		l.running++
		s.runs.Go(func() {
			defer guard.Log("run a task of a product")
			s.do(l, t)
		})
	}
	if l.running == 0 && !l.open && len(l.due) == 0 {
		delete(s.lanes, l.master)
	}
}

// reroute moves tasks whose product has another master now.
func (s *schedule) reroute(l *lane) {
	stay := l.due[:0]
	var moved []*task
	for _, t := range l.due {
		if s.master(t.product) == l.master {
			stay = append(stay, t)
		} else {
			moved = append(moved, t)
		}
	}
	clear(l.due[len(stay):])
	l.due = stay
	for _, t := range moved {
		s.enter(t)
	}
	if len(moved) == 0 {
		return
	}
	s.wakeDispatcher()
	if len(l.due) == 0 && l.running == 0 { // it is no longer a master
		l.open = false
		clear(l.failing)
		s.turned(l.master, uuid.Nil, false)
	}
}

func (s *schedule) do(l *lane, t *task) {
	next, down, err := s.run(s.ctx, t.product)
	s.mu.Lock()
	defer s.mu.Unlock()
	now := time.Now()
	l.running--
	t.running = false
	s.judge(l, t.product, down, err, now)
	switch {
	case err != nil:
		t.retry = min(max(2*t.retry, firstRetry), maxRetry)
		t.at = now.Add(t.retry)
	case next >= 0:
		t.retry = 0
		t.at = now.Add(next)
	default:
		t.retry = 0
		t.at = time.Time{}
	}
	if soonest := now.Add(s.rest); err == nil && !t.again.IsZero() {
		if t.again.Before(soonest) {
			t.again = soonest
		}
		if t.at.IsZero() || t.again.Before(t.at) {
			t.at = t.again
		}
	}
	if t.removed || t.at.IsZero() {
		delete(s.tasks, t.product)
	} else {
		heap.Push(&s.queue, t)
	}
	s.fill(l, now)
	s.wakeDispatcher()
}

// judge opens or closes the lane's breaker after a result.
func (s *schedule) judge(l *lane, product uuid.UUID, down bool, err error, now time.Time) {
	switch {
	case down:
		l.failing[product] = struct{}{}
		l.probeAt = now.Add(probeInterval)
		if !l.open && len(l.failing) >= openAfter {
			l.open = true
			s.turned(l.master, product, true)
		}
	case err == nil:
		clear(l.failing)
		if l.open {
			l.open = false
			s.turned(l.master, product, false)
		}
	}
}

// taskQueue is a heap ordered by time.
type taskQueue []*task

func (q taskQueue) Len() int           { return len(q) }
func (q taskQueue) Less(i, j int) bool { return q[i].at.Before(q[j].at) }
func (q taskQueue) Swap(i, j int) {
	q[i], q[j] = q[j], q[i]
	q[i].index, q[j].index = i, j
}

// Push implements heap.Interface.
func (q *taskQueue) Push(x any) {
	t := x.(*task)
	t.index = len(*q)
	*q = append(*q, t)
}

// Pop implements heap.Interface.
func (q *taskQueue) Pop() any {
	n := len(*q) - 1
	t := (*q)[n]
	(*q)[n] = nil
	*q = (*q)[:n]
	t.index = -1
	return t
}
