package query_test

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"sync"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/stretchr/testify/require"

	"github.com/dopaminestore/dopamine/internal/kafka"
	"github.com/dopaminestore/dopamine/query"
	"github.com/dopaminestore/dopamine/tools/dbtest"
)

// Whatever happens to the read models, subscribers end up with their content.

// requestServed raises the version of the product's checkpoint, as a request for a parked event
// does in the transaction in which it changes the row.
func (w *world) requestServed(projection string, product uuid.UUID) {
	w.t.Helper()
	w.exec(`UPDATE projection_checkpoints SET version = version + 1 WHERE projection = $1 AND partition = $2`,
		projection, kafka.Partition(product, partitions))
}

// replay creates generation g of a projection from the previous one, with the changes of mend, and
// swaps without changing the checkpoints' positions.
func (w *world) replay(projection string, g int, mend string) {
	w.t.Helper()
	w.exec(fmt.Sprintf(`CREATE TABLE replayed AS TABLE %s_g%d`, projection, g-1))
	w.exec(mend)
	fill := fmt.Sprintf(`INSERT INTO %s_g%d SELECT * FROM replayed`, projection, g)
	if projection == "purchase_slots" {
		w.exec(fmt.Sprintf(`CREATE TABLE replayed_names AS TABLE purchase_slots_names_g%d`, g-1))
	}
	w.swap(projection, g, fill)
	if projection == "purchase_slots" {
		w.exec(fmt.Sprintf(`INSERT INTO purchase_slots_names_g%d SELECT * FROM replayed_names`, g))
		w.exec(`DROP TABLE replayed_names`)
	}
	w.exec(`INSERT INTO projection_checkpoints SELECT projection, $2, topic, partition, partitions, topic_id, next_offset, position, event_id, version + 1, updated_at
		FROM projection_checkpoints WHERE projection = $1 AND generation = $2 - 1`, projection, g)
	w.exec(`DROP TABLE replayed`)
	w.exec(`SELECT projection_set_view($1, $2), projection_drop_tables($1, $2 - 1)`, projection, g)
}

// is checks an event's name, its id and one more member of its data.
func (e *events) is(name string, id uuid.UUID, member string, value any) event {
	e.t.Helper()
	got := e.next()
	require.Equal(e.t, []any{name, id.String(), value}, []any{got.name, got.data["id"], got.data[member]})
	return got
}

// TestSlotStream_SendsEventsAppliedAfterParking parks the end of a slot and of a payment, passes
// it, and applies it later, after later events.
func TestSlotStream_SendsEventsAppliedAfterParking(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	me, shoe := uuid.New(), uuid.New()
	w.name(1, shoe, "Shoe")
	held := w.slot(1, slot{product: shoe, user: me, at: time.Now()})
	pay := w.payment(1, payment{product: shoe, user: me})
	w.applied(shoe, 10)
	token := w.token(me, buyer)
	s := w.stream("/v1/slots/my-slots/stream", token)
	s.is("slot", held, "status", "ACTIVE")

	// The audit has both events; in slots and purchases they are parked.
	w.trail("PaymentFailed", held, shoe, me, 11, fmt.Sprintf(`{"paymentId": %q}`, pay))
	w.trail("SlotExpired", held, shoe, me, 12, "")
	w.applied(shoe, 12)
	other := w.slot(1, slot{product: uuid.New(), user: me, at: time.Now()})
	w.trail("SlotAcquired", other, shoe, me, 13, "")
	w.applied(shoe, 13)
	last := s.is("slot", other, "status", "ACTIVE")

	w.exec(`UPDATE purchase_slots_g1 SET status = 'EXPIRED', ended_at = now(), reclaim_status = 'AUTO_EXPIRED', last_position = 12 WHERE id = $1`, held)
	w.requestServed("purchase_slots", shoe)
	s.is("slot", held, "status", "EXPIRED")
	w.exec(`UPDATE purchases_g1 SET payment_status = 'FAILED', failure_reason = 'no', last_position = 11 WHERE id = $1`, pay)
	w.requestServed("purchases", shoe)
	s.is("payment", pay, "paymentStatus", "FAILED")

	// A client that was disconnected meanwhile gets it too, although it is before the client's last
	// event.
	again := w.stream("/v1/slots/my-slots/stream", token, header{"Last-Event-ID": last.id})
	seen := map[any]any{}
	for range 3 {
		e := again.next()
		seen[e.data["id"]] = map[string]any{"slot": e.data["status"], "payment": e.data["paymentStatus"]}[e.name]
	}
	require.Equal(t, map[any]any{held.String(): "EXPIRED", pay.String(): "FAILED", other.String(): "ACTIVE"}, seen)
}

