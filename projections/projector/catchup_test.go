package projector_test

import (
	"context"
	"errors"
	"fmt"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/stretchr/testify/require"

	"github.com/dopaminestore/dopamine/domain"
	"github.com/dopaminestore/dopamine/eventstore"
	"github.com/dopaminestore/dopamine/internal/kafka"
	"github.com/dopaminestore/dopamine/projections"
	"github.com/dopaminestore/dopamine/projections/parking"
	"github.com/dopaminestore/dopamine/projections/projector"
	"github.com/dopaminestore/dopamine/tools/testkit"
)

// lock locks a table until unlock is called.
func (s *system) lock(t *testing.T, table string) (unlock func()) {
	ctx := context.Background()
	conn, err := pgx.Connect(ctx, s.Pool.Config().ConnString())
	require.NoError(t, err)
	t.Cleanup(func() { _ = conn.Close(ctx) })
	_, err = conn.Exec(ctx, "BEGIN; LOCK TABLE "+table+" IN ACCESS EXCLUSIVE MODE")
	require.NoError(t, err)
	return func() {
		_, err := conn.Exec(ctx, "COMMIT")
		require.NoError(t, err)
	}
}

// furthest returns the highest position of a read model.
func (s *system) furthest(projection string) int64 {
	return s.Count("SELECT coalesce(max(position), 0) FROM projection_checkpoints WHERE projection = $1", projection)
}

// A read model that cannot be written, here because another session keeps its table locked, stops no
// other, and then has every event once, in order (R8, R9; contract 2).
func TestProjector_LockedReadModelStopsNoOther(t *testing.T) {
	t.Parallel()
	const locked = "slot_audit_log"
	s := newSystem(t, testkit.Kafka(t))
	s.StartRelay()
	start := func() (*projector.Runner, func() error) {
		return s.StartProjector(func(c *projector.Config) {
			c.MaxBatch, c.BatchTimeout, c.StallTimeout, c.Published = 100, 3*time.Second, 2*time.Second, s.Published
		})
	}
	_, stop := start()
	end := s.startRush()
	testkit.EventuallyTrue(t, 60*time.Second, "a beginning", func() bool { return s.audited() >= 50 })

	unlock := s.lock(t, locked+"_g1")
	before := s.furthest(locked)
	othersReach := func(position int64) {
		t.Helper()
		for _, other := range s.names() {
			if other != locked {
				testkit.Eventually(t, 60*time.Second, fmt.Sprintf("%s at %d", other, position), func() error {
					if at := s.furthest(other); at < position {
						return fmt.Errorf("at %d, the locked one at %d", at, s.furthest(locked))
					}
					return nil
				})
			}
		}
	}
	othersReach(before + 1000) // ten batches
	require.Less(t, s.furthest(locked), before+1000)
	require.NoError(t, stop())
	r, _ := start() // continues at the locked one's offset
	othersReach(s.furthest("products") + 1000)
	awaitBlocked(t, r, "to "+locked+";")
	unlock()
	end()
	testkit.EventuallyTrue(t, 30*time.Second, "health", func() bool { return len(r.Health()) == 0 })
}

// The wait for a lock ends also while a statement that reads the rows is prepared, on a new connection:
// the transaction did not take too long, so the next ones are not smaller.
func TestProjector_WaitsForALockOnlySoLong(t *testing.T) {
	s, f, owner := newOfflineSystem(t)
	product := s.Create(10)
	_, _, at := s.Acquire(product, 1, 1)
	require.NoError(t, owner.Apply(context.Background(), f.produceAll(f.eventsAfter(0))))
	registry, cfg := prometheus.NewRegistry(), s.ProjectorConfig()
	cfg.Registerer, cfg.BatchTimeout = registry, 6*time.Second
	owner, err := projector.NewRunner(cfg).TakeAllPartitions(context.Background(), 3)
	require.NoError(t, err)
	s.Record(product, product, domain.ProductDetailsChanged{Name: "Lantern", Description: "A lantern"})
	s.lock(t, "products_g1")
	s.ReadPool.Reset()
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	require.NoError(t, owner.Apply(ctx, f.produceAll(f.eventsAfter(at))))
	require.Zero(t, failures(t, registry)["read_models_timeout"])
	require.Positive(t, failures(t, registry)["read_models"])
}

