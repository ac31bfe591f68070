package redis

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/google/uuid"
)

// maxNamed is how many products a reason lists.
const maxNamed = 5

// Reasons returns why this node does not sell some products although Redis is healthy,
// one sentence each, or none.
func (g *Gate) Reasons(context.Context) []string {
	products := g.otherRedis.list()
	if len(products) == 0 {
		return nil
	}
	var names []string
	for _, product := range products[:min(len(products), maxNamed)] {
		names = append(names, product.String())
	}
	more := ""
	if n := len(products) - len(names); n > 0 {
		more = fmt.Sprintf(" and %d more", n)
	}
	return []string{"another Redis is in use for these products: " + strings.Join(names, ", ") + more}
}

// recentFor is for how long an observation is reported.
const recentFor = 5 * time.Second

// recent remembers products for recentFor.
type recent struct {
	mu   sync.Mutex
	seen map[uuid.UUID]time.Time
}

func (r *recent) add(product uuid.UUID) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.seen == nil {
		r.seen = make(map[uuid.UUID]time.Time)
	}
	r.seen[product] = time.Now()
}

// list returns the products, sorted.
func (r *recent) list() []uuid.UUID {
	r.mu.Lock()
	defer r.mu.Unlock()
	var found []uuid.UUID
	for product, at := range r.seen {
		if time.Since(at) > recentFor {
			delete(r.seen, product)
			continue
		}
		found = append(found, product)
	}
	slices.SortFunc(found, func(a, b uuid.UUID) int { return slices.Compare(a[:], b[:]) })
	return found
}

// obstructedAfter is for how long a gate may be under rebuild before its requests are
// kept apart from those for other products.
const obstructedAfter = 200 * time.Millisecond

// Obstructed reports whether the product's gate cannot decide now: it has been under
// rebuild for obstructedAfter, its last reconciliation failed a moment ago, or its
// Redis master did not answer the last call. It takes no lock and makes no call.
func (g *Gate) Obstructed(id uuid.UUID) bool {
	if l := g.topology.Of(productPrefix(g.keyPrefix, id) + "stock"); l == nil || l.Silent() {
		return true
	}
	kept, ok := g.products.Load(id)
	if !ok {
		return false
	}
	p := kept.(*product)
	since := p.rebuilding.Load()
	return since != 0 && time.Since(time.Unix(0, since)) > obstructedAfter || p.paused() != nil
}
