package query_test

import (
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/stretchr/testify/require"

	"github.com/dopaminestore/dopamine/internal/consistency"
	"github.com/dopaminestore/dopamine/internal/kafka"
)

const partitions = 12

// reach moves the checkpoint of a product's partition.
func (w *world) reach(projection string, generation int, product uuid.UUID, place int64) {
	w.t.Helper()
	w.exec(`INSERT INTO projection_checkpoints (projection, generation, topic, partition, partitions, topic_id, next_offset, position, event_id)
		VALUES ($1, $2, $3, $4, $5, 'a topic', 0, $6, gen_random_uuid())
		ON CONFLICT (projection, generation, topic, partition) DO UPDATE SET position = excluded.position`,
		projection, generation, kafka.Topic, kafka.Partition(product, partitions), partitions, place)
}

func atLeast(product uuid.UUID, place int64) header {
	return header{"X-Min-Position": consistency.Encode(product, place)}
}

// waiting sends a request, which must not be answered yet, and returns a function that waits for the
// response.
func (w *world) waiting(path string, h header) (wait func() response) {
	w.t.Helper()
	done := make(chan response, 1)
	go func() { done <- w.get(path, "", h) }()
	select {
	case a := <-done:
		w.t.Fatalf("it did not wait: %s", a.body)
	case <-time.After(200 * time.Millisecond):
	}
	return func() response { return <-done }
}

// TestConsistency_EachQueryWaitsForItsProjections moves one projection at a time (contract 6, read your own writes).
func TestConsistency_EachQueryWaitsForItsProjections(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	me := uuid.New()
	mine, boss := w.token(me, buyer), w.token(uuid.New(), admin)
	shoe := w.product(1, product{})
	for _, c := range []struct{ projection, path, token string }{
		{"products", "/v1/products", ""},
		{"products", "/v1/products/" + shoe.String(), ""},
		{"purchase_slots", "/v1/slots/my-slots", mine},
		{"purchase_slots", "/v1/slots/" + w.slot(1, slot{product: uuid.New(), user: me}).String(), mine},
		{"purchases", "/v1/payments/" + w.payment(1, payment{product: uuid.New(), user: me}).String(), mine},
		{"purchases", "/v1/purchases", mine},
		{"slot_audit_log", "/v1/audit", boss},
	} {
		t.Run(c.path, func(t *testing.T) {
			t.Parallel()
			p := uuid.New() // only its events count
			w := w.in(t)
			began := time.Now()
			a := w.get(c.path, c.token, atLeast(p, 1_000_000))
			require.Equal(t, "read-model-behind", a.slug(t))
			require.Equal(t, http.StatusServiceUnavailable, a.StatusCode)
			require.NotEmpty(t, a.Header.Get("Retry-After"))
			require.InDelta(t, 2, time.Since(began).Seconds(), 1)
			require.Equal(t, "invalid-request", w.get(c.path, c.token, header{"X-Min-Position": "7"}).slug(t))
			require.Equal(t, "invalid-request", w.get(c.path, c.token, header{"X-Min-Position": strings.Repeat(consistency.Encode(p, 1)+",", 100) + consistency.Encode(p, 1)}).slug(t))
		})
	}
}

// Read your own writes (contract 6).
func TestConsistency_WaitsForTheCheckpoint(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	shoe, other := productsOfTwoPartitions()
	w.product(1, product{id: shoe})
	path := "/v1/products/" + shoe.String()
	w.reach("products", 1, shoe, 41)
	w.reach("products", 1, other, 100)
	w.reach("purchase_slots", 1, shoe, 100)
	require.Equal(t, http.StatusOK, w.get(path, "", atLeast(shoe, 41)).StatusCode)
	require.Equal(t, "read-model-behind", w.get(path, "", atLeast(shoe, 42)).slug(t))

	// The write and its checkpoint become visible together, while a request waits.
	wait := w.waiting(path, header{"X-Min-Position": consistency.Encode(other, 100) + ", " + consistency.Encode(shoe, 42)})
	w.exec(`WITH c AS (UPDATE projection_checkpoints SET position = 42 WHERE projection = 'products' AND partition = $1)
		UPDATE products_g1 SET name = 'New name' WHERE id = $2`, kafka.Partition(shoe, partitions), shoe)
	a := wait()
	require.Equal(t, http.StatusOK, a.StatusCode)
	require.Equal(t, "New name", a.json(t)["name"])
}

// After a recovery positions are assigned a second time. A token of the earlier incarnation cannot
// be compared, and requests do not wait for it (contract 6).
func TestConsistency_DoesNotWaitForAnEarlierIncarnation(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	shoe := w.product(1, product{})
	path := "/v1/products/" + shoe.String()
	w.exec(`INSERT INTO projection_source (store_id, incarnation) VALUES (gen_random_uuid(), 2)`)
	w.reach("products", 1, shoe, 41)
	w.exec(`INSERT INTO parked_events (projection, generation, row_key, position, topic, partition, product_id, error, behind)
		VALUES ('products', 1, $1, 40, $2, 0, $1, 'no such column', false)`, uuid.New(), kafka.Topic)
	token := func(incarnation, place int64) header {
		return header{"X-Min-Position": consistency.ProductPosition{Product: shoe, Position: place, Incarnation: incarnation}.Token()}
	}
	require.Equal(t, http.StatusOK, w.get(path, "", token(1, 1_000_000)).StatusCode)
	require.Equal(t, http.StatusOK, w.get(path, "", token(2, 41)).StatusCode)
	require.Equal(t, "read-model-behind", w.get(path, "", token(2, 42)).slug(t))
	require.Equal(t, "read-model-behind", w.get(path, "", token(3, 1)).slug(t), "the rows are of the history before")
}

// Read your own writes (contract 6).
func TestConsistency_ParkedEventCountsAsNotApplied(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	shoe := w.product(1, product{})
	path := "/v1/products/" + shoe.String()
	w.reach("products", 1, shoe, 50)
	w.exec(`INSERT INTO parked_events (projection, generation, row_key, position, topic, partition, product_id, error, behind)
		VALUES ('products', 1, $1, 40, $2, 0, $1, 'no such column', false)`, shoe, kafka.Topic)
	require.Equal(t, http.StatusOK, w.get(path, "", atLeast(shoe, 39)).StatusCode)
	require.Equal(t, http.StatusOK, w.get(path, "", atLeast(uuidIn(shoe), 45)).StatusCode, "another product of the partition")
	wait := w.waiting(path, atLeast(shoe, 45))
	w.exec(`DELETE FROM parked_events`)
	require.Equal(t, http.StatusOK, wait().StatusCode)
}

// uuidIn returns another product of the same partition.
func uuidIn(product uuid.UUID) uuid.UUID {
	for {
		if id := uuid.New(); kafka.Partition(id, partitions) == kafka.Partition(product, partitions) {
			return id
		}
	}
}
