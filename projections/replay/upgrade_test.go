package replay_test

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/stretchr/testify/require"

	"github.com/dopaminestore/dopamine/avsc"
	"github.com/dopaminestore/dopamine/db"
	"github.com/dopaminestore/dopamine/domain"
	"github.com/dopaminestore/dopamine/eventstore"
	"github.com/dopaminestore/dopamine/projections"
	"github.com/dopaminestore/dopamine/projections/replay"
	"github.com/dopaminestore/dopamine/tools/dbtest"
	"github.com/dopaminestore/dopamine/tools/pipelinetest"
	"github.com/dopaminestore/dopamine/tools/storetest"
	"github.com/dopaminestore/dopamine/tools/testkit"
)

// firstRelease are the migrations of the version before refunds had ids.
const firstRelease = "20261101"

// migrateToFirstRelease gives an empty database the read side's tables of that
// version, as its program left them.
func migrateToFirstRelease(t *testing.T, pool *pgxpool.Pool) {
	t.Helper()
	files, err := filepath.Glob("../../db/read/" + firstRelease + "*.sql")
	require.NoError(t, err)
	require.NotEmpty(t, files)
	exec := func(sql string, args ...any) {
		dbtest.Exec(t, pool, sql, args...)
	}
	exec(`CREATE TABLE read_schema_migrations (version varchar PRIMARY KEY)`)
	for _, file := range files {
		text, err := os.ReadFile(file)
		require.NoError(t, err)
		up, _, _ := strings.Cut(string(text), "-- migrate:down")
		exec(up)
		exec(`INSERT INTO read_schema_migrations VALUES ($1)`, strings.SplitN(filepath.Base(file), "_", 2)[0])
	}
}

// oldEvent appends an event in the form of schema version 1.
func (s *system) oldEvent(product, stream uuid.UUID, event domain.Event) {
	s.TB.Helper()
	typ, _, payload, err := avsc.Encode(event)
	require.NoError(s.TB, err)
	var fields map[string]json.RawMessage
	require.NoError(s.TB, json.Unmarshal(payload, &fields))
	delete(fields, "refundReference")
	delete(fields, "cause")
	payload, err = json.Marshal(fields)
	require.NoError(s.TB, err)
	_, err = s.Store.Append(context.Background(), eventstore.Append{Key: product, Streams: []eventstore.StreamAppend{{
		Stream: stream, Expected: eventstore.Any,
		Events: []eventstore.NewEvent{{ID: uuid.New(), Type: typ, SchemaVersion: 1, Payload: payload, Meta: eventstore.Meta{Actor: domain.ActorSystem}}},
	}}})
	require.NoError(s.TB, err)
}

// payAsFirstRelease appends payments and refunds of the slots with the events of the first release.
func (s *system) payAsFirstRelease(h *shop) {
	price := storetest.KRW(s.TB, 259000)
	for i, sl := range h.slots {
		payment := uuid.New()
		s.oldEvent(h.product, sl.id, domain.PaymentInitiated{UserID: sl.user, PaymentID: payment, Price: price, Method: domain.Card})
		failed := domain.PaymentFailed{UserID: sl.user, PaymentID: payment, GatewayPaymentID: "g1", Reason: "TIMEOUT"}
		due := domain.RefundDue{UserID: sl.user, PaymentID: payment, GatewayPaymentID: "g1", Amount: price, Reason: "SLOT_EXPIRED"}
		switch i {
		case 0: // pending
		case 1:
			s.oldEvent(h.product, sl.id, domain.PaymentCompleted{UserID: sl.user, PaymentID: payment, GatewayPaymentID: "g1", Price: price, Method: domain.Card})
		case 2:
			s.oldEvent(h.product, sl.id, failed)
		case 3:
			s.oldEvent(h.product, sl.id, failed)
			s.oldEvent(h.product, sl.id, due)
		default:
			if i%2 == 0 {
				failed.Reason, due.Reason, due.Amount = "AMOUNT_MISMATCH", "AMOUNT_MISMATCH", storetest.KRW(s.TB, 7)
			}
			s.oldEvent(h.product, sl.id, failed)
			s.oldEvent(h.product, sl.id, due)
			s.oldEvent(h.product, sl.id, domain.RefundCompleted{UserID: sl.user, PaymentID: payment, GatewayRefundID: "re_1", Amount: due.Amount})
		}
	}
}

