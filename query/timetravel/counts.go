package timetravel

import (
	"context"
	"sort"
	"sync"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5/pgxpool"
)

const (
	// heldPage is the number of events of a product counted at a time.
	heldPage = 50_000
	// heldProducts is the maximum number of products whose counts are kept.
	heldProducts = 256
)

// heldCounts counts how many units of a product were held at a moment. Each event is counted once:
// the counts at the ends of pages are kept, so that a later request reads at most one page, however
// many events the product has. If the first request for a large product times out, the pages it
// counted are kept for the next one.
type heldCounts struct {
	pool *pgxpool.Pool
	page int // heldPage, or fewer in tests

	mu       sync.Mutex
	products map[uuid.UUID][]heldCount // ascending
}

// heldCount is the number of units held after the event at a position.
type heldCount struct {
	position int64
	recorded time.Time
	held     int
}

func newHeldCounts(pool *pgxpool.Pool) *heldCounts {
	return &heldCounts{pool: pool, page: heldPage, products: map[uuid.UUID][]heldCount{}}
}

// forget drops all counts: the store lost events that they include.
func (h *heldCounts) forget() {
	h.mu.Lock()
	defer h.mu.Unlock()
	clear(h.products)
}

// heldPageSQL counts a page of the product's events after a position, up to a moment. Their times
// never decrease with position, so a page that ends before the moment is complete. The index is
// (key, position).
const heldPageSQL = `
SELECT coalesce(max(position), 0), coalesce(max(recorded_at), 'epoch'), count(*),
       count(*) FILTER (WHERE type = 'SlotAcquired' AND recorded_at <= $4) -
       count(*) FILTER (WHERE type IN ('SlotExpired', 'SlotReturned') AND recorded_at <= $4)
FROM (SELECT position, recorded_at, type FROM events WHERE key = $1 AND position > $2 ORDER BY position LIMIT $3) page`

// at returns the count at the end of the moment.
func (h *heldCounts) at(ctx context.Context, product uuid.UUID, at time.Time) (int, error) {
	from := h.before(product, at)
	for {
		var end heldCount
		var events, change int
		if err := h.pool.QueryRow(ctx, heldPageSQL, product, from.position, h.page, at).Scan(&end.position, &end.recorded, &events, &change); err != nil {
			return 0, err
		}
		end.held = from.held + change
		if events < h.page || end.recorded.After(at) {
			return end.held, nil
		}
		h.keep(product, end)
		from = end
	}
}

// before returns the last kept count from before the end of the moment.
func (h *heldCounts) before(product uuid.UUID, at time.Time) heldCount {
	h.mu.Lock()
	defer h.mu.Unlock()
	counts := h.products[product]
	if i := sort.Search(len(counts), func(i int) bool { return counts[i].recorded.After(at) }); i > 0 {
		return counts[i-1]
	}
	return heldCount{}
}

func (h *heldCounts) keep(product uuid.UUID, c heldCount) {
	h.mu.Lock()
	defer h.mu.Unlock()
	counts := h.products[product]
	if n := len(counts); n > 0 && counts[n-1].position >= c.position {
		return // another request was faster
	}
	if counts == nil && len(h.products) >= heldProducts {
		for other := range h.products {
			delete(h.products, other)
			break
		}
	}
	h.products[product] = append(counts, c)
}
