package main

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"strconv"
	"strings"
)

// suite is a Go benchmark that measures its own limit.
type suite struct {
	name     string
	about    string
	pkg      string
	bench    string // regular expression of go test -bench
	rounds   string // -benchtime: rounds, or a time
	measures []measure
}

// measure makes a row of the metrics of one benchmark.
type measure struct {
	what    string
	of      string // benchmark without its processor suffix: "BenchmarkX" or "BenchmarkX/sub"
	unit    string // metric of the figure
	limitOf string // benchmark that has the limit; "": the same
	limit   string // metric that is the limit; "": none
	limitIs string
	shown   string  // unit to show; "": unit
	scale   float64 // from unit to shown; 0: 1
	aim     aim
}

// fsyncVariable is testkit's FsyncVariable; testkit itself is for tests.
const fsyncVariable = "DOPAMINE_TEST_FSYNC"

// metrics are the reported metrics, by benchmark and unit.
type metrics map[string]map[string]float64

func (s suite) run(ctx context.Context, out *report) error {
	// The tests' servers are shared by folder: this one's commit to the disk.
	dir, err := os.MkdirTemp("", "dopamine-bench-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)                      // the next boot removes it otherwise
	if err := os.Chmod(dir, 0o755); err != nil { // Postgres runs as another user
		return err
	}
	cmd := exec.CommandContext(ctx, "go", "test", "-run", "^$", "-count", "1", "-timeout", "5m", "-bench", s.bench, "-benchtime", s.rounds, s.pkg)
	cmd.Env = append(os.Environ(), "TMPDIR="+dir, fsyncVariable+"=1")
	cmd.Stderr = os.Stderr
	text, err := cmd.Output()
	if err != nil {
		return fmt.Errorf("go test %s: %w\n%s", s.pkg, err, text)
	}
	got := parseMetrics(string(text))
	for _, m := range s.measures {
		figure, ok := got[m.of][m.unit]
		if !ok {
			return fmt.Errorf("go test -bench %s %s reported no %q of %s:\n%s", s.bench, s.pkg, m.unit, m.of, text)
		}
		r := row{what: m.what, figure: figure, unit: m.unit, limitIs: m.limitIs, aim: m.aim}
		if m.limit != "" {
			of := m.limitOf
			if of == "" {
				of = m.of
			}
			if r.limit, ok = got[of][m.limit]; !ok {
				return fmt.Errorf("go test -bench %s %s reported no %q of %s:\n%s", s.bench, s.pkg, m.limit, of, text)
			}
		}
		if m.shown != "" {
			r.unit = m.shown
		}
		if m.scale != 0 {
			r.figure, r.limit = r.figure*m.scale, r.limit*m.scale
		}
		out.add(r)
	}
	return nil
}

// parseMetrics reads the lines that go test prints of benchmarks: name, rounds,
// then pairs of value and unit.
func parseMetrics(text string) metrics {
	all := metrics{}
	for line := range strings.Lines(text) {
		f := strings.Fields(line)
		if len(f) < 4 || !strings.HasPrefix(f[0], "Benchmark") {
			continue
		}
		name := f[0]
		if i := strings.LastIndexByte(name, '-'); i > 0 {
			if _, err := strconv.Atoi(name[i+1:]); err == nil {
				name = name[:i] // GOMAXPROCS
			}
		}
		of := map[string]float64{}
		for i := 2; i+1 < len(f); i += 2 {
			if v, err := strconv.ParseFloat(f[i], 64); err == nil {
				of[f[i+1]] = v
			}
		}
		all[name] = of
	}
	return all
}
