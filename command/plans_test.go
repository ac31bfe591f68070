package command

import (
	"context"
	"encoding/json"
	"fmt"
	"regexp"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/stretchr/testify/require"

	"github.com/dopaminestore/dopamine/command/deadlines"
	"github.com/dopaminestore/dopamine/command/payments"
	"github.com/dopaminestore/dopamine/eventstore"
	"github.com/dopaminestore/dopamine/tools/dbtest"
	"github.com/dopaminestore/dopamine/tools/testkit"
)

const (
	// crowded is how many slots a product has in this test, and how many payments
	// there are: its tables have some hundred pages each.
	crowded = 30_000
	// pagesMost is how many pages a statement may look at. A look into an index is
	// three or four; the longest statements make some at once.
	pagesMost = 60
)

// TestStatements_DoNotScanTables: the cost of a command or a sweep does not depend
// on the number of other products, slots and payments, nor does a deletion or
// a pause read its product's slots. A plan depends on the server's statistics of
// the tables, so the test explains every statement that was sent, and
// repeats reads, while one product has all rows.
func TestStatements_DoNotScanTables(t *testing.T) {
	t.Parallel()
	s, sent := newTraced(t)
	n := s.node(t)
	s.reader = eventstore.NewReader(s.plain) // the test's own reads are not meant
	full := s.product(t, n, 2*crowded)
	s.fill(t, full)
	difference, err := s.gateStore.Compare(t.Context(), n.gate, full) // rebuilds the gate
	require.NoError(t, err)
	require.Empty(t, difference)
	dbtest.Exec(t, s.pool, "vacuum analyze")

	sent.watch()
	few := s.product(t, n, 5)
	for _, product := range []uuid.UUID{few, full} {
		buyer, slot, payment := s.paying(t, n, product)
		require.Equal(t, "duplicate-slot", s.acquire(t, n, buyer, product, "Idempotency-Key", "k").slug())
		s.timeOut(t, n, product, slot)
		require.Equal(t, 204, n.callback(t, uuid.NewString(), succeeded(payment, "10")).status)
		_, _, payment = s.paying(t, n, product)
		require.Equal(t, 204, n.callback(t, uuid.NewString(), failed(payment, "no")).status)
		require.Equal(t, 200, s.update(t, n, product, map[string]any{"paused": true, "stockIncrease": 1}).status)
		require.Equal(t, 409, s.update(t, n, product, map[string]any{"saleDate": time.Now().Add(time.Hour)}).status)
		require.Equal(t, 409, s.remove(t, n, product).status)
	}
	fresh := s.upcoming(t, n, 5, time.Hour)
	require.Equal(t, 200, s.update(t, n, fresh, map[string]any{"saleDate": time.Now().Add(2 * time.Hour)}).status)
	require.Equal(t, 204, s.remove(t, n, fresh).status)
	s.sweep(t, n)
	// All slots of the product are completed, so it can be deleted.
	_, err = s.plain.Exec(t.Context(), `update slot_claims set status = 'COMPLETED', due_at = null, warn_at = null where product_id = $1`, full)
	require.NoError(t, err)
	_, err = s.plain.Exec(t.Context(), "vacuum analyze slot_claims")
	require.NoError(t, err)
	require.Equal(t, 204, s.remove(t, n, full).status)

	require.Greater(t, len(sent.statements), 100)
	for _, st := range sent.statements {
		s.requireNarrow(t, st)
	}
}

// traced is a system that records its statements; plain is another pool on its database.
type traced struct {
	*system
	plain *pgxpool.Pool
}

func newTraced(t *testing.T) (traced, *statements) {
	t.Helper()
	sent := &statements{}
	s := newSystem(t, testkit.Redis(t))
	cfg := s.pool.Config()
	cfg.ConnConfig.Tracer = sent
	pool, err := pgxpool.NewWithConfig(t.Context(), cfg)
	require.NoError(t, err)
	t.Cleanup(pool.Close)
	plain := s.pool
	s.pool, s.reader, s.stores = pool, eventstore.NewReader(pool), newStores(pool)
	return traced{s, plain}, sent
}

// fill gives the product its slots, half of them paid, with all other rows
// that grow with them. The gate must then be rebuilt.
func (s traced) fill(t *testing.T, product uuid.UUID) {
	t.Helper()
	require.NoError(t, pgx.BeginFunc(t.Context(), s.plain, func(tx pgx.Tx) error {
		run := func(sql string, args ...any) {
			_, err := tx.Exec(t.Context(), sql, args...)
			require.NoError(t, err, sql)
		}
		run(`create temp table made on commit drop as
			select i, gen_random_uuid() as slot, gen_random_uuid() as buyer, g.epoch * 10000000000 + 1000 + i as number
			from product_gates g, generate_series(1, $2::int) i where g.product_id = $1`, product, crowded)
		run(`insert into slot_numbers select $1, number, 'claimed', i from made`, product)
		run(`insert into slot_claims (product_id, unit, slot_id, number, buyer, acquired_at, status, deadline, due_at, position)
			select $1, i, slot, number, buyer, now(), case i % 2 when 0 then 'ACTIVE' else 'COMPLETED' end,
			       now() + interval '1 h', case i % 2 when 0 then now() + interval '1 h' end, i from made`, product)
		run(`insert into events select h.head + i, gen_random_uuid(), slot, 1, $1, 'SlotAcquired', 1,
			json_build_object('userId', buyer, 'unit', i, 'arrivalSequence', number, 'ttl', 3600000, 'warning', 0), '', '', '', '', h.at
			from made, (select max(position) as head, max(recorded_at) as at from events) h`, product)
		run(`insert into payments (payment_id, slot_id, product_id, user_id, amount, currency, method, status, initiated_at, posted_at, ask_at)
			select gen_random_uuid(), slot, $1, buyer, 10, 'KRW', 'CARD', 'PENDING', now(), now(), now() + interval '1 h' from made`, product)
		run(`insert into payment_keys select buyer, gen_random_uuid(), sha256('x'), '{}', $1, 1, now() from made`, product)
		run(`insert into webhook_ids select slot::text, $1, 1, now() from made`, product)
		return nil
	}))
}

