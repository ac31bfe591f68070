//go:build failpoints

package failpoint

import (
	"errors"
	"fmt"
	"os"
	"sync"
	"syscall"
	"time"
)

// Enabled reports whether this binary was built with the tag.
const Enabled = true

// filePollInterval is how often the control file is checked for changes.
const filePollInterval = 10 * time.Millisecond

// ErrInjected is the error of an armed point.
var ErrInjected = errors.New("failpoint: injected error")

var state struct {
	sync.Mutex
	armed map[Point]action
	hits  map[Point]int  // since the point was armed
	seen  map[Point]bool // since the process began
	log   *os.File
}

func init() {
	state.armed, state.hits, state.seen = map[Point]action{}, map[Point]int{}, map[Point]bool{}
	if name := os.Getenv("DOPAMINE_FAILPOINT_LOG"); name != "" {
		f, err := os.OpenFile(name, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
		if err != nil {
			panic(err)
		}
		state.log = f
	}
	arm(os.Getenv("DOPAMINE_FAILPOINTS"))
	if name := os.Getenv("DOPAMINE_FAILPOINT_FILE"); name != "" {
		read(name)
		go follow(name)
	}
}

// arm replaces what is armed. If a specification does not parse, the process ends: a fault that was
// not injected must not count as one that was survived.
func arm(spec string) {
	armed, err := parse(spec)
	if err != nil {
		panic(err)
	}
	state.Lock()
	defer state.Unlock()
	state.armed = armed
	clear(state.hits)
}

func read(name string) {
	if b, err := os.ReadFile(name); err == nil {
		arm(string(b))
	}
}

// follow arms the point specification whenever the control file has changed. The file is replaced
// by renaming, so a read never sees a part of it.
func follow(name string) {
	var last os.FileInfo
	last, _ = os.Stat(name)
	for range time.Tick(filePollInterval) {
		info, err := os.Stat(name)
		if err != nil || (last != nil && os.SameFile(info, last) && info.ModTime().Equal(last.ModTime())) {
			continue
		}
		last = info
		read(name)
	}
}

// Hit marks that the code has reached the point.
func Hit(p Point) { _ = Error(p) }

// Error is Hit for a place that can fail: it returns [ErrInjected] if the armed action is an error.
func Error(p Point) error {
	state.Lock()
	if !state.seen[p] {
		state.seen[p] = true
		record("hit " + string(p))
	}
	a, ok := state.armed[p]
	if ok {
		state.hits[p]++
		switch {
		case a.nth == 0:
		case a.nth == state.hits[p]:
			delete(state.armed, p)
		default:
			ok = false
		}
	}
	if ok {
		record(fmt.Sprintf("strike %s %s", p, a))
	}
	state.Unlock()
	if !ok {
		return nil
	}
	switch a.kind {
	case "kill":
		_ = syscall.Kill(os.Getpid(), syscall.SIGKILL)
		select {} // the signal is about to arrive
	case "stop":
		_ = syscall.Kill(os.Getpid(), syscall.SIGSTOP)
	case "delay":
		time.Sleep(a.delay)
	case "error":
		return fmt.Errorf("%w at %s", ErrInjected, p)
	}
	return nil
}

// record appends one line in one write.
func record(line string) {
	if state.log != nil {
		_, _ = state.log.WriteString(line + "\n")
	}
}
