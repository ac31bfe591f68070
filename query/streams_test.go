package query_test

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/stretchr/testify/require"

	"github.com/dopaminestore/dopamine/internal/consistency"
	"github.com/dopaminestore/dopamine/internal/kafka"
	"github.com/dopaminestore/dopamine/tools/testkit"
)

// event is one server-sent event; at is when it was received.
type event struct {
	name, id string
	data     map[string]any
	at       time.Time
}

// events is an open stream. Its channel is closed when the stream ends.
type events struct {
	t    testing.TB
	c    chan event
	resp *http.Response
	stop context.CancelFunc
	// failed is the reason why the stream ended, available once c is closed; nil if the server
	// ended it.
	failed error
}

// stream opens a stream, which must respond 200.
func (w *world) stream(path, token string, headers ...header) *events {
	w.t.Helper()
	ctx, stop := context.WithCancel(context.Background())
	resp, err := w.client.Do(w.request(ctx, path, token, headers...))
	require.NoError(w.t, err)
	require.Equal(w.t, http.StatusOK, resp.StatusCode)
	require.Equal(w.t, "text/event-stream", resp.Header.Get("Content-Type"))
	require.Equal(w.t, "no-store", resp.Header.Get("Cache-Control"))
	require.Len(w.t, resp.Header.Get("X-Trace-ID"), 32)
	e := &events{t: w.t, c: make(chan event, 10_000), resp: resp, stop: stop}
	go e.read()
	w.t.Cleanup(e.close)
	return e
}

func (e *events) read() {
	defer close(e.c)
	lines := bufio.NewScanner(e.resp.Body)
	lines.Buffer(nil, 1<<20)
	var now event
	for lines.Scan() {
		field, value, _ := strings.Cut(lines.Text(), ": ")
		switch field {
		case "event":
			now.name = value
		case "id":
			now.id = value
		case "data":
			if json.Unmarshal([]byte(value), &now.data) != nil {
				return
			}
		case "":
			if now.data != nil {
				now.at = time.Now()
				e.c <- now
			}
			now = event{}
		}
	}
	e.failed = lines.Err()
}

func (e *events) close() {
	e.stop()
	for range e.c {
	}
	_ = e.resp.Body.Close()
}

// next returns the next event. It distinguishes an ended stream from a late event.
func (e *events) next() event {
	e.t.Helper()
	select {
	case ev, more := <-e.c:
		require.True(e.t, more, "the stream ended")
		return ev
	case <-time.After(10 * time.Second):
		require.Fail(e.t, "no event received")
		return event{}
	}
}

func (e *events) ended() {
	e.t.Helper()
	select {
	case ev, more := <-e.c:
		require.False(e.t, more, "%v", ev)
	case <-time.After(10 * time.Second):
		require.Fail(e.t, "the stream has not ended")
	}
}

// applied moves the checkpoint of the product's partition in all projections, as if the event at
// the position had been applied.
func (w *world) applied(product uuid.UUID, place int64, projections ...string) {
	w.t.Helper()
	if len(projections) == 0 {
		projections = []string{"products", "purchase_slots", "purchases", "slot_audit_log"}
	}
	w.exec(`
INSERT INTO projection_checkpoints (projection, generation, topic, partition, partitions, topic_id, next_offset, position, event_id)
SELECT g.projection, g.generation, $1, p, $2, 'topic', 0, CASE WHEN p = $3 THEN $4::bigint ELSE 0 END, CASE WHEN p = $3 THEN gen_random_uuid() END
FROM projection_generations g, generate_series(0, $2 - 1) p WHERE g.state = 'live' AND g.projection = ANY($5)
ON CONFLICT (projection, generation, topic, partition) DO UPDATE SET position = excluded.position, event_id = excluded.event_id
WHERE excluded.position > 0`, kafka.Topic, partitions, kafka.Partition(product, partitions), place, projections)
}

// sell reduces a product's stock, at a position in the store.
func (w *world) sell(product uuid.UUID, stock int, place int64) {
	w.t.Helper()
	w.exec(`UPDATE products_g1 SET stock = $2, last_position = $3 WHERE id = $1`, product, stock, place)
	w.applied(product, place)
}

