package replay

import (
	"context"
	"fmt"
	"time"

	"github.com/dopaminestore/dopamine/internal/guard"
)

// lockInterval is the interval at which a replay checks that it still holds its locks, lockTimeout
// the time within which Postgres must answer.
const (
	lockInterval = time.Second
	lockTimeout  = 30 * time.Second
)

// lock takes the advisory lock of each projection on a separate connection. The context ends when
// that connection, and with it the locks, is lost.
func (r *runner) lock(ctx context.Context) (context.Context, func(), error) {
	pooled, err := r.ReadPool.Acquire(ctx)
	if err != nil {
		return nil, nil, fmt.Errorf("connect to the read database: %w", err)
	}
	conn := pooled.Hijack() // so that it is closed in any case, and the locks are released with it
	closeConn := func() {
		ctx, cancel := context.WithTimeout(context.Background(), cleanupTimeout)
		defer cancel()
		// Postgres ends a backend some time after its client has disconnected, but the next replay
		// must not find these locks. If the connection is broken, the locks are released anyway.
		_, _ = conn.Exec(ctx, `SELECT pg_advisory_unlock_all()`)
		_ = conn.Close(ctx)
	}
	for _, p := range r.Projections {
		var locked bool
		if err := conn.QueryRow(ctx, `SELECT pg_try_advisory_lock($1, hashtext($2))`, lockClass, p.Name()).Scan(&locked); err != nil {
			closeConn()
			return nil, nil, fmt.Errorf("lock %s for a replay: %w", p.Name(), err)
		}
		if !locked {
			closeConn()
			return nil, nil, fmt.Errorf("%s: %w", p.Name(), ErrRunning)
		}
	}
	ctx, lose := context.WithCancelCause(ctx)
	done, stopped := make(chan struct{}), make(chan struct{})
	go func() {
		defer guard.Log("keep a replay's lock")
		defer close(stopped)
		tick := time.NewTicker(lockInterval)
		defer tick.Stop()
		for {
			select {
			case <-done:
				return
			case <-tick.C:
			}
			// Not ctx: an interrupted replay keeps its locks until it has cleaned up.
			asked, cancel := context.WithTimeout(context.Background(), lockTimeout)
			err := conn.Ping(asked)
			cancel()
			if err != nil {
				lose(fmt.Errorf("the connection that held the replay's locks is gone: %w", err))
				return
			}
		}
	}()
	return ctx, func() {
		close(done)
		<-stopped
		lose(nil)
		closeConn()
	}, nil
}
