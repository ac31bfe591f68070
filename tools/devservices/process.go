package devservices

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"runtime"
	"strings"
	"syscall"
	"time"
)

const (
	// readyPoll is the interval at which a starting server is probed.
	readyPoll = 20 * time.Millisecond
	// stopGrace is how long a server may take to stop before it is killed.
	stopGrace = 15 * time.Second
	// tailBytes is how much of the end of a server's log is included in an error.
	tailBytes = 2000
)

// errExited means that a server ended while it was awaited.
var errExited = errors.New("the server ended")

// childSpec describes how to start a server.
type childSpec struct {
	name string // as a person would call it
	path string
	args []string
	dir  string
	env  []string            // nil: this process's environment
	cred *syscall.Credential // nil: our own user
	log  string              // file for stdout and stderr, truncated
	// orphaned is the signal that the child gets from the kernel when this process dies.
	orphaned syscall.Signal
}

// child is a running server. The goroutine that startChild started waits for its end.
type child struct {
	spec childSpec
	cmd  *exec.Cmd
	done chan struct{} // closed when it has ended
}

func startChild(spec childSpec) (*child, error) {
	out, err := os.OpenFile(spec.log, os.O_CREATE|os.O_TRUNC|os.O_WRONLY|os.O_APPEND, 0o600)
	if err != nil {
		return nil, fmt.Errorf("log of %s: %w", spec.name, err)
	}
	defer func() { _ = out.Close() }()
	cmd := exec.Command(spec.path, spec.args...)
	cmd.Dir, cmd.Env = spec.dir, spec.env
	cmd.Stdout, cmd.Stderr = out, out
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true, Credential: spec.cred}
	dieWithParent(cmd.SysProcAttr, spec.orphaned)

	c := &child{spec: spec, cmd: cmd, done: make(chan struct{})}
	started := make(chan error, 1)
	go func() {
		// The kernel sends the parent-death signal when this thread ends. Therefore it must not
		// end, or be reused by goroutines that may end it, before the child.
		runtime.LockOSThread()
		defer runtime.UnlockOSThread()
		if err := cmd.Start(); err != nil {
			started <- err
			return
		}
		started <- nil
		_ = cmd.Wait() // its log shows how it ended
		close(c.done)
	}()
	if err := <-started; err != nil {
		return nil, fmt.Errorf("start %s (%s): %w", spec.name, spec.path, err)
	}
	return c, nil
}

// awaitReady calls probe until it succeeds. It gives up if the child has ended, after within, or
// when ctx ends.
func (c *child) awaitReady(ctx context.Context, within time.Duration, probe func(context.Context) error) error {
	ctx, cancel := context.WithTimeout(ctx, within)
	defer cancel()
	tick := time.NewTicker(readyPoll)
	defer tick.Stop()
	for {
		err := probe(ctx)
		if err == nil {
			return nil
		}
		select {
		case <-c.done:
			return fmt.Errorf("%s: %w; the end of its log:\n%s", c.spec.name, errExited, c.tail())
		case <-ctx.Done():
			return fmt.Errorf("%s did not become ready (last error: %w); the end of its log:\n%s", c.spec.name, err, c.tail())
		case <-tick.C:
		}
	}
}

// stop sends sig, and kills the child when ctx ends or stopGrace has passed. It returns when the
// child has ended.
func (c *child) stop(ctx context.Context, sig syscall.Signal) error {
	if c.ended() {
		return nil
	}
	_ = c.cmd.Process.Signal(sig)
	late := time.NewTimer(stopGrace)
	defer late.Stop()
	select {
	case <-c.done:
		return nil
	case <-ctx.Done():
	case <-late.C:
	}
	c.kill()
	return fmt.Errorf("%s did not stop in time and was killed", c.spec.name)
}

// kill ends the child's process group at once and returns when the child has ended.
func (c *child) kill() {
	if !c.ended() {
		_ = syscall.Kill(-c.cmd.Process.Pid, syscall.SIGKILL)
	}
	<-c.done
}

func (c *child) ended() bool {
	select {
	case <-c.done:
		return true
	default:
		return false
	}
}

// tail returns the end of the child's log.
func (c *child) tail() string {
	f, err := os.Open(c.spec.log)
	if err != nil {
		return err.Error()
	}
	defer func() { _ = f.Close() }()
	if at, err := f.Seek(0, io.SeekEnd); err == nil {
		_, _ = f.Seek(max(0, at-tailBytes), io.SeekStart)
	}
	b, _ := io.ReadAll(f)
	return string(bytes.TrimSpace(b))
}

// portTaken reports whether the end of the child's log reports an address in use.
func (c *child) portTaken() bool {
	return strings.Contains(strings.ToLower(c.tail()), "address already in use")
}

// run executes a short-lived command. An error includes the end of its output.
func run(ctx context.Context, cred *syscall.Credential, dir string, env []string, name string, args ...string) error {
	cmd := exec.CommandContext(ctx, name, args...)
	cmd.Dir, cmd.Env = dir, env
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true, Credential: cred}
	dieWithParent(cmd.SysProcAttr, syscall.SIGKILL)
	cmd.Cancel = func() error { return syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL) }
	// The parent-death signal follows the thread: keep it until the command has ended.
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	out, err := cmd.CombinedOutput()
	if err != nil {
		if len(out) > tailBytes {
			out = out[len(out)-tailBytes:]
		}
		return fmt.Errorf("%s: %w: %s", name, err, bytes.TrimSpace(out))
	}
	return nil
}
