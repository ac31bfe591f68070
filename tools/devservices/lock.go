package devservices

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"syscall"
	"time"
)

// lockPoll is the interval between attempts to take a lock that another process holds.
const lockPoll = 50 * time.Millisecond

// ErrInUse means that another process, or another service of this one, owns the folder.
var ErrInUse = errors.New("in use by another process")

// fileLock is a flock: it ends with the process that holds it, however that ends.
type fileLock struct{ f *os.File }

// tryLock takes the lock or fails at once with [ErrInUse].
func tryLock(path string) (*fileLock, error) {
	// O_CLOEXEC (Go's default) keeps children from holding it after us.
	f, err := os.OpenFile(path, os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return nil, fmt.Errorf("lock: %w", err)
	}
	err = syscall.Flock(int(f.Fd()), syscall.LOCK_EX|syscall.LOCK_NB)
	if err == nil {
		return &fileLock{f: f}, nil
	}
	_ = f.Close()
	if errors.Is(err, syscall.EWOULDBLOCK) {
		err = ErrInUse
	}
	return nil, fmt.Errorf("lock %s: %w", path, err)
}

// awaitLock takes the lock, waiting for its holder until ctx ends.
func awaitLock(ctx context.Context, path string) (*fileLock, error) {
	tick := time.NewTicker(lockPoll)
	defer tick.Stop()
	for {
		l, err := tryLock(path)
		if !errors.Is(err, ErrInUse) {
			return l, err
		}
		select {
		case <-ctx.Done():
			return nil, fmt.Errorf("wait for %s: %w", path, ctx.Err())
		case <-tick.C:
		}
	}
}

// unlock is harmless on nil.
func (l *fileLock) unlock() {
	if l != nil {
		_ = l.f.Close()
	}
}

// ownFolder creates dir if it is missing and locks it for this process. The returned path is
// absolute.
func ownFolder(dir string) (string, *fileLock, error) {
	abs, err := filepath.Abs(dir)
	if err != nil {
		return "", nil, fmt.Errorf("folder %s: %w", dir, err)
	}
	if err := os.MkdirAll(abs, 0o755); err != nil {
		return "", nil, fmt.Errorf("folder %s: %w", dir, err)
	}
	l, err := tryLock(filepath.Join(abs, "lock"))
	if err != nil {
		return "", nil, err
	}
	return abs, l, nil
}

// OwnFolder creates dir if it is missing and keeps every other process out of it until release is
// called or this process ends. It returns [ErrInUse] if another process owns it. The returned path
// is absolute.
func OwnFolder(dir string) (abs string, release func(), err error) {
	abs, lock, err := ownFolder(dir)
	if err != nil {
		return "", nil, err
	}
	return abs, lock.unlock, nil
}
