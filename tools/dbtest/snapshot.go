package dbtest

import (
	"context"
	"fmt"
	"net/url"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/jackc/pgx/v5"
)

var snapshots atomic.Int64

// Snapshot copies the database, and returns a function that restores that state, like a restore or
// a failover to a standby that lagged. Both disconnect all clients; processes under test may
// reconnect. restore can be called once.
func Snapshot(tb testing.TB, databaseURL string) (restore func()) {
	tb.Helper()
	u, err := url.Parse(databaseURL)
	if err != nil {
		tb.Fatalf("the database's URL: %v", err)
	}
	name := strings.TrimPrefix(u.Path, "/")
	snapshot := fmt.Sprintf("%s_%d", name, snapshots.Add(1))
	u.Path = "/postgres"
	server := func(statements ...string) {
		tb.Helper()
		ctx := context.Background()
		conn, err := pgx.Connect(ctx, u.String())
		if err != nil {
			tb.Fatalf("connect to the server: %v", err)
		}
		defer func() { _ = conn.Close(ctx) }()
		for _, sql := range statements {
			if _, err := conn.Exec(ctx, sql); err != nil {
				tb.Fatalf("%s: %v", sql, err)
			}
		}
	}
	// A database that is copied must have no connections: the copy waits up to 5 s
	// for those that end.
	server(
		fmt.Sprintf("alter database %s allow_connections false", name),
		fmt.Sprintf("select pg_terminate_backend(pid) from pg_stat_activity where datname = '%s'", name),
		fmt.Sprintf("create database %s template %s", snapshot, name),
		fmt.Sprintf("alter database %s allow_connections true", name))
	tb.Cleanup(func() { server(fmt.Sprintf("drop database if exists %s with (force)", snapshot)) })
	return func() {
		tb.Helper()
		server(
			fmt.Sprintf("drop database %s with (force)", name),
			fmt.Sprintf("alter database %s rename to %s", snapshot, name))
	}
}
