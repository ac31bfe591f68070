package devservices

import (
	"context"
	"fmt"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"github.com/jackc/pgx/v5"
)

// PgBouncer is a connection pooler in front of a Postgres, for tests of what does not work through
// one.
type PgBouncer struct {
	child *child
	url   string
}

// URL returns the server's URL with the pooler's address.
func (b *PgBouncer) URL() string { return b.url }

// Stop ends the pooler; its clients are disconnected.
func (b *PgBouncer) Stop(ctx context.Context) error { return b.child.stop(ctx, syscall.SIGINT) }

// StartPgBouncer starts a pgbouncer in front of the Postgres at server, in the pool mode session,
// transaction or statement, with at most size connections to the server. dir must be used for
// nothing else. If the program is missing the error wraps ErrNotHere.
func StartPgBouncer(ctx context.Context, dir, server, mode string, size int) (*PgBouncer, error) {
	path, err := Program(ctx, nil, "pgbouncer", "pgbouncer")
	if err != nil {
		return nil, err
	}
	config, err := pgx.ParseConfig(server)
	if err != nil {
		return nil, fmt.Errorf("pgbouncer: the server's URL: %w", err)
	}
	account, err := postgresUser() // pgbouncer, too, does not run as root
	if err != nil {
		return nil, err
	}
	home, err := account.homeFor(ctx, dir)
	if err != nil {
		return nil, err
	}
	u, err := url.Parse(server)
	if err != nil {
		return nil, fmt.Errorf("pgbouncer: the server's URL: %w", err)
	}
	write := func(name string, lines ...string) error {
		file := filepath.Join(home, name)
		if err := os.WriteFile(file, []byte(strings.Join(lines, "\n")+"\n"), 0o600); err != nil {
			return fmt.Errorf("pgbouncer: %w", err)
		}
		return account.give(file)
	}
	if err := write("users.txt", fmt.Sprintf("%q %q", config.User, config.Password)); err != nil {
		return nil, err
	}
	b := &PgBouncer{}
	err = onFreePort(0, func(port int) (again bool, err error) {
		err = write("pgbouncer.ini", "[databases]",
			fmt.Sprintf("* = host=%s port=%d", config.Host, config.Port),
			"[pgbouncer]", "listen_addr = 127.0.0.1", fmt.Sprintf("listen_port = %d", port), "unix_socket_dir =",
			"auth_type = plain", "auth_file = "+filepath.Join(home, "users.txt"), "pool_mode = "+mode,
			fmt.Sprintf("default_pool_size = %d", size), "max_client_conn = 1000")
		if err != nil {
			return false, err
		}
		b.child, err = startChild(childSpec{name: "pgbouncer", path: path, args: []string{filepath.Join(home, "pgbouncer.ini")}, dir: home,
			env: account.env(), cred: account.cred, log: filepath.Join(dir, "pgbouncer.log"), orphaned: syscall.SIGKILL})
		if err != nil {
			return false, err
		}
		u.Host = loopback(port)
		b.url = u.String()
		err = b.child.awaitReady(ctx, pgBouncerTimeout, func(ctx context.Context) error {
			conn, err := pgx.Connect(ctx, b.url)
			if err != nil {
				return err
			}
			return conn.Close(ctx)
		})
		if err != nil {
			b.child.kill()
			return b.child.portTaken(), err
		}
		return false, nil
	})
	if err != nil {
		return nil, err
	}
	return b, nil
}

// pgBouncerTimeout bounds the time until the pooler serves.
const pgBouncerTimeout = 10 * time.Second
