package command

import (
	"math/rand/v2"
	"net/http"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/stretchr/testify/require"

	"github.com/dopaminestore/dopamine/tools/testkit"
)

// drop is a model of product, grant and release for one product that is on sale, with one
// request after the other.
type drop struct {
	stock  int
	paused bool
	held   map[uuid.UUID]holding // by buyer
	last   int64                 // the highest arrivalSequence so far
	ended  []string              // slots that have ended
}

type holding struct {
	slot, key string
	unit      int64
}

// TestRequests_MatchModel sends a thousand requests, one after the other, to two
// nodes in turn and predicts each response.
func TestRequests_MatchModel(t *testing.T) {
	t.Parallel()
	s := newSystem(t, testkit.Redis(t))
	nodes := []node{s.node(t), s.node(t)}
	seed := uint64(time.Now().UnixNano())
	t.Logf("seed %d", seed)
	r := rand.New(rand.NewPCG(seed, 0))
	buyers := s.buyers(t, 5)
	var product uuid.UUID
	var m *drop
	seen := map[string]int{}
	for range 1000 {
		n := nodes[r.IntN(len(nodes))]
		if m == nil {
			m = &drop{stock: 1 + r.IntN(3), held: map[uuid.UUID]holding{}}
			product = s.product(t, n, m.stock)
		}
		switch buyer := buyers[r.IntN(len(buyers))]; r.IntN(10) {
		default:
			seen[m.acquire(t, s, n, buyer, product, []string{"", "a", "b"}[r.IntN(3)])]++
		case 6, 7, 8:
			by := []user{buyer, s.admin, buyers[r.IntN(len(buyers))]}[r.IntN(3)]
			seen[m.release(t, s, n, buyer, by)]++
		case 9:
			if r.IntN(8) > 0 {
				m.update(t, s, n, product, r)
				continue
			}
			a := s.remove(t, n, product)
			if len(m.held) > 0 {
				require.Equal(t, "product-delete-conflict", a.slug())
				continue
			}
			require.Equal(t, 204, a.status, a.body)
			require.Equal(t, 404, s.acquire(t, n, buyer, product).status)
			s.requireFair(t, n, product)
			m = nil
		}
	}
	t.Logf("%v", seen)
	for _, kind := range []string{"new", "same", "sale-paused", "duplicate-slot", "sold-out", "204", "403", "slot-not-active"} {
		require.NotZero(t, seen[kind], "no request led to %s", kind)
	}
}

func (m *drop) acquire(t *testing.T, s *system, n node, u user, product uuid.UUID, key string) string {
	t.Helper()
	headers := []string{}
	if key != "" {
		headers = []string{"Idempotency-Key", key}
	}
	a := s.acquire(t, n, u, product, headers...)
	h, holds := m.held[u.id]
	refused := func(slug string) string {
		t.Helper()
		require.Equal(t, 409, a.status, a.body)
		require.Equal(t, slug, a.slug())
		return slug
	}
	switch {
	case holds && key != "" && h.key == key:
		require.Equal(t, 201, a.status, a.body)
		require.Equal(t, h.slot, a.text("id"))
		return "same"
	case m.paused:
		return refused("sale-paused")
	case holds:
		require.Equal(t, h.slot, a.text("slotId"))
		return refused("duplicate-slot")
	case len(m.held) == m.stock:
		return refused("sold-out")
	}
	require.Equal(t, 201, a.status, a.body)
	require.Greater(t, a.number("arrivalSequence"), m.last, "numbers grow")
	m.last = a.number("arrivalSequence")
	unit := a.number("unit")
	require.True(t, unit >= 1 && unit <= int64(m.stock), "unit %d of %d", unit, m.stock)
	for _, other := range m.held {
		require.NotEqual(t, other.unit, unit, "a unit held twice")
	}
	m.held[u.id] = holding{a.text("id"), key, unit}
	return "new"
}

func (m *drop) release(t *testing.T, s *system, n node, owner, by user) string {
	t.Helper()
	h, holds := m.held[owner.id]
	if !holds {
		if len(m.ended) == 0 {
			return ""
		}
		a := s.release(t, n, s.admin, m.ended[len(m.ended)-1])
		require.Equal(t, "slot-not-active", a.slug())
		return "slot-not-active"
	}
	a := s.release(t, n, by, h.slot)
	if by.id != owner.id && by.id != s.admin.id {
		require.Equal(t, 403, a.status)
		return "403"
	}
	require.Equal(t, 204, a.status, a.body)
	delete(m.held, owner.id)
	m.ended = append(m.ended, h.slot)
	return "204"
}

func (m *drop) update(t *testing.T, s *system, n node, product uuid.UUID, r *rand.Rand) {
	t.Helper()
	change := map[string]any{"description": time.Now().String()}
	if r.IntN(2) == 0 {
		m.paused = !m.paused
		change["paused"] = m.paused
	}
	if r.IntN(4) == 0 {
		m.stock++
		change["stockIncrease"] = 1
	}
	if r.IntN(4) == 0 {
		change["saleEndDate"] = time.Now().Add(time.Hour)
	}
	a := n.do(t, s.admin, http.MethodPut, "/v1/products/"+product.String(), change)
	require.Equal(t, 200, a.status, a.body)
	free := m.stock - len(m.held)
	require.Equal(t, int64(free), a.number("stock"))
	require.Equal(t, int64(m.stock), a.number("totalStock"))
	want := "ON_SALE"
	switch {
	case m.paused:
		want = "PAUSED"
	case free == 0:
		want = "SOLD_OUT"
	}
	require.Equal(t, want, a.text("status"))
}
