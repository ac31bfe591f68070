package relay

import (
	"context"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"
)

const (
	// lockKey names the relay's advisory lock; advisory locks are per database.
	lockKey = 0x64_6f_70_61_72_65_6c_79 // "doparely"
	// standbyEvery is how often one that stands by asks for the lead. Waiting
	// inside pg_advisory_lock would hold a snapshot open and keep vacuum off.
	standbyEvery = 200 * time.Millisecond
	// stillLeadingEvery is how often an idle leader looks whether it still is.
	stillLeadingEvery = time.Second
	// stoppedAfter is after how long of silence Postgres ends a leader's
	// connection: a process that was stopped must not keep the others waiting.
	stoppedAfter = "10s"
	// answerWithin is how long the leader's connection may take.
	answerWithin = 5 * time.Second
)

// lead connects and waits until the connection holds the lock.
func (r *Relay) lead(ctx context.Context) (*pgx.Conn, error) {
	conn, err := r.connect(ctx)
	for err == nil {
		var mine bool
		if mine, err = take(ctx, conn); err != nil {
			break
		}
		if mine {
			return conn, nil
		}
		select {
		case <-ctx.Done():
			err = ctx.Err()
		case <-time.After(standbyEvery):
		}
	}
	if conn != nil {
		_ = conn.Close(context.WithoutCancel(ctx))
	}
	return nil, fmt.Errorf("ask for the relay's lead: %w", err)
}

// connect makes the connection that is to lead; where it fails there is none, or
// one that is of no use.
func (r *Relay) connect(ctx context.Context) (*pgx.Conn, error) {
	ctx, cancel := context.WithTimeout(ctx, answerWithin)
	defer cancel()
	conn, err := pgx.ConnectConfig(ctx, r.cfg.Pool.Config().ConnConfig.Copy())
	if err != nil {
		return nil, err
	}
	// A place that is lost with a crash of Postgres only means publishing twice.
	// idle_session_timeout came with Postgres 14.
	_, err = conn.Exec(ctx, `
		SELECT set_config('synchronous_commit', 'off', false),
		       CASE WHEN current_setting('server_version_num')::int >= 140000 THEN set_config('idle_session_timeout', $1, false) END`, stoppedAfter)
	return conn, err
}

// take takes the lock, where nobody has it. Bounded: one that stands by behind a
// Postgres that has gone without a word must find the next one.
func take(ctx context.Context, conn *pgx.Conn) (mine bool, err error) {
	ctx, cancel := context.WithTimeout(ctx, answerWithin)
	defer cancel()
	err = conn.QueryRow(ctx, "SELECT pg_try_advisory_lock($1)", int64(lockKey)).Scan(&mine)
	return mine, err
}

// stillLeads fails where the connection, and the lock with it, is gone.
func stillLeads(ctx context.Context, conn *pgx.Conn) error {
	ctx, cancel := context.WithTimeout(ctx, answerWithin)
	defer cancel()
	if err := conn.Ping(ctx); err != nil {
		return fmt.Errorf("the relay's lead is lost: %w", err)
	}
	return nil
}
