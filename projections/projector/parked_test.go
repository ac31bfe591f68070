package projector_test

import (
	"context"
	"fmt"
	"log/slog"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"
	"github.com/stretchr/testify/require"

	"github.com/dopaminestore/dopamine/avsc"
	"github.com/dopaminestore/dopamine/domain"
	"github.com/dopaminestore/dopamine/projections"
	"github.com/dopaminestore/dopamine/projections/parking"
	"github.com/dopaminestore/dopamine/projections/products"
	"github.com/dopaminestore/dopamine/projections/projector"
	"github.com/dopaminestore/dopamine/tools/dbtest"
	"github.com/dopaminestore/dopamine/tools/storetest"
	"github.com/dopaminestore/dopamine/tools/testkit"
)

// newOfflineSystem returns a system without Kafka: the test delivers the records.
func newOfflineSystem(t *testing.T) (*system, *fakeTopic, *projector.Owner) {
	t.Parallel()
	s := newSystem(t, nil)
	f := newFakeTopic(s, 3)
	return s, f, newOwner(t, s, 3)
}

func (s *system) parked(projection string) []int64 {
	return dbtest.All[int64](s.TB, s.Pool, "SELECT position FROM parked_events WHERE projection = $1 ORDER BY position", projection)
}

func expired(unit int, number int64) domain.SlotExpired {
	return domain.SlotExpired{Unit: unit, ArrivalSequence: number, ReclaimStatus: domain.AutoExpired}
}

// Events that cannot be applied (contract 6).
func TestProjector_ParksFailingEventsAndAppliesTheOthers(t *testing.T) {
	s, f, owner := newOfflineSystem(t)
	ctx := context.Background()
	product := s.Create(10)
	bad, _, badAt := s.Acquire(product, 1, 1)
	good, _, _ := s.Acquire(product, 2, 2)
	behindAt := s.Record(product, bad, expired(1, 1))
	last := s.Record(product, good, expired(2, 2))
	// Any reason for rejecting a row will do; here it is a trigger.
	s.Exec(`CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS $$BEGIN RAISE EXCEPTION 'no unit 1 today'; END$$`)
	s.Exec(`CREATE TRIGGER refuse BEFORE INSERT OR UPDATE ON purchase_slots_g1 FOR EACH ROW WHEN (NEW.unit = 1) EXECUTE FUNCTION refuse()`)

	require.NoError(t, owner.Apply(ctx, f.produceAll(f.eventsAfter(0))))
	require.Equal(t, []int64{badAt, behindAt}, s.parked("purchase_slots"), "the event, and those behind it on its key")
	require.Empty(t, s.parked("products"))
	require.Empty(t, s.parked("slot_audit_log"))
	require.EqualValues(t, 1, s.Count("SELECT count(*) FROM purchase_slots WHERE id = $1 AND status = 'EXPIRED'", good))
	require.EqualValues(t, 10, s.Count("SELECT stock FROM products"))
	require.EqualValues(t, 1, s.Count("SELECT count(*) FROM parked_events WHERE error LIKE '%no unit 1 today%' AND record IS NOT NULL AND headers->>'event-type' = 'SlotAcquired' AND NOT behind"))

	requireKeys := func(want float64) {
		t.Helper()
		got, err := owner.ParkedKeys(ctx, "purchase_slots")
		require.NoError(t, err)
		require.Equal(t, want, got, "parked keys: the alert depends on them for as long as they are parked")
	}
	requireKeys(1)

	reached := func(name string, position int64) bool {
		ok, err := projector.Reached(ctx, s.Pool, []string{name}, product, position)
		require.NoError(t, err)
		return ok
	}
	require.True(t, reached("products", last))
	require.False(t, reached("purchase_slots", last), "a parked event of the product is not there yet")
	require.True(t, reached("purchase_slots", badAt-1))

	// If the reason persists, a retry changes nothing except the history of requests.
	require.NoError(t, parking.Request(ctx, s.Pool, "purchase_slots", bad, parking.Retry, "ann"))
	require.ErrorIs(t, parking.Request(ctx, s.Pool, "purchase_slots", bad, parking.Skip, "bob"), parking.ErrRequested)
	require.NoError(t, owner.ServeRequests(ctx))
	require.Equal(t, []int64{badAt, behindAt}, s.parked("purchase_slots"))
	require.EqualValues(t, 1, s.Count("SELECT count(*) FROM parked_orders WHERE outcome LIKE '0 applied, then position%no unit 1 today%' AND ordered_by = 'ann'"))

	s.Exec("DROP TRIGGER refuse ON purchase_slots_g1")
	require.NoError(t, parking.Request(ctx, s.Pool, "purchase_slots", bad, parking.Retry, "ann"))
	require.NoError(t, owner.ServeRequests(ctx))
	require.Empty(t, s.parked("purchase_slots"))
	requireKeys(0)
	require.EqualValues(t, 1, s.Count("SELECT count(*) FROM purchase_slots WHERE id = $1 AND status = 'EXPIRED'", bad))
	require.True(t, reached("purchase_slots", last))
	require.ErrorIs(t, parking.Request(ctx, s.Pool, "purchase_slots", bad, parking.Retry, "ann"), parking.ErrNotParked)
}