// If no projection can continue, an error that has to be known, here that a newer program is needed, is
// not hidden by that of a locked table.
func TestProjector_IsBlockedAlsoIfAReadModelIsLocked(t *testing.T) {
	s, f, _ := newOfflineSystem(t)
	cfg := s.ProjectorConfig()
	cfg.BatchTimeout = 3 * time.Second
	owner, err := projector.NewRunner(cfg).TakeAllPartitions(context.Background(), 3)
	require.NoError(t, err)
	product := s.Create(10)
	s.appendRaw(product, product, "ProductRenamed", 1, []byte(`{}`))
	s.lock(t, s.names()[0]+"_g1")
	var blocked *projector.BlockedError
	require.ErrorAs(t, owner.Apply(context.Background(), f.produceAll(f.eventsAfter(0))), &blocked)
	require.Contains(t, blocked.Reason, "ProductRenamed")
}

// A table of the live generation that is missing is no swap of generations. Attempts to write it count no
// events.
func TestProjector_MissingTableStopsNoOther(t *testing.T) {
	s, f, _ := newOfflineSystem(t)
	registry, cfg := prometheus.NewRegistry(), s.ProjectorConfig()
	cfg.Registerer = registry
	owner, err := projector.NewRunner(cfg).TakeAllPartitions(context.Background(), 3)
	require.NoError(t, err)
	product := s.Create(10)
	_, _, at := s.Acquire(product, 1, 1)
	s.Exec("ALTER TABLE slot_audit_log_g1 RENAME TO away")
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	require.NoError(t, owner.Apply(ctx, f.produceAll(f.eventsAfter(0))))
	require.Equal(t, at, s.furthest("purchase_slots"))
	awaitFailure(t, registry, "read_models", 3)
	counted := func() (sum float64) {
		families, err := registry.Gather()
		require.NoError(t, err)
		for _, f := range families {
			if f.GetName() == "dopamine_projector_gap_events_total" {
				for _, m := range f.GetMetric() {
					sum += m.GetCounter().GetValue()
				}
			}
		}
		return sum
	}
	require.Zero(t, counted())
	s.Exec("ALTER TABLE away RENAME TO slot_audit_log_g1")
	attached, err := owner.Attach(ctx)
	require.NoError(t, err)
	require.True(t, attached)
	require.EqualValues(t, 1, s.audited())
	require.EqualValues(t, 2, counted())
}

// A request for parked events that cannot be served because the table is locked detaches the read model
// until it is served, also if there is nothing to catch up: retried by the loop, it would stop the
// others each time.
func TestRequest_OfALockedReadModelStopsNoOther(t *testing.T) {
	s, f, _ := newOfflineSystem(t)
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	cfg := s.ProjectorConfig()
	cfg.BatchTimeout = time.Second
	owner, err := projector.NewRunner(cfg).TakeAllPartitions(ctx, 3)
	require.NoError(t, err)
	product := s.Create(10)
	slot, _, _ := s.Acquire(product, 1, 1)
	s.Exec(`CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS $$BEGIN RAISE EXCEPTION 'not today'; END$$`)
	s.Exec(`CREATE TRIGGER refuse BEFORE INSERT ON slot_audit_log_g1 FOR EACH ROW EXECUTE FUNCTION refuse()`)
	require.NoError(t, owner.Apply(ctx, f.produceAll(f.eventsAfter(0))))
	require.Len(t, s.parked("slot_audit_log"), 1)
	s.Exec("DROP TRIGGER refuse ON slot_audit_log_g1")
	unlock := s.lock(t, "slot_audit_log_g1")
	require.NoError(t, parking.Request(ctx, s.Pool, "slot_audit_log", slot, parking.Retry, "ann"))
	require.NoError(t, owner.ServeRequests(ctx))
	for range 2 {
		attached, err := owner.Attach(ctx)
		require.NoError(t, err)
		require.False(t, attached)
	}
	_, _, at := s.Acquire(product, 2, 2)
	require.NoError(t, owner.Apply(ctx, f.produceAll(f.eventsAfter(at-1))))
	unlock()
	testkit.EventuallyTrue(t, 30*time.Second, "attached", func() bool {
		attached, err := owner.Attach(ctx)
		require.NoError(t, err)
		return attached
	})
	require.Empty(t, s.parked("slot_audit_log"))
	require.EqualValues(t, 2, s.audited())
}

