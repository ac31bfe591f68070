package e2e

import (
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/dopaminestore/dopamine/relay"
	"github.com/dopaminestore/dopamine/tools/dbtest"
	"github.com/dopaminestore/dopamine/tools/testkit"
)

// TestFleet_BehindPooler sells through a pgbouncer in transaction mode (contract 8).
func TestFleet_BehindPooler(t *testing.T) {
	d := dbtest.Both(t)
	pooled := testkit.PgBouncer(t, d.URL, "transaction")

	t.Run("processes with session locks refuse the pooler", func(t *testing.T) {
		f := newFleet(t, d.Pool, pooled)
		for _, args := range [][]string{{"relay"}, {"worker"}, {"replay", "all"}, {"migrate"}} {
			exit, _, errs := call(t, f.env(args[0]), args...)
			require.Equal(t, 2, exit, "%v: %s", args, errs)
			require.Contains(t, errs, "--database-direct-url (DOPAMINE_DATABASE_DIRECT_URL)", "%v", args)
		}
	})

	f := newFleet(t, d.Pool, pooled, "DOPAMINE_DATABASE_DIRECT_URL="+d.URL)
	f.run()
	t.Run("rush", func(t *testing.T) {
		f := f.in(t)
		p := f.rush("--buyers", "3000", "--stock", "100")
		status := p.wait(2 * time.Minute)
		r := report(p)
		require.Equal(t, 0, status, "%v", r.Broken)
		require.Equal(t, 100, r.Granted)
		f.outcome(r.Product)
		f.users.nobody().want(http.StatusOK, http.MethodGet, f.queryURL+"/v1/products/"+r.Product+"?at="+time.Now().UTC().Format(time.RFC3339), nil)
	})
	t.Run("one relay leads", func(t *testing.T) {
		// Behind the pooler two relays could share the session that has the lock.
		terms := 0
		for _, p := range f.relays {
			terms += strings.Count(p.said("stderr")+p.said("stdout"), `"msg":"leading"`)
		}
		require.Equal(t, 1, terms)
		require.Equal(t, 1, dbtest.One[int](t, d.Pool, `SELECT count(*) FROM pg_locks
			WHERE locktype = 'advisory' AND granted AND database = (SELECT oid FROM pg_database WHERE datname = current_database()) AND (classid::bigint << 32 | objid::bigint) = $1`, relay.LeaderLock))
	})
	t.Run("replay", func(t *testing.T) {
		exit, out, errs := call(t, f.env("replay"), "replay", "all", "--verify")
		require.Equal(t, 0, exit, "%s %s", out, errs)
	})
}
