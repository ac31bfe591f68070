package e2e

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"sync"
	"testing"

	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"
)

// built is the folder with the program, which the first test that runs it builds.
var built string

func TestMain(m *testing.M) {
	goleak.VerifyTestMain(m, goleak.Cleanup(func(status int) {
		if built != "" {
			_ = os.RemoveAll(built)
		}
		os.Exit(status)
	}))
}

var build = sync.OnceValues(func() (string, error) {
	dir, err := os.MkdirTemp("", "dopamine-e2e-")
	if err != nil {
		return "", err
	}
	built = dir
	// As an unprivileged user the program must be reachable too.
	if err := os.Chmod(dir, 0o755); err != nil {
		return "", err
	}
	binary := filepath.Join(dir, "dopamine")
	if out, err := exec.Command("go", "build", "-o", binary, "../../cmd/dopamine").CombinedOutput(); err != nil {
		return "", fmt.Errorf("build the program: %w: %s", err, out)
	}
	return binary, nil
})

// program returns the path of the built program.
func program(t *testing.T) string {
	t.Helper()
	binary, err := build()
	require.NoError(t, err)
	return binary
}
