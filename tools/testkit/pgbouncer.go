package testkit

import (
	"context"
	"errors"
	"testing"

	"github.com/dopaminestore/dopamine/tools/devservices"
)

// PgBouncer starts a pgbouncer of the test's own in front of the Postgres at server, in
// the pool mode session or transaction, and returns the server's URL through it. Without
// the program the test is skipped.
func PgBouncer(tb testing.TB, server, mode string) string {
	tb.Helper()
	const serverConnections = 20
	b, err := devservices.StartPgBouncer(context.Background(), tb.TempDir(), server, mode, serverConnections)
	if errors.Is(err, devservices.ErrNotHere) {
		skipFor(tb, "pgbouncer", err)
	}
	if err != nil {
		tb.Fatalf("start pgbouncer: %v", err)
	}
	tb.Cleanup(func() {
		if err := b.Stop(context.Background()); err != nil {
			tb.Errorf("stop pgbouncer: %v", err)
		}
	})
	return b.URL()
}