// migrateFromFirstRelease returns a database with the present tables, in which the first release had
// put the rows of the same events.
func (s *system) migrateFromFirstRelease(t *testing.T) *pgxpool.Pool {
	url := testkit.Postgres(t)
	old, err := pgxpool.New(context.Background(), url)
	require.NoError(t, err)
	t.Cleanup(old.Close)
	migrateToFirstRelease(t, old)
	for _, p := range pipelinetest.Rebuildable() {
		dbtest.Exec(t, old, `INSERT INTO projection_generations (projection, generation, state, live_at) VALUES ($1, 1, 'live', now()) ON CONFLICT DO NOTHING`, p.Name())
		for _, table := range p.Tables() {
			s.copyToFirstRelease(old, projections.Table(table.Base, 1))
		}
	}
	// What the first release's program had in the audit and in refund_status.
	for _, sql := range []string{
		`UPDATE slot_audit_log_g1 SET metadata = metadata - 'refundId' - 'cause' - 'returnUnit' WHERE type = 'RefundDue'`,
		`UPDATE slot_audit_log_g1 SET metadata = metadata - 'gatewayRefundId' || jsonb_build_object('refundId', metadata->'gatewayRefundId') WHERE type = 'RefundCompleted'`,
	} {
		dbtest.Exec(t, old, sql)
	}
	s.copyToFirstRelease(old, "projection_checkpoints")
	require.NoError(t, db.MigrateRead(context.Background(), url))
	return old
}

// TestUpgrade_GivesTheRowsThatAReplayGives: the read models of the first release are
// migrated to what the present program makes of the same events, so that a replay
// with --verify over old and new events finds no difference.
func TestUpgrade_GivesTheRowsThatAReplayGives(t *testing.T) {
	t.Parallel()
	s := newLiveSystem(t)
	h := s.open(1)
	h.acquire(8)
	s.payAsFirstRelease(h)
	s.AwaitCaughtUp()
	require.Zero(t, s.Count("SELECT count(*) FROM parked_events"))
	require.EqualValues(t, 5, s.Count("SELECT count(*) FROM refunds"))

	old := s.migrateFromFirstRelease(t)
	migrated := &pipelinetest.Pipeline{TB: t, ReadPool: old}
	want, got := s.LiveRows(), migrated.LiveRows()
	for base := range want {
		if base == "products" { // revision is null until a replay or the next change by an admin; see below
			require.Len(t, got[base], len(want[base]))
			continue
		}
		require.Equal(t, want[base], got[base], base)
	}
	require.EqualValues(t, 5, migrated.Count("SELECT count(*) FROM refunds"))

	// The first replay after the upgrade finds no difference, and fills what the migration could not.
	overOld := func(c *replay.Config) { c.ReadPool, c.Verify = old, true }
	require.EqualValues(t, 1, migrated.Count("SELECT count(*) FROM products_g1 WHERE revision IS NULL"))
	s.verify(overOld)
	require.Equal(t, want, migrated.LiveRows())
	// Only a row of before the column is excused.
	dbtest.Exec(t, old, `UPDATE products_g2 SET revision = revision + 1`)
	found, err := s.replay(overOld)
	require.ErrorIs(t, err, replay.ErrDiffers)
	require.Len(t, found, 1)
	require.Equal(t, "revision", found[0].Column)

	// New events follow the old ones.
	h.slots = nil
	h.acquire(5)
	h.endSlots()
	s.AwaitCaughtUp()
	s.verify()
}

// copyToFirstRelease copies a table's rows as far as the first release had their
// columns.
func (s *system) copyToFirstRelease(to *pgxpool.Pool, table string) {
	s.TB.Helper()
	ctx := context.Background()
	if s.columns(to, table) == "" {
		return // refunds
	}
	rows, err := s.Pool.Query(ctx, fmt.Sprintf("SELECT to_jsonb(t) FROM %s t", table))
	require.NoError(s.TB, err)
	all, err := pgx.CollectRows(rows, pgx.RowTo[[]byte])
	require.NoError(s.TB, err)
	columns := s.columns(to, table)
	for _, row := range all {
		_, err := to.Exec(ctx, fmt.Sprintf("INSERT INTO %[1]s (%[2]s) SELECT %[2]s FROM jsonb_populate_record(NULL::%[1]s, $1)", table, columns), string(row))
		require.NoError(s.TB, err)
	}
}

func (s *system) columns(pool *pgxpool.Pool, table string) string {
	s.TB.Helper()
	columns := dbtest.One[*string](s.TB, pool, `
		SELECT string_agg(quote_ident(column_name), ', ' ORDER BY ordinal_position) FROM information_schema.columns
		WHERE table_name = $1 AND is_generated = 'NEVER'`, table)
	if columns == nil {
		return ""
	}
	return *columns
}
