package streams

import (
	"context"
	"sync"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
	"github.com/labstack/echo/v4"

	"github.com/dopaminestore/dopamine/internal/apimodel"
	"github.com/dopaminestore/dopamine/internal/consistency"
	"github.com/dopaminestore/dopamine/internal/httpapi"
	"github.com/dopaminestore/dopamine/query/readmodel"
)

// productPause is the minimum time between two events of a product stream. It is a little more than
// a quarter of a second, so that no second has five events after delays in the network.
const productPause = 260 * time.Millisecond

var productProjections = []string{readmodel.Products}

// Product serves GET /v1/products/{id}/stream. The ids of its events are X-Position tokens: a
// client that reconnects with Last-Event-ID gets nothing older. The content is public, so the
// stream does not end when a token that was sent with the request expires.
func (p *Publisher) Product(c echo.Context) error {
	id, min, err := httpapi.PathAndMinPositions(c)
	if err != nil {
		return err
	}
	if last, err := consistency.Parse(c.Request().Header.Get(lastEventID)); err == nil && last.Product == id && last.Incarnation >= consistency.Incarnation() {
		min = append(min, last)
	}
	t, err := p.feed.join(c.Request().Context(), id, min)
	if err != nil {
		return err
	}
	return p.live(c, "product", time.Time{},
		func(s *stream) error { return s.follow(&t.broadcast, productPause) }, func() { p.feed.leave(id, t) })
}

// productTopic is a followed product.
type productTopic struct {
	broadcast
	listeners int // guarded by feed.mu

	mu       sync.Mutex
	position int64     // last_position of the published row
	at       time.Time // when it was last confirmed
	unsure   bool      // it may have changed before the feed knew of it
	open     bool      // a cancelled sale has open refunds: its counts change with other rows
	next     time.Time // when its status changes with time, on this process's clock; zero: never
}

// productRow is a product with additional values that a stream needs.
type productRow struct {
	apimodel.Product
	position int64
	now      time.Time // on the database's clock
	began    time.Time // on this process's clock, before it was read
}

