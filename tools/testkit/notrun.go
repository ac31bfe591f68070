package testkit

import (
	"fmt"
	"os"
	"path/filepath"
	"testing"
)

// missing reports what could not be run against the real service. With DOPAMINE_REQUIRE_REAL=1 it
// fails the test.
func missing(tb testing.TB, what string, why error) {
	tb.Helper()
	line := fmt.Sprintf("NOT RUN: %s with %s (%v)", tb.Name(), what, why)
	if os.Getenv("DOPAMINE_REQUIRE_REAL") == "1" {
		tb.Fatal(line)
	}
	tb.Log(line)
	if err := writeNotRun(line); err != nil {
		tb.Errorf("write down what was not run: %v", err)
	}
}

// skipFor skips the test because it makes no sense without the real thing.
func skipFor(tb testing.TB, what string, why error) {
	tb.Helper()
	missing(tb, what, why)
	tb.Skipf("needs %s: %v", what, why)
}

// NotRun skips a test that needs a program which this machine lacks, and reports it.
func NotRun(tb testing.TB, what string, why error) {
	tb.Helper()
	skipFor(tb, what, why)
}

func writeNotRun(line string) error {
	path := os.Getenv("DOPAMINE_NOT_RUN_FILE")
	if path == "" {
		return nil
	}
	if !filepath.IsAbs(path) {
		dir, err := stateDir()
		if err != nil {
			return err
		}
		path = filepath.Join(dir, path)
	}
	// One write of a line in append mode: several test binaries write to it.
	f, err := os.OpenFile(path, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o644)
	if err != nil {
		return err
	}
	if _, err := f.WriteString(oneLine(line) + "\n"); err != nil {
		_ = f.Close()
		return err
	}
	return f.Close()
}

// oneLine keeps the file readable by line: errors of services have several.
func oneLine(s string) string {
	b := []byte(s)
	for i, c := range b {
		if c == '\n' || c == '\r' {
			b[i] = ' '
		}
	}
	return string(b)
}
