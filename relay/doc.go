// Package relay carries events, in the store's order, from the event store to
// Kafka.
//
// # Leading
//
// A relay leads while its own connection holds a session-level advisory lock;
// the others ask for it a few times a second. The place is saved over that
// very connection, so a save that goes through proves that the lock was held.
// While nothing is to be saved, and while Kafka keeps it waiting, the leader
// asks over it once a second; a leader that has been silent for ten seconds, a
// stopped process for instance, is disconnected by Postgres. Losing the
// connection ends the term: the relay begins again, as one that stands by.
//
// # Gapless chunks
//
// Events are read by position and published in chunks. The next chunk goes out
// only after the one before was acknowledged whole; after an error the same
// chunk goes first, with a new producer. So each partition of the topic is
// written without a gap, by a relay that was deposed and does not know it yet
// as well: such a one only repeats. Inside a chunk a later record may still
// come first, since a record may fail that its followers do not; every record
// names the store's predecessor in its partition (previous-position), by which
// a reader sees that and fetches what is missing from the store.
//
// An event that cannot be encoded would hold up everybody. Commands encode on
// trial, so that is damage in the store; it is published with its headers and
// without a value, and projectors set it aside.
//
// # The registry
//
// With a schema registry a term registers the schemas of all events, each under
// its record's name and checked for BACKWARD compatibility, before it publishes
// anything. One that breaks readers is a RefusedError; a registry that is away
// holds the term up, as Kafka does.
//
// # The place
//
// Position, the event's id there, the last position of each partition, and the
// cluster and topic it belongs to. It is saved after Kafka has acknowledged,
// so what is lost with a crash is published twice, with the same event ids and
// positions. Another topic or cluster starts at 0. A store that has another
// event at the place, or ends before it, was restored to an earlier moment:
// Run refuses with a RefusedError that says what to do. The model of all this
// is docs/model/Relay.tla.
package relay
