package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/dopaminestore/dopamine/internal/failpoint"
)

const (
	// readyTimeout bounds a process's start.
	readyTimeout = 90 * time.Second
	// restartDelay is how long an orchestrator takes to replace a process.
	restartDelay = 300 * time.Millisecond
)

// buildProgram builds the program with its failpoints.
// overlay is a file for the go command's flag of that name, "" for none.
func buildProgram(ctx context.Context, dir, overlay string) (string, error) {
	binary := filepath.Join(dir, "dopamine")
	cmd := exec.CommandContext(ctx, "go", "build", "-overlay", overlay, "-tags", "failpoints", "-o", binary, "github.com/dopaminestore/dopamine/cmd/dopamine")
	if out, err := cmd.CombinedOutput(); err != nil {
		return "", fmt.Errorf("build the program: %w: %s", err, out)
	}
	return binary, nil
}

// process is one process of the system. It is restarted whenever it ends, as an
// orchestrator does, until stop.
type process struct {
	name   string // as in command-0
	role   string // as in command-api
	binary string
	dir    string
	env    []string
	args   []string

	mu       sync.Mutex
	cmd      *exec.Cmd
	done     chan struct{} // closed when this life has ended
	stopping bool
	held     bool // not restarted until release
	starts   int
	seen     int64 // bytes of the log of strikes that earlier seeds wrote
	statuses []int // exit statuses of the lives that ended by themselves
	exited   chan struct{}
}

// startProcess starts the program and keeps it running.
func startProcess(binary, dir, name string, env []string, args ...string) (*process, error) {
	p := &process{name: name, role: args[0], binary: binary, dir: filepath.Join(dir, name), args: args, exited: make(chan struct{})}
	if err := os.MkdirAll(p.dir, 0o755); err != nil {
		return nil, err
	}
	p.env = append(env, "DOPAMINE_FAILPOINT_FILE="+p.file("failpoints"), "DOPAMINE_FAILPOINT_LOG="+p.file("struck"), "DOPAMINE_LOG_FORMAT=json")
	if err := p.start(); err != nil {
		return nil, err
	}
	go p.supervise()
	return p, nil
}

func (p *process) file(name string) string { return filepath.Join(p.dir, name) }

func (p *process) start() error {
	cmd := exec.Command(p.binary, p.args...)
	cmd.Dir = p.dir
	for _, v := range os.Environ() {
		if !strings.HasPrefix(v, "DOPAMINE_") {
			cmd.Env = append(cmd.Env, v)
		}
	}
	cmd.Env = append(cmd.Env, p.env...)
	stderr, err := os.OpenFile(p.file("stderr"), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o644)
	if err != nil {
		return err
	}
	defer func() { _ = stderr.Close() }()
	stdout, err := os.OpenFile(p.file("stdout"), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o644)
	if err != nil {
		return err
	}
	defer func() { _ = stdout.Close() }()
	cmd.Stdout, cmd.Stderr = stdout, stderr
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGKILL}
	started, done := make(chan error, 1), make(chan struct{})
	go func() {
		// The kernel sends the parent-death signal when this thread ends.
		runtime.LockOSThread()
		defer runtime.UnlockOSThread()
		err := cmd.Start()
		started <- err
		if err == nil {
			_ = cmd.Wait()
			close(done)
		}
	}()
	if err := <-started; err != nil {
		return fmt.Errorf("start %s: %w", p.name, err)
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	p.cmd, p.done = cmd, done
	p.starts++
	return nil
}

// supervise restarts the process until it is stopped.
func (p *process) supervise() {
	defer close(p.exited)
	for {
		p.mu.Lock()
		done := p.done
		p.mu.Unlock()
		<-done
		p.mu.Lock()
		if status := p.cmd.ProcessState; status.Exited() {
			p.statuses = append(p.statuses, status.ExitCode())
		}
		stopping := p.stopping
		p.mu.Unlock()
		if stopping {
			return
		}
		for wait := true; wait; {
			time.Sleep(restartDelay)
			p.mu.Lock()
			wait, stopping = p.held && !p.stopping, p.stopping
			p.mu.Unlock()
		}
		if stopping {
			return
		}
		if err := p.start(); err != nil {
			return
		}
	}
}

// ready waits until the present life has reported that it is ready.
func (p *process) ready(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, readyTimeout)
	defer cancel()
	return poll(ctx, 50*time.Millisecond, p.name+" to be ready", func() error {
		b, err := os.ReadFile(p.file("stderr"))
		if err != nil {
			return err
		}
		// Lives that were killed early never reported.
		if i := bytes.LastIndex(b, []byte(`"msg":"ready"`)); i < 0 {
			return errors.New("not yet")
		}
		return nil
	})
}

func (p *process) signal(sig syscall.Signal) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	select {
	case <-p.done:
		return fmt.Errorf("%s does not run", p.name)
	default:
	}
	return syscall.Kill(p.cmd.Process.Pid, sig)
}

