package postgres

import (
	"context"
	"fmt"

	"github.com/jackc/pgx/v5"
)

// Pooling is the kind of pooler between a client and the server.
type Pooling int

// The kinds of pooling.
const (
	// Direct: the connection is the server's own.
	Direct Pooling = iota
	// Session: a pooler that keeps a client on one server connection, as far as could be
	// seen. Session state works.
	Session
	// Transaction: a pooler that may change the server connection after each transaction.
	Transaction
)

// detectConnections is the maximum number of additional connections that Detect opens to reveal a
// pooler in transaction mode.
const detectConnections = 4

// Detect reports what is between config and its server. It opens one connection, and up to four
// more if there is a pooler.
//
// A server reports its process id twice: when the connection starts, for cancel requests, and by
// pg_backend_pid(). A pooler invents the first. Whether it switches server connections shows when
// others are busy: while a second connection holds a transaction open on the server connection that
// the first one used last, the first gets another one.
func Detect(ctx context.Context, config *pgx.ConnConfig) (Pooling, error) {
	first, err := connect(ctx, config)
	if err != nil {
		return Direct, err
	}
	defer close(ctx, first)
	before, err := backendPID(ctx, first)
	if err != nil {
		return Direct, err
	}
	if before == first.PgConn().PID() {
		return Direct, nil
	}
	for range detectConnections {
		other, err := connect(ctx, config)
		if err != nil {
			// A pooler with few connections refuses the next one. Without proof the unsafe kind is
			// assumed.
			return Transaction, nil
		}
		defer close(ctx, other)
		if _, err := other.Exec(ctx, "begin; select pg_backend_pid()"); err != nil {
			return Direct, fmt.Errorf("open a transaction: %w", err)
		}
		now, err := backendPID(ctx, first)
		if err != nil {
			return Direct, err
		}
		if now != before {
			return Transaction, nil
		}
	}
	return Session, nil
}

// connect opens a connection that sends plain text, because some poolers do not support prepared
// statements, and refuse settings other than these.
func connect(ctx context.Context, config *pgx.ConnConfig) (*pgx.Conn, error) {
	config = PoolerConfig(config)
	config.DefaultQueryExecMode = pgx.QueryExecModeSimpleProtocol
	config.Tracer = nil
	return pgx.ConnectConfig(ctx, config)
}

func close(ctx context.Context, conn *pgx.Conn) {
	_ = conn.Close(context.WithoutCancel(ctx))
}

func backendPID(ctx context.Context, conn *pgx.Conn) (uint32, error) {
	var pid uint32
	if err := conn.QueryRow(ctx, "select pg_backend_pid()").Scan(&pid); err != nil {
		return 0, fmt.Errorf("read the server's process id: %w", err)
	}
	return pid, nil
}

// poolerParams are the settings that poolers accept when a connection starts.
var poolerParams = map[string]bool{
	"application_name": true, "client_encoding": true, "datestyle": true, "timezone": true, "standard_conforming_strings": true,
}

// PoolerConfig returns a copy of config that works through a pooler in transaction mode:
// statements are described but never kept prepared on the server, and settings that
// poolers refuse at the start of a connection are left to the server's own configuration.
func PoolerConfig(config *pgx.ConnConfig) *pgx.ConnConfig {
	config = config.Copy()
	config.DefaultQueryExecMode = pgx.QueryExecModeCacheDescribe
	for name := range config.RuntimeParams {
		if !poolerParams[name] {
			delete(config.RuntimeParams, name)
		}
	}
	return config
}
