// Command mutants removes the system's protections, one at a time, and checks that a test or a
// scenario of the fault harness notices.
//
//	go run ./tools/mutants --list
//	go run ./tools/mutants --run 'append-lock|epoch-check'
//
// A mutant is a small edit of one file. It is built through an overlay of the go command, so the
// sources are not changed. Exit status 1: a mutant survived, or its edit no longer matches the
// sources.
package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"regexp"
	"strings"
	"syscall"
	"time"
)

// mutant is one protection and its removal.
type mutant struct {
	name       string
	protection string
	file       string // from the module's root
	old, new   string // the edit; old occurs exactly once in the file
	more       []edit // further edits, if another protection covers the same fault
	// What must fail: a test of a package, or a scenario of tools/faults.
	pkg, test string
	scenario  string
	seeds     string // default 1-3
}

// edit is a replacement of a text that occurs exactly once in a file.
type edit struct{ file, old, new string }

// caughtBy names what notices.
func (m mutant) caughtBy() string {
	if m.scenario != "" {
		return "`tools/faults --scenario " + m.scenario + "`"
	}
	return "`" + m.test + "` in `" + m.pkg + "`"
}

// mutate returns the mutated sources by file.
func (m mutant) mutate(root string) (map[string][]byte, error) {
	changed := map[string][]byte{}
	for _, e := range append([]edit{{m.file, m.old, m.new}}, m.more...) {
		b, ok := changed[e.file]
		if !ok {
			var err error
			if b, err = os.ReadFile(filepath.Join(root, e.file)); err != nil {
				return nil, err
			}
		}
		if n := bytes.Count(b, []byte(e.old)); n != 1 {
			return nil, fmt.Errorf("%s: the text to replace occurs %d times in %s: %q", m.name, n, e.file, e.old)
		}
		changed[e.file] = bytes.Replace(b, []byte(e.old), []byte(e.new), 1)
	}
	return changed, nil
}

// overlay writes the mutated files and the overlay that puts them in place.
func (m mutant) overlay(root, dir string) (string, error) {
	changed, err := m.mutate(root)
	if err != nil {
		return "", err
	}
	replace := map[string]string{}
	for file, b := range changed {
		path := filepath.Join(dir, strings.ReplaceAll(file, "/", "_"))
		if err := os.WriteFile(path, b, 0o644); err != nil {
			return "", err
		}
		replace[filepath.Join(root, file)] = path
	}
	text, err := json.Marshal(map[string]map[string]string{"Replace": replace})
	if err != nil {
		return "", err
	}
	file := filepath.Join(dir, "overlay.json")
	return file, os.WriteFile(file, text, 0o644)
}

type outcome string

const (
	caught   outcome = "caught"
	survived outcome = "SURVIVED"
	broken   outcome = "DOES NOT BUILD"
)

// try builds the mutant and runs what must fail; as a baseline, without the edits.
func (m mutant) try(ctx context.Context, root string, timeout time.Duration, baseline bool) (outcome, string, error) {
	dir, err := os.MkdirTemp("", "dopamine-mutant-")
	if err != nil {
		return "", "", err
	}
	defer func() { _ = os.RemoveAll(dir) }()
	overlay, err := m.overlay(root, dir)
	if err != nil {
		return "", "", err
	}
	if baseline {
		if err := os.WriteFile(overlay, []byte("{}"), 0o644); err != nil {
			return "", "", err
		}
	}
	ctx, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	command := func(args ...string) ([]byte, error) {
		cmd := exec.CommandContext(ctx, "go", args...)
		cmd.Dir = root
		cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
		cmd.Cancel = func() error { return syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL) }
		cmd.WaitDelay = 5 * time.Second
		return cmd.CombinedOutput()
	}
	var out []byte
	if m.scenario != "" {
		seeds := m.seeds
		if seeds == "" {
			seeds = "1-3"
		}
		out, err = command("run", "./tools/faults", "--overlay", overlay, "--scenario", m.scenario, "--seeds", seeds, "--fake-kafka", "--thorough=0", "--dir", filepath.Join(dir, "faults"))
		if err != nil && !bytes.Contains(out, []byte(" violations |")) && !bytes.Contains(out, []byte("| violations")) {
			return broken, lastLines(out, 5), nil // it did not get as far as a result
		}
	} else {
		out, err = command("test", "-overlay", overlay, "-count=1", "-timeout", "4m", "-run", m.test, "./"+m.pkg)
	}
	for _, sign := range []string{"[build failed]", "[setup failed]", "build the program:"} {
		if bytes.Contains(out, []byte(sign)) {
			return broken, lastLines(out, 5), nil
		}
	}
	var exit *exec.ExitError
	switch {
	case err == nil:
		return survived, lastLines(out, 5), nil
	case ctx.Err() != nil:
		return caught, "did not end in time", nil
	case errors.As(err, &exit):
		return caught, reason(out), nil
	}
	return "", "", err
}

var failure = regexp.MustCompile(`(?m)^\s*(--- FAIL|Error:|panic:|Error Trace|[a-z_0-9]+_test\.go:\d+:|    R\d:|    [a-z]+:).*$`)

// reason returns the first line that describes the failure.
func reason(out []byte) string {
	if line := failure.Find(out); line != nil {
		return strings.TrimSpace(string(line))
	}
	return lastLines(out, 1)
}

func lastLines(out []byte, n int) string {
	all := strings.Split(strings.TrimSpace(string(out)), "\n")
	return strings.Join(all[max(0, len(all)-n):], " | ")
}

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	status := command(ctx, os.Args[1:])
	stop()
	os.Exit(status)
}

func command(ctx context.Context, args []string) int {
	flags := flag.NewFlagSet("mutants", flag.ContinueOnError)
	chosen := flags.String("run", "", "only mutants whose names match this `expression`")
	baseline := flags.Bool("baseline", false, "run what must notice with the protections in place: everything has to pass")
	list := flags.Bool("list", false, "print the table of protections and exit")
	timeout := flags.Duration("timeout", 10*time.Minute, "for each mutant")
	if err := flags.Parse(args); err != nil {
		return 2
	}
	wanted, err := regexp.Compile(*chosen)
	if err != nil {
		fmt.Fprintln(os.Stderr, "mutants:", err)
		return 2
	}
	root, err := moduleRoot()
	if err != nil {
		fmt.Fprintln(os.Stderr, "mutants:", err)
		return 1
	}
	failed := 0
	fmt.Println("| protection | removed by | noticed by | outcome |")
	fmt.Println("|---|---|---|---|")
	for _, m := range mutants {
		if !wanted.MatchString(m.name) || ctx.Err() != nil {
			continue
		}
		result, detail := outcome("-"), ""
		if !*list {
			if result, detail, err = m.try(ctx, root, *timeout, *baseline); err != nil {
				result, detail = broken, err.Error()
			}
			if result != caught && !*baseline || result != survived && *baseline {
				failed++
			}
		}
		fmt.Printf("| %s | `%s` in `%s` | %s | %s |\n", m.protection, m.name, m.file, m.caughtBy(), result)
		if detail != "" {
			fmt.Fprintf(os.Stderr, "%s: %s: %s\n", m.name, result, detail)
		}
	}
	if failed > 0 || ctx.Err() != nil {
		return 1
	}
	return 0
}

func moduleRoot() (string, error) {
	out, err := exec.Command("go", "list", "-m", "-f", "{{.Dir}}").Output()
	if err != nil {
		return "", fmt.Errorf("find the module: %w", err)
	}
	return strings.TrimSpace(string(out)), nil
}
