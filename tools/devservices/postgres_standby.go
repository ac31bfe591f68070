package devservices

import (
	"context"
	"errors"
	"fmt"
	"os"
	"time"

	"github.com/jackc/pgx/v5"
)

// promoteTimeout bounds Promote: a standby first replays what it has received.
const promoteTimeout = time.Minute

// StartStandby creates a streaming standby of a running primary from a base backup and returns when
// it answers queries. Its settings, URL and password are used like the primary's. To the primary,
// and in synchronous_standby_names, its name is the setting cluster_name, "standby" by default.
// Without pg_basebackup it returns [ErrNotHere].
//
// If Dir already has a standby's data, that standby is started, so that Restart, and a second
// StartStandby, continue the same standby.
func StartStandby(ctx context.Context, primary *Postgres, opts PostgresOptions) (*Postgres, error) {
	settings := map[string]string{"cluster_name": "standby"}
	for name, value := range opts.Settings {
		settings[name] = value
	}
	opts.Settings = settings
	if _, err := os.Stat(primary.bin.path("pg_basebackup")); err != nil {
		return nil, fmt.Errorf("a Postgres standby is %w: pg_basebackup: %w", ErrNotHere, err)
	}
	return startPostgres(ctx, opts, primary)
}

// baseBackup copies the primary's data folder, under another name until it is complete, as initdb
// does.
func (p *Postgres) baseBackup(ctx context.Context) error {
	part := p.data() + ".part"
	if err := os.RemoveAll(part); err != nil {
		return fmt.Errorf("remove an unfinished data folder: %w", err)
	}
	args := []string{"-D", part, "-d", p.primary.URL(), "-R", "-X", "stream", "-c", "fast"}
	if p.opts.NoFsync {
		args = append(args, "--no-sync")
	}
	if err := run(ctx, p.user.cred, p.home, p.user.env(), p.bin.path("pg_basebackup"), args...); err != nil {
		return fmt.Errorf("copy the primary's data to %s: %w", p.home, err)
	}
	if err := os.Rename(part, p.data()); err != nil {
		return fmt.Errorf("keep the new data folder: %w", err)
	}
	return nil
}

// Promote promotes a standby and returns when it accepts writes.
func (p *Postgres) Promote(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, promoteTimeout)
	defer cancel()
	conn, err := pgx.Connect(ctx, p.URL())
	if err != nil {
		return fmt.Errorf("promote the standby: %w", err)
	}
	defer func() { _ = conn.Close(context.WithoutCancel(ctx)) }()
	var promoted bool
	if err := conn.QueryRow(ctx, "select pg_promote(true, $1)", int(promoteTimeout.Seconds())).Scan(&promoted); err != nil {
		return fmt.Errorf("promote the standby: %w", err)
	}
	if !promoted {
		return errors.New("promote the standby: it was still in recovery at the timeout")
	}
	return nil
}
