package devservices

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/redis/go-redis/v9"
)

// redisReadyWithin bounds a start, loading an append-only file included.
const redisReadyWithin = 60 * time.Second

// RedisOptions configures a Redis. The data of the zero value ends with the server.
type RedisOptions struct {
	// Dir keeps the data across starts (an append-only file, flushed to disk every
	// second). Default "": a temporary folder, nothing is kept.
	Dir string
	// Port to listen on at 127.0.0.1. Default 0: a free one.
	Port int
	// Real refuses miniredis if no redis-server is available. Default: falls back.
	Real bool
	// Mini selects miniredis. Default: only if there is no redis-server.
	Mini bool
	// NoInstall keeps apt-get out of it. Default: used when running as root.
	NoInstall bool
	// Log receives what is installed and started. Default: discarded.
	Log *slog.Logger

	args     []string // further ones of a server in a group
	sentinel string   // what a Sentinel watches over; "" for a server with data
}

// Redis is a running Redis: a redis-server started by this package, or miniredis in process.
type Redis struct {
	opts      RedisOptions
	binary    string // "" for miniredis
	dir       string
	temporary bool
	lock      *fileLock
	kind      string

	mu    sync.Mutex
	port  int
	child *child
	mini  *mini
}

// StartRedis starts redis-server from PATH, else installs it if possible, else runs miniredis in
// process. It returns when PING is answered. It returns [ErrInUse] if another process owns the
// folder, and [ErrNotHere] if Real is set and no redis-server is available.
func StartRedis(ctx context.Context, opts RedisOptions) (*Redis, error) {
	r := &Redis{opts: opts, port: opts.Port}
	if !opts.Mini {
		binary, err := findRedis(ctx, opts)
		if err != nil && opts.Real {
			return nil, err
		}
		if err != nil {
			quiet(opts.Log).Warn("no redis-server, taking miniredis: its data ends with this process", "reason", err)
		}
		r.binary = binary
	}
	if r.binary == "" {
		r.kind = "miniredis (in process, keeps nothing)"
		if err := r.start(ctx); err != nil {
			return nil, err
		}
		return r, nil
	}
	if err := r.takeFolder(); err != nil {
		return nil, err
	}
	if err := r.start(ctx); err != nil {
		return nil, errors.Join(err, r.leaveFolder())
	}
	return r, nil
}

func findRedis(ctx context.Context, opts RedisOptions) (string, error) {
	if path := onPath("redis-server"); path != "" {
		return path, nil
	}
	help := "install redis-server (Debian: apt-get install redis-server)"
	if opts.NoInstall {
		return "", fmt.Errorf("redis-server is %w: %s", ErrNotHere, help)
	}
	present := func() bool { return onPath("redis-server") != "" }
	if err := aptInstall(ctx, quiet(opts.Log), present, "redis-server"); err != nil {
		return "", fmt.Errorf("redis-server is %w: %s (tried: %w)", ErrNotHere, help, err)
	}
	return onPath("redis-server"), nil
}

func (r *Redis) takeFolder() error {
	dir := r.opts.Dir
	if dir == "" {
		made, err := os.MkdirTemp("", "dopamine-redis-")
		if err != nil {
			return fmt.Errorf("folder for Redis: %w", err)
		}
		dir, r.temporary = made, true
	}
	abs, lock, err := ownFolder(dir)
	if err != nil {
		return fmt.Errorf("folder for Redis: %w", err)
	}
	r.dir, r.lock = abs, lock
	return nil
}

func (r *Redis) leaveFolder() error {
	r.lock.unlock()
	if r.temporary {
		return os.RemoveAll(r.dir)
	}
	return nil
}

// start runs the server on r.port, or on a free one the first time.
func (r *Redis) start(ctx context.Context) error {
	return onFreePort(r.port, func(port int) (bool, error) {
		if r.binary == "" {
			m, err := startMini(port)
			if err != nil {
				return true, err
			}
			r.mini, r.port = m, port
			return false, nil
		}
		c, err := r.startServer(ctx, port)
		if err != nil {
			return c != nil && c.portTaken(), err
		}
		r.child, r.port = c, port
		return false, nil
	})
}

