package devservices

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/jackc/pgx/v5"
)

const (
	// postgresReadyWithin bounds a start; recovery after a crash may take its time.
	postgresReadyWithin = 2 * time.Minute
	// orphanGrace is how long the remains of a server that lost its parent may take to end.
	orphanGrace = 20 * time.Second
)

// PostgresOptions configures a Postgres.
type PostgresOptions struct {
	// Dir keeps the data across starts. Required.
	Dir string
	// Port to listen on at 127.0.0.1. Default 0: a free one.
	Port int
	// NoFsync trades durability for speed, for tests, whose data is disposable. Default: commits
	// are written to disk.
	NoFsync bool
	// Disposable begins with an empty Dir, whatever lay in it, and Stop removes the
	// data: for tests. Default: kept.
	Disposable bool
	// Settings are added to, or replace, those that the server is started with.
	// Default: none.
	Settings map[string]string
	// NoInstall keeps apt-get and downloads out of it. Default: used when needed.
	NoInstall bool
	// Log receives what is installed and started. Default: discarded.
	Log *slog.Logger
}

// Postgres is a running Postgres server started by this package.
type Postgres struct {
	opts     PostgresOptions
	bin      postgresBin
	user     *serverUser
	lock     *fileLock
	home     string // what the server's user may enter: holds data and password
	log      string
	password string
	primary  *Postgres // to copy the data from; nil: this one begins empty

	mu    sync.Mutex
	port  int
	child *child
}

// StartPostgres finds or installs the server's binaries, creates the data folder if there is none,
// and returns when a query is answered. As root the server runs as user postgres, or else as user
// nobody. If that user cannot enter Dir, the data is in a folder under /var/tmp, which a file in
// Dir names. It returns [ErrInUse] if another process owns Dir, and [ErrNotHere] if no server can
// be found or installed.
func StartPostgres(ctx context.Context, opts PostgresOptions) (*Postgres, error) {
	return startPostgres(ctx, opts, nil)
}

func startPostgres(ctx context.Context, opts PostgresOptions, primary *Postgres) (*Postgres, error) {
	if opts.Dir == "" {
		return nil, errors.New("postgres: no folder given for its data")
	}
	user, err := postgresUser()
	if err != nil {
		return nil, err
	}
	dir, lock, err := ownFolder(opts.Dir)
	if err != nil {
		return nil, fmt.Errorf("folder for Postgres: %w", err)
	}
	p := &Postgres{opts: opts, user: user, lock: lock, port: opts.Port, log: filepath.Join(dir, "postgres.log"), primary: primary}
	if err := p.prepare(ctx, dir); err != nil {
		lock.unlock()
		return nil, err
	}
	if err := p.start(ctx); err != nil {
		lock.unlock()
		return nil, err
	}
	return p, nil
}

// prepare determines the data folder and the binaries.
func (p *Postgres) prepare(ctx context.Context, dir string) (err error) {
	if p.opts.Disposable {
		if err := removeHomes(dir); err != nil {
			return err
		}
	}
	if p.home, err = p.user.homeFor(ctx, dir); err != nil {
		return err
	}
	version, err := dataVersion(p.data())
	if err != nil {
		return err
	}
	if p.bin, err = findPostgres(ctx, p.user, version, p.opts.NoInstall, quiet(p.opts.Log)); err != nil {
		if version != "" && !errors.Is(err, ErrNotHere) {
			return fmt.Errorf("data folder %s: %w", p.data(), err)
		}
		return err
	}
	if p.primary != nil {
		if err := p.user.keepPassword(p.home, p.primary.password); err != nil {
			return err
		}
	}
	if p.password, err = p.user.passwordIn(p.home); err != nil {
		return err
	}
	switch {
	case version != "":
		return nil
	case p.primary != nil:
		return p.baseBackup(ctx)
	}
	return p.initdb(ctx)
}

func (p *Postgres) data() string { return filepath.Join(p.home, "data") }

// initdb creates the data folder under another name and renames it when it is complete, so that an
// interrupted first start leaves no partial folder.
func (p *Postgres) initdb(ctx context.Context) error {
	part := p.data() + ".part"
	if err := os.RemoveAll(part); err != nil {
		return fmt.Errorf("remove an unfinished data folder: %w", err)
	}
	args := []string{"-D", part, "-U", "postgres", "-A", "scram-sha-256", "--pwfile", passwordFile(p.home),
		"-E", "UTF8", "--locale=C"}
	if p.opts.NoFsync {
		args = append(args, "--no-sync")
	}
	if err := run(ctx, p.user.cred, p.home, p.user.env(), p.bin.path("initdb"), args...); err != nil {
		return fmt.Errorf("make a Postgres data folder in %s: %w", p.home, err)
	}
	if err := os.Rename(part, p.data()); err != nil {
		return fmt.Errorf("keep the new data folder: %w", err)
	}
	return nil
}