// kill ends the present life with SIGKILL.
func (p *process) kill() error { return p.signal(syscall.SIGKILL) }

// hold ends the process and keeps it down until release.
func (p *process) hold() error {
	p.mu.Lock()
	p.held = true
	p.mu.Unlock()
	return p.kill()
}

func (p *process) release() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.held = false
}

// stop ends the process for good.
func (p *process) stop() {
	p.mu.Lock()
	p.stopping = true
	p.mu.Unlock()
	_ = p.signal(syscall.SIGCONT)
	_ = p.kill()
	<-p.exited
}

// arm arms a failpoint of the running process and of its later lives.
func (p *process) arm(spec string) error {
	if err := os.WriteFile(p.file("failpoints.new"), []byte(spec), 0o644); err != nil {
		return err
	}
	return os.Rename(p.file("failpoints.new"), p.file("failpoints"))
}

// struck counts how often the action struck at the point since forget.
func (p *process) struck(point failpoint.Point, action string) int {
	b, _ := os.ReadFile(p.file("struck"))
	p.mu.Lock()
	b = b[min(p.seen, int64(len(b))):]
	p.mu.Unlock()
	return strings.Count(string(b), fmt.Sprintf("strike %s %s", point, action))
}

// forget makes struck count from 0.
func (p *process) forget() {
	if info, err := os.Stat(p.file("struck")); err == nil {
		p.mu.Lock()
		p.seen = info.Size()
		p.mu.Unlock()
	}
}

// toolPoints is the file in which short-lived subcommands record their failpoints.
func (f *fleet) toolPoints() string { return filepath.Join(f.dir, "tool-struck") }

// hits are the points that the processes have reached in all their lives.
func (f *fleet) hits() map[failpoint.Point]bool {
	files := []string{f.toolPoints()}
	for _, p := range f.processes {
		files = append(files, p.file("struck"))
	}
	hit := map[failpoint.Point]bool{}
	for _, file := range files {
		b, _ := os.ReadFile(file)
		for line := range strings.Lines(string(b)) {
			if name, ok := strings.CutPrefix(strings.TrimSpace(line), "hit "); ok {
				hit[failpoint.Point(name)] = true
			}
		}
	}
	return hit
}

// complaints are what no process may write: panics and the like. Exit statuses
// other than 0 of a process that was not killed are listed too.
func (p *process) complaints() (found []string) {
	b, _ := os.ReadFile(p.file("stderr"))
	for _, sign := range []string{"panic: ", "fatal error: ", "DATA RACE"} {
		if i := bytes.Index(b, []byte(sign)); i >= 0 {
			found = append(found, fmt.Sprintf("%s: %s", p.name, firstLine(b[i:])))
		}
	}
	return found
}

// endedByItself lists the exit statuses of processes that were not killed.
func (p *process) endedByItself() []int {
	p.mu.Lock()
	defer p.mu.Unlock()
	return append([]int(nil), p.statuses...)
}

func firstLine(b []byte) string {
	line, _, _ := bytes.Cut(b, []byte("\n"))
	return string(line[:min(len(line), 300)])
}

// tail is the end of the process's log.
func (p *process) tail(lines int) string {
	b, _ := os.ReadFile(p.file("stderr"))
	all := strings.Split(strings.TrimSpace(string(b)), "\n")
	return strings.Join(all[max(0, len(all)-lines):], "\n")
}

// call runs a subcommand to its end.
func (f *fleet) call(ctx context.Context, args ...string) (stdout string, err error) {
	return f.callWith(ctx, nil, args...)
}

// callWith is call with more settings.
func (f *fleet) callWith(ctx context.Context, env []string, args ...string) (stdout string, err error) {
	cmd := exec.CommandContext(ctx, f.services.binary, args...)
	for _, v := range os.Environ() {
		if !strings.HasPrefix(v, "DOPAMINE_") {
			cmd.Env = append(cmd.Env, v)
		}
	}
	cmd.Env = append(append(cmd.Env, f.env("tool")...), "DOPAMINE_FAILPOINT_LOG="+f.toolPoints())
	cmd.Env = append(cmd.Env, env...)
	var out, errs bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &errs
	if err := cmd.Run(); err != nil {
		return out.String(), fmt.Errorf("dopamine %s: %w: %s %s", strings.Join(args, " "), err, lastLines(out.String(), 6), lastLines(errs.String(), 6))
	}
	return out.String(), nil
}

func lastLines(s string, n int) string {
	all := strings.Split(strings.TrimSpace(s), "\n")
	return strings.Join(all[max(0, len(all)-n):], " | ")
}

// poll tries until it works or the context ends. The error is that of the last attempt which the end of
// the context did not interrupt.
func poll(ctx context.Context, interval time.Duration, what string, try func() error) error {
	tick := time.NewTicker(interval)
	defer tick.Stop()
	var last error
	for {
		err := try()
		if err == nil {
			return nil
		}
		if last == nil || ctx.Err() == nil {
			last = err
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("waited for %s: %w", what, last)
		case <-tick.C:
		}
	}
}