// TestSlotStream_SendsRowsWhoseAuditEntryIsParked changes the slot's row while the audit does not
// have the event.
func TestSlotStream_SendsRowsWhoseAuditEntryIsParked(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	me, shoe := uuid.New(), uuid.New()
	held := w.slot(1, slot{product: shoe, user: me, at: time.Now()})
	w.applied(shoe, 10)
	s := w.stream("/v1/slots/my-slots/stream", w.token(me, buyer))
	s.is("slot", held, "status", "ACTIVE")
	w.exec(`UPDATE purchase_slots_g1 SET status = 'COMPLETED', ended_at = now(), last_position = 11 WHERE id = $1`, held)
	w.applied(shoe, 11)
	w.trail("PaymentCompleted", held, shoe, me, 11, "")
	w.requestServed("slot_audit_log", shoe)
	s.is("slot", held, "status", "COMPLETED")
}

// TestStreams_SendRowsCorrectedByAReplay swaps in generations whose rows differ without a change of
// their positions.
func TestStreams_SendRowsCorrectedByAReplay(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	me := uuid.New()
	shoe := w.product(1, product{stock: 100})
	w.name(1, shoe, "Shoe")
	held := w.slot(1, slot{product: shoe, user: me, at: time.Now()})
	w.slot(1, slot{product: uuid.New(), user: me, at: time.Now(), status: "EXPIRED", ended: &day, reclaim: ptr("AUTO_EXPIRED")})
	pay := w.payment(1, payment{product: shoe, user: me})
	w.applied(shoe, 10)
	token := w.token(me, buyer)
	followed := w.stream("/v1/products/"+shoe.String()+"/stream", "")
	followed.is("product", shoe, "stock", 100.0)
	mine := w.stream("/v1/slots/my-slots/stream", token)
	mine.is("slot", held, "status", "ACTIVE")

	w.replay("products", 2, `UPDATE replayed SET stock = 42`)
	followed.is("product", shoe, "stock", 42.0)
	w.replay("products", 3, `UPDATE replayed SET stock = 41, last_position = 0`)
	followed.is("product", shoe, "stock", 41.0)
	w.replay("purchase_slots", 2, `UPDATE replayed SET status = 'COMPLETED', ended_at = now() WHERE status = 'ACTIVE'`)
	mine.is("slot", held, "status", "COMPLETED")
	w.replay("purchases", 2, `UPDATE replayed SET payment_status = 'SUCCESS', confirmation_timestamp = now(), last_position = 0`)
	mine.is("payment", pay, "paymentStatus", "SUCCESS")

	// A replay that corrects nothing sends nothing.
	w.replay("products", 4, `SELECT`)
	w.replay("purchase_slots", 3, `SELECT`)
	w.exec(`UPDATE products_g4 SET stock = 40, last_position = 11`)
	w.applied(shoe, 11)
	followed.is("product", shoe, "stock", 40.0)
	fresh := w.slot(3, slot{product: shoe, user: me, at: time.Now().Add(time.Second), status: "EXPIRED", ended: &day, reclaim: ptr("AUTO_EXPIRED")})
	w.trail("SlotExpired", fresh, shoe, me, 12, "")
	w.applied(shoe, 12)
	mine.is("slot", fresh, "status", "EXPIRED")
}

