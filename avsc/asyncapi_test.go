package avsc

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
	"gopkg.in/yaml.v3"
)

const asyncAPIFile = "../docs/asyncapi.yaml"

const asyncAPIHead = `# The events in Kafka, as an AsyncAPI 3 document. Written by the test in avsc/asyncapi_test.go
# (DOPAMINE_UPDATE=1 go test ./avsc -run AsyncAPI), which also holds it against the schemas.
# What a consumer has to do is in consumers.md.
asyncapi: 3.0.0
info:
  title: Dopamine Store, product events
  version: "1"
  description: Everything that happens to products, slots and payments, in the store's order per product.
  license: {name: Apache-2.0, url: "https://www.apache.org/licenses/LICENSE-2.0"}
defaultContentType: application/vnd.apache.avro
servers:
  kafka: {host: "localhost:9092", protocol: kafka, description: "The brokers of --kafka-brokers."}
channels:
  productEvents:
    address: dopamine.product-events.v1
    description: The topic of --kafka-topic. Records of one product are in one partition, in order. Delivery is at least once.
    bindings:
      kafka: {topic: dopamine.product-events.v1, partitions: 12, bindingVersion: "0.5.0"}
    messages:
`

const asyncAPIMiddle = `operations:
  publishProductEvents:
    action: send
    channel: {$ref: "#/channels/productEvents"}
    summary: The leading relay publishes every event.
components:
  schemas:
    key: {type: string, format: uuid, description: The product id.}
    headers:
      type: object
      required: [event-id, event-type, stream-id, stream-version, position, previous-position, store]
      properties:
        event-id: {type: string, format: uuid, description: The same however often the event is published.}
        event-type: {type: string, description: "The record's name without the suffix Event, or IncarnationBegan (no value) after a restore."}
        stream-id: {type: string, format: uuid}
        stream-version: {type: string, pattern: "^[0-9]+$", description: "The event's version in its stream, from 1."}
        position: {type: string, pattern: "^[0-9]+$", description: The position in the event store.}
        previous-position: {type: string, pattern: "^[0-9]+$", description: "The position of the preceding event in the same partition; 0 for the first."}
        store: {type: string, pattern: "^[0-9a-f-]{36}/[0-9]+$", description: "<store id>/<incarnation>"}
        traceparent: {type: string}
        correlation-id: {type: string}
        causation-id: {type: string}
  messages:
`

// TestAsyncAPI_NamesEverySchema compares docs/asyncapi.yaml with the schemas: one message
// for each event type, with the text of its schema and its file.
func TestAsyncAPI_NamesEverySchema(t *testing.T) {
	files, err := filepath.Glob("*.avsc")
	require.NoError(t, err)
	require.NotEmpty(t, files)
	var refs, messages strings.Builder
	for _, file := range files {
		raw, err := os.ReadFile(file)
		require.NoError(t, err)
		var schema struct{ Name, Doc string }
		require.NoError(t, json.Unmarshal(raw, &schema), file)
		event := strings.TrimSuffix(schema.Name, "Event")
		doc, err := json.Marshal(schema.Doc)
		require.NoError(t, err)
		fmt.Fprintf(&refs, "      %s: {$ref: \"#/components/messages/%s\"}\n", event, event)
		fmt.Fprintf(&messages, "    %s:\n      name: %s\n      summary: %s\n      headers: {$ref: \"#/components/schemas/headers\"}\n"+
			"      bindings: {kafka: {key: {$ref: \"#/components/schemas/key\"}, bindingVersion: \"0.5.0\"}}\n"+
			"      payload: {schemaFormat: \"application/vnd.apache.avro+json;version=1.9.0\", schema: {$ref: \"../avsc/%s\"}}\n", event, schema.Name, doc, file)
	}
	want := asyncAPIHead + refs.String() + asyncAPIMiddle + messages.String()
	if os.Getenv("DOPAMINE_UPDATE") != "" {
		require.NoError(t, os.WriteFile(asyncAPIFile, []byte(want), 0o644))
	}
	got, err := os.ReadFile(asyncAPIFile)
	require.NoError(t, err)
	require.Equal(t, want, string(got), "run it with DOPAMINE_UPDATE=1")

	var document struct {
		Channels map[string]struct {
			Messages map[string]map[string]string
		}
		Components struct{ Messages map[string]any }
	}
	require.NoError(t, yaml.Unmarshal(got, &document))
	require.Len(t, document.Components.Messages, len(files))
	require.Len(t, document.Channels["productEvents"].Messages, len(files))
	for _, name := range []string{"SlotAcquired", "SlotExpired", "PaymentCompleted"} {
		require.Contains(t, document.Components.Messages, name)
	}
}
