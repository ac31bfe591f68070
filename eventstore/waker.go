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
	// pollEvery is the safety net under LISTEN.
	pollEvery = time.Second
	// quietFor is after how long without a word the listener asks whether the
	// connection still lives.
	quietFor = 15 * time.Second
)

// Waker wakes whoever waits for appends: by LISTEN on a connection of its own,
// and by polling while that is down. Made by Listen; safe for use by many.
type Waker struct {
	pool   *pgxpool.Pool
	cancel context.CancelFunc
	done   chan struct{}

	mu   sync.Mutex
	last int64         // the highest position told of
	told chan struct{} // closed, and made anew, at each word
}

// Listen starts a waker on the pool's database; it connects, and connects again,
// by itself. It ends with ctx or by Close.
func Listen(ctx context.Context, pool *pgxpool.Pool) *Waker {
	w := &Waker{pool: pool, done: make(chan struct{}), told: make(chan struct{})}
	ctx, w.cancel = context.WithCancel(ctx)
	go func() {
		defer guard.Log("listen for appended events")
		defer close(w.done)
		w.run(ctx)
	}()
	return w
}

// Close disconnects. Who waits goes on by polling. Twice is fine.
func (w *Waker) Close() {
	w.cancel()
	<-w.done
}

// Wait returns when there may be events above position after: at once if that
// was told before, when it is told, or at the latest after a second. It says no
// more than "look again"; the error is ctx's.
func (w *Waker) Wait(ctx context.Context, after int64) error {
	w.mu.Lock()
	told, last := w.told, w.last
	w.mu.Unlock()
	if last > after {
		return ctx.Err()
	}
	poll := time.NewTimer(pollEvery)
	defer poll.Stop()
	select {
	case <-told:
	case <-poll.C:
	case <-ctx.Done():
	}
	return ctx.Err()
}

func (w *Waker) tell(position int64) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.last = max(w.last, position)
	close(w.told)
	w.told = make(chan struct{})
}

// restart wakes everybody: nobody told of what was appended before this moment.
// And what was told may be gone, if the connection broke for a restore.
func (w *Waker) restart() {
	w.mu.Lock()
	w.last = 0
	w.mu.Unlock()
	w.tell(0)
}

func (w *Waker) run(ctx context.Context) {
	again := time.NewTicker(pollEvery / 4)
	defer again.Stop()
	for ctx.Err() == nil {
		_ = w.listen(ctx) // polling goes on meanwhile
		select {
		case <-again.C:
		case <-ctx.Done():
		}
	}
}

// listen passes on what one connection hears, until it breaks.
func (w *Waker) listen(ctx context.Context) error {
	conn, err := connect(ctx, w.pool)
	if err != nil {
		return err
	}
	defer func() {
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), time.Second)
		defer cancel()
		_ = conn.Close(ctx)
	}()
	if _, err := conn.Exec(ctx, "listen "+pgx.Identifier{Channel}.Sanitize()); err != nil {
		return err
	}
	w.restart()
	for {
		quiet, cancel := context.WithTimeout(ctx, quietFor)
		notification, err := conn.WaitForNotification(quiet)
		cancel()
		switch {
		case err == nil:
			position, _ := strconv.ParseInt(notification.Payload, 10, 64) // else: some word, no position
			w.tell(position)
		case quiet.Err() != nil && ctx.Err() == nil:
			alive, cancel := context.WithTimeout(ctx, connectWithin)
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