// readsStore counts the events that are read in pages, and fails after some pages.
type readsStore struct {
	projections.Store
	left   int
	events int
}

func (r *readsStore) ReadAll(ctx context.Context, after int64, limit int) ([]eventstore.Recorded, error) {
	if r.left--; r.left < 0 {
		return nil, errors.New("no more pages")
	}
	page, err := r.Store.ReadAll(ctx, after, limit)
	r.events += len(page)
	return page, err
}

// It catches up in pages. If it is interrupted between two, the next owner continues: the offset is
// taken over with the last page only.
func TestCatchUp_InterruptedBetweenPages(t *testing.T) {
	s, f, _ := newOfflineSystem(t)
	ctx := context.Background()
	store := &readsStore{Store: s.Reader, left: 1000}
	cfg := s.ProjectorConfig()
	cfg.Store, cfg.MaxBatch = store, 50
	owner, err := projector.NewRunner(cfg).TakeAllPartitions(ctx, 3)
	require.NoError(t, err)
	var sold []uuid.UUID
	for range 6 {
		sold = append(sold, s.Create(1000))
	}
	for n := range 200 {
		s.Acquire(sold[n%len(sold)], n+1, int64(n+1))
	}
	owner.Detach("products")
	records := f.produceAll(f.eventsAfter(0))
	require.NoError(t, owner.Apply(ctx, records))
	require.Zero(t, s.Count("SELECT count(*) FROM products"))

	store.left = 2
	require.ErrorContains(t, owner.CatchUp(ctx, "products"), "no more pages")
	require.Positive(t, s.Count("SELECT count(*) FROM products"))
	require.NoError(t, newOwner(t, s, 3).Apply(ctx, records))
	s.createGeneration(2)
	s.foldInto(2, 0)
	require.Equal(t, s.Rows(2), s.Rows(1))
}

// A projection that is far behind the others when a session begins does not hold them up.
func TestCatchUp_BeginsFarBehind(t *testing.T) {
	s, f, owner := newOfflineSystem(t)
	ctx := context.Background()
	product := s.Create(1000)
	for n := range 300 {
		s.Acquire(product, n+1, int64(n+1))
	}
	owner.Detach("products")
	records := f.produceAll(f.eventsAfter(0))
	require.NoError(t, owner.Apply(ctx, records))
	cfg := s.ProjectorConfig()
	cfg.MaxBatch = 50
	next, err := projector.NewRunner(cfg).TakeAllPartitions(ctx, 3)
	require.NoError(t, err)
	require.Equal(t, []string{"products"}, next.Detached())
	require.NoError(t, next.Apply(ctx, records))
	require.Zero(t, s.Count("SELECT count(*) FROM products"), "the others do not wait for it")
	require.NoError(t, next.CatchUp(ctx, "products"))
	require.EqualValues(t, 700, s.stock(product))
}