// sweep runs the queries of a worker.
func (s traced) sweep(t *testing.T, n node) {
	t.Helper()
	for _, find := range []func(context.Context, int) ([]deadlines.Slot, error){s.deadlines.DueForExpiry, s.deadlines.DueForTimeout, s.deadlines.DueForWarning} {
		_, err := find(t.Context(), 20_000)
		require.NoError(t, err)
	}
	for _, until := range []func(context.Context) (time.Duration, bool, error){s.deadlines.UntilExpiry, s.deadlines.UntilWarning} {
		_, _, err := until(t.Context())
		require.NoError(t, err)
	}
	for _, step := range payments.Steps {
		_, err := n.payments.Due(t.Context(), step, 256)
		require.NoError(t, err)
	}
	_, err := n.payments.CancelledSlots(t.Context(), 256)
	require.NoError(t, err)
	_, err = n.payments.CancelledPurchases(t.Context(), 256)
	require.NoError(t, err)
	require.NoError(t, n.payments.Observe(t.Context()))
	require.NoError(t, n.payments.Purge(t.Context()))
}

// statement is a recorded statement.
type statement struct {
	sql  string
	args []any
}

// statements records what is sent.
type statements struct {
	mu         sync.Mutex
	watching   bool
	statements []statement
}

func (s *statements) watch() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.watching = true
}

func (s *statements) add(sql string, args []any) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.watching {
		s.statements = append(s.statements, statement{strings.TrimSpace(sql), args})
	}
}

func (s *statements) TraceQueryStart(ctx context.Context, _ *pgx.Conn, d pgx.TraceQueryStartData) context.Context {
	s.add(d.SQL, d.Args)
	return ctx
}
func (s *statements) TraceQueryEnd(context.Context, *pgx.Conn, pgx.TraceQueryEndData) {}
func (s *statements) TraceBatchStart(ctx context.Context, _ *pgx.Conn, _ pgx.TraceBatchStartData) context.Context {
	return ctx
}
func (s *statements) TraceBatchQuery(_ context.Context, _ *pgx.Conn, d pgx.TraceBatchQueryData) {
	s.add(d.SQL, d.Args)
}
func (s *statements) TraceBatchEnd(context.Context, *pgx.Conn, pgx.TraceBatchEndData) {}

var (
	reads  = regexp.MustCompile(`^(select|with)\b`)
	writes = regexp.MustCompile(`\b(insert into|update|delete from)\b`)
	// through matches a plan that scans a growing table.
	through = regexp.MustCompile(`"Seq Scan"[^{}]*"Relation Name": "(events|slot_claims|slot_numbers|payments|payment_keys|webhook_ids)"`)
	pages   = regexp.MustCompile(`"Shared (?:Hit|Read) Blocks": (\d+)`)
)

// requireNarrow explains the statement, and repeats it if it
// only reads.
func (s traced) requireNarrow(t *testing.T, st statement) {
	t.Helper()
	read, write := reads.MatchString(st.sql), writes.MatchString(st.sql)
	if !read && !write {
		return // begin, commit, …
	}
	how := "explain (analyze, buffers, format json) "
	if write {
		how = "explain (format json) "
	}
	var plan []byte
	tx, err := s.plain.Begin(t.Context())
	require.NoError(t, err)
	defer func() { require.NoError(t, tx.Rollback(context.Background())) }()
	// As inside an append, and with the products of that moment.
	dbtest.Exec(t, tx, `select set_config('dopamine.event_now', clock_timestamp()::text, true);
		set local session_replication_role = replica;
		update product_gates set deleted = false where deleted`)
	require.NoError(t, tx.QueryRow(t.Context(), how+st.sql, st.args...).Scan(&plan), st.sql)
	require.False(t, through.Match(plan), "%s\n%s", st.sql, plan)
	if write {
		return
	}
	// The counts of the first node include all nodes below it.
	var whole []struct{ Plan json.RawMessage }
	require.NoError(t, json.Unmarshal(plan, &whole))
	seen := 0
	for _, m := range pages.FindAllSubmatch(whole[0].Plan, 2) {
		var p int
		_, err := fmt.Sscan(string(m[1]), &p)
		require.NoError(t, err)
		seen += p
	}
	require.LessOrEqual(t, seen, pagesMost, "%s\n%s", st.sql, plan)
}