// settings returns the server's settings: enough connections for all processes, and no more memory
// than a laptop has to spare.
func (p *Postgres) settings(port int) map[string]string {
	s := map[string]string{
		"listen_addresses": "127.0.0.1",
		"port":             strconv.Itoa(port),
		// No socket: its path would have to be short, and no client uses it.
		"unix_socket_directories":      "",
		"max_connections":              "200",
		"shared_buffers":               "128MB",
		"max_wal_size":                 "1GB",
		"checkpoint_completion_target": "0.9",
		"random_page_cost":             "1.1",
		"log_timezone":                 "UTC",
		"timezone":                     "UTC",
	}
	if p.opts.NoFsync {
		s["fsync"], s["synchronous_commit"], s["full_page_writes"] = "off", "off", "off"
	}
	maps.Copy(s, p.opts.Settings)
	return s
}

// start runs the server on p.port, or on a free port the first time. It first waits for the remains
// of a server that lost its parent or was killed.
func (p *Postgres) start(ctx context.Context) error {
	if err := p.settleOrphan(ctx); err != nil {
		return err
	}
	deadline := time.Now().Add(orphanGrace)
	return onFreePort(p.port, func(port int) (bool, error) {
		for {
			c, err := p.startServer(ctx, port)
			if err == nil {
				p.child, p.port = c, port
				return false, nil
			}
			if c == nil || ctx.Err() != nil {
				return false, err
			}
			// Backends of a killed server still hold its memory: they end by themselves.
			if strings.Contains(c.tail(), "shared memory block") && time.Now().Before(deadline) {
				continue
			}
			return c.portTaken(), err
		}
	})
}

func (p *Postgres) startServer(ctx context.Context, port int) (*child, error) {
	args := []string{"-D", p.data()}
	settings := p.settings(port)
	for _, name := range slices.Sorted(maps.Keys(settings)) {
		args = append(args, "-c", name+"="+settings[name])
	}
	c, err := startChild(childSpec{
		name: "postgres", path: p.bin.path("postgres"), args: args, dir: p.home,
		env: p.user.env(), cred: p.user.cred, log: p.log,
		orphaned: syscall.SIGINT, // "fast shutdown": it writes down what it has, and ends
	})
	if err != nil {
		return nil, err
	}
	err = c.awaitReady(ctx, postgresReadyWithin, func(ctx context.Context) error {
		ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
		defer cancel()
		conn, err := pgx.Connect(ctx, p.url(port))
		if err != nil {
			return err
		}
		defer func() { _ = conn.Close(ctx) }()
		// Another server may listen on the port that this one could not bind.
		var data string
		if err := conn.QueryRow(ctx, "select current_setting('data_directory')").Scan(&data); err != nil {
			return err
		}
		if data != p.data() {
			return fmt.Errorf("port %d belongs to another server, with data in %s", port, data)
		}
		return nil
	})
	if err != nil {
		c.kill()
		return c, err
	}
	return c, nil
}

// settleOrphan stops a server that still uses this data although no process owns the folder (this
// one holds its lock). It also makes a lock file harmless whose process id now belongs to another
// process.
func (p *Postgres) settleOrphan(ctx context.Context) error {
	file := filepath.Join(p.data(), "postmaster.pid")
	deadline := time.Now().Add(orphanGrace)
	for {
		pid, rest, err := postmaster(file)
		if err != nil || pid == 0 {
			return err
		}
		if !alive(pid) {
			return nil // Postgres sees to that itself
		}
		if !isPostgres(pid) {
			// Postgres treats its own parent's id as stale, but still checks the shared memory that
			// the rest of the file names; removing the file would skip that.
			return os.WriteFile(file, []byte(strconv.Itoa(os.Getpid())+"\n"+rest), 0o600)
		}
		_ = syscall.Kill(pid, syscall.SIGINT)
		if time.Now().After(deadline) {
			return fmt.Errorf("another Postgres (process %d) uses %s and does not end: stop it, then restart", pid, p.data())
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(lockPoll):
		}
	}
}

func (p *Postgres) url(port int) string {
	u := url.URL{Scheme: "postgres", User: url.UserPassword("postgres", p.password), Host: loopback(port),
		Path: "/postgres", RawQuery: "sslmode=disable"}
	return u.String()
}

// URL returns the superuser's URL of the database postgres, with the password.
func (p *Postgres) URL() string {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.url(p.port)
}

// Kind returns a description: version and location of the binaries.
func (p *Postgres) Kind() string {
	return fmt.Sprintf("PostgreSQL %s (%s)", p.bin.version, p.bin.dir)
}

// Done is closed when the server has ended, wanted or not.
func (p *Postgres) Done() <-chan struct{} {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.child.done
}

// Stop ends it in order, open connections included, or kills it when ctx ends
// first. Stopping twice is fine.
func (p *Postgres) Stop(ctx context.Context) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	err := p.child.stop(ctx, syscall.SIGINT)
	if p.opts.Disposable {
		err = errors.Join(err, os.RemoveAll(p.home))
	}
	p.lock.unlock()
	return err
}

// Kill9 ends it as a power cut would, short of the disk.
func (p *Postgres) Kill9() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.child.kill()
}

// Restart starts it again on the same port and data, after Kill9 or instead of it.
func (p *Postgres) Restart(ctx context.Context) error {
	p.Kill9()
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.start(ctx)
}
