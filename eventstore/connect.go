package eventstore

import (
	"context"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
)

// connectAppender opens a connection for appends. If pooled, the appends' transactions
// set their bounds themselves (see begin).
func connectAppender(ctx context.Context, pool *pgxpool.Pool, pooled bool) (*pgx.Conn, error) {
	conn, err := connect(ctx, pool)
	if err != nil || pooled {
		return conn, err
	}
	ctx, cancel := context.WithTimeout(ctx, connectWithin)
	defer cancel()
	if _, err := conn.Exec(ctx, settingsSQL(false)); err != nil {
		_ = conn.Close(ctx)
		return nil, fmt.Errorf("set the appender's bounds: %w", err)
	}
	return conn, nil
}

// begin queues the begin of an append's transaction.
func (s *Store) begin(b *pgx.Batch) {
	b.Queue(beginSQL)
	if s.opts.Pooled {
		b.Queue(settingsSQL(true))
	}
}

// connect makes a connection as the pool would.
func connect(ctx context.Context, pool *pgxpool.Pool) (*pgx.Conn, error) {
	ctx, cancel := context.WithTimeout(ctx, connectWithin)
	defer cancel()
	config := pool.Config()
	if config.BeforeConnect != nil {
		if err := config.BeforeConnect(ctx, config.ConnConfig); err != nil {
			return nil, fmt.Errorf("prepare to connect: %w", err)
		}
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
