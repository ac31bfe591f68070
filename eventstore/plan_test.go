package eventstore

import (
	"encoding/json"
	"testing"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
	"github.com/stretchr/testify/require"

	"github.com/dopaminestore/dopamine/tools/dbtest"
)

// One key's events are read without reading those of others, whatever share of
// the log it has, with a custom and a generic plan: above all the old
// events of a product that was once busy and has no new ones.
func TestReadPartition_ReadsNoOtherEvents(t *testing.T) {
	pool := dbtest.Write(t)
	old, busy := uuid.New(), uuid.New()
	const events, olds = 30_000, 9_000
	dbtest.Exec(t, pool, `insert into events
		select n, gen_random_uuid(), gen_random_uuid(), 1, case when n <= $3::int then $1::uuid else $2::uuid end, 'Any', 1, '{}', '', '', '', '', now()
		from generate_series(1, $4::int) n`, old, busy, olds, events)
	dbtest.Exec(t, pool, "vacuum analyze events")
	conn, err := pool.Acquire(t.Context())
	require.NoError(t, err)
	defer conn.Release()
	dbtest.Exec(t, conn, "prepare by_key(uuid, bigint, bigint, int) as "+keySQL)
	for _, mode := range []string{"force_custom_plan", "force_generic_plan"} {
		dbtest.Exec(t, conn, "set plan_cache_mode = "+mode)
		for _, c := range []struct {
			key   uuid.UUID
			after int
			pages float64
		}{
			{old, olds, 10},        // nothing, followed by 21,000 of others
			{old, olds - 10, 20},   // the last few
			{uuid.New(), 0, 10},    // unknown
			{busy, 0, 20},          // the first few, followed by 9,000 of others
			{busy, events - 9, 20}, // the last few
		} {
			require.LessOrEqual(t, pagesOf(t, conn.Conn(), c.key, c.after), c.pages, "%s: %+v", mode, c)
		}
	}
}

// pagesOf returns how many pages are read for ten events after a position.
func pagesOf(t *testing.T, conn *pgx.Conn, key uuid.UUID, after int) float64 {
	t.Helper()
	var plan []byte
	err := conn.QueryRow(t.Context(), "explain (analyze, buffers, format json) execute by_key("+
		"$1, $2, 9223372036854775807, 10)", pgx.QueryExecModeSimpleProtocol, key, after).Scan(&plan)
	require.NoError(t, err)
	var whole []struct{ Plan map[string]any }
	require.NoError(t, json.Unmarshal(plan, &whole))
	return whole[0].Plan["Shared Hit Blocks"].(float64) + whole[0].Plan["Shared Read Blocks"].(float64)
}
