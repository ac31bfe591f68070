package postgres

import (
	"context"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
)

const (
	// IdleInTransactionTimeout ends a session whose client stopped inside a transaction, and with
	// it the transaction and its locks. It is longer than any client of this project pauses between
	// two statements of one.
	IdleInTransactionTimeout = 10 * time.Second
	// deadPeerTimeout is about how long Postgres keeps a session and its locks after the client's
	// machine has disappeared. TCP takes two hours by default.
	deadPeerTimeout = 10 * time.Second
)

// sessionSQL bounds a session. It is a statement, not a startup parameter, because poolers refuse
// parameters that they do not know. Behind a pooler in transaction mode the settings stay with the
// server session that they reached; all clients of those sessions belong to this project.
var sessionSQL = fmt.Sprintf(`
select set_config('idle_in_transaction_session_timeout', '%d', false),
       set_config('tcp_keepalives_idle', '5', false),
       set_config('tcp_keepalives_interval', '2', false),
       set_config('tcp_keepalives_count', '3', false),
       set_config('tcp_user_timeout', '%d', false)`,
	IdleInTransactionTimeout.Milliseconds(), deadPeerTimeout.Milliseconds())

// durableSQL raises a synchronous_commit that lets a crash of Postgres lose what it has acknowledged.
const durableSQL = `
select set_config('synchronous_commit', 'on', false)
where current_setting('synchronous_commit') in ('off', 'local')`

// CommitDurably raises synchronous_commit from off and local to on in each session that is opened with
// cfg. The write side needs it for more than events: a gate's lease that is lost lets two gates
// decide, and lines of a decision log are trimmed from Redis once they are stored.
func CommitDurably(cfg *pgxpool.Config) {
	afterConnect(cfg, func(ctx context.Context, conn *pgx.Conn) error {
		if _, err := conn.Exec(ctx, durableSQL); err != nil {
			return fmt.Errorf("raise synchronous_commit: %w", err)
		}
		return nil
	})
}

// Open opens a pool with cfg, with limits on each session.
func Open(ctx context.Context, cfg *pgxpool.Config) (*pgxpool.Pool, error) {
	Bound(cfg)
	pool, err := pgxpool.NewWithConfig(ctx, cfg)
	if err != nil {
		return nil, fmt.Errorf("open a pool: %w", err)
	}
	return pool, nil
}

// Bound adds the limits to each session that is opened with cfg.
func Bound(cfg *pgxpool.Config) {
	// Otherwise a connection whose server has disappeared would be reused, and each statement on it
	// would wait until its context ends.
	cfg.PingTimeout = pingTimeout
	cfg.ConnConfig.DialFunc = dial
	afterConnect(cfg, func(ctx context.Context, conn *pgx.Conn) error {
		if _, err := conn.Exec(ctx, sessionSQL); err != nil {
			return fmt.Errorf("bound the session: %w", err)
		}
		return nil
	})
}

// afterConnect adds a step to what is done with each new session.
func afterConnect(cfg *pgxpool.Config, step func(context.Context, *pgx.Conn) error) {
	before := cfg.AfterConnect
	cfg.AfterConnect = func(ctx context.Context, conn *pgx.Conn) error {
		if before != nil {
			if err := before(ctx, conn); err != nil {
				return err
			}
		}
		return step(ctx, conn)
	}
}
