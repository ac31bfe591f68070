package worker

import (
	"context"
	"fmt"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/stretchr/testify/require"

	"github.com/dopaminestore/dopamine/internal/sleep"
	"github.com/dopaminestore/dopamine/redis"
	"github.com/dopaminestore/dopamine/tools/testkit"
)

// shards are gates on two masters of which one may hang: each call to it takes a
// timeout.
type shards struct {
	hangs map[uuid.UUID]bool
	took  time.Duration
	up    atomic.Bool // the master no longer hangs
	calls chan uuid.UUID
	tried atomic.Int64 // calls to the master that hangs
}

func newShards(hanging int) *shards {
	s := &shards{hangs: map[uuid.UUID]bool{}, took: 300 * time.Millisecond, calls: make(chan uuid.UUID, 10_000)}
	for range hanging {
		s.hangs[uuid.New()] = true
	}
	return s
}

func (s *shards) Master(p uuid.UUID) string {
	if s.hangs[p] {
		return "hangs"
	}
	return "healthy"
}

func (s *shards) call(ctx context.Context, p uuid.UUID) error {
	if s.hangs[p] && !s.up.Load() {
		s.tried.Add(1)
		_ = sleep.For(ctx, s.took)
		return redis.ErrUnavailable
	}
	s.calls <- p
	return nil
}

func (s *shards) Sync(ctx context.Context, p uuid.UUID) error { return s.call(ctx, p) }

func (s *shards) ReadLog(ctx context.Context, p uuid.UUID) (*redis.LogPiece, error) {
	return &redis.LogPiece{Product: p}, s.call(ctx, p)
}

func (s *shards) TrimLog(context.Context, *redis.LogPiece) error { return nil }

func (s *shards) Pending(context.Context, uuid.UUID, int64, int64, int) ([]redis.PendingGrant, error) {
	return nil, nil
}

func (s *shards) State(ctx context.Context, p uuid.UUID) (redis.State, error) {
	return redis.State{}, s.call(ctx, p)
}

// A Redis master that hangs, with hundreds of products, delays no gate on another
// master: neither its sync nor its watch. Its own gates recover at once.
func TestSchedule_MasterThatHangsDelaysNoOther(t *testing.T) {
	t.Parallel()
	const hanging = 300
	s := newShards(hanging)
	ctx, cancel := context.WithCancel(t.Context())
	w := New(Config{Gate: nil})
	w.gate, w.owners = s, newOwners(nil, s.Master)
	w.syncer, w.watcher = nil, nil
	w.start(ctx)
	defer func() { cancel(); w.watcher.wait(); w.syncer.wait() }()
	watchOnce := func(p uuid.UUID) {
		w.watcher.mu.Lock()
		w.watcher.gates[p] = &watchedGate{product: p}
		w.watcher.mu.Unlock()
		w.watcher.looks.after(p, 0)
	}
	for p := range s.hangs {
		w.syncer.mark(p)
		watchOnce(p)
	}
	testkit.Eventually(t, 5*time.Second, "its breaker to open", func() error {
		if s.tried.Load() < 2*openAfter {
			return fmt.Errorf("%d calls", s.tried.Load())
		}
		return nil
	})
	for range 5 {
		for name, ask := range map[string]func(uuid.UUID){
			"sync": w.syncer.mark,
			"look": watchOnce,
		} {
			healthy := uuid.New()
			ask(healthy)
			require.Eventually(t, func() bool { return <-s.calls == healthy }, time.Second, time.Millisecond, name)
		}
	}
	before := s.tried.Load()
	require.NoError(t, sleep.For(t.Context(), 2*s.took))
	require.LessOrEqual(t, s.tried.Load()-before, int64(20), "only one at a time calls a master that hangs")

	s.up.Store(true)
	back := map[uuid.UUID]bool{}
	for deadline := time.After(5 * time.Second); len(back) < hanging; {
		select {
		case p := <-s.calls:
			if s.hangs[p] {
				back[p] = true
			}
		case <-deadline:
			require.FailNow(t, "not all are back", "%d of %d", len(back), hanging)
		}
	}
}

func TestSchedule_RunsProductOnceAtATime(t *testing.T) {
	t.Parallel()
	product := uuid.New()
	var running, runs atomic.Int64
	entered, leave := make(chan struct{}), make(chan struct{})
	ctx, cancel := context.WithCancel(t.Context())
	s := newSchedule(ctx, 8, 0, func(uuid.UUID) string { return "" }, nil, func(context.Context, uuid.UUID) (time.Duration, bool, error) {
		if running.Add(1) > 1 {
			t.Error("two runs at the same time")
		}
		runs.Add(1)
		entered <- struct{}{}
		<-leave
		running.Add(-1)
		return -1, false, nil
	})
	defer func() { cancel(); s.wait() }()
	s.after(product, 0)
	<-entered
	s.after(product, 0) // requested while it runs: it runs once more, however often it was requested
	s.after(product, 0)
	leave <- struct{}{}
	<-entered
	leave <- struct{}{}
	testkit.Eventually(t, 5*time.Second, "nothing to be left", func() error {
		s.mu.Lock()
		defer s.mu.Unlock()
		if len(s.tasks) > 0 {
			return fmt.Errorf("%d tasks", len(s.tasks))
		}
		return nil
	})
	require.EqualValues(t, 2, runs.Load())
}

func TestSchedule_FollowsProductToAnotherMaster(t *testing.T) {
	t.Parallel()
	var failedOver atomic.Bool
	done := make(chan uuid.UUID, 100)
	ctx, cancel := context.WithCancel(t.Context())
	s := newSchedule(ctx, 8, 0, func(uuid.UUID) string {
		if failedOver.Load() {
			return "new"
		}
		return "old"
	}, nil, func(ctx context.Context, p uuid.UUID) (time.Duration, bool, error) {
		if !failedOver.Load() {
			return 0, true, redis.ErrUnavailable
		}
		done <- p
		return -1, false, nil
	})
	defer func() { cancel(); s.wait() }()
	for range 50 {
		s.after(uuid.New(), 0)
	}
	testkit.EventuallyTrue(t, 5*time.Second, "the breaker to open", func() bool {
		s.mu.Lock()
		defer s.mu.Unlock()
		l := s.lanes["old"]
		return l != nil && l.open
	})
	failedOver.Store(true)
	for range 50 {
		select {
		case <-done:
		case <-time.After(5 * time.Second):
			require.FailNow(t, "a product stayed with the old master")
		}
	}
}
