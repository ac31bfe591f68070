package testkit

import (
	"testing"

	"github.com/dopaminestore/dopamine/tools/devservices"
)

// Chromium returns the path of a Chromium; see Program.
func Chromium(tb testing.TB) string {
	tb.Helper()
	return Program(tb, "chromium", "chromium", "chromium-browser", "google-chrome")
}

// Program returns the path of the first of the named programs that the machine has. As root it
// installs the Debian package if there is none. If the program is not available, the test is
// skipped and reported as NOT RUN.
func Program(tb testing.TB, debianPackage string, names ...string) string {
	tb.Helper()
	path, err := devservices.Program(tb.Context(), nil, debianPackage, names...)
	if err != nil {
		skipFor(tb, names[0], err)
	}
	return path
}