// A partition whose last event is old gets another one: the events of other partitions that lie between
// are not read again.
func TestCatchUp_ReadsNothingTwiceForAQuietPartition(t *testing.T) {
	s, f, _ := newOfflineSystem(t)
	ctx := context.Background()
	store := &readsStore{Store: s.Reader, left: 1000}
	cfg := s.ProjectorConfig()
	cfg.Store = store
	cfg.Published = func(ctx context.Context) (projections.Head, error) {
		all, err := s.Reader.ReadAll(ctx, 0, 10_000)
		head := projections.Head{Last: make([]int64, 3)}
		for _, e := range all {
			head.Position, head.Published, head.Last[kafka.Partition(e.Key, 3)] = e.Position, e.Position, e.Position
		}
		return head, err
	}
	owner, err := projector.NewRunner(cfg).TakeAllPartitions(ctx, 3)
	require.NoError(t, err)
	quiet, busy := s.Create(10), s.Create(1000)
	for kafka.Partition(busy, 3) == kafka.Partition(quiet, 3) {
		busy = s.Create(1000)
	}
	var at int64
	for n := range 300 {
		_, _, at = s.Acquire(busy, n+1, int64(n+1))
	}
	require.NoError(t, owner.Apply(ctx, f.produceAll(f.eventsAfter(0))))
	owner.Detach("products")
	require.NoError(t, owner.CatchUp(ctx, "products")) // nothing to apply yet
	owner.Detach("products")
	s.Acquire(quiet, 1, 1)
	require.NoError(t, owner.Apply(ctx, f.produceAll(f.eventsAfter(at))))
	require.EqualValues(t, 10, s.stock(quiet))
	store.events = 0
	require.NoError(t, owner.CatchUp(ctx, "products"))
	require.EqualValues(t, 9, s.stock(quiet))
	require.Equal(t, 1, store.events)
}

// The events of a store that was restored to an earlier moment do not follow those that were applied.
func TestCatchUp_RefusesAnotherHistory(t *testing.T) {
	s, f, owner := newOfflineSystem(t)
	ctx := context.Background()
	product := s.Create(10)
	require.NoError(t, owner.Apply(ctx, f.produceAll(f.eventsAfter(0))))
	owner.Detach("products")
	_, _, at := s.Acquire(product, 1, 1)
	_, _, last := s.Acquire(product, 2, 2)
	require.NoError(t, owner.Apply(ctx, f.produceAll(f.eventsAfter(at-1))))
	s.loseEvents(at)
	_, _, again := s.Acquire(product, 3, 3)
	require.Equal(t, last, again, "another event has its position")

	err := owner.CatchUp(ctx, "products")
	require.ErrorContains(t, err, "dopamine recover")
	require.EqualValues(t, 10, s.stock(product))
}

// A replay that swapped generations is named: otherwise it would seem that two groups write.
func TestCatchUp_NamesASwap(t *testing.T) {
	s, _, owner := newOfflineSystem(t)
	owner.Detach("products")
	s.createGeneration(2)
	s.Exec("UPDATE projection_generations SET state = 'old' WHERE projection = 'products'")
	s.Exec("INSERT INTO projection_generations (projection, generation, state) VALUES ('products', 2, 'live')")
	s.Exec("INSERT INTO projection_checkpoints SELECT (jsonb_populate_record(c, '{\"generation\": 2}')).* FROM projection_checkpoints c WHERE projection = 'products'")
	err := owner.CatchUp(context.Background(), "products")
	require.ErrorIs(t, err, projector.ErrMoved)
	require.ErrorContains(t, err, "a replay has swapped generations")
}

// A page ends before an event that only a newer program can apply.
func TestCatchUp_WaitsAtAnEventThatNeedsANewerProgram(t *testing.T) {
	s, f, owner := newOfflineSystem(t)
	ctx := context.Background()
	product := s.Create(10)
	require.NoError(t, owner.Apply(ctx, f.produceAll(f.eventsAfter(0))))
	owner.Detach("products")
	slot, _, acquired := s.Acquire(product, 1, 1)
	s.appendRaw(product, slot, "SlotLentOut", 1, []byte(`{}`))
	_, _, last := s.Acquire(product, 2, 2)
	at, err := s.Reader.At(ctx, last)
	require.NoError(t, err)
	s.Exec("UPDATE projection_checkpoints SET position = $1, event_id = $2 WHERE projection <> 'products'", last, at.ID) // a newer program was here
	next := newOwner(t, s, 3)
	next.Detach("products")

	var blocked *projector.BlockedError
	for range 2 {
		require.ErrorAs(t, next.CatchUp(ctx, "products"), &blocked)
		require.Contains(t, blocked.Reason, "SlotLentOut")
		require.EqualValues(t, 9, s.stock(product), "events before it are applied")
		require.EqualValues(t, 3, s.Count("SELECT count(*) FROM projection_checkpoints WHERE projection = 'products' AND position = $1", acquired))
	}
}