// show publishes the row unless it is published already. A subscriber's own read may overlap with
// the feed's, and then only the positions show which row is newer: a row that does not appear newer
// is left to the next poll.
func (t *productTopic) show(row productRow, sure bool) error {
	event, err := encodeEvent("product", consistency.Encode(row.ID, max(1, row.position)), row.Product)
	if err != nil {
		return err
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	if row.began.Before(t.at) && row.position <= t.position {
		t.unsure = true
		return nil
	}
	t.position, t.at, t.unsure, t.next = row.position, time.Now(), !sure, row.nextStatus()
	t.open = row.Cancellation != nil && row.Cancellation.Open > 0
	if !t.shows(event) {
		t.publish(event, false)
	}
	return nil
}

// gone publishes the last event: the product was deleted.
func (t *productTopic) gone(id uuid.UUID) error {
	event, err := encodeEvent("deleted", "", struct {
		ID uuid.UUID `json:"id"`
	}{id})
	if err != nil {
		return err
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	t.publish(event, true)
	return nil
}

// sure records that the published row is current.
func (t *productTopic) sure() {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.at, t.unsure = time.Now(), false
}

// due returns the position of the published row, or -1 if the row must be read regardless of its
// position.
func (t *productTopic) due(now time.Time) (place int64, due bool) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.unsure || t.open || !t.next.IsZero() && !now.Before(t.next) || now.Sub(t.at) > refreshInterval {
		return -1, true
	}
	return t.position, false
}

// nextStatus returns when the sale begins or ends, on this process's clock.
func (r productRow) nextStatus() time.Time {
	var next time.Time
	for _, at := range []*apimodel.Time{&r.SaleDate, r.SaleEndDate} {
		if at == nil {
			continue
		}
		if t := time.Time(*at); t.After(r.now) && (next.IsZero() || t.Before(next)) {
			next = t
		}
	}
	if next.IsZero() {
		return next
	}
	return time.Now().Add(next.Sub(r.now))
}

// join follows a product and provides an initial state. It returns ErrNoProduct if there is no such
// product. If many clients join one product at the same time they share one read, except for those
// that specify positions.
func (f *feed) join(ctx context.Context, id uuid.UUID, min []consistency.ProductPosition) (*productTopic, error) {
	if len(min) > 0 {
		row, err := f.productRow(ctx, id, min)
		if err != nil {
			return nil, err
		}
		return f.enter(row)
	}
	if t := f.enterKnown(id); t != nil {
		return t, nil
	}
	select {
	case r := <-f.first.DoChan(id.String(), func() (any, error) { return f.productRow(context.WithoutCancel(ctx), id, nil) }):
		if r.Err != nil {
			return nil, r.Err
		}
		return f.enter(r.Val.(productRow))
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}

// enterKnown adds a subscriber of a product that is followed already. It returns nil if it is not.
func (f *feed) enterKnown(id uuid.UUID) *productTopic {
	f.mu.Lock()
	defer f.mu.Unlock()
	t := f.products[id]
	if t == nil || t.now.Load().last {
		return nil
	}
	t.listeners++
	return t
}

// enter adds a subscriber of the row's product, and starts to follow it if necessary. A change
// between the read and now is found by the next poll.
func (f *feed) enter(row productRow) (*productTopic, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	t := f.products[row.ID]
	if t == nil || t.now.Load().last {
		t = &productTopic{}
	}
	if err := t.show(row, false); err != nil {
		return nil, err
	}
	f.products[row.ID] = t
	t.listeners++
	f.wake()
	return t, nil
}

func (f *feed) leave(id uuid.UUID, t *productTopic) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if t.listeners--; t.listeners == 0 && f.products[id] == t {
		delete(f.products, id)
	}
}

// pollProducts reads the followed products that may have changed.
func (f *feed) pollProducts(ctx context.Context, seen, now progressSnapshot) error {
	followed := f.followed()
	var ids []uuid.UUID
	var places []int64
	began := time.Now()
	anew := now.fingerprint(productProjections) != seen.fingerprint(productProjections)
	for id, t := range followed {
		place, due := t.due(began)
		if anew {
			place = -1
		}
		if due || anew || now.moved(seen, readmodel.Products, id) {
			ids, places = append(ids, id), append(places, place)
		}
	}
	if len(ids) == 0 {
		return nil
	}
	var changed []productRow
	same := map[uuid.UUID]bool{}
	err := f.models.Read(ctx, readmodel.Snapshot{Projections: productProjections, Queue: func(b *pgx.Batch, g readmodel.Generations) {
		changed = changed[:0]
		clear(same)
		b.Queue(`
SELECT w.id FROM unnest($1::uuid[], $2::bigint[]) w(id, place) JOIN `+g.Table(readmodel.Products)+` p ON p.id = w.id AND p.last_position = w.place`, ids, places).
			Query(func(rows pgx.Rows) error {
				var id uuid.UUID
				_, err := pgx.ForEachRow(rows, []any{&id}, func() error { same[id] = true; return nil })
				return err
			})
		b.Queue(`
SELECT `+readmodel.ProductColumns+`, last_position, now() FROM `+g.Table(readmodel.Products)+` p
JOIN unnest($1::uuid[], $2::bigint[]) w(wanted, place) ON p.id = w.wanted AND p.last_position <> w.place`, ids, places).
			Query(func(rows pgx.Rows) error {
				for rows.Next() {
					row, err := scanProductRow(rows, began)
					if err != nil {
						return err
					}
					changed = append(changed, row)
				}
				return rows.Err()
			})
	}})
	if err != nil {
		return err
	}
	for _, row := range changed {
		same[row.ID] = true
		if err := followed[row.ID].show(row, true); err != nil {
			return err
		}
	}
	for _, id := range ids {
		if t := followed[id]; same[id] {
			t.sure()
		} else if err := t.gone(id); err != nil {
			return err
		}
	}
	return nil
}

// productRow reads a product for a stream. It returns ErrNoProduct if there is none.
func (f *feed) productRow(ctx context.Context, id uuid.UUID, min []consistency.ProductPosition) (productRow, error) {
	var p productRow
	began := time.Now()
	err := f.models.Read(ctx, readmodel.Snapshot{Projections: productProjections, Min: min, Queue: func(b *pgx.Batch, g readmodel.Generations) {
		b.Queue(`SELECT `+readmodel.ProductColumns+`, last_position, now() FROM `+g.Table(readmodel.Products)+` WHERE id = $1`, id).QueryRow(func(row pgx.Row) (err error) {
			p, err = scanProductRow(row, began)
			return readmodel.NotFound(err, readmodel.ErrNoProduct)
		})
	}})
	return p, err
}

func scanProductRow(row pgx.Row, began time.Time) (productRow, error) {
	p := productRow{began: began}
	var err error
	p.Product, err = readmodel.ScanProduct(row, &p.position, &p.now)
	return p, err
}
