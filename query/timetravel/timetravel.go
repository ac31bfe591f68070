// Package timetravel folds earlier states of products and slots from the event store.
package timetravel

import (
	"context"
	"errors"
	"math"
	"strconv"
	"strings"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/labstack/echo/v4"
	"golang.org/x/sync/semaphore"

	"github.com/dopaminestore/dopamine/avsc"
	"github.com/dopaminestore/dopamine/domain"
	"github.com/dopaminestore/dopamine/eventstore"
	"github.com/dopaminestore/dopamine/internal/apimodel"
	"github.com/dopaminestore/dopamine/internal/consistency"
	"github.com/dopaminestore/dopamine/internal/httpapi"
	"github.com/dopaminestore/dopamine/internal/problem"
	"github.com/dopaminestore/dopamine/query/cache"
	"github.com/dopaminestore/dopamine/query/readmodel"
)

const (
	// pastTimeout bounds a read of a past state.
	pastTimeout = 5 * time.Second
	// pastConcurrency is the maximum number of concurrent reads: they need no token, and read the
	// database of the append path.
	pastConcurrency = 2
	// pastWait is how long a request waits for the semaphore.
	pastWait = time.Second
	// pastTTL is how long a result is kept; it changes only if the store loses events (history).
	pastTTL     = 10 * time.Minute
	pastEntries = 1000
	// settledAfter is the age from which a moment is final: no transaction that began before it can
	// still commit.
	settledAfter = 10 * time.Second
)

// Reader folds the events that the event store had at the end of a millisecond. Create it with New.
type Reader struct {
	pool     *pgxpool.Pool // nil if the write side cannot be read
	events   *eventstore.Reader
	held     *heldCounts
	history  *history
	turns    *semaphore.Weighted
	products *cache.Cache[apimodel.Product]
	slots    *cache.Cache[apimodel.Slot]
}

// New returns a reader of the event store in pool. If pool is nil, its errors are 503 unavailable.
func New(pool *pgxpool.Pool) *Reader {
	if pool == nil {
		return &Reader{}
	}
	turns := semaphore.NewWeighted(pastConcurrency)
	events, held := eventstore.NewReader(pool), newHeldCounts(pool)
	return &Reader{
		pool: pool, events: events, held: held, turns: turns, history: &history{events: events, forget: held.forget},
		products: cache.New[apimodel.Product](pastTTL, pastEntries, turns, pastWait, pastTimeout),
		slots:    cache.New[apimodel.Slot](pastTTL, pastEntries, turns, pastWait, pastTimeout),
	}
}

// pastKey is the cache key of the state of a stream at a moment. The key of a moment that is not
// final yet includes the current second, so that the result is shared only briefly.
func (p *Reader) pastKey(ctx context.Context, id uuid.UUID, at time.Time) string {
	key := strconv.Itoa(p.history.current(ctx)) + " " + id.String() + at.UTC().Format(time.RFC3339Nano)
	if now := time.Now(); now.Sub(at) < settledAfter {
		key += now.Truncate(time.Second).Format(time.RFC3339)
	}
	return key
}

// pastOf reads the parameter "at", truncated to the millisecond.
func pastOf(c echo.Context) (at time.Time, given bool, err error) {
	q := httpapi.QueryOf(c)
	at, given = q.Time("at")
	return at.Truncate(time.Millisecond), given, q.Err()
}

// NowOrAt reads the object of the path: at the moment that the request names, or the current one.
func NowOrAt[V any](c echo.Context,
	now func(ctx context.Context, id uuid.UUID, min []consistency.ProductPosition) (V, error),
	past func(ctx context.Context, id uuid.UUID, at time.Time) (V, error),
) (v V, err error) {
	id, err := httpapi.PathUUID(c, "id")
	if err != nil {
		return v, err
	}
	at, given, err := pastOf(c)
	if err != nil {
		return v, err
	}
	min, err := httpapi.MinPositions(c)
	if err != nil {
		return v, err
	}
	if given {
		return past(c.Request().Context(), id, at)
	}
	return now(c.Request().Context(), id, min)
}

