package eventstore

import (
	"github.com/google/uuid"
)

// insertion returns the statement that writes the accepted events: one array for each column.
func (a *attempt) insertion() (sql string, args []any) {
	n := a.events
	var (
		ids      = make([][16]byte, 0, n)
		streams  = make([][16]byte, 0, n)
		versions = make([]int32, 0, n)
		keys     = make([][16]byte, 0, n)
		types    = make([]string, 0, n)
		schemas  = make([]int32, 0, n)
		payloads = make([][]byte, 0, n)
		traces   = make([]string, 0, n)
		correls  = make([]string, 0, n)
		causes   = make([]string, 0, n)
		actors   = make([]string, 0, n)
	)
	// The versions are those at the end of the batch; count back to the beginning of
	// each stream, and then forward again.
	begin := make(map[uuid.UUID]int, len(a.versions))
	for _, i := range a.accepted {
		for _, stream := range a.items[i].Streams {
			begin[stream.Stream] += len(stream.Events)
		}
	}
	for stream, added := range begin {
		begin[stream] = a.versions[stream] - added
	}
	for _, i := range a.accepted {
		it := a.items[i]
		for _, stream := range it.Streams {
			for _, event := range stream.Events {
				begin[stream.Stream]++
				ids = append(ids, event.ID)
				streams = append(streams, stream.Stream)
				versions = append(versions, int32(begin[stream.Stream]))
				keys = append(keys, it.Key)
				types = append(types, event.Type)
				schemas = append(schemas, int32(event.SchemaVersion))
				payloads = append(payloads, event.Payload)
				traces = append(traces, event.Meta.Traceparent)
				correls = append(correls, event.Meta.CorrelationID)
				causes = append(causes, event.Meta.CausationID)
				actors = append(actors, event.Meta.Actor)
			}
		}
	}
	return insertSQL, []any{a.head, ids, streams, versions, keys, types, schemas, payloads,
		traces, correls, causes, actors, a.at}
}
