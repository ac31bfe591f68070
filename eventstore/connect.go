package eventstore

import (
	"context"
	"errors"
	"fmt"
	"net"
	"sync/atomic"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
)

// connectAppender opens a connection for appends. If pooled, the appends' transactions
// set their bounds themselves (see begin).
//
// The connection cannot send a cancel request. pgx sends one for each connection
// that breaks or whose context ends during a query; if that query is a commit
// that waits for a synchronous standby, Postgres then stops waiting and makes the
// commit visible, although the standby does not have it. Without cancellation, the
// backend keeps waiting and keeps the append lock, so that nothing is acknowledged.
func connectAppender(ctx context.Context, pool *pgxpool.Pool, pooled bool) (*pgx.Conn, error) {
	var connected atomic.Bool
	conn, err := connect(ctx, pool, func(config *pgx.ConnConfig) {
		dial := config.DialFunc
		config.DialFunc = func(ctx context.Context, network, addr string) (net.Conn, error) {
			if connected.Load() {
				return nil, errNoCancel
			}
			return dial(ctx, network, addr)
		}
	})
	connected.Store(true)
	if err != nil || pooled {
		return conn, err
	}
	ctx, cancel := context.WithTimeout(ctx, connectTimeout)
	defer cancel()
	if _, err := conn.Exec(ctx, settingsSQL(false)); err != nil {
		_ = conn.Close(ctx)
		return nil, fmt.Errorf("set the appender's bounds: %w", err)
	}
	return conn, nil
}

// errNoCancel is the error of every cancel request of an appender's connection.
var errNoCancel = errors.New("a commit must not be cancelled")

// begin queues the begin of an append's transaction.
func (s *Store) begin(b *pgx.Batch) {
	b.Queue(beginSQL)
	if s.opts.Pooled {
		b.Queue(settingsSQL(true))
	}
}

// connect opens a connection as the pool would, with changes to its configuration.
func connect(ctx context.Context, pool *pgxpool.Pool, changes ...func(*pgx.ConnConfig)) (*pgx.Conn, error) {
	ctx, cancel := context.WithTimeout(ctx, connectTimeout)
	defer cancel()
	config := pool.Config()
	if config.BeforeConnect != nil {
		if err := config.BeforeConnect(ctx, config.ConnConfig); err != nil {
			return nil, fmt.Errorf("prepare to connect: %w", err)
		}
	}
	for _, change := range changes {
		change(config.ConnConfig)
	}
	conn, err := pgx.ConnectConfig(ctx, config.ConnConfig)
	if err != nil {
		return nil, fmt.Errorf("connect: %w", err)
	}
	if config.AfterConnect != nil {
		if err := config.AfterConnect(ctx, conn); err != nil {
			_ = conn.Close(ctx)
			return nil, fmt.Errorf("set up the connection: %w", err)
		}
	}
	return conn, nil
}

// disconnect ends the connection, if there is one, and any transaction on it.
func (s *Store) disconnect() {
	if s.conn == nil {
		return
	}
	ctx, cancel := context.WithTimeout(context.Background(), time.Second)
	defer cancel()
	_ = s.conn.Close(ctx)
	s.conn = nil
}
