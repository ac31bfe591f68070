package testkit

import (
	"testing"

	"github.com/dopaminestore/dopamine/internal/stack"
)

// Chromium gives the path of a Chromium; the test is skipped, and said not to
// have run, where none can be had.
func Chromium(tb testing.TB) string {
	tb.Helper()
	path, err := stack.Chromium(tb.Context(), nil)
	if err != nil {
		skipFor(tb, "Chromium", err)
	}
	return path
}
