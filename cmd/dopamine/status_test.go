package main

import (
	"bytes"
	"context"
	"encoding/json"
	"strings"
	"testing"

	"github.com/google/uuid"
	"github.com/stretchr/testify/require"

	"github.com/dopaminestore/dopamine/internal/status"
	"github.com/dopaminestore/dopamine/tools/dbtest"
	"github.com/dopaminestore/dopamine/tools/testkit"
)

// nobodyListens is an address on which no server listens.
const nobodyListens = "127.0.0.1:1"

// dopamine runs the program with the arguments, in a folder without a dev.
func dopamine(t *testing.T, args ...string) (exit int, stdout, stderr string) {
	t.Helper()
	t.Chdir(t.TempDir())
	var out, errs bytes.Buffer
	exit = run(context.Background(), append([]string{"dopamine"}, args...), &out, &errs)
	return exit, out.String(), errs.String()
}

func TestStatus_EmptySystem(t *testing.T) {
	d := dbtest.Both(t)
	exit, out, errs := dopamine(t, "status", "--json", "--database-url", d.URL, "--redis-url", testkit.Redis(t))
	require.Equal(t, 0, exit, errs)
	var r status.Report
	require.NoError(t, json.Unmarshal([]byte(out), &r), out)
	require.Empty(t, r.Unreachable)
	require.Zero(t, r.Store.Head)
	require.Regexp(t, `^[0-9a-f-]{36}/1$`, r.Store.Identity, "store id and incarnation")
	require.Len(t, r.Projections, 4)
	for _, p := range r.Projections {
		require.Equal(t, 1, p.Generation, p.Name)
		require.Equal(t, int64(0), *p.Lag)
	}
	require.NotNil(t, r.Gates)
}

func TestStatus_ShowsMoneyThatWaitsForAnOperator(t *testing.T) {
	d := dbtest.Both(t)
	payment := uuid.New()
	dbtest.Exec(t, d.Pool, `
		INSERT INTO payments (payment_id, slot_id, product_id, user_id, amount, currency, method, status, initiated_at, posted_at, unsettled)
		VALUES ($1, $1, $1, $1, 259000, 'KRW', 'CARD', 'FAILED', now(), now(), true)`, payment)
	exit, out, errs := dopamine(t, "status", "--database-url", d.URL)
	require.Equal(t, 0, exit, errs)
	require.Contains(t, out, payment.String())
	require.Contains(t, out, "OUTCOME_UNKNOWN")
	require.Contains(t, out, "workers:     0 (NONE RUNS)")
}

func TestStatus_ReportsUnavailableParts(t *testing.T) {
	d := dbtest.Both(t)
	product := uuid.New()
	dbtest.Exec(t, d.Pool, `
		INSERT INTO parked_events (projection, generation, row_key, position, topic, partition, event_type, error, behind)
		VALUES ('products', 1, $1, 7, 't', 0, 'SlotAcquired', 'it has no row', false)`, product)
	exit, out, _ := dopamine(t, "status", "--database-url", "postgres://"+nobodyListens+"/x", "--read-database-url", d.URL, "--redis-url", "redis://"+nobodyListens)
	require.Equal(t, 0, exit, "what can be seen is shown")
	require.Contains(t, out, "not reached: event store")
	require.Contains(t, out, "not reached: gates")
	require.Contains(t, out, "slot_audit_log")
	require.Contains(t, out, product.String())
	for line := range strings.Lines(out) {
		require.LessOrEqual(t, len([]rune(strings.TrimRight(line, "\n"))), plainWidth, line)
	}
	exit, _, errs := dopamine(t, "status")
	require.Equal(t, 2, exit)
	require.Contains(t, errs, "--database-url")
	exit, _, _ = dopamine(t, "status", "--database-url", "postgres://"+nobodyListens+"/x")
	require.Equal(t, 1, exit, "nothing could be seen")
}
