package query

import (
	"context"
	"sync"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
	"github.com/labstack/echo/v4"

	"github.com/dopaminestore/dopamine/internal/httpapi"
	"github.com/dopaminestore/dopamine/internal/position"
	"github.com/dopaminestore/dopamine/internal/view"
)

// productPause lies between two events of one product stream: a little more than
// a quarter of a second, so that no second sees a fifth on its way through the net.
const productPause = 260 * time.Millisecond

var productProjections = []string{products}

// productStream is GET /v1/products/{id}/stream. The id of its events is an
// X-Position: who comes back with it in Last-Event-ID sees nothing older. It shows
// what anybody may see, so it does not end with a token that came along.
func (a *API) productStream(c echo.Context) error {
	id, err := httpapi.PathUUID(c, "id")
	if err != nil {
		return err
	}
	min, err := httpapi.MinPositions(c)
	if err != nil {
		return err
	}
	if p, err := position.Parse(c.Request().Header.Get(lastEventID)); err == nil && p.Product == id && p.Incarnation >= position.Incarnation() {
		min = append(min, p)
	}
	t, err := a.feed.join(c.Request().Context(), id, min)
	if err != nil {
		return err
	}
	return a.live(c, "product", time.Time{},
		func(s *stream) error { return s.follow(&t.topic, productPause) }, func() { a.feed.leave(id, t) })
}

// productTopic is a product that is followed.
type productTopic struct {
	topic
	listeners int // guarded by feed.mu

	mu     sync.Mutex
	place  int64     // last_position of what is shown
	at     time.Time // when it was found to be so
	unsure bool      // it may have changed before the feed knew of it
	open   bool      // a cancelled sale has refunds that are open: its counts change with other rows
	next   time.Time // by our clock: when its status changes by itself; zero: never
}

// productRow is a product with what a stream has to know besides.
type productRow struct {
	view.Product
	place int64
	now   time.Time // by the database's clock
	began time.Time // by ours, before it was read
}

// show publishes the row unless it is shown. A listener's own read may overlap
// with the feed's, and of two that overlap only the places tell which is newer:
// what does not look newer is left to the next look.
func (t *productTopic) show(row productRow, sure bool) error {
	event, err := encodeEvent("product", position.Encode(row.ID, max(1, row.place)), row.Product)
	if err != nil {
		return err
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	if row.began.Before(t.at) && row.place <= t.place {
		t.unsure = true
		return nil
	}
	t.place, t.at, t.unsure, t.next = row.place, time.Now(), !sure, row.nextStatus()
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

// sure notes that the row is the one that is shown.
func (t *productTopic) sure() {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.at, t.unsure = time.Now(), false
}

// due says which place is shown, and -1 where the row has to be read whatever
// its place is.
func (t *productTopic) due(now time.Time) (place int64, due bool) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.unsure || t.open || !t.next.IsZero() && !now.Before(t.next) || now.Sub(t.at) > againAfter {
		return -1, true
	}
	return t.place, false
}

// nextStatus is when the sale begins or ends, by our clock.
func (r productRow) nextStatus() time.Time {
	var next time.Time
	for _, at := range []*view.Time{&r.SaleDate, r.SaleEndDate} {
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

// join follows a product, with a state to begin with; errNoProduct where there is
// none. Many who come for one product at once read it once, but for those who
// name positions.
func (f *feed) join(ctx context.Context, id uuid.UUID, min []position.Position) (*productTopic, error) {
	if len(min) > 0 {
		row, err := f.models.productRow(ctx, id, min)
		if err != nil {
			return nil, err
		}
		return f.enter(row)
	}
	if t := f.enterKnown(id); t != nil {
		return t, nil
	}
	select {
	case r := <-f.first.DoChan(id.String(), func() (any, error) { return f.models.productRow(context.WithoutCancel(ctx), id, nil) }):
		if r.Err != nil {
			return nil, r.Err
		}
		return f.enter(r.Val.(productRow))
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}

// enterKnown counts a listener of a product that is followed; nil where it is not.
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

// enter counts a listener of the row's product and begins to follow it where
// nobody does. What changes between the read and now is seen by the next look.
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
	f.awake()
	return t, nil
}

func (f *feed) leave(id uuid.UUID, t *productTopic) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if t.listeners--; t.listeners == 0 && f.products[id] == t {
		delete(f.products, id)
	}
}

// lookAtProducts reads those of the followed products that may have changed.
func (f *feed) lookAtProducts(ctx context.Context, seen, now marks) error {
	followed := f.followed()
	var ids []uuid.UUID
	var places []int64
	began := time.Now()
	anew := now.account(productProjections) != seen.account(productProjections)
	for id, t := range followed {
		place, due := t.due(began)
		if anew {
			place = -1
		}
		if due || anew || now.moved(seen, products, id) {
			ids, places = append(ids, id), append(places, place)
		}
	}
	if len(ids) == 0 {
		return nil
	}
	var changed []productRow
	same := map[uuid.UUID]bool{}
	err := f.models.read(ctx, snapshot{of: productProjections, queue: func(b *pgx.Batch, g generations) {
		changed = changed[:0]
		clear(same)
		b.Queue(`
SELECT w.id FROM unnest($1::uuid[], $2::bigint[]) w(id, place) JOIN `+g.table(products)+` p ON p.id = w.id AND p.last_position = w.place`, ids, places).
			Query(func(rows pgx.Rows) error {
				var id uuid.UUID
				_, err := pgx.ForEachRow(rows, []any{&id}, func() error { same[id] = true; return nil })
				return err
			})
		b.Queue(`
SELECT `+productColumns+`, last_position, now() FROM `+g.table(products)+` p
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

// productRow reads a product for a stream; errNoProduct where there is none.
func (r *readModels) productRow(ctx context.Context, id uuid.UUID, min []position.Position) (productRow, error) {
	var p productRow
	began := time.Now()
	err := r.read(ctx, snapshot{of: productProjections, min: min, queue: func(b *pgx.Batch, g generations) {
		b.Queue(`SELECT `+productColumns+`, last_position, now() FROM `+g.table(products)+` WHERE id = $1`, id).QueryRow(func(row pgx.Row) (err error) {
			p, err = scanProductRow(row, began)
			return notFound(err, errNoProduct)
		})
	}})
	return p, err
}

func scanProductRow(row pgx.Row, began time.Time) (productRow, error) {
	p := productRow{began: began}
	var err error
	p.Product, err = scanProduct(row, &p.place, &p.now)
	return p, err
}
