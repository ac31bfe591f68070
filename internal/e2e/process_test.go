package e2e

import (
	"bytes"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/dopaminestore/dopamine/tools/testkit"
)

// stopTimeout is how long a process may take to end after SIGTERM.
const stopTimeout = 10 * time.Second

// process is one running dopamine. It ends with the test, and its log is shown if the test fails.
type process struct {
	t    *testing.T
	name string
	dir  string
	env  []string
	args []string
	cred *syscall.Credential

	cmd    *exec.Cmd
	done   chan struct{}
	status int
	starts int
}

// start runs the program with the arguments, in a separate folder and without any DOPAMINE_
// variable except the given ones.
func start(t *testing.T, name string, env []string, args ...string) *process {
	t.Helper()
	p := &process{t: t, name: name, dir: t.TempDir(), env: env, args: args}
	t.Cleanup(func() {
		p.kill9()
		if said := tail(p.log("stderr")); t.Failed() && said != "" {
			t.Logf("== the end of the log of %s (%s)\n%s", p.name, strings.Join(p.args, " "), said)
		}
	})
	p.start()
	return p
}

func (p *process) start() {
	p.t.Helper()
	cmd := exec.Command(program(p.t), p.args...)
	cmd.Dir = p.dir
	for _, v := range os.Environ() {
		if !strings.HasPrefix(v, "DOPAMINE_") {
			cmd.Env = append(cmd.Env, v)
		}
	}
	cmd.Env = append(cmd.Env, p.env...)
	stdout, stderr := p.open("stdout"), p.open("stderr")
	defer stdout.Close()
	defer stderr.Close()
	cmd.Stdout, cmd.Stderr = stdout, stderr
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGKILL, Credential: p.cred}
	started, done := make(chan error, 1), make(chan struct{})
	go func() {
		// The kernel sends the parent-death signal when this thread ends.
		runtime.LockOSThread()
		defer runtime.UnlockOSThread()
		err := cmd.Start()
		started <- err
		if err != nil {
			return
		}
		_ = cmd.Wait() // how it ended is in its status
		p.status = cmd.ProcessState.ExitCode()
		close(done)
	}()
	require.NoError(p.t, <-started, "start %s", p.name)
	p.cmd, p.done = cmd, done
	p.starts++
}

func (p *process) log(stream string) string { return filepath.Join(p.dir, stream+".log") }

// open appends, so that a log has all runs of a process.
func (p *process) open(stream string) *os.File {
	f, err := os.OpenFile(p.log(stream), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o644)
	require.NoError(p.t, err)
	return f
}

func (p *process) said(stream string) string {
	b, err := os.ReadFile(p.log(stream))
	require.NoError(p.t, err)
	return string(b)
}

func (p *process) ended() bool {
	select {
	case <-p.done:
		return true
	default:
		return false
	}
}

// ready waits until this run of a role has reported that it is ready.
func (p *process) ready() *process {
	p.t.Helper()
	testkit.EventuallyTrue(p.t, 60*time.Second, p.name+" to be ready", func() bool {
		if p.ended() {
			p.t.Fatalf("%s ended with status %d", p.name, p.status)
		}
		// A role logs it; dev prints a line.
		return strings.Count(p.said("stderr"), `"msg":"ready"`)+strings.Count("\n"+p.said("stdout"), "\nready") >= p.starts
	})
	return p
}

// wait returns the exit status.
func (p *process) wait(within time.Duration) int {
	p.t.Helper()
	select {
	case <-p.done:
		return p.status
	case <-time.After(within):
		p.t.Fatalf("%s did not end within %s", p.name, within)
		return -1
	}
}

// stop sends SIGTERM; the process has to end in time and with status 0.
func (p *process) stop() {
	p.t.Helper()
	require.NoError(p.t, p.cmd.Process.Signal(syscall.SIGTERM))
	require.Equal(p.t, 0, p.wait(stopTimeout), "%s: exit status after SIGTERM", p.name)
}

// kill9 ends the process at once.
func (p *process) kill9() {
	if p.cmd == nil || p.ended() {
		return
	}
	_ = syscall.Kill(-p.cmd.Process.Pid, syscall.SIGKILL)
	<-p.done
}

// restart is kill -9 and a new start on the same settings.
func (p *process) restart() {
	p.t.Helper()
	p.kill9()
	p.start()
}

// call runs the program to its end and returns its exit status and output.
func call(t *testing.T, env []string, args ...string) (status int, stdout, stderr string) {
	t.Helper()
	p := start(t, strings.Join(args[:min(2, len(args))], " "), env, args...)
	status = p.wait(3 * time.Minute)
	return status, p.said("stdout"), p.said("stderr")
}

func tail(file string) string {
	const most = 6000
	b, err := os.ReadFile(file)
	if err != nil {
		return err.Error()
	}
	lines := bytes.Split(b[max(0, len(b)-most):], []byte("\n"))
	return string(bytes.Join(slices.DeleteFunc(lines, func(l []byte) bool { return len(l) == 0 }), []byte("\n")))
}
