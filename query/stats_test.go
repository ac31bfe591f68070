package query_test

import (
	"context"
	"fmt"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/stretchr/testify/require"

	"github.com/dopaminestore/dopamine/internal/kafka"
	"github.com/dopaminestore/dopamine/query"
	"github.com/dopaminestore/dopamine/tools/dbtest"
)

// decide adds a line to a product's decision log, as the worker does.
func (w *world) decide(product uuid.UUID, line int64, columns, values string) {
	w.t.Helper()
	w.exec(`INSERT INTO gate_decisions (product_id, epoch, line, `+columns+`) VALUES ($1, 0, $2, `+values+`)`, product, line)
}

func statsOf(e event, product uuid.UUID) map[string]any {
	for _, p := range e.data["products"].([]any) {
		if p := p.(map[string]any); p["id"] == product.String() {
			return p
		}
	}
	return nil
}

// GET /v1/stats/stream (contract 7).
func TestStats_Stream(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	shoe := w.product(1, product{name: "Shoe", stock: 3, total: 10})
	sold := w.product(1, product{stock: 0, begin: time.Now().Add(-10 * time.Minute)})
	gone := w.product(1, product{stock: 0})
	soon := w.product(1, product{stock: 5, begin: time.Now().Add(4 * time.Second)})
	paused := w.product(1, product{stock: 5, paused: true})
	ended := w.product(1, product{stock: 5, end: ptr(day.Add(time.Hour))})
	w.payment(1, payment{product: shoe})
	due := w.payment(1, payment{product: shoe, status: "FAILED"})
	w.exec(`INSERT INTO refunds_g1 VALUES ($1, $1, 5, 'KRW', 'LATE', 'DUE', false, 'SLOT_EXPIRED', NULL, now(), now(), 1)`, due)
	w.decide(shoe, 1, "type, units", "'opened', 10")
	w.exec(`INSERT INTO events (position, id, stream, version, key, type, schema_version, payload, traceparent, correlation_id, causation_id, actor, recorded_at)
		SELECT n, gen_random_uuid(), gen_random_uuid(), 1, $1, 'T', 1, '{}', '', '', '', '', now() FROM generate_series(1, 20) n`, shoe)
	last := make([]int64, partitions)
	last[kafka.Partition(shoe, partitions)] = 15
	w.exec(`INSERT INTO relay_place (cluster_id, topic_id, position, event_id, last) VALUES ('c', 't', 15, gen_random_uuid(), $1)`, last)
	w.applied(shoe, 15)
	w.applied(shoe, 12, "purchases")

	s := w.stream("/v1/stats/stream", w.token(uuid.New(), admin))
	began := time.Now()
	first := s.next()
	require.Less(t, time.Since(began), 900*time.Millisecond)
	require.Equal(t, "stats", first.name)
	first.conforms(t, "Stats")
	got := statsOf(first, shoe)
	require.Equal(t, map[string]any{"id": shoe.String(), "name": "Shoe", "free": 3.0, "totalStock": 10.0, "grantsPerSecond": 0.0, "refusalsPerSecond": 0.0}, got)
	require.NotNil(t, statsOf(first, sold))
	for _, off := range []uuid.UUID{soon, paused, ended, gone} {
		require.Nil(t, statsOf(first, off))
	}
	require.Equal(t, []any{1.0, 1.0, 5.0}, []any{first.data["pendingPayments"], first.data["refundsDue"], first.data["relayLag"]})
	require.Equal(t, map[string]any{"products": 5.0, "purchase_slots": 5.0, "purchases": 8.0, "slot_audit_log": 5.0}, first.data["projectionLag"])

	// Seven grants and a run of refusals that grows.
	for n := range int64(7) {
		w.decide(shoe, 2+n, "type, sequence, unit", "'granted', 1, 1")
	}
	w.decide(shoe, 9, "type, from_number, to_number, sold_out, duplicate, not_started, closed", "'refused', 8, 107, 90, 10, 0, 0")
	w.decide(soon, 1, "type, units", "'opened', 5")
	var granted, refused, early float64
	// The sale of soon begins meanwhile: grants made in that second are counted.
	for n := range 8 {
		w.decide(soon, 2+int64(n), "type, sequence, unit", fmt.Sprintf("'granted', %d, %d", n+1, n+1))
		w.exec(`UPDATE gate_decisions SET to_number = to_number + 20, sold_out = sold_out + 20 WHERE product_id = $1 AND type = 'refused'`, shoe)
		e := s.next()
		granted = max(granted, statsOf(e, shoe)["grantsPerSecond"].(float64))
		refused = max(refused, statsOf(e, shoe)["refusalsPerSecond"].(float64))
		if p := statsOf(e, soon); p != nil {
			early = max(early, p["grantsPerSecond"].(float64))
		}
	}
	require.InDelta(t, 5, granted, 2.1)
	require.InDelta(t, 85, refused, 45)
	require.Positive(t, early, "the first second of a sale counts")
}

// The decision logs are only a part of the stats: if they cannot be read in time, only the rates are
// unknown.
func TestStats_WhileTheDecisionLogsCannotBeRead(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.product(1, product{stock: 3})
	tx, err := w.pool.Begin(context.Background())
	require.NoError(t, err)
	t.Cleanup(func() { _ = tx.Rollback(context.Background()) })
	dbtest.Exec(t, tx, "LOCK TABLE gate_decisions IN ACCESS EXCLUSIVE MODE") // as slow as a log of millions of lines
	boss := w.token(uuid.New(), admin)
	first := w.stream("/v1/stats/stream", boss).next()
	first.conforms(t, "Stats")
	shown := first.data["products"].([]any)[0].(map[string]any)
	require.Equal(t, []any{3.0, nil, nil}, []any{shown["free"], shown["grantsPerSecond"], shown["refusalsPerSecond"]})
	require.Equal(t, "operations", w.stream("/dashboard/stream", boss).next().name)
}

// TestStats_WithoutTheWriteSide omits the values that are unknown.
func TestStats_WithoutTheWriteSide(t *testing.T) {
	t.Parallel()
	whole := newWorld(t)
	w := newWorldOver(t, query.Config{ReadPool: whole.pool})
	w.product(1, product{stock: 3})
	first := w.stream("/v1/stats/stream", w.token(uuid.New(), admin)).next()
	first.conforms(t, "Stats")
	require.Nil(t, first.data["relayLag"])
	require.Empty(t, first.data["projectionLag"])
	require.Nil(t, first.data["products"].([]any)[0].(map[string]any)["grantsPerSecond"])
}

func TestOperations_Stream(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	shoe := uuid.New()
	w.name(1, shoe, "Shoe")
	ending := w.slot(1, slot{product: shoe, user: uuid.New(), at: time.Now(), life: 2 * time.Minute})
	w.slot(1, slot{product: shoe, user: uuid.New(), at: time.Now()})
	w.exec(`INSERT INTO projection_replays (projection, generation, source, phase, events, position, target, rate) VALUES ('products', 2, 'store', 'reading', 500, 600, 1000, 200)`)
	first := w.stream("/dashboard/stream", w.token(uuid.New(), admin)).next()
	require.Equal(t, "operations", first.name)
	first.conforms(t, "Operations")
	expiring := first.data["expiring"].(map[string]any)
	require.EqualValues(t, 1, expiring["count"])
	require.Equal(t, ending.String(), expiring["slots"].([]any)[0].(map[string]any)["id"])
	require.EqualValues(t, 500, first.data["replays"].([]any)[0].(map[string]any)["events"])
	require.Len(t, first.data["projections"], 4)
}
