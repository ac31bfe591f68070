package command

import (
	"context"
	"fmt"
	"net/http"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/stretchr/testify/require"

	"github.com/dopaminestore/dopamine/avsc"
	"github.com/dopaminestore/dopamine/command/claims"
	"github.com/dopaminestore/dopamine/command/deadlines"
	"github.com/dopaminestore/dopamine/command/gatestore"
	"github.com/dopaminestore/dopamine/command/payments"
	"github.com/dopaminestore/dopamine/domain"
	"github.com/dopaminestore/dopamine/eventstore"
	"github.com/dopaminestore/dopamine/internal/auth"
	"github.com/dopaminestore/dopamine/redis"
	"github.com/dopaminestore/dopamine/tools/dbtest"
	"github.com/dopaminestore/dopamine/tools/testkit"
)

// system is a database and a Redis with any number of command APIs.
type system struct {
	tokens
	pool   *pgxpool.Pool
	reader *eventstore.Reader
	stores
	redis string
	admin user
	fake  *fakeGateway // the payment gateway of all nodes
}

func newSystem(t testing.TB, redisURL string) *system {
	t.Helper()
	s := &system{tokens: newTokens(t), pool: dbtest.Write(t), redis: redisURL, fake: &fakeGateway{}}
	s.reader = eventstore.NewReader(s.pool)
	s.stores = newStores(s.pool)
	s.admin = s.user(t, auth.Admin)
	return s
}

// oneNode returns a system with one API; the test runs in parallel with others.
func oneNode(t *testing.T) (*system, node) {
	t.Helper()
	t.Parallel()
	s := newSystem(t, testkit.Redis(t))
	return s, s.node(t)
}

// onSale is oneNode with a product that is on sale.
func onSale(t *testing.T, stock int, more ...any) (*system, node, uuid.UUID) {
	t.Helper()
	s, n := oneNode(t)
	return s, n, s.product(t, n, stock, more...)
}

// onTwoNodes returns a system with two APIs and a product on sale; the test runs in parallel with
// others.
func onTwoNodes(t *testing.T, stock int) (*system, []node, uuid.UUID) {
	t.Helper()
	s, n, product := onSale(t, stock)
	return s, []node{n, s.node(t)}, product
}

// stores read the write side's database.
type stores struct {
	claims    *claims.Store
	gateStore *gatestore.Store
	deadlines *deadlines.Store
}

func newStores(pool *pgxpool.Pool) stores {
	return stores{claims.NewStore(pool), gatestore.NewStore(pool, avsc.Decode), deadlines.NewStore(pool)}
}

// node is one command API of a system.
type node struct {
	client
	gate     *redis.Gate
	store    *eventstore.Store
	payments *payments.Service
}

// node starts one more API; change may replace its dependencies.
func (s *system) node(t testing.TB, change ...func(*Config)) node {
	t.Helper()
	store, err := eventstore.Open(t.Context(), s.pool, eventstore.Options{})
	require.NoError(t, err)
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
		defer cancel()
		require.NoError(t, store.Close(ctx))
	})
	gate, err := redis.Open(t.Context(), []string{s.redis}, s.gateStore, redis.Options{})
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, gate.Close()) })
	cfg := Config{
		Pool: s.pool, Store: store, Reader: s.reader, Claims: s.claims, GateStore: s.gateStore, Gate: gate, Verifier: s.Verifier,
		AppendQueue: 4096, SlotTTL: 30 * time.Minute, SlotWarning: 5 * time.Minute, Registry: registry(),
		WebhookSecrets: []string{webhookSecret},
	}
	for _, f := range change {
		f(&cfg)
	}
	cfg.Payments, err = payments.New(payments.Config{
		Pool: s.pool, Store: store, Reader: s.reader, Claims: s.claims, Gate: cfg.Gate, Gateway: s.fake,
		CallbackURL: "http://here/v1/webhooks/payment", PaymentTimeout: paymentTimeout,
		SlotTTL: cfg.SlotTTL, SlotWarning: cfg.SlotWarning, Registry: cfg.Registry,
	})
	require.NoError(t, err)
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
		defer cancel()
		require.NoError(t, cfg.Payments.Close(ctx))
	})
	api, err := New(cfg)
	require.NoError(t, err)
	return node{client: newClient(t, api.Handler()), gate: gate, store: store, payments: cfg.Payments}
}

// opening is how far in the future tests start a sale; a test that acquires waits for it.
const opening = 50 * time.Millisecond

// product creates a product that is on sale.
func (s *system) product(t testing.TB, n node, stock int, more ...any) uuid.UUID {
	t.Helper()
	id := s.upcoming(t, n, stock, opening, more...)
	s.awaitSale(t, n, id)
	return id
}

