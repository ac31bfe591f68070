package e2e

import (
	"context"
	"net/http"
	"time"

	"github.com/stretchr/testify/require"
	"github.com/twmb/franz-go/pkg/kgo"
)

// topic is the name that the contract fixes.
const topic = "dopamine.product-events.v1"

// tracesARequest follows the trace that a client began from its request into
// the event, the Kafka record and the audit.
func (f *fleet) tracesARequest() {
	const trace = "0af7651916cd43dd8448eb211c80319c"
	product := f.admin.product(f.commandURLs[0], 1)
	buyer := f.users.buyer()
	got := buyer.with("traceparent", "00-"+trace+"-b7ad6b7169203331-01").acquire(f.commandURLs[0], product)
	require.Equal(f.t, http.StatusCreated, got.status, "%s", got.body)
	require.Equal(f.t, trace, got.header.Get("X-Trace-ID"))
	slot := got.object(f.t)["id"].(string)

	var event, traceparent string
	require.NoError(f.t, f.db.QueryRow(f.t.Context(), `SELECT id::text, traceparent FROM events WHERE stream = $1`, slot).Scan(&event, &traceparent))
	require.Regexp(f.t, "^00-"+trace+"-[0-9a-f]{16}-0[01]$", traceparent)

	record := f.record(event)
	require.Equal(f.t, product, string(record.Key))
	require.Equal(f.t, traceparent, header(record, "traceparent"))
	require.Equal(f.t, "SlotAcquired", header(record, "event-type"))
	require.Equal(f.t, slot, header(record, "stream-id"))
	require.Equal(f.t, "1", header(record, "stream-version"))

	_, audit := f.admin.with("X-Min-Position", got.header.Get("X-Position")).
		want(http.StatusOK, http.MethodGet, f.queryURL+"/v1/audit?slotId="+slot, nil)
	entries := audit["entries"].([]any)
	require.Len(f.t, entries, 1)
	require.Equal(f.t, event, entries[0].(object)["eventId"])
	require.Equal(f.t, trace, entries[0].(object)["traceId"])
}

func header(r *kgo.Record, name string) string {
	for _, h := range r.Headers {
		if h.Key == name {
			return string(h.Value)
		}
	}
	return ""
}

// record finds the record of an event in the topic.
func (f *fleet) record(event string) (found *kgo.Record) {
	f.t.Helper()
	f.eachRecord(func(r *kgo.Record) bool {
		if header(r, "event-id") == event {
			found = r
		}
		return found == nil
	})
	return found
}

// eachRecord reads the topic from its beginning while look returns true.
func (f *fleet) eachRecord(look func(*kgo.Record) bool) {
	f.t.Helper()
	client, err := kgo.NewClient(kgo.SeedBrokers(f.brokers...), kgo.ConsumeTopics(topic), kgo.ConsumeResetOffset(kgo.NewOffset().AtStart()))
	require.NoError(f.t, err)
	defer client.Close()
	ctx, cancel := context.WithTimeout(f.t.Context(), 30*time.Second)
	defer cancel()
	for {
		fetches := client.PollFetches(ctx)
		require.NoError(f.t, ctx.Err(), "the topic does not have the expected record")
		for _, r := range fetches.Records() {
			if !look(r) {
				return
			}
		}
	}
}

// topicIsWhole compares the topic with the store: every event is in it, in the store's order except
// for duplicates, each with its predecessor's position.
func (f *fleet) topicIsWhole() {
	f.t.Helper()
	type event struct{ id, key, kind string }
	store := map[string]event{} // by position
	rows, err := f.db.Query(f.t.Context(), `SELECT position::text, id::text, key::text, type FROM events`)
	require.NoError(f.t, err)
	for rows.Next() {
		var position string
		var e event
		require.NoError(f.t, rows.Scan(&position, &e.id, &e.key, &e.kind))
		store[position] = e
	}
	require.NoError(f.t, rows.Err())

	last := map[int32]string{}      // position per partition
	before := map[string]string{}   // the predecessor of each position
	partition := map[string]int32{} // of each product
	published, missing := 0, len(store)
	f.eachRecord(func(r *kgo.Record) bool {
		published++
		position := header(r, "position")
		e, there := store[position]
		require.True(f.t, there, "a record at position %q, which the store does not have", position)
		require.Equal(f.t, e, event{header(r, "event-id"), string(r.Key), header(r, "event-type")})
		if p, seen := partition[e.key]; seen {
			require.Equal(f.t, p, r.Partition, "one product in two partitions")
		}
		partition[e.key] = r.Partition
		previous, again := before[position]
		if !again {
			missing--
			previous = last[r.Partition]
			if previous == "" {
				previous = "0"
			}
			before[position], last[r.Partition] = previous, position
		}
		require.Equal(f.t, previous, header(r, "previous-position"), "position %s in partition %d", position, r.Partition)
		return missing > 0
	})
	f.t.Logf("the topic: %d events, %d records", len(store), published)
}
