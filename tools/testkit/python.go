package testkit

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
	"time"

	"github.com/dopaminestore/dopamine/tools/devservices"
)

const (
	// pythonAttempts is how often the packages of a requirements file are asked for: an index
	// that is away for a moment fails no run.
	pythonAttempts = 3
	// pythonTimeout bounds each attempt.
	pythonTimeout = 5 * time.Minute
)

// Python returns an interpreter with the packages of a requirements file, in a virtual
// environment that is made once for this machine. Only built packages are installed, so no
// compiler is needed. Without them the test is skipped and reported as NOT RUN.
func Python(tb testing.TB, requirements string) string {
	tb.Helper()
	interpreter, err := python(tb.Context(), requirements)
	if err != nil {
		skipFor(tb, "Python and the packages of "+filepath.Base(filepath.Dir(requirements)), err)
	}
	return interpreter
}

func python(ctx context.Context, requirements string) (string, error) {
	text, err := os.ReadFile(requirements)
	if err != nil {
		return "", err
	}
	cache, err := os.UserCacheDir()
	if err != nil {
		cache = os.TempDir()
	}
	sum := sha256.Sum256(text)
	dir := filepath.Join(cache, "dopamine", "python-"+hex.EncodeToString(sum[:6]))
	interpreter, complete := filepath.Join(dir, "bin", "python"), filepath.Join(dir, "complete")
	if _, err := os.Stat(complete); err == nil {
		return interpreter, nil
	}
	base, err := devservices.Program(ctx, nil, "python3-venv", "python3")
	if err != nil {
		return "", err
	}
	for range pythonAttempts {
		if err = install(ctx, base, dir, interpreter, requirements); err == nil {
			return interpreter, os.WriteFile(complete, nil, 0o644)
		}
	}
	return "", err
}

func install(ctx context.Context, base, dir, interpreter, requirements string) error {
	ctx, cancel := context.WithTimeout(ctx, pythonTimeout)
	defer cancel()
	for _, args := range [][]string{
		{base, "-m", "venv", "--clear", dir},
		{interpreter, "-m", "pip", "install", "-q", "--disable-pip-version-check", "--only-binary", ":all:", "-r", requirements},
	} {
		if out, err := exec.CommandContext(ctx, args[0], args[1:]...).CombinedOutput(); err != nil {
			return fmt.Errorf("%s: %w: %.500s", args[2], err, out)
		}
	}
	return nil
}