func (s *system) upcoming(t testing.TB, n node, stock int, in time.Duration, more ...any) uuid.UUID {
	t.Helper()
	body := map[string]any{
		"name": "n", "description": "d", "price": "10", "stock": stock,
	}
	for i := 0; i+1 < len(more); i += 2 {
		body[more[i].(string)] = more[i+1]
	}
	var a answered
	for ; ; in *= 4 { // on a slow machine the time may have passed
		body["saleDate"] = time.Now().Add(in).Format(time.RFC3339Nano)
		a = n.do(t, s.admin, http.MethodPost, "/v1/products", body)
		if a.status != 400 || in > time.Minute || !slices.Equal(a.fields(), []string{"saleDate"}) {
			break
		}
	}
	require.Equal(t, 201, a.status, a.body)
	require.Equal(t, "/v1/products/"+a.text("id"), a.header.Get("Location"))
	id, err := uuid.Parse(a.text("id"))
	require.NoError(t, err)
	return id
}

// awaitSale waits for the gate's clock, with a buyer who is too early until then
// and releases the slot.
func (s *system) awaitSale(t testing.TB, n node, product uuid.UUID) {
	t.Helper()
	early := s.user(t, auth.Buyer)
	slot := s.acquireUntil(t, 10*time.Second, n, early, product, "")
	require.Equal(t, 204, s.release(t, n, early, slot.text("id")).status)
}

func (s *system) acquire(t testing.TB, n node, u user, product uuid.UUID, headers ...string) answered {
	t.Helper()
	return n.do(t, u, http.MethodPost, "/v1/slots/acquire", map[string]any{"productId": product}, headers...)
}

// granted is acquire, which must succeed.
func (s *system) granted(t testing.TB, n node, u user, product uuid.UUID, headers ...string) answered {
	t.Helper()
	a := s.acquire(t, n, u, product, headers...)
	require.Equal(t, http.StatusCreated, a.status, a.body)
	return a
}

// acquireUntil repeats an acquire until the response has this problem; "": until it is a slot.
func (s *system) acquireUntil(t testing.TB, within time.Duration, n node, u user, product uuid.UUID, slug string) (a answered) {
	t.Helper()
	testkit.Eventually(t, within, "a slot, or the problem "+slug, func() error {
		if a = s.acquire(t, n, u, product); a.slug() != slug || (slug == "") != (a.status == http.StatusCreated) {
			return fmt.Errorf("%d %v", a.status, a.body)
		}
		return nil
	})
	return a
}

func (s *system) release(t testing.TB, n node, u user, slot string) answered {
	t.Helper()
	return n.do(t, u, http.MethodDelete, "/v1/slots/"+slot, nil)
}

func (s *system) update(t testing.TB, n node, product uuid.UUID, change map[string]any) answered {
	t.Helper()
	return n.do(t, s.admin, http.MethodPut, "/v1/products/"+product.String(), change)
}

func (s *system) remove(t testing.TB, n node, product uuid.UUID) answered {
	t.Helper()
	return n.do(t, s.admin, http.MethodDelete, "/v1/products/"+product.String(), nil)
}

// slots folds every slot of the product from the store, independent of the responses.
func (s *system) slots(t testing.TB, product uuid.UUID) map[uuid.UUID]domain.Slot {
	t.Helper()
	slots := map[uuid.UUID]domain.Slot{}
	head, err := s.reader.Head(t.Context())
	require.NoError(t, err)
	recorded, err := s.reader.ReadPartition(t.Context(), product, 0, head, 1_000_000)
	require.NoError(t, err)
	for _, r := range recorded {
		e, err := avsc.Decode(r)
		require.NoError(t, err)
		if e.StreamID != product {
			slots[e.StreamID] = domain.EvolveSlot(slots[e.StreamID], e)
		}
	}
	return slots
}

// requireLawful checks R1 and R3 for the store's slots, and that no number was
// used twice; it returns the active ones.
func (s *system) requireLawful(t testing.TB, product uuid.UUID) map[uuid.UUID]domain.Slot {
	t.Helper()
	active := map[uuid.UUID]domain.Slot{}
	units, buyers, numbers := map[int]bool{}, map[uuid.UUID]bool{}, map[int64]bool{}
	for id, slot := range s.slots(t, product) {
		require.False(t, numbers[slot.ArrivalSequence], "number %d used twice", slot.ArrivalSequence)
		numbers[slot.ArrivalSequence] = true
		if slot.Status != domain.ActiveSlot {
			continue
		}
		require.False(t, units[slot.Unit], "unit %d held twice", slot.Unit)
		require.False(t, buyers[slot.UserID], "buyer %s holds two", slot.UserID)
		units[slot.Unit], buyers[slot.UserID] = true, true
		active[id] = slot
	}
	return active
}

// crowd lets n buyers act at the same time and waits for all.
func crowd(n int, act func(i int)) {
	var wg sync.WaitGroup
	start := make(chan struct{})
	for i := range n {
		wg.Go(func() {
			<-start
			act(i)
		})
	}
	close(start)
	wg.Wait()
}
