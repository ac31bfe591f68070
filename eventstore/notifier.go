package eventstore

import (
	"context"
	"strconv"
	"sync"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/dopaminestore/dopamine/internal/guard"
)

const (
	// pollInterval is the fallback if notifications are missing.
	pollInterval = time.Second
	// idleCheckInterval is after how long without a notification the listener checks whether the
	// connection is still alive.
	idleCheckInterval = 15 * time.Second
)

// Notifier wakes readers when events are appended: by LISTEN on its own connection,
// and by polling while that is down. It is created by Listen and safe for concurrent use.
type Notifier struct {
	pool   *pgxpool.Pool
	cancel context.CancelFunc
	done   chan struct{}

	mu       sync.Mutex
	last     int64         // the highest position notified
	notified chan struct{} // closed and replaced at each notification
}

// Listen starts a Notifier on the pool's database. It connects, and reconnects,
// in the background. It ends with ctx or by Close.
func Listen(ctx context.Context, pool *pgxpool.Pool) *Notifier {
	w := &Notifier{pool: pool, done: make(chan struct{}), notified: make(chan struct{})}
	ctx, w.cancel = context.WithCancel(ctx)
	go func() {
		defer guard.Log("listen for appended events")
		defer close(w.done)
		w.run(ctx)
	}()
	return w
}

// Close disconnects. Waiting callers continue to poll. Close is idempotent.
func (w *Notifier) Close() {
	w.cancel()
	<-w.done
}

// Wait returns when there may be events after a position: at once if a notification
// has already arrived, when it arrives, or at the latest after a second. The caller
// must read again to find out; the error is ctx's.
func (w *Notifier) Wait(ctx context.Context, after int64) error {
	w.mu.Lock()
	notified, last := w.notified, w.last
	w.mu.Unlock()
	if last > after {
		return ctx.Err()
	}
	poll := time.NewTimer(pollInterval)
	defer poll.Stop()
	select {
	case <-notified:
	case <-poll.C:
	case <-ctx.Done():
	}
	return ctx.Err()
}

func (w *Notifier) notify(position int64) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.last = max(w.last, position)
	close(w.notified)
	w.notified = make(chan struct{})
}

// restart wakes all waiting callers: appends before this moment were not notified.
// Events that were notified may be gone, if the connection broke because of a restore.
func (w *Notifier) restart() {
	w.mu.Lock()
	w.last = 0
	w.mu.Unlock()
	w.notify(0)
}

func (w *Notifier) run(ctx context.Context) {
	again := time.NewTicker(pollInterval / 4)
	defer again.Stop()
	for ctx.Err() == nil {
		_ = w.listen(ctx) // polling continues meanwhile
		select {
		case <-again.C:
		case <-ctx.Done():
		}
	}
}

// listen forwards the notifications of one connection until it breaks.
func (w *Notifier) listen(ctx context.Context) error {
	conn, err := connect(ctx, w.pool)
	if err != nil {
		return err
	}
	defer func() {
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), time.Second)
		defer cancel()
		_ = conn.Close(ctx)
	}()
	listening, cancel := context.WithTimeout(ctx, connectTimeout)
	_, err = conn.Exec(listening, "listen "+pgx.Identifier{Channel}.Sanitize())
	cancel()
	if err != nil {
		return err
	}
	w.restart()
	for {
		quiet, cancel := context.WithTimeout(ctx, idleCheckInterval)
		notification, err := conn.WaitForNotification(quiet)
		cancel()
		switch {
		case err == nil:
			position, _ := strconv.ParseInt(notification.Payload, 10, 64) // otherwise a notification without a position
			w.notify(position)
		case quiet.Err() != nil && ctx.Err() == nil:
			alive, cancel := context.WithTimeout(ctx, connectTimeout)
			err := conn.Ping(alive)
			cancel()
			if err != nil {
				return err
			}
		default:
			return err
		}
	}
}
