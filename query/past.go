package query

import (
	"context"
	"errors"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/labstack/echo/v4"

	"github.com/dopaminestore/dopamine/avsc"
	"github.com/dopaminestore/dopamine/domain"
	"github.com/dopaminestore/dopamine/eventstore"
	"github.com/dopaminestore/dopamine/internal/httpapi"
	"github.com/dopaminestore/dopamine/internal/problem"
	"github.com/dopaminestore/dopamine/internal/view"
)

// pastTimeout bounds a look into the past. Counting the slots of a product that
// has sold a million takes about a second.
const pastTimeout = 5 * time.Second

// past folds what the event store had at the end of a millisecond.
type past struct {
	pool   *pgxpool.Pool // nil where the write side cannot be read from here
	events *eventstore.Reader
}

func newPast(pool *pgxpool.Pool) past {
	if pool == nil {
		return past{}
	}
	return past{pool: pool, events: eventstore.NewReader(pool)}
}

// pastOf reads the parameter "at", to the millisecond.
func pastOf(c echo.Context) (at time.Time, given bool, err error) {
	q := httpapi.QueryOf(c)
	at, given = q.Time("at")
	return at.Truncate(time.Millisecond), given, q.Err()
}

// product is the product as it was; errNoProduct before it existed and from its
// deletion on.
func (p past) product(ctx context.Context, id uuid.UUID, at time.Time) (view.Product, error) {
	if p.pool == nil {
		return view.Product{}, errNoWrites
	}
	ctx, cancel := context.WithTimeout(ctx, pastTimeout)
	defer cancel()
	events, err := p.until(ctx, id, at)
	if err != nil {
		return view.Product{}, err
	}
	product := foldProduct(events)
	if product.ID != id || !product.Exists() {
		return view.Product{}, errNoProduct
	}
	var held int
	err = p.pool.QueryRow(ctx, `
SELECT count(*) FILTER (WHERE type = 'SlotAcquired') - count(*) FILTER (WHERE type = 'SlotExpired')
FROM events
WHERE key = $1 AND recorded_at <= $2 AND type IN ('SlotAcquired', 'SlotExpired')`, id, at).Scan(&held)
	if err != nil {
		return view.Product{}, failed("count the units that were held", err)
	}
	return view.ProductOf(product, held, at), nil
}

// slot is the slot as it was; errNoSlot before it existed.
func (p past) slot(ctx context.Context, id uuid.UUID, at time.Time) (view.Slot, error) {
	if p.pool == nil {
		return view.Slot{}, errNoWrites
	}
	ctx, cancel := context.WithTimeout(ctx, pastTimeout)
	defer cancel()
	events, err := p.until(ctx, id, at)
	if err != nil {
		return view.Slot{}, err
	}
	s := domain.FoldSlot(events)
	if s.ID != id {
		return view.Slot{}, errNoSlot
	}
	ofProduct, err := p.until(ctx, s.ProductID, at)
	if err != nil {
		return view.Slot{}, err
	}
	return view.SlotOf(s, foldProduct(ofProduct).Name, at), nil
}

func foldProduct(events []domain.Envelope) domain.Product {
	var p domain.Product
	for _, e := range events {
		p = domain.EvolveProduct(p, e)
	}
	return p
}

// until is what a stream held at the end of the millisecond. What the store will
// yet record is later than its clock, so that clock tells what is the future;
// an event may be ahead of it where the clock was set back.
func (p past) until(ctx context.Context, stream uuid.UUID, at time.Time) ([]domain.Envelope, error) {
	var now time.Time
	if err := p.pool.QueryRow(ctx, `SELECT clock_timestamp()`).Scan(&now); err != nil {
		return nil, failed("read the store's clock", err)
	}
	recorded, err := p.events.Stream(ctx, stream, 0)
	if err != nil {
		return nil, failed("read a stream", err)
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