// TestSlotStream_SendsANewName changes the name of a held slot's product.
func TestSlotStream_SendsANewName(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	me, shoe := uuid.New(), uuid.New()
	w.name(1, shoe, "Shoe")
	held := w.slot(1, slot{product: shoe, user: me, at: time.Now()})
	w.applied(shoe, 10)
	s := w.stream("/v1/slots/my-slots/stream", w.token(me, buyer))
	s.is("slot", held, "productName", "Shoe")
	w.exec(`UPDATE purchase_slots_names_g1 SET name = 'Boot', last_position = 11 WHERE product_id = $1`, shoe)
	w.applied(shoe, 11)
	began := time.Now()
	s.is("slot", held, "productName", "Boot")
	require.Less(t, time.Since(began), 5*time.Second, "immediately, not at the next refresh of all buyers")
}

// TestSlotStream_SendsWarningsOnce has subscribers from before the warning, from after it, and some
// that were disconnected when it was recorded.
func TestSlotStream_SendsWarningsOnce(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	me, shoe := uuid.New(), uuid.New()
	held := w.slot(1, slot{product: shoe, user: me, at: time.Now()})
	w.applied(shoe, 10)
	token := w.token(me, buyer)
	s := w.stream("/v1/slots/my-slots/stream", token)
	away := s.is("slot", held, "status", "ACTIVE")
	w.inOneCommit(func(w *world) {
		w.trail("SlotExpiringSoon", held, shoe, me, 11, "{}")
		w.applied(shoe, 11)
	})
	warned := s.is("warning", held, "status", "ACTIVE")

	late := w.stream("/v1/slots/my-slots/stream", token)
	late.is("slot", held, "status", "ACTIVE")
	back := w.stream("/v1/slots/my-slots/stream", token, header{"Last-Event-ID": away.id})
	back.is("slot", held, "status", "ACTIVE")
	back.is("warning", held, "status", "ACTIVE")
	told := w.stream("/v1/slots/my-slots/stream", token, header{"Last-Event-ID": warned.id})
	told.is("slot", held, "status", "ACTIVE")

	w.inOneCommit(func(w *world) {
		w.exec(`UPDATE purchase_slots_g1 SET status = 'EXPIRED', ended_at = now(), reclaim_status = 'AUTO_EXPIRED', last_position = 12 WHERE id = $1`, held)
		w.trail("SlotExpired", held, shoe, me, 12, "")
		w.applied(shoe, 12)
	})
	for _, open := range []*events{s, late, back, told} {
		open.is("slot", held, "status", "EXPIRED")
		require.Empty(t, open.c)
	}
}

// TestStreams_FindUnannouncedChanges changes rows without any event or checkpoint.
func TestStreams_FindUnannouncedChanges(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	me := uuid.New()
	shoe := w.product(1, product{stock: 100})
	held := w.slot(1, slot{product: shoe, user: me, at: time.Now()})
	w.applied(shoe, 10)
	followed := w.stream("/v1/products/"+shoe.String()+"/stream", "")
	followed.is("product", shoe, "stock", 100.0)
	mine := w.stream("/v1/slots/my-slots/stream", w.token(me, buyer))
	mine.is("slot", held, "unit", 1.0)
	w.exec(`UPDATE products_g1 SET stock = 7`)
	w.exec(`UPDATE purchase_slots_g1 SET unit = 2`)
	for _, open := range []*events{followed, mine} {
		select {
		case e := <-open.c:
			require.Contains(t, []any{e.data["stock"], e.data["unit"]}, map[string]any{"product": 7.0, "slot": 2.0}[e.name])
		case <-time.After(30 * time.Second):
			require.Fail(t, "no event received")
		}
	}
}

