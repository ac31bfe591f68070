package gatestore

import (
	"context"
	"testing"

	"github.com/google/uuid"
	"github.com/stretchr/testify/require"

	"github.com/dopaminestore/dopamine/tools/dbtest"
)

// A page of a snapshot is read by the primary key, even if Postgres has no
// statistics of the table: if it sorted, each page would read all claims of the product.
func TestSnapshot_PagesAreNotSorted(t *testing.T) {
	pool := dbtest.Write(t)
	tx, err := pool.Begin(t.Context())
	require.NoError(t, err)
	defer func() { require.NoError(t, tx.Rollback(context.Background())) }()
	product := uuid.New()
	dbtest.Exec(t, tx, `set local session_replication_role = replica`) // only the claims
	dbtest.Exec(t, tx, `insert into slot_claims (product_id, unit, slot_id, number, buyer, acquired_at, deadline, due_at, position)
		select $1, n, gen_random_uuid(), n, gen_random_uuid(), now(), now() + interval '1 h', now() + interval '1 h', n from generate_series(1, 30000) n`, product)
	dbtest.Exec(t, tx, snapshotSettingsSQL)
	for _, mode := range []string{"force_custom_plan", "force_generic_plan"} {
		dbtest.Exec(t, tx, "set local plan_cache_mode = "+mode)
		plan := dbtest.One[string](t, tx, "explain (format json) "+holdersSQL, product, 10_000, snapshotPage)
		require.Contains(t, plan, "slot_claims_pkey")
		require.NotContains(t, plan, "Sort")
	}
}
