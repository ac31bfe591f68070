package testkit

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"os/signal"
	"path/filepath"
	"syscall"
	"time"
)

const (
	// keeperVariable makes a test binary a keeper, and names its service.
	keeperVariable = "DOPAMINE_TESTKIT_KEEP"
	// idleTimeout is how long a server may be unused before it is stopped: long enough to compile
	// the next package.
	idleTimeout = 20 * time.Second
)

// init turns a test binary that was started as a keeper into one, before any test.
func init() {
	name := os.Getenv(keeperVariable)
	if name == "" {
		return
	}
	if err := keep(name); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	os.Exit(0)
}

// keep starts the server and stays until it was unused for idleTimeout, the server ends, or a
// signal arrives.
func keep(name string) error {
	// A test binary that this process starts must not become a keeper.
	if err := os.Unsetenv(keeperVariable); err != nil {
		return err
	}
	alive, err := tryLock(file(name, "alive"), syscall.LOCK_EX)
	if err != nil {
		return fmt.Errorf("another keeper of %s lives: %w", name, err)
	}
	defer func() { _ = alive.Close() }()
	ctx, cancel := signal.NotifyContext(context.Background(), syscall.SIGTERM, syscall.SIGINT)
	defer cancel()
	dir := filepath.Join(filepath.Dir(file(name, "json")), name)
	if err := os.RemoveAll(dir); err != nil {
		return err
	}
	log := slog.New(slog.NewTextHandler(os.Stderr, nil))
	s, err := services[name].start(ctx, dir, log)
	if err != nil {
		return errors.Join(err, tell(name, place{PID: os.Getpid(), At: time.Now(), Err: err.Error()}))
	}
	log.Info("keeping", "kind", s.Kind())
	if err := tell(name, place{PID: os.Getpid(), At: time.Now(), URL: s.URL(), Kind: s.Kind()}); err != nil {
		return errors.Join(err, s.Stop(context.Background()))
	}
	users := untilUnused(ctx, name, s.Done())
	// New users wait for the users' lock: none gets the address of a server that is about to stop.
	err = os.Remove(file(name, "json"))
	err = errors.Join(err, s.Stop(context.Background()), os.RemoveAll(dir))
	if users != nil {
		_ = users.Close()
	}
	return err
}

// untilUnused returns with the users' lock when no process has held it for idleTimeout, or without
// it when ctx or the server ends.
func untilUnused(ctx context.Context, name string, ended <-chan struct{}) *os.File {
	tick := time.NewTicker(500 * time.Millisecond)
	defer tick.Stop()
	for lastUsed := time.Now(); ; {
		select {
		case <-ctx.Done():
			return nil
		case <-ended:
			return nil
		case <-tick.C:
		}
		users, err := tryLock(file(name, "users"), syscall.LOCK_EX)
		switch {
		case err != nil:
			lastUsed = time.Now()
		case time.Since(lastUsed) > idleTimeout:
			return users
		default:
			_ = users.Close()
		}
	}
}

// tell writes the address atomically.
func tell(name string, p place) error {
	b, err := json.Marshal(p)
	if err != nil {
		return err
	}
	part := file(name, "json.part")
	// It contains a server's password.
	if err := os.WriteFile(part, b, 0o600); err != nil {
		return err
	}
	return os.Rename(part, file(name, "json"))
}