// conforms checks an event's data against a schema of the description.
func (e event) conforms(t testing.TB, schema string) {
	t.Helper()
	require.NoError(t, document(t).Components.Schemas[schema].Value.VisitJSON(e.data), "%v", e.data)
}

// GET /v1/products/{id}/stream (contract 7).
func TestProductStream_Events(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	shoe := w.product(1, product{stock: 100})
	s := w.stream("/v1/products/"+shoe.String()+"/stream", "")
	first := s.next()
	require.Equal(t, "product", first.name)
	first.conforms(t, "Product")
	require.Equal(t, w.get("/v1/products/"+shoe.String(), "").json(t), first.data)

	w.sell(shoe, 99, 7)
	second := s.next()
	require.EqualValues(t, 99, second.data["stock"])
	at, err := consistency.Parse(second.id)
	require.NoError(t, err)
	require.Equal(t, consistency.ProductPosition{Product: shoe, Position: 7, Incarnation: 1}, at)

	// A client that reconnects begins with the newest state.
	w.sell(shoe, 98, 8)
	again := w.stream("/v1/products/"+shoe.String()+"/stream", "", header{"Last-Event-ID": second.id})
	require.EqualValues(t, 98, again.next().data["stock"])
	require.EqualValues(t, 98, s.next().data["stock"])
	require.EqualValues(t, 98, w.stream("/v1/products/"+shoe.String()+"/stream", "", header{"Last-Event-ID": "nonsense"}).next().data["stock"])

	w.exec(`DELETE FROM products_g1 WHERE id = $1`, shoe)
	w.applied(shoe, 9)
	for _, open := range []*events{s, again} {
		last := open.next()
		require.Equal(t, "deleted", last.name)
		require.Equal(t, map[string]any{"id": shoe.String()}, last.data)
		open.ended()
	}
	require.Equal(t, "product-not-found", w.get("/v1/products/"+shoe.String()+"/stream", "").slug(t))
}

func TestProductStream_Refusals(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	require.Equal(t, "product-not-found", w.get("/v1/products/"+uuid.NewString()+"/stream", "").slug(t))
	require.Equal(t, "invalid-request", w.get("/v1/products/x/stream", "").slug(t))
	require.Equal(t, "unauthenticated", w.get("/v1/products/"+uuid.NewString()+"/stream", "bad").slug(t))
	require.Equal(t, "unauthenticated", w.get("/v1/stats/stream", "").slug(t))
	require.Equal(t, "forbidden", w.get("/v1/stats/stream", w.token(uuid.New(), buyer)).slug(t))
	require.Equal(t, "forbidden", w.get("/dashboard/stream", w.token(uuid.New(), buyer)).slug(t))
	require.Equal(t, "unauthenticated", w.get("/v1/slots/my-slots/stream", "").slug(t))
	require.Equal(t, "forbidden", w.get("/v1/slots/my-slots/stream", w.token(uuid.New(), admin)).slug(t))
}

// TestProductStream_IsPaced changes a product all the time (contract 7: at most 4 events per second).
func TestProductStream_IsPaced(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	const units = 1_000_000
	shoe := w.product(1, product{stock: units, total: units})
	s := w.stream("/v1/products/"+shoe.String()+"/stream", "")
	s.next()
	began := time.Now()
	stock := units
	for time.Since(began) < 2*time.Second {
		stock--
		w.sell(shoe, stock, int64(2+units-stock))
	}
	var seen []event
	for last := -1.0; last != float64(stock); {
		e := s.next()
		seen, last = append(seen, e), e.data["stock"].(float64)
	}
	require.Greater(t, len(seen), 3)
	for i := 4; i < len(seen); i++ {
		require.Greater(t, seen[i].at.Sub(seen[i-4].at), 950*time.Millisecond)
	}
}

// TestProductStream_FollowsTheClock sees a sale begin and end without an event.
func TestProductStream_FollowsTheClock(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	begin := time.Now().Add(1500 * time.Millisecond).Truncate(time.Millisecond)
	end := begin.Add(1500 * time.Millisecond)
	shoe := w.product(1, product{stock: 100, begin: begin, end: &end})
	w.applied(shoe, 1)
	s := w.stream("/v1/products/"+shoe.String()+"/stream", "")
	for _, status := range []string{"UPCOMING", "ON_SALE", "ENDED"} {
		require.Equal(t, status, s.next().data["status"])
	}
}

