package command

import (
	"context"
	"net/http"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/google/uuid"
	"github.com/stretchr/testify/require"

	"github.com/dopaminestore/dopamine/domain"
	"github.com/dopaminestore/dopamine/internal/auth"
	"github.com/dopaminestore/dopamine/tools/testkit"
)

// tally counts the responses to a crowd, by "201" or the problem's slug.
type tally struct {
	mu     sync.Mutex
	counts map[string]int
	slots  map[string]uuid.UUID // of the 201s: slot to buyer
}

func newTally() *tally { return &tally{counts: map[string]int{}, slots: map[string]uuid.UUID{}} }

func (c *tally) add(u user, a answered, err error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	switch {
	case err != nil:
		c.counts[err.Error()]++
	case a.status == 201:
		c.counts["201"]++
		c.slots[a.text("id")] = u.id
	case a.status == 204:
		c.counts["204"]++
	default:
		c.counts[a.slug()]++
	}
}

// acquire is one of the crowd's requests to acquire.
func (c *tally) acquire(t testing.TB, n node, u user, product uuid.UUID) answered {
	a, err := n.send(t.Context(), u, http.MethodPost, "/v1/slots/acquire", map[string]any{"productId": product})
	c.add(u, a, err)
	return a
}

// requireDurable: each 201 is a slot of that buyer in the store (R4).
func (s *system) requireDurable(t testing.TB, product uuid.UUID, c *tally) {
	t.Helper()
	slots := s.slots(t, product)
	for id, buyer := range c.slots {
		require.Equal(t, buyer, slots[uuid.MustParse(id)].UserID, "slot %s was returned and does not exist", id)
	}
}

func (s *system) buyers(t testing.TB, n int) []user {
	t.Helper()
	users := make([]user, n)
	for i := range users {
		users[i] = s.user(t, auth.Buyer)
	}
	return users
}

func TestRush_TwoNodes(t *testing.T) {
	const stock, buyers = 40, 400
	s, nodes, product := onTwoNodes(t, stock)
	users, c := s.buyers(t, buyers), newTally()
	crowd(buyers, func(i int) { c.acquire(t, nodes[i%2], users[i], product) })
	require.Equal(t, map[string]int{"201": stock, "sold-out": buyers - stock}, c.counts)
	require.Len(t, s.requireLawful(t, product), stock)
	s.requireDurable(t, product, c)
	r := s.requireFair(t, nodes[0], product)
	require.Equal(t, int64(stock+1), r.Granted, "and the one who waited for the sale")
	require.GreaterOrEqual(t, r.Refused.SoldOut, int64(buyers-stock), "one asked again is decided again")
}

func TestRush_OneBuyerOnAllNodes(t *testing.T) {
	s, nodes, product := onTwoNodes(t, 100)
	buyer, c := s.user(t, auth.Buyer), newTally()
	crowd(30, func(i int) { c.acquire(t, nodes[i%2], buyer, product) })
	require.Equal(t, map[string]int{"201": 1, "duplicate-slot": 29}, c.counts)
	require.Len(t, s.requireLawful(t, product), 1)
}

func TestRush_StockRaised(t *testing.T) {
	s, nodes, product := onTwoNodes(t, 10)
	const waves, raise = 10, 5
	users, c := s.buyers(t, 300), newTally()
	crowd(len(users)+waves, func(i int) {
		if i >= len(users) {
			if a, err := nodes[i%2].send(t.Context(), s.admin, http.MethodPut, "/v1/products/"+product.String(), map[string]any{"stockIncrease": raise}); err != nil || a.status != 200 {
				t.Errorf("raise: %d %v %v", a.status, a.body, err)
			}
			return
		}
		c.acquire(t, nodes[i%2], users[i], product)
	})
	// Buyers refused before the last units opened send another request and get them.
	for _, u := range s.buyers(t, 10+waves*raise-c.counts["201"]) {
		require.Equal(t, 201, s.acquire(t, nodes[0], u, product).status)
	}
	require.Equal(t, "sold-out", s.acquire(t, nodes[1], s.user(t, auth.Buyer), product).slug())
	require.Len(t, s.requireLawful(t, product), 10+waves*raise)
	s.requireFair(t, nodes[0], product)
}

func TestRush_Paused(t *testing.T) {
	const stock = 30
	s, nodes, product := onTwoNodes(t, stock)
	users, c := s.buyers(t, 300), newTally()
	crowd(len(users)+1, func(i int) {
		if i < len(users) {
			c.acquire(t, nodes[i%2], users[i], product)
			return
		}
		for _, paused := range []bool{true, false, true, false} {
			if a, err := nodes[0].send(t.Context(), s.admin, http.MethodPut, "/v1/products/"+product.String(), map[string]any{"paused": paused}); err != nil || a.status != 200 {
				t.Errorf("pause: %d %v %v", a.status, a.body, err)
			}
		}
	})
	require.Equal(t, len(users), c.counts["201"]+c.counts["sold-out"]+c.counts["sale-paused"], "%v", c.counts)
	for _, u := range s.buyers(t, stock-c.counts["201"]) {
		require.Equal(t, 201, s.acquire(t, nodes[1], u, product).status, "a unit was lost in a pause")
	}
	require.Len(t, s.requireLawful(t, product), stock)
	s.requireFair(t, nodes[0], product)
}