// TestStreams_EndWithTheNewestState opens streams at random moments while a product and a buyer's
// slot change all the time.
func TestStreams_EndWithTheNewestState(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	me := uuid.New()
	shoe := w.product(1, product{stock: 100})
	held := w.slot(1, slot{product: shoe, user: me, at: time.Now()})
	w.applied(shoe, 1)
	token := w.token(me, buyer)
	const changes, listeners = 60, 40
	var all sync.WaitGroup
	for i := range listeners {
		all.Go(func() {
			time.Sleep(rand.N(1500 * time.Millisecond)) // at a random moment
			path, member, last := "/v1/products/"+shoe.String()+"/stream", "stock", 100.0-changes
			if i%2 == 0 {
				path, member, last = "/v1/slots/my-slots/stream", "unit", 1.0+changes
			}
			s := w.stream(path, token)
			before := -1.0
			for {
				select {
				case e := <-s.c:
					v, ok := e.data[member].(float64)
					if !ok || before >= 0 && (v-before)*(last-before) < 0 {
						t.Errorf("%s changed from %v to %v", member, before, v)
						return
					}
					if before = v; v == last {
						return
					}
				case <-time.After(10 * time.Second):
					t.Errorf("%s stayed at %v", member, before)
					return
				}
			}
		})
	}
	for n := 1; n <= changes; n++ {
		place := int64(1 + n)
		w.exec(`UPDATE products_g1 SET stock = $2, last_position = $3 WHERE id = $1`, shoe, 100-n, place)
		w.exec(`UPDATE purchase_slots_g1 SET unit = $2, last_position = $3 WHERE id = $1`, held, 1+n, place)
		w.trail("SlotAcquired", held, shoe, me, place, "")
		w.applied(shoe, place)
	}
	all.Wait()
}

// gate is a connection to the database that can be closed.
type gate struct {
	mu     sync.Mutex
	closed bool
	open   []net.Conn
}

func (g *gate) dial(ctx context.Context, network, addr string) (net.Conn, error) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.closed {
		return nil, errors.New("the way to the database is closed")
	}
	conn, err := (&net.Dialer{}).DialContext(ctx, network, addr)
	if err == nil {
		g.open = append(g.open, conn)
	}
	return conn, err
}

func (g *gate) set(closed bool) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.closed = closed; closed {
		for _, conn := range g.open {
			_ = conn.Close() // the pool notices
		}
		g.open = nil
	}
}

// TestStreams_OutliveTheDatabase makes the database unavailable and available again while one
// stream of each kind is open.
func TestStreams_OutliveTheDatabase(t *testing.T) {
	t.Parallel()
	db := dbtest.Both(t)
	way := &gate{}
	cfg, err := pgxpool.ParseConfig(db.URL)
	require.NoError(t, err)
	cfg.ConnConfig.DialFunc = way.dial
	pool, err := pgxpool.NewWithConfig(t.Context(), cfg)
	require.NoError(t, err)
	t.Cleanup(pool.Close)
	w := newWorldOver(t, query.Config{ReadPool: pool, WritePool: pool})
	w.pool = db.Pool
	me := uuid.New()
	shoe := w.product(1, product{stock: 100})
	held := w.slot(1, slot{product: shoe, user: me, at: time.Now()})
	w.applied(shoe, 1)
	token := w.token(me, buyer|admin)
	followed := w.stream("/v1/products/"+shoe.String()+"/stream", "")
	followed.is("product", shoe, "stock", 100.0)
	mine := w.stream("/v1/slots/my-slots/stream", token)
	mine.is("slot", held, "status", "ACTIVE")
	stats := w.stream("/v1/stats/stream", token)
	stats.next()

	way.set(true)
	require.Equal(t, "unavailable", w.get("/v1/products/"+uuid.NewString()+"/stream", "").slug(t))
	w.sell(shoe, 99, 2)
	w.exec(`UPDATE purchase_slots_g1 SET status = 'COMPLETED', ended_at = now(), last_position = 3 WHERE id = $1`, held)
	w.trail("PaymentCompleted", held, shoe, me, 3, "")
	w.applied(shoe, 3)
	require.Empty(t, followed.c)
	way.set(false)
	followed.is("product", shoe, "stock", 99.0)
	mine.is("slot", held, "status", "COMPLETED")
	for at := ""; at < w.now(); at = stats.next().data["at"].(string) {
	}
}

// now returns the current time in the responses' format.
func (w *world) now() string {
	return time.Now().Add(-time.Second).UTC().Format("2006-01-02T15:04:05.000Z")
}