// Product returns the product at a moment. It returns ErrNoProduct for moments before its creation
// or after its deletion.
func (p *Reader) Product(ctx context.Context, id uuid.UUID, at time.Time) (apimodel.Product, error) {
	if p.pool == nil {
		return apimodel.Product{}, readmodel.ErrNoWrites
	}
	return p.products.Get(ctx, p.pastKey(ctx, id, at), func(ctx context.Context) (apimodel.Product, error) {
		events, err := p.until(ctx, id, at)
		if err != nil {
			return apimodel.Product{}, err
		}
		product := domain.FoldProduct(events)
		if product.ID != id || !product.Exists() {
			return apimodel.Product{}, readmodel.ErrNoProduct
		}
		held, err := p.held.at(ctx, id, at)
		if err != nil {
			return apimodel.Product{}, readmodel.DatabaseError("count the units that were held", err)
		}
		shown := apimodel.ProductOf(product, held, at)
		if product.Cancelled {
			shown.Cancellation, err = p.cancellation(ctx, id, at)
		}
		return shown, err
	})
}

// pastPage is the number of events of a product read at a time.
const pastPage = 2000

// cancellation counts the purchases of a cancelled sale at a moment, from the payments' own events.
func (p *Reader) cancellation(ctx context.Context, product uuid.UUID, at time.Time) (*apimodel.Cancellation, error) {
	all := map[uuid.UUID]domain.Payment{}
	for after := int64(0); ; {
		recorded, err := p.events.ReadPartition(ctx, product, after, math.MaxInt64, pastPage)
		if err != nil {
			return nil, readmodel.DatabaseError("read a product's payments", err)
		}
		for _, r := range recorded {
			after = r.Position
			if r.RecordedAt.After(at) {
				return countCancellation(all), nil
			}
			if !strings.HasPrefix(r.Type, "Payment") && !strings.HasPrefix(r.Type, "Refund") {
				continue
			}
			e, err := avsc.Decode(r)
			if err != nil {
				return nil, errors.Join(errors.New("decode a stored event"), err)
			}
			if id, _, ok := domain.PaymentOf(e.Event); ok {
				all[id] = domain.EvolvePayment(all[id], e)
			}
		}
		if len(recorded) < pastPage {
			return countCancellation(all), nil
		}
	}
}

func countCancellation(all map[uuid.UUID]domain.Payment) *apimodel.Cancellation {
	c := &apimodel.Cancellation{}
	for _, p := range all {
		if p.Status != domain.SuccessfulPayment || p.Price.IsZero() {
			continue
		}
		c.Purchases++
		switch p.Settlement() {
		case domain.SettledRefunded:
			c.Refunded++
		case domain.SettledFailed:
			c.Failed++
		default:
			c.Open++
		}
	}
	return c
}

// Slot returns the slot at a moment. It returns ErrNoSlot for moments before its acquisition.
func (p *Reader) Slot(ctx context.Context, id uuid.UUID, at time.Time) (apimodel.Slot, error) {
	if p.pool == nil {
		return apimodel.Slot{}, readmodel.ErrNoWrites
	}
	return p.slots.Get(ctx, p.pastKey(ctx, id, at), func(ctx context.Context) (apimodel.Slot, error) {
		events, err := p.until(ctx, id, at)
		if err != nil {
			return apimodel.Slot{}, err
		}
		s := domain.FoldSlot(events)
		if s.ID != id {
			return apimodel.Slot{}, readmodel.ErrNoSlot
		}
		ofProduct, err := p.until(ctx, s.ProductID, at)
		if err != nil {
			return apimodel.Slot{}, err
		}
		return apimodel.SlotOf(s, domain.FoldProduct(ofProduct).Name, at), nil
	})
}

// until returns the events of a stream up to the end of the millisecond. Events that are not
// recorded yet will be later than the store's clock, so that clock decides what is in the future.
// An event may be ahead of the clock if the clock was set back.
func (p *Reader) until(ctx context.Context, stream uuid.UUID, at time.Time) ([]domain.Envelope, error) {
	var now time.Time
	if err := p.pool.QueryRow(ctx, `SELECT clock_timestamp()`).Scan(&now); err != nil {
		return nil, readmodel.DatabaseError("read the store's clock", err)
	}
	recorded, err := p.events.Stream(ctx, stream, 0)
	if err != nil {
		return nil, readmodel.DatabaseError("read a stream", err)
	}
	ahead := at.After(now)
	var events []domain.Envelope
	for _, r := range recorded {
		if r.RecordedAt.After(at) {
			return events, nil
		}
		e, err := avsc.Decode(r)
		if err != nil {
			return nil, errors.Join(errors.New("decode a stored event"), err)
		}
		events = append(events, e)
		ahead = ahead && at.After(r.RecordedAt)
	}
	if ahead {
		return nil, problem.Invalid(problem.Field("at", "must not lie in the future"))
	}
	return events, nil
}