// TestDelete_RacesAcquire: at the same instant, many times. Either the product
// is deleted and has no slot, or a buyer has one and it stays.
func TestDelete_RacesAcquire(t *testing.T) {
	t.Parallel()
	s := newSystem(t, testkit.Redis(t))
	nodes := []node{s.node(t), s.node(t)}
	var deleted atomic.Int32
	for round := range 60 {
		product := s.product(t, nodes[0], 3)
		users, c := s.buyers(t, 3), newTally()
		var end answered
		crowd(len(users)+1, func(i int) {
			if i < len(users) {
				c.acquire(t, nodes[i%2], users[i], product)
				return
			}
			var err error
			end, err = nodes[round%2].send(t.Context(), s.admin, http.MethodDelete, "/v1/products/"+product.String(), nil)
			if err != nil {
				t.Error(err)
			}
		})
		switch end.status {
		case 204:
			deleted.Add(1)
			require.Equal(t, map[string]int{"product-not-found": len(users)}, c.counts)
			require.Empty(t, s.requireLawful(t, product))
		case 409:
			require.Equal(t, "product-delete-conflict", end.slug())
			require.Equal(t, map[string]int{"201": len(users)}, c.counts)
			require.Len(t, s.requireLawful(t, product), len(users))
		default:
			t.Fatalf("%d %v", end.status, end.body)
		}
	}
	t.Logf("deleted %d of 60", deleted.Load())
}

func TestRelease_RacesRelease(t *testing.T) {
	s, nodes, product := onTwoNodes(t, 1)
	for range 60 {
		buyer := s.user(t, auth.Buyer)
		slot := s.acquire(t, nodes[0], buyer, product)
		require.Equal(t, 201, slot.status, slot.body)
		c := newTally()
		crowd(4, func(i int) {
			by := buyer
			if i%2 == 1 {
				by = s.admin
			}
			a, err := nodes[i/2].send(t.Context(), by, http.MethodDelete, "/v1/slots/"+slot.text("id"), nil)
			c.add(by, a, err)
		})
		require.Equal(t, map[string]int{"204": 1, "slot-not-active": 3}, c.counts)
	}
	for _, slot := range s.slots(t, product) {
		require.Equal(t, domain.ExpiredSlot, slot.Status)
		require.Equal(t, 2, slot.Version, "a slot ends once")
	}
}

// TestRush_RedisFlushed: Redis loses everything while buyers come and go.
func TestRush_RedisFlushed(t *testing.T) {
	t.Parallel()
	own := testkit.OwnRedis(t)
	s := newSystem(t, own.URL())
	nodes := []node{s.node(t), s.node(t)}
	const stock = 60
	product := s.product(t, nodes[0], stock)
	users, c := s.buyers(t, 400), newTally()
	var asked atomic.Int32
	crowd(len(users), func(i int) {
		if n := asked.Add(1); n == 50 || n == 200 {
			flush(t, own.URL())
		}
		if a := c.acquire(t, nodes[i%2], users[i], product); a.status == 201 && i%4 == 0 {
			r, err := nodes[i%2].send(t.Context(), users[i], http.MethodDelete, "/v1/slots/"+a.text("id"), nil)
			if err != nil || r.status != 204 {
				t.Errorf("release: %d %v %v", r.status, r.body, err)
			}
		}
	})
	s.requireDurable(t, product, c)
	active := len(s.requireLawful(t, product))
	for _, u := range s.buyers(t, stock-active) {
		a := s.acquire(t, nodes[0], u, product)
		require.Equal(t, 201, a.status, "a unit was lost: %v", a.body)
	}
	require.Equal(t, "sold-out", s.acquire(t, nodes[1], s.user(t, auth.Buyer), product).slug())
	require.Len(t, s.requireLawful(t, product), stock)
	s.requireFair(t, nodes[0], product)
	t.Logf("%v", c.counts)
}

// TestRush_PostgresConnectionsKilled: every confirmed slot exists.
func TestRush_PostgresConnectionsKilled(t *testing.T) {
	const stock, workers, each = 200, 20, 30
	s, nodes, product := onTwoNodes(t, stock)
	users, c := s.buyers(t, workers*each), newTally()
	var asked atomic.Int32
	crowd(workers, func(w int) {
		for _, u := range users[w*each : (w+1)*each] {
			if n := asked.Add(1); n%150 == 0 {
				if _, err := s.pool.Exec(t.Context(), `select pg_terminate_backend(pid) from pg_stat_activity
				where datname = current_database() and pid <> pg_backend_pid()`); err != nil {
					t.Logf("the killer was killed: %v", err)
				}
			}
			c.acquire(t, nodes[w%2], u, product)
		}
	})
	t.Logf("%v", c.counts)
	require.Equal(t, len(users), c.counts["201"]+c.counts["sold-out"]+c.counts["unavailable"], "%v", c.counts)
	s.requireDurable(t, product, c)
	s.requireLawful(t, product)
	require.GreaterOrEqual(t, c.counts["201"], 1)
}

func flush(t testing.TB, url string) {
	if err := testkit.RedisClient(t, url).FlushAll(context.Background()).Err(); err != nil {
		t.Error(err)
	}
}
