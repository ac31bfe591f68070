package replay_test

import (
	"context"
	"testing"

	"github.com/google/uuid"
	"github.com/stretchr/testify/require"

	"github.com/dopaminestore/dopamine/projections"
	"github.com/dopaminestore/dopamine/projections/replay"
	"github.com/dopaminestore/dopamine/tools/pipelinetest"
)

// R8 and the replay of contract 6.
func TestReplay_BuildsTheRowsOfTheLiveProjection(t *testing.T) {
	t.Parallel()
	s := newLiveSystem(t)
	for seed := range uint64(3) {
		h := s.open(seed)
		h.acquire(60)
		h.endSlots()
		h.acquire(30)
		h.endSlots()
		if seed == 2 {
			h.close()
		}
	}
	s.AwaitCaughtUp()
	require.EqualValues(t, 29, s.Count("SELECT count(DISTINCT type) FROM events"), "every type of event")
	require.Zero(t, s.Count("SELECT count(*) FROM parked_events"))
	before := s.LiveRows()
	// A window of a few rows, so that rows leave memory and are read back.
	for i, window := range []int{0, 2, 20} {
		s.verify(func(c *replay.Config) { c.Window, c.Verify, c.DropOld = window, i != 1, i == 2 })
		require.Equal(t, before, s.LiveRows(), "window %d", window)
		require.Equal(t, i+2, s.Generation("purchase_slots"))
		for _, view := range []string{"products", "purchase_slots", "purchases", "slot_audit_log"} {
			require.EqualValues(t, s.Count("SELECT count(*) FROM "+projections.Table(view, i+2)), s.Count("SELECT count(*) FROM "+view))
		}
	}
	require.EqualValues(t, 4, s.Count("SELECT count(*) FROM projection_generations"), "older ones are gone")
	require.EqualValues(t, 12, s.Count("SELECT count(*) FROM projection_replays WHERE phase = 'swapped' AND position > 0 AND events = position"))

	// The live projection continues with the new generation.
	h := s.open(9)
	h.acquire(5)
	h.endSlots()
	s.AwaitCaughtUp()
	require.Zero(t, s.Count("SELECT count(*) FROM parked_events"))
	s.verify()
}

// replay --verify (contract 6).
func TestVerify_FindsCorruptRows(t *testing.T) {
	t.Parallel()
	s, _ := newLiveShop(t, 50)
	right := s.LiveRows()
	s.Exec("UPDATE purchase_slots_g1 SET unit = unit + 1000 WHERE arrival_sequence = 3")
	s.Exec("DELETE FROM purchase_slots_g1 WHERE arrival_sequence = 4")
	s.Exec("UPDATE purchase_slots_g1 SET last_position = last_position + 1, status = 'ACTIVE', ended_at = NULL, reclaim_status = NULL WHERE arrival_sequence = (SELECT min(arrival_sequence) FROM purchase_slots_g1 WHERE status <> 'ACTIVE' AND arrival_sequence > 4)")
	s.Exec("UPDATE purchase_slots_names_g1 SET name = 'Spoilt'")
	s.Exec("INSERT INTO slot_audit_log_g1 (event_id, type, slot_id, product_id, user_id, new_status, trace_id, actor, recorded_at, position, metadata) SELECT gen_random_uuid(), 'Made', slot_id, product_id, user_id, 'ACTIVE', '', '', now(), 1, '{}' FROM slot_audit_log_g1 LIMIT 1")
	found, err := s.replay(func(c *replay.Config) { c.Verify = true })
	require.ErrorIs(t, err, replay.ErrDiffers)
	byTable := map[string]map[uuid.UUID]bool{}
	columns := map[string]bool{}
	for _, d := range found {
		if byTable[d.Table] == nil {
			byTable[d.Table] = map[uuid.UUID]bool{}
		}
		byTable[d.Table][d.Key] = true
		columns[d.Table+"."+d.Column] = true
		if d.Column == "name" {
			require.Equal(t, `"Spoilt"`, d.Live)
			require.Contains(t, d.Store, "Lamp")
		}
	}
	require.Len(t, byTable["purchase_slots"], 3)
	require.Len(t, byTable["purchase_slots_names"], 1)
	require.Len(t, byTable["slot_audit_log"], 1)
	require.Empty(t, byTable["products"])
	for _, c := range []string{"purchase_slots.unit", "purchase_slots.", "purchase_slots.status", "slot_audit_log."} {
		require.True(t, columns[c], "%s among %v", c, columns)
	}
	for _, p := range pipelinetest.Rebuildable() {
		require.Equal(t, 1, s.Generation(p.Name()), "nothing was swapped, %s", p.Name())
	}
	require.Zero(t, s.Count("SELECT count(*) FROM projection_generations WHERE state <> 'live'"))
	require.EqualValues(t, 2, s.Count("SELECT count(*) FROM projection_replays WHERE phase = 'differs'"))
	require.EqualValues(t, 2, s.Count("SELECT count(*) FROM projection_replays WHERE phase = 'interrupted'"))

	require.NoError(t, replay.Run(context.Background(), s.config()))
	require.Equal(t, right, s.LiveRows())
}