// TestStreams_ContinueAfterASwap swaps the generation while a stream is open and drops the old one.
func TestStreams_ContinueAfterASwap(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	shoe := w.product(1, product{stock: 100})
	w.applied(shoe, 5)
	s := w.stream("/v1/products/"+shoe.String()+"/stream", "")
	s.next()
	w.replay("products", 2, `SELECT`)
	w.exec(`UPDATE products_g2 SET stock = 5, last_position = 6 WHERE id = $1`, shoe)
	w.applied(shoe, 6)
	require.EqualValues(t, 5, s.next().data["stock"])
}

func (w *world) trail(kind string, slotID, product, user uuid.UUID, place int64, metadata string) {
	w.t.Helper()
	w.audit(1, entry{kind: kind, slot: slotID, product: product, user: user, at: day, position: place, metadata: metadata})
}

// GET /v1/slots/my-slots/stream (contract 7).
func TestSlotStream_Events(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	me, other := uuid.New(), uuid.New()
	shoe, boot := productsOfTwoPartitions()
	w.name(1, shoe, "Shoe")
	w.name(1, boot, "Boot")
	held := w.slot(1, slot{product: shoe, user: me, at: time.Now()})
	w.slot(1, slot{product: shoe, user: me, status: "EXPIRED", ended: &day, reclaim: ptr("AUTO_EXPIRED")})
	w.applied(shoe, 10)
	token := w.token(me, buyer)
	s := w.stream("/v1/slots/my-slots/stream", token)
	strangers := w.stream("/v1/slots/my-slots/stream", w.token(other, buyer))
	s.is("slot", held, "status", "ACTIVE").conforms(t, "Slot")

	// A new slot, in another partition and at a lower position than the last one.
	fresh := w.slot(1, slot{product: boot, user: me, at: time.Now()})
	w.trail("SlotAcquired", fresh, boot, me, 9, "")
	w.applied(boot, 9)
	s.is("slot", fresh, "productName", "Boot")

	w.trail("SlotExpiringSoon", held, shoe, me, 11, "{}")
	w.applied(shoe, 11)
	s.is("warning", held, "status", "ACTIVE").conforms(t, "Slot")

	// A payment is sent when its read model has it, not when the audit has.
	pay := uuid.New()
	w.trail("PaymentInitiated", held, shoe, me, 12, fmt.Sprintf(`{"paymentId": %q}`, pay))
	w.applied(shoe, 12, "slot_audit_log", "purchase_slots", "products")
	w.trail("SlotExpired", fresh, boot, me, 13, "")
	w.exec(`UPDATE purchase_slots_g1 SET status = 'EXPIRED', ended_at = now(), reclaim_status = 'BUYER_RELEASED', last_position = 13 WHERE id = $1`, fresh)
	w.applied(boot, 13)
	s.is("slot", fresh, "status", "EXPIRED")
	w.payment(1, payment{id: pay, product: shoe, user: me})
	w.exec(`UPDATE purchases_g1 SET last_position = 12 WHERE id = $1`, pay)
	w.applied(shoe, 12)
	paying := s.is("payment", pay, "paymentStatus", "PENDING")
	paying.conforms(t, "OwnPayment")
	s.close()

	// Changes made while the client is disconnected are sent once after it reconnects.
	w.exec(`UPDATE purchases_g1 SET payment_status = 'SUCCESS', confirmation_timestamp = now(), last_position = 14 WHERE id = $1`, pay)
	w.exec(`UPDATE purchase_slots_g1 SET status = 'COMPLETED', ended_at = now(), last_position = 14 WHERE id = $1`, held)
	w.trail("PaymentCompleted", held, shoe, me, 14, fmt.Sprintf(`{"paymentId": %q}`, pay))
	w.applied(shoe, 14)
	again := w.stream("/v1/slots/my-slots/stream", token, header{"Last-Event-ID": paying.id})
	again.is("slot", held, "status", "COMPLETED")
	paid := again.is("payment", pay, "paymentStatus", "SUCCESS")
	last := w.slot(1, slot{product: boot, user: me, at: time.Now()})
	w.trail("SlotAcquired", last, boot, me, 15, "")
	w.applied(boot, 15)
	again.is("slot", last, "status", "ACTIVE")
	require.Empty(t, strangers.c)
	quiet := w.stream("/v1/slots/my-slots/stream", w.token(other, buyer), header{"Last-Event-ID": paid.id})
	require.Empty(t, quiet.c)
}