// A skip (contract 6).
func TestSkip_DropsTheFirstEventAndAppliesTheOthers(t *testing.T) {
	s, f, owner := newOfflineSystem(t)
	ctx := context.Background()
	product := s.Create(10)
	slot, _, acquired := s.Acquire(product, 1, 1)
	broken := s.appendRaw(product, slot, "SlotExpiringSoon", 1, []byte(`{"userId":"nobody"}`))
	behind := s.Record(product, slot, expired(1, 1))
	require.NoError(t, owner.Apply(ctx, f.produceAll(f.eventsAfter(0))))
	require.Equal(t, []int64{broken, behind}, s.parked("slot_audit_log"))
	require.Empty(t, s.parked("purchase_slots"), "a warning changes no row there")
	require.EqualValues(t, 1, s.Count("SELECT count(*) FROM purchase_slots WHERE status = 'EXPIRED'"))

	require.NoError(t, parking.Request(ctx, s.Pool, "slot_audit_log", slot, parking.Skip, "ann"))
	require.NoError(t, owner.ServeRequests(ctx)) // the skip
	require.NoError(t, owner.ServeRequests(ctx)) // the retry of what was behind it
	require.Empty(t, s.parked("slot_audit_log"))
	require.EqualValues(t, 2, s.Count("SELECT count(*) FROM slot_audit_log WHERE position IN ($1, $2)", acquired, behind))
	require.EqualValues(t, 1, s.Count("SELECT count(*) FROM skipped_events WHERE projection = 'slot_audit_log' AND position = $1 AND skipped_by = 'ann'", broken))

	// The skip also holds if the event is delivered again.
	s.Exec("DELETE FROM slot_audit_log_g1")
	s.Exec("UPDATE projection_checkpoints SET next_offset = 0, position = 0, event_id = NULL WHERE projection = 'slot_audit_log'")
	again := newOwner(t, s, 3)
	var all []projector.Delivered
	for _, log := range f.log {
		all = append(all, log...)
	}
	require.NoError(t, again.Apply(ctx, all))
	require.Empty(t, s.parked("slot_audit_log"))
	require.EqualValues(t, 2, s.Count("SELECT count(*) FROM slot_audit_log"))
}

func TestRequest_FencesADeposedOwner(t *testing.T) {
	s, f, owner := newOfflineSystem(t)
	ctx := context.Background()
	product := s.Create(10)
	slot, _, _ := s.Acquire(product, 1, 1)
	broken := s.appendRaw(product, slot, "SlotExpiringSoon", 1, []byte(`{"userId":"nobody"}`))
	require.NoError(t, owner.Apply(ctx, f.produceAll(f.eventsAfter(0))))
	successor := newOwner(t, s, 3)
	require.NoError(t, parking.Request(ctx, s.Pool, "slot_audit_log", slot, parking.Skip, "ann"))
	require.NoError(t, successor.ServeRequests(ctx))
	at := s.Record(product, slot, expired(1, 1))
	records := f.produceAll(f.eventsAfter(broken))
	require.ErrorIs(t, owner.Apply(ctx, records), projector.ErrMoved)
	require.Zero(t, s.Count("SELECT count(*) FROM slot_audit_log WHERE position = $1", at))
	// The other projections had no request, so the deposed owner may still write them.
	require.NoError(t, newOwner(t, s, 3).Apply(ctx, records))
	require.Empty(t, s.parked("slot_audit_log"))
	require.EqualValues(t, 1, s.Count("SELECT count(*) FROM slot_audit_log WHERE position = $1", at))
}