func (r *Redis) startServer(ctx context.Context, port int) (*child, error) {
	keep := "no"
	if r.opts.Dir != "" {
		keep = "yes"
	}
	args := append([]string{"--port", strconv.Itoa(port), "--bind", "127.0.0.1", "--dir", r.dir, "--save", "",
		"--appendonly", keep, "--appendfsync", "everysec", "--maxmemory-policy", "noeviction"}, r.opts.args...)
	if r.opts.sentinel != "" {
		conf, err := writeSentinel(r.dir, r.opts.sentinel)
		if err != nil {
			return nil, err
		}
		args = []string{conf, "--sentinel", "--port", strconv.Itoa(port), "--bind", "127.0.0.1", "--dir", r.dir}
	}
	c, err := startChild(childSpec{
		name: "redis-server", path: r.binary, dir: r.dir, args: args,
		log: filepath.Join(r.dir, "redis.log"),
		// What Redis has answered is already with the kernel, so it may be killed immediately. If
		// it lingered, it would write into the next server's files.
		orphaned: syscall.SIGKILL,
	})
	if err != nil {
		return nil, err
	}
	var version string
	err = c.awaitReady(ctx, redisReadyWithin, func(ctx context.Context) (err error) {
		version, err = askRedis(ctx, port, c)
		return err
	})
	if err != nil {
		c.kill()
		return c, err
	}
	r.kind = fmt.Sprintf("Redis %s (%s)", version, r.binary)
	return c, nil
}

// askRedis pings, and checks that the child is the one that answers: another server may listen on
// the port that the child could not bind.
func askRedis(ctx context.Context, port int, c *child) (version string, err error) {
	// go-redis logs each refused connection.
	conn, err := (&net.Dialer{}).DialContext(ctx, "tcp", loopback(port))
	if err != nil {
		return "", err
	}
	_ = conn.Close()
	client := redis.NewClient(&redis.Options{Addr: loopback(port), MaxRetries: -1, PoolSize: 1})
	defer func() { _ = client.Close() }()
	if err := client.Ping(ctx).Err(); err != nil {
		return "", err
	}
	info, err := client.Info(ctx, "server").Result()
	if err != nil {
		return "", err
	}
	fields := map[string]string{}
	for line := range strings.Lines(info) {
		name, value, _ := strings.Cut(strings.TrimSpace(line), ":")
		fields[name] = value
	}
	if fields["process_id"] != strconv.Itoa(c.cmd.Process.Pid) {
		return "", fmt.Errorf("port %d belongs to another process, %s", port, fields["process_id"])
	}
	return fields["redis_version"], nil
}

// URL is redis://127.0.0.1:port/0.
func (r *Redis) URL() string {
	r.mu.Lock()
	defer r.mu.Unlock()
	return "redis://" + loopback(r.port) + "/0"
}

// Kind returns a description.
func (r *Redis) Kind() string { return r.kind }

// Done is closed when the server has ended, wanted or not. It is nil, and so
// never ready, for miniredis.
func (r *Redis) Done() <-chan struct{} {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.child == nil {
		return nil
	}
	return r.child.done
}

// Stop ends it in order, or kills it when ctx ends first. Stopping twice is fine.
func (r *Redis) Stop(ctx context.Context) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.mini != nil {
		r.mini.close()
		r.mini = nil
	}
	if r.binary == "" {
		return nil
	}
	var err error
	if r.child != nil {
		err = r.child.stop(ctx, syscall.SIGTERM)
	}
	return errors.Join(err, r.leaveFolder())
}

// Kill9 ends it without a chance to save anything.
func (r *Redis) Kill9() {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.mini != nil {
		r.mini.close()
		r.mini = nil
	}
	if r.child != nil {
		r.child.kill()
	}
}

// Restart starts the server on the same port and folder, after Kill9 or instead of it. Miniredis
// restarts empty; both have another run id afterwards.
func (r *Redis) Restart(ctx context.Context) error {
	r.Kill9()
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.start(ctx)
}