func ptr[T any](v T) *T { return &v }

// TestStreams_DisconnectAClientThatDoesNotRead has one buyer who does not read, and one who does.
func TestStreams_DisconnectAClientThatDoesNotRead(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	me, shoe := uuid.New(), uuid.New()
	const many = 1000 // more than the socket buffers hold, each time
	for n := range many {
		w.payment(1, payment{product: shoe, user: me, created: day.Add(time.Duration(n) * time.Second)})
	}
	w.applied(shoe, 1)
	ctx, stop := context.WithCancel(context.Background())
	defer stop()
	slow, err := w.client.Do(w.request(ctx, "/v1/slots/my-slots/stream", w.token(me, buyer))) // its body is not read
	require.NoError(t, err)
	defer func() { _ = slow.Body.Close() }()
	brisk := w.stream("/v1/slots/my-slots/stream", w.token(me, buyer))
	place := int64(1)
	for range 8 {
		place++
		w.exec(`UPDATE purchases_g1 SET payment_status = 'FAILED', failure_reason = repeat(chr(64 + $1::int), 2000), last_position = $1`, place)
		w.trail("PaymentFailed", uuid.New(), shoe, me, place, "")
		w.applied(shoe, place)
		for range many {
			brisk.next()
		}
	}
	testkit.EventuallyTrue(t, 45*time.Second, "the slow client to be disconnected", func() bool {
		return strings.Contains(string(w.get("/metrics", "").body), "dopamine_streams_dropped_total 1")
	})
}

// TestStreams_EndWithTheirToken opens one stream of each kind with a token that expires.
func TestStreams_EndWithTheirToken(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	shoe := w.product(1, product{stock: 100})
	me := uuid.New()
	w.slot(1, slot{product: shoe, user: me, at: time.Now()})
	short, err := w.tokens.Signer.Sign(me, buyer|admin, 4*time.Second)
	require.NoError(t, err)
	public := w.stream("/v1/products/"+shoe.String()+"/stream", short)
	public.next()
	paths := []string{"/v1/slots/my-slots/stream", "/v1/stats/stream", "/dashboard/stream"}
	var open []*events
	for _, path := range paths {
		open = append(open, w.stream(path, short))
		open[len(open)-1].next()
	}
	began := time.Now()
	for i, e := range open {
		for range e.c { // until it ends
		}
		require.NoError(t, e.failed, "cut off, instead of ended")
		require.Equal(t, "unauthenticated", w.get(paths[i], short).slug(t))
	}
	require.Less(t, time.Since(began), 6*time.Second)
	w.sell(shoe, 99, 7) // the public stream continues
	require.EqualValues(t, 99, public.next().data["stock"])
}

// TestStreams_EndWithTheServer holds one stream of each kind open when the server stops.
func TestStreams_EndWithTheServer(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	shoe := w.product(1, product{stock: 100})
	both := w.token(uuid.New(), buyer|admin)
	open := []*events{w.stream("/v1/products/"+shoe.String()+"/stream", "")}
	for _, path := range []string{"/v1/slots/my-slots/stream", "/v1/stats/stream", "/dashboard/stream"} {
		open = append(open, w.stream(path, both))
	}
	open[0].next()
	began := time.Now()
	w.stop()
	require.Less(t, time.Since(began), 5*time.Second)
	for _, e := range open {
		for range e.c { // until it ends
		}
		require.NoError(t, e.failed, "cut off, instead of ended")
	}
}

// TestStreams_SendHeartbeats waits for the heartbeat of an idle stream.
func TestStreams_SendHeartbeats(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	began := time.Now()
	resp, err := w.client.Do(w.request(context.Background(), "/v1/slots/my-slots/stream", w.token(uuid.New(), buyer)))
	require.NoError(t, err)
	defer func() { _ = resp.Body.Close() }()
	sign, err := bufio.NewReader(resp.Body).ReadString('\n')
	require.NoError(t, err)
	require.Equal(t, ":\n", sign)
	require.Less(t, time.Since(began), 20*time.Second)
}
