package replay_test

import (
	"context"
	"sync"
	"testing"

	"github.com/google/uuid"
	"github.com/stretchr/testify/require"

	"github.com/dopaminestore/dopamine/projections"
	"github.com/dopaminestore/dopamine/projections/replay"
	"github.com/dopaminestore/dopamine/tools/testkit"
)

// differences collects the differences that a comparison reports.
type differences struct {
	mu  sync.Mutex
	all []replay.Difference
}

func (d *differences) add(one replay.Difference) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.all = append(d.all, one)
}

// R8 and the replay of contract 6.
func TestReplay_BuildsTheRowsOfTheLiveProjection(t *testing.T) {
	t.Parallel()
	s := newSystem(t)
	s.runLive(testkit.Kafka(t))
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
	s.awaitCaughtUp()
	require.EqualValues(t, 29, s.count("SELECT count(DISTINCT type) FROM events"), "every type of event")
	require.Zero(t, s.count("SELECT count(*) FROM parked_events"))
	before := s.rows()
	// A window of a few rows, so that rows leave memory and are read back.
	for i, window := range []int{0, 2, 20} {
		cfg := s.config()
		cfg.Window, cfg.Verify, cfg.DropOld = window, i != 1, i == 2
		var found differences
		cfg.OnDifference = found.add
		require.NoError(t, replay.Run(context.Background(), cfg), found.all)
		require.Equal(t, before, s.rows(), "window %d", window)
		require.Equal(t, i+2, s.generation("purchase_slots"))
		for _, view := range []string{"products", "purchase_slots", "purchases", "slot_audit_log"} {
			require.EqualValues(t, s.count("SELECT count(*) FROM "+projections.Table(view, i+2)), s.count("SELECT count(*) FROM "+view))
		}
	}
	require.EqualValues(t, 4, s.count("SELECT count(*) FROM projection_generations"), "older ones are gone")
	require.EqualValues(t, 12, s.count("SELECT count(*) FROM projection_replays WHERE phase = 'swapped' AND position > 0 AND events = position"))

	// The live projection continues with the new generation.
	h := s.open(9)
	h.acquire(5)
	h.endSlots()
	s.awaitCaughtUp()
	require.Zero(t, s.count("SELECT count(*) FROM parked_events"))
	cfg := s.config()
	cfg.Verify = true
	require.NoError(t, replay.Run(context.Background(), cfg))
}

// replay --verify (contract 6).
func TestVerify_FindsCorruptRows(t *testing.T) {
	t.Parallel()
	s := newSystem(t)
	s.runLive(testkit.Kafka(t))
	h := s.open(1)
	h.acquire(50)
	h.endSlots()
	s.awaitCaughtUp()
	right := s.rows()
	s.exec("UPDATE purchase_slots_g1 SET unit = unit + 1000 WHERE arrival_sequence = 3")
	s.exec("DELETE FROM purchase_slots_g1 WHERE arrival_sequence = 4")
	s.exec("UPDATE purchase_slots_g1 SET last_position = last_position + 1, status = 'ACTIVE', ended_at = NULL, reclaim_status = NULL WHERE arrival_sequence = (SELECT min(arrival_sequence) FROM purchase_slots_g1 WHERE status <> 'ACTIVE' AND arrival_sequence > 4)")
	s.exec("UPDATE purchase_slots_names_g1 SET name = 'Spoilt'")
	s.exec("INSERT INTO slot_audit_log_g1 (event_id, type, slot_id, product_id, user_id, new_status, trace_id, actor, recorded_at, position, metadata) SELECT gen_random_uuid(), 'Made', slot_id, product_id, user_id, 'ACTIVE', '', '', now(), 1, '{}' FROM slot_audit_log_g1 LIMIT 1")
	cfg := s.config()
	cfg.Verify = true
	var found differences
	cfg.OnDifference = found.add
	require.ErrorIs(t, replay.Run(context.Background(), cfg), replay.ErrDiffers)
	byTable := map[string]map[uuid.UUID]bool{}
	columns := map[string]bool{}
	for _, d := range found.all {
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
	for _, p := range every() {
		require.Equal(t, 1, s.generation(p.Name()), "nothing was swapped, %s", p.Name())
	}
	require.Zero(t, s.count("SELECT count(*) FROM projection_generations WHERE state <> 'live'"))
	require.EqualValues(t, 2, s.count("SELECT count(*) FROM projection_replays WHERE phase = 'differs'"))
	require.EqualValues(t, 2, s.count("SELECT count(*) FROM projection_replays WHERE phase = 'interrupted'"))

	cfg.Verify = false
	require.NoError(t, replay.Run(context.Background(), cfg))
	require.Equal(t, right, s.rows())
}
