package main

import (
	"context"
	"encoding/binary"
	"fmt"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/stretchr/testify/require"
	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/sr/srfake"

	"github.com/dopaminestore/dopamine/avsc"
	"github.com/dopaminestore/dopamine/internal/kafka"
	"github.com/dopaminestore/dopamine/tools/dbtest"
	"github.com/dopaminestore/dopamine/tools/testkit"
)

// valuesOf reads n values from the topic, in the order of their positions.
func valuesOf(t *testing.T, brokers []string, n int) [][]byte {
	t.Helper()
	c, err := kgo.NewClient(kgo.SeedBrokers(brokers...), kgo.ConsumeTopics(kafka.Topic), kgo.ConsumeResetOffset(kgo.NewOffset().AtStart()))
	require.NoError(t, err)
	defer c.Close()
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	values := make([][]byte, n)
	for seen := 0; seen < n; {
		fetched := c.PollFetches(ctx)
		require.NoError(t, ctx.Err(), "received %d of %d records", seen, n)
		fetched.EachRecord(func(r *kgo.Record) {
			for _, h := range r.Headers {
				if h.Key == avsc.HeaderPosition {
					var at int
					_, err := fmt.Sscan(string(h.Value), &at)
					require.NoError(t, err)
					values[at-1] = r.Value
					seen++
				}
			}
		})
	}
	return values
}

func TestRegistry_ValuesHaveTheConfluentWireFormat(t *testing.T) {
	unset(t)
	d, brokers, registry := dbtest.Both(t), testkit.FakeKafka(t), srfake.New()
	t.Cleanup(registry.Close)
	row := func(product uuid.UUID) {
		t.Helper()
		testkit.Eventually(t, 30*time.Second, "the product's row", func() error {
			var name string
			return d.Pool.QueryRow(context.Background(), "SELECT name FROM products WHERE id = $1", product).Scan(&name)
		})
	}
	kafkaArgs := []string{"--database-url", d.URL, "--kafka-brokers", strings.Join(brokers, ",")}

	// Records published before there was a registry stay unchanged.
	before, after := uuid.New(), uuid.New()
	appendTo(t, d, before, before, lamp(t))
	relay := start(t, append([]string{"relay"}, kafkaArgs...)...)
	require.Equal(t, []byte{0xC3, 0x01}, valuesOf(t, brokers, 1)[0][:2], "single-object encoding")
	require.Equal(t, 0, relay.end(), relay.text())

	appendTo(t, d, after, after, lamp(t))
	kafkaArgs = append(kafkaArgs, "--schema-registry-url", registry.URL())
	relay = start(t, append([]string{"relay"}, kafkaArgs...)...)
	value := valuesOf(t, brokers, 2)[1]
	require.Equal(t, byte(0), value[0])
	subject := "com.dopaminestore.product.events.ProductCreatedEvent"
	schema, ok := registry.GetSchema(subject, 1)
	require.True(t, ok, "subjects by record name")
	require.Equal(t, uint32(schema.ID), binary.BigEndian.Uint32(value[1:5]))
	for _, s := range avsc.Schemas() {
		require.True(t, registry.SubjectExists(s.Name), "%s: registered before the first publish", s.Name)
	}

	metrics := freeAddr(t)
	projector := start(t, append([]string{"projector", "--metrics-addr", metrics}, kafkaArgs...)...)
	row(before)
	row(after)
	resp, err := http.Get("http://" + metrics + "/metrics")
	require.NoError(t, err)
	defer resp.Body.Close()
	require.Contains(t, readAll(t, resp.Body), "dopamine_projector_undecodable_records_total 0", "both framings were read from the topic, none from the store")
	require.Equal(t, 0, projector.end(), projector.text())

	exit, out, said := dopamine(t, append([]string{"replay", "all", "--from-kafka", "--verify"}, kafkaArgs...)...)
	require.Equal(t, 0, exit, said)
	require.Contains(t, out, "products: generation 2 is live, at position 2")
	require.NotContains(t, said, "cannot")
	require.Equal(t, 0, relay.end(), relay.text())
}

func TestRelay_RefusesIncompatibleSchemasBeforePublishing(t *testing.T) {
	unset(t)
	d, brokers, registry := dbtest.Both(t), testkit.FakeKafka(t), srfake.New()
	t.Cleanup(registry.Close)
	registry.Intercept(func(w http.ResponseWriter, q *http.Request) bool {
		if !strings.HasPrefix(q.URL.Path, "/compatibility/subjects/com.dopaminestore.product.events.SlotExpiredEvent/") {
			return false
		}
		fmt.Fprint(w, `{"is_compatible":false,"messages":["userId has no default"]}`)
		return true
	})
	product := uuid.New()
	appendTo(t, d, product, product, lamp(t))
	exit, _, said := bounded(t, "relay", "--database-url", d.URL, "--kafka-brokers", strings.Join(brokers, ","), "--schema-registry-url", registry.URL())
	require.Equal(t, 1, exit, said)
	require.Contains(t, said, "SlotExpiredEvent is not BACKWARD compatible")
	require.Contains(t, said, "userId has no default")
	require.Zero(t, dbtest.One[int64](t, d.Pool, "SELECT coalesce(max(position), 0) FROM relay_place"), "nothing was published")
}
