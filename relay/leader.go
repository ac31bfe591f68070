package relay

import (
	"context"
	"fmt"
	"strconv"
	"sync"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/dopaminestore/dopamine/internal/guard"
	"github.com/dopaminestore/dopamine/internal/sleep"
)

const (
	// lockKey names the relay's advisory lock; advisory locks are per database.
	lockKey = 0x64_6f_70_61_72_65_6c_79 // "doparely"
	// electionInterval is the interval at which a standby tries to take the lock.
	// Waiting inside pg_advisory_lock would hold a snapshot open and block vacuum.
	electionInterval = 200 * time.Millisecond
	// pingInterval is the interval at which a leader uses its connection.
	pingInterval = time.Second
	// silenceTimeout is the silence after which Postgres disconnects a leader: a
	// process that was stopped must not keep the others waiting.
	silenceTimeout = 10 * time.Second
	// statementTimeout bounds each statement on the leader's connection.
	statementTimeout = 5 * time.Second
)

// LeaderLock is the advisory lock that a relay holds while it leads, and
// `dopamine recover` while it moves the relay's checkpoint.
const LeaderLock int64 = lockKey

// leadership is one term: the connection that holds the lock.
type leadership struct {
	mu   sync.Mutex // one statement at a time
	conn *pgx.Conn
}

// elect connects and waits until the connection holds the lock.
func (r *Relay) elect(ctx context.Context) (*leadership, error) {
	conn, err := r.connect(ctx)
	for err == nil {
		var mine bool
		if mine, err = tryLock(ctx, conn); err != nil {
			break
		}
		if mine {
			return &leadership{conn: conn}, nil
		}
		if err = r.standBy(ctx, conn); err == nil {
			err = sleep.For(ctx, electionInterval)
		}
	}
	if conn != nil {
		closeConn(ctx, conn)
	}
	return nil, fmt.Errorf("take the relay's lock: %w", err)
}

// standBy ends the blocked state of a relay that lost the lead while it was blocked, once another
// relay leads: that one removed the recorded reason.
func (r *Relay) standBy(ctx context.Context, conn *pgx.Conn) error {
	if r.Blocked() == "" {
		return nil
	}
	ctx, cancel := context.WithTimeout(ctx, statementTimeout)
	defer cancel()
	blockage, err := ReadBlockage(ctx, conn)
	if err == nil && blockage == nil {
		r.notBlocked()
	}
	return err
}

// connect opens the connection for a term. After an error the connection
// may be nil and is unusable.
func (r *Relay) connect(ctx context.Context) (*pgx.Conn, error) {
	ctx, cancel := context.WithTimeout(ctx, statementTimeout)
	defer cancel()
	conn, err := pgx.ConnectConfig(ctx, r.cfg.Pool.Config().ConnConfig.Copy())
	if err != nil {
		return nil, err
	}
	// If a crash of Postgres loses a checkpoint, events are only published
	// twice. idle_session_timeout came with Postgres 14.
	_, err = conn.Exec(ctx, `
		SELECT set_config('synchronous_commit', 'off', false),
		       CASE WHEN current_setting('server_version_num')::int >= 140000 THEN set_config('idle_session_timeout', $1, false) END`, strconv.FormatInt(r.silence.Milliseconds(), 10))
	return conn, err
}

// tryLock takes the lock if it is free. It is bounded, so that a standby connected to a
// Postgres that stopped responding connects to the next one.
func tryLock(ctx context.Context, conn *pgx.Conn) (mine bool, err error) {
	ctx, cancel := context.WithTimeout(ctx, statementTimeout)
	defer cancel()
	err = conn.QueryRow(ctx, "SELECT pg_try_advisory_lock($1)", int64(lockKey)).Scan(&mine)
	return mine, err
}

// keep pings over the connection for as long as the term lasts. The context that
// it returns ends, with the reason as its cause, once the lead is lost; stop ends
// the pings.
func (l *leadership) keep(ctx context.Context) (term context.Context, stop func()) {
	term, lose := context.WithCancelCause(ctx)
	done := make(chan struct{})
	go func() {
		defer guard.Log("keep the relay's lead")
		defer close(done)
		for range sleep.After(term, pingInterval) {
			if err := l.ping(ctx); err != nil {
				lose(err)
				return
			}
		}
	}()
	return term, func() { lose(context.Canceled); <-done }
}

// do runs statements on the connection, one caller at a time.
func (l *leadership) do(ctx context.Context, f func(context.Context, *pgx.Conn) error) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	ctx, cancel := context.WithTimeout(ctx, statementTimeout)
	defer cancel()
	return f(ctx, l.conn)
}

// ping fails once the connection, and the lock with it, is gone.
func (l *leadership) ping(ctx context.Context) error {
	if err := l.do(ctx, func(ctx context.Context, conn *pgx.Conn) error { return conn.Ping(ctx) }); err != nil {
		return &lostLeadError{err}
	}
	return nil
}

// lostLeadError ends a term: this relay no longer leads.
type lostLeadError struct{ err error }

func (e *lostLeadError) Error() string { return "the relay's lead is lost: " + e.err.Error() }

func (e *lostLeadError) Unwrap() error { return e.err }

// resign disconnects, and the lock goes with the connection.
func (l *leadership) resign(ctx context.Context) { closeConn(ctx, l.conn) }

func closeConn(ctx context.Context, conn *pgx.Conn) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), statementTimeout)
	defer cancel()
	_ = conn.Close(ctx) // the lock goes with the connection either way
}
