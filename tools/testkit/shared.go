package testkit

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"sync"
	"syscall"
	"time"
)

const (
	// acquireWithin bounds the wait for a shared server, its first download included.
	acquireWithin = 10 * time.Minute
	// refusedTTL is how long a keeper's report that it found no server remains valid.
	refusedTTL = time.Minute
	// poll is the interval at which locks and files are checked.
	poll = 50 * time.Millisecond
)

// place is what a keeper records about its server.
type place struct {
	PID  int       `json:"pid"`
	At   time.Time `json:"at"`
	URL  string    `json:"url,omitempty"`
	Kind string    `json:"kind,omitempty"`
	Err  string    `json:"error,omitempty"`
}

// held is what this test binary has acquired, once per service and until it ends. The users' lock
// stays open for as long.
var held struct {
	sync.Mutex
	places map[string]place
	locks  []*os.File
}

// shared returns the server with that name, and starts it if necessary.
func shared(name string) (place, error) {
	held.Lock()
	defer held.Unlock()
	if p, ok := held.places[name]; ok {
		return p, p.err()
	}
	ctx, cancel := context.WithTimeout(context.Background(), acquireWithin)
	defer cancel()
	p, users, err := acquire(ctx, name)
	if err != nil {
		return place{}, fmt.Errorf("shared %s: %w", name, err)
	}
	if held.places == nil {
		held.places = map[string]place{}
	}
	held.places[name] = p
	held.locks = append(held.locks, users)
	return p, p.err()
}

func (p place) err() error {
	if p.Err != "" {
		return errors.New(p.Err)
	}
	return nil
}

func acquire(ctx context.Context, name string) (p place, users *os.File, err error) {
	if _, err := stateDir(); err != nil {
		return place{}, nil, err
	}
	start, err := lock(ctx, file(name, "start"), syscall.LOCK_EX)
	if err != nil {
		return place{}, nil, err
	}
	defer func() { _ = start.Close() }()
	// From here on no keeper stops; one that was stopping has stopped.
	users, err = lock(ctx, file(name, "users"), syscall.LOCK_SH)
	if err != nil {
		return place{}, nil, err
	}
	p, ok := look(ctx, name)
	if !ok {
		if p, err = startKeeper(ctx, name, p); err != nil {
			_ = users.Close()
			return place{}, nil, err
		}
	}
	return p, users, nil
}

// look reads the server's address, and probes it.
func look(ctx context.Context, name string) (place, bool) {
	var p place
	b, err := os.ReadFile(file(name, "json"))
	if err != nil || json.Unmarshal(b, &p) != nil {
		return place{}, false
	}
	if p.Err != "" {
		return p, time.Since(p.At) < refusedTTL
	}
	ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	return p, services[name].probe(ctx, p.URL) == nil
}

// startKeeper replaces the keeper of a server that does not answer, if it still lives, and waits
// for the record of the new one.
func startKeeper(ctx context.Context, name string, old place) (place, error) {
	if err := endKeeper(ctx, name, old); err != nil {
		return place{}, err
	}
	if err := os.Remove(file(name, "json")); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return place{}, err
	}
	self, err := os.Executable()
	if err != nil {
		return place{}, err
	}
	// Its output must not be this process's: `go test` waits until all processes have closed that.
	log, err := os.OpenFile(file(name, "log"), os.O_CREATE|os.O_TRUNC|os.O_WRONLY|os.O_APPEND, 0o600)
	if err != nil {
		return place{}, err
	}
	defer func() { _ = log.Close() }()
	cmd := exec.Command(self)
	cmd.Dir, cmd.Stdout, cmd.Stderr = "/", log, log
	cmd.Env = append(os.Environ(), keeperVariable+"="+name)
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	if err := cmd.Start(); err != nil {
		return place{}, fmt.Errorf("start its keeper: %w", err)
	}
	pid := cmd.Process.Pid
	_ = cmd.Process.Release() // not waited for: a waiting goroutine would be reported as a leak
	for {
		if p, ok := look(ctx, name); ok {
			return p, nil
		}
		if done, _ := syscall.Wait4(pid, nil, syscall.WNOHANG, nil); done == pid {
			if p, ok := look(ctx, name); ok && p.Err != "" {
				return p, nil // it had nothing to keep
			}
			said, _ := os.ReadFile(file(name, "log"))
			return place{}, fmt.Errorf("its keeper ended: %s", said)
		}
		select {
		case <-ctx.Done():
			return place{}, fmt.Errorf("its keeper (process %d, see %s) did not report: %w", pid, file(name, "log"), ctx.Err())
		case <-time.After(poll):
		}
	}
}

// endKeeper ends the keeper that holds the lock of the living, if one does.
func endKeeper(ctx context.Context, name string, old place) error {
	sig, since := syscall.SIGTERM, time.Now()
	for {
		alive, err := tryLock(file(name, "alive"), syscall.LOCK_EX)
		if err == nil {
			return alive.Close()
		}
		if !errors.Is(err, syscall.EWOULDBLOCK) {
			return err
		}
		if old.PID > 0 && sig != 0 {
			_ = syscall.Kill(old.PID, sig)
			sig = 0
		}
		if time.Since(since) > 10*time.Second {
			sig, since = syscall.SIGKILL, time.Now()
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("an old keeper does not end: %w", ctx.Err())
		case <-time.After(poll):
		}
	}
}

// stateDir creates the folder of locks and records; only this user may write to it.
func stateDir() (string, error) {
	dir := filepath.Join(os.TempDir(), "dopamine-testkit-"+strconv.Itoa(os.Geteuid()))
	if err := os.Mkdir(dir, 0o755); err != nil && !errors.Is(err, fs.ErrExist) {
		return "", err
	}
	info, err := os.Lstat(dir)
	if err != nil {
		return "", err
	}
	if !info.IsDir() || info.Sys().(*syscall.Stat_t).Uid != uint32(os.Geteuid()) {
		return "", fmt.Errorf("%s belongs to another user", dir)
	}
	return dir, nil
}

func file(service, kind string) string {
	return filepath.Join(os.TempDir(), "dopamine-testkit-"+strconv.Itoa(os.Geteuid()), service+"."+kind)
}

func tryLock(path string, how int) (*os.File, error) {
	f, err := os.OpenFile(path, os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return nil, err
	}
	if err := syscall.Flock(int(f.Fd()), how|syscall.LOCK_NB); err != nil {
		_ = f.Close()
		return nil, err
	}
	return f, nil
}

func lock(ctx context.Context, path string, how int) (*os.File, error) {
	for {
		f, err := tryLock(path, how)
		if !errors.Is(err, syscall.EWOULDBLOCK) {
			return f, err
		}
		select {
		case <-ctx.Done():
			return nil, fmt.Errorf("wait for %s: %w", path, ctx.Err())
		case <-time.After(poll):
		}
	}
}
