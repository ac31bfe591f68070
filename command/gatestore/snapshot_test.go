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
	_, err = tx.Exec(t.Context(), `set local session_replication_role = replica`) // only the claims
	require.NoError(t, err)
	_, err = tx.Exec(t.Context(), `insert into slot_claims (product_id, unit, slot_id, number, buyer, acquired_at, deadline, due_at, position)
		select $1, n, gen_random_uuid(), n, gen_random_uuid(), now(), now() + interval '1 h', now() + interval '1 h', n from generate_series(1, 30000) n`, product)
	require.NoError(t, err)
	_, err = tx.Exec(t.Context(), snapshotSettingsSQL)
	require.NoError(t, err)
	for _, mode := range []string{"force_custom_plan", "force_generic_plan"} {
		_, err = tx.Exec(t.Context(), "set local plan_cache_mode = "+mode)
		require.NoError(t, err)
		var plan string
		require.NoError(t, tx.QueryRow(t.Context(), "explain (format json) "+holdersSQL, product, 10_000, snapshotPage).Scan(&plan))
		require.Contains(t, plan, "slot_claims_pkey")
		require.NotContains(t, plan, "Sort")
	}
}