func TestProjector_UsesTheStoresCopyOfAnUndecodableRecord(t *testing.T) {
	s, f, owner := newOfflineSystem(t)
	product := s.Create(10)
	s.Acquire(product, 1, 1)
	events := f.eventsAfter(0)
	events[1].value = []byte("garbage")
	require.NoError(t, owner.Apply(context.Background(), f.produceAll(events)))
	require.EqualValues(t, 1, s.Count("SELECT count(*) FROM purchase_slots"))
	require.Zero(t, s.Count("SELECT count(*) FROM parked_events"))
}

// A record that is no event of the store (contract 6).
func TestProjector_ParksARecordThatIsNotAnEventAlone(t *testing.T) {
	s, f, owner := newOfflineSystem(t)
	ctx := context.Background()
	product := s.Create(10)
	s.Acquire(product, 1, 1)
	events := f.eventsAfter(0)
	records := []projector.Delivered{f.produce(events[0]), f.putRaw(product, map[string]string{"event-id": "what\x00ever"}, []byte("hello"))}
	f.store = "" // like records from before they had this header
	forged := events[1]
	forged.event.ID, forged.value = uuid.New(), []byte("another event at this position")
	records = append(records, f.produce(forged), f.produce(events[1]))
	require.NoError(t, owner.Apply(ctx, records))
	require.EqualValues(t, 1, s.Count("SELECT count(*) FROM purchase_slots"), "the others are applied")
	require.EqualValues(t, 4, s.Count("SELECT count(*) FROM parked_events WHERE position = 0"), "one record, four projections; the store does not have the forged event")
	ok, err := projector.Reached(ctx, s.Pool, s.names(), product, events[1].event.Position)
	require.NoError(t, err)
	require.True(t, ok, "it holds up no reader")

	key := dbtest.One[uuid.UUID](t, s.Pool, "SELECT row_key FROM parked_events WHERE projection = 'products' LIMIT 1")
	require.NoError(t, parking.Request(ctx, s.Pool, "products", key, parking.Retry, "ann"))
	require.NoError(t, owner.ServeRequests(ctx))
	require.EqualValues(t, 1, s.Count("SELECT count(*) FROM parked_orders WHERE outcome LIKE '%can only be skipped%'"))
	require.NoError(t, parking.Request(ctx, s.Pool, "products", key, parking.Skip, "ann"))
	require.NoError(t, owner.ServeRequests(ctx))
	require.Empty(t, s.parked("products"))
}

func TestProjector_WaitsForANewerOneAtAnEventThatItDoesNotKnow(t *testing.T) {
	for what, newer := range map[string]func(s *system, product, slot uuid.UUID) int64{
		"type": func(s *system, product, slot uuid.UUID) int64 {
			return s.appendRaw(product, slot, "SlotLentOut", 1, []byte(`{}`))
		},
		"version": func(s *system, product, slot uuid.UUID) int64 {
			typ, version, payload, err := avsc.Encode(expired(1, 1))
			require.NoError(t, err)
			return s.appendRaw(product, slot, typ, version+1, payload)
		},
	} {
		t.Run(what, func(t *testing.T) {
			s, f, owner := newOfflineSystem(t)
			ctx := context.Background()
			product := s.Create(10)
			slot, _, acquired := s.Acquire(product, 1, 1)
			at := newer(s, product, slot)
			s.Acquire(product, 2, 2)
			records := f.produceAll(f.eventsAfter(0))
			var blocked *projector.BlockedError
			require.ErrorAs(t, owner.Apply(ctx, records), &blocked)
			require.Contains(t, blocked.Reason, fmt.Sprintf("event %d (", at))
			require.Zero(t, s.Count("SELECT count(*) FROM parked_events"), "the event is not damaged")
			require.EqualValues(t, 4, s.Count("SELECT count(*) FROM projection_checkpoints WHERE position = $1", acquired), "events before it are applied")
			require.EqualValues(t, 1, s.Count("SELECT count(*) FROM purchase_slots"))
			require.ErrorAs(t, owner.Apply(ctx, records), &blocked, "it waits")
		})
	}
}

func TestProjector_IsNotBlockedByAPartitionThatItLost(t *testing.T) {
	_, _, owner := newOfflineSystem(t)
	const owned, lost = 0, 1000
	require.True(t, owner.StaysBlocked(lost, time.Second), "a blocked new owner would end the session")
	require.True(t, owner.StaysBlocked(owned, time.Minute))
	require.False(t, owner.StaysBlocked(lost, time.Minute))
}

func TestMetrics_BeginAtZero(t *testing.T) {
	registry := prometheus.NewRegistry()
	projector.NewRunner(projector.Config{Projections: []projections.Projection{products.New()}, Registerer: registry, Logger: slog.New(slog.DiscardHandler)})
	n, err := testutil.GatherAndCount(registry, "dopamine_projector_parked_events_total", "dopamine_projector_failures_total")
	require.NoError(t, err)
	require.Equal(t, 1+4, n, "an alert on an increase needs a value before it")
}

func TestProjector_ParksNothingOnDatabaseFailure(t *testing.T) {
	s, f, owner := newOfflineSystem(t)
	s.Create(10)
	s.Exec("ALTER TABLE products_g1 RENAME TO away")
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	require.NoError(t, owner.Apply(ctx, f.produceAll(f.eventsAfter(0))))
	require.Zero(t, s.Count("SELECT count(*) FROM parked_events"))
	require.Zero(t, s.Count("SELECT count(*) FROM projection_checkpoints WHERE projection = 'products' AND next_offset > 0"))
}

// An event that cannot be decoded is parked under its slot, since only its headers can be read. The
// event after it belongs to a payment, and is parked behind it all the same.
func TestPurchases_WaitBehindAnEventThatCannotBeDecoded(t *testing.T) {
	s, f, owner := newOfflineSystem(t)
	ctx := context.Background()
	product := s.Create(10)
	slot, user, _ := s.Acquire(product, 1, 1)
	payment := uuid.New()
	typ, version, payload, err := avsc.Encode(domain.PaymentInitiated{UserID: user, PaymentID: payment, Price: storetest.KRW(t, 259000), Method: domain.Card})
	require.NoError(t, err)
	damaged := s.appendRaw(product, slot, typ, version, []byte(`{"userId":"nobody"}`))
	behind := s.Record(product, slot, domain.PaymentCompleted{UserID: user, PaymentID: payment, GatewayPaymentID: "gw-1", Price: storetest.KRW(t, 259000), Method: domain.Card})
	require.NoError(t, owner.Apply(ctx, f.produceAll(f.eventsAfter(0))))
	require.Equal(t, []int64{damaged, behind}, s.parked("purchases"))
	require.Empty(t, s.Rows(1)["purchases"])

	s.Exec("ALTER TABLE events DISABLE TRIGGER USER")
	s.Exec("UPDATE events SET payload = $2 WHERE position = $1", damaged, string(payload))
	s.Exec("ALTER TABLE events ENABLE TRIGGER USER")
	keys, err := parking.RetryAll(ctx, s.Pool, "", "ann")
	require.NoError(t, err)
	require.EqualValues(t, s.Count("SELECT count(*) FROM parked_events WHERE NOT behind"), keys)
	again, err := parking.RetryAll(ctx, s.Pool, "", "ann")
	require.NoError(t, err)
	require.Zero(t, again, "they are requested already")
	require.NoError(t, owner.ServeRequests(ctx))
	require.Zero(t, s.Count("SELECT count(*) FROM parked_events"))
	s.createGeneration(9)
	s.foldInto(9, 0)
	require.Equal(t, s.Rows(9), s.Rows(1))
}

func TestRetry_AppliesALargeKeyInPages(t *testing.T) {
	s, f, owner := newOfflineSystem(t)
	ctx := context.Background()
	large, small := s.Create(10_000), s.Create(10)
	s.Exec(`CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS $$BEGIN RAISE EXCEPTION 'not today'; END$$`)
	s.Exec(fmt.Sprintf(`CREATE TRIGGER refuse BEFORE UPDATE ON products_g1 FOR EACH ROW WHEN (NEW.id = '%s') EXECUTE FUNCTION refuse()`, large))
	require.NoError(t, owner.Apply(ctx, f.produceAll(f.eventsAfter(0))))
	const events = 2500 // two pages and a half
	for n := range events {
		s.Acquire(large, n+1, int64(n+1))
	}
	require.NoError(t, owner.Apply(ctx, f.produceAll(f.eventsAfter(2))))
	require.Len(t, s.parked("products"), events)
	s.Exec("DROP TRIGGER refuse ON products_g1")
	_, err := parking.RetryAll(ctx, s.Pool, "products", "ann")
	require.NoError(t, err)
	for page := 1; ; page++ {
		more, err := owner.ServePage(ctx)
		require.NoError(t, err)
		if !more {
			require.Equal(t, 3, page)
			break
		}
		// Between two pages, events of other products are applied.
		_, _, at := s.Acquire(small, page, int64(page))
		require.NoError(t, owner.Apply(ctx, f.produceAll(f.eventsAfter(at-1))))
		require.EqualValues(t, 10-page, s.Count("SELECT stock FROM products WHERE id = $1", small))
	}
	require.EqualValues(t, 10_000-events, s.Count("SELECT stock FROM products WHERE id = $1", large))
	require.Empty(t, s.parked("products"))
}

// A page that contains an event which still fails is applied event by event. That may take longer
// than a transaction may.
func TestRetry_ReducesAPageThatTakesTooLong(t *testing.T) {
	s, f, owner := newOfflineSystem(t)
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	large := s.Create(10_000)
	require.NoError(t, owner.Apply(ctx, f.produceAll(f.eventsAfter(0))))
	const refuse = `CREATE OR REPLACE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS $$BEGIN
		IF NEW.stock < %d THEN RAISE EXCEPTION 'not today'; END IF; PERFORM pg_sleep(0.03); RETURN NEW; END$$`
	s.Exec(fmt.Sprintf(refuse, 10_000))
	s.Exec(`CREATE TRIGGER refuse BEFORE UPDATE ON products_g1 FOR EACH ROW EXECUTE FUNCTION refuse()`)
	const events, fine = 140, 135
	for n := range events {
		s.Acquire(large, n+1, int64(n+1))
	}
	require.NoError(t, owner.Apply(ctx, f.produceAll(f.eventsAfter(1))))
	require.Len(t, s.parked("products"), events)
	s.Exec(fmt.Sprintf(refuse, 10_000-fine))
	_, err := parking.RetryAll(ctx, s.Pool, "products", "ann")
	require.NoError(t, err)
	registry, cfg := prometheus.NewRegistry(), s.ProjectorConfig()
	cfg.Registerer, cfg.BatchTimeout = registry, 3*time.Second
	owner, err = projector.NewRunner(cfg).TakeAllPartitions(ctx, 3)
	require.NoError(t, err)
	testkit.EventuallyTrue(t, 60*time.Second, "smaller pages", func() bool {
		require.NoError(t, owner.ServeRequests(ctx))
		attached, err := owner.Attach(ctx)
		require.NoError(t, err)
		return attached && len(s.parked("products")) == events-fine
	})
	require.Positive(t, failures(t, registry)["read_models_timeout"], "the whole page took too long")
	require.EqualValues(t, 10_000-fine, s.stock(large))
}
