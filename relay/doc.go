// Package relay publishes events, in the store's order, from the event store to
// Kafka.
//
// # Terms
//
// A relay leads while its own connection holds a session-level advisory lock; the
// others try to take it a few times a second. The checkpoint is saved over that very
// connection, so a save that succeeds proves that the lock was held. From the first
// moment of a term the leader pings over it once a second; a leader that has been
// silent for ten seconds, a stopped process for instance, is disconnected by
// Postgres. Losing the connection ends the term: the relay becomes a standby.
//
// Two more faults would keep the lead with a relay that publishes nothing, and end the term: a read
// of the store, which uses other connections, without a response for five seconds; and a chunk that
// Kafka has not acknowledged after fifteen seconds, since this relay alone may be cut off from
// Kafka. After an error of Kafka the relay stays out of the election for two seconds, so that a
// standby takes the lead. If none can reach Kafka, they take turns.
//
// # Gapless chunks
//
// Events are read by position and published in chunks. The next chunk is sent only
// after the one before was acknowledged whole; after an error the same chunk is sent
// first, with a new producer. So each partition of the topic is written without a
// gap, also by a relay that was deposed and does not know it yet: such a one only
// repeats. Inside a chunk a later record may still come first, since a record may
// fail that its followers do not; every record names the store's predecessor in its
// partition (previous-position), by which a reader notices that and fetches what is
// missing from the store.
//
// A chunk that is not acknowledged in time may still arrive after the term, and only repeats. The
// next chunk is a quarter of its size, down to 50 events, so that a slow Kafka acknowledges it in
// time. The size doubles after each chunk that took less than a quarter of the timeout.
//
// An event that cannot be encoded would block everything behind it. Commands encode
// it before they append, so that is damage in the store; it is published with its
// headers and without a value. An event of a type or schema version that this program
// does not know is no damage: the relay publishes what comes before it and gives up
// the lead, so that a newer relay publishes it.
//
// # The registry
//
// With a schema registry the first term registers the schemas of all events, each
// under its record's name and checked for BACKWARD compatibility, before it publishes
// anything; later terms know the ids. One that breaks readers is a RefusedError.
//
// # The checkpoint, and restores
//
// The checkpoint holds the position, the event's id there, the last position of each
// partition, the incarnation, and the cluster and topic it belongs to. It is saved
// after Kafka has acknowledged, so what is lost with a crash is published twice, with
// the same event ids and positions. Another topic or cluster starts at 0.
//
// The checkpoint goes back with the store when the store is restored to an earlier
// moment, the topic does not. So each term begins by comparing the end of every
// partition with the store: a record of the current incarnation (or without the
// header store) that the store does not have, a record of a later incarnation, or one
// of another store blocks the relay. It then publishes nothing, gives up the lead,
// and reports why: Blocked, the table relay_blocked, the metric relay_blocked and the
// log. It looks again every two seconds, and continues once `dopamine recover` has
// begun the next incarnation (package recovery).
//
// If a partition ends before what the checkpoint says, Kafka has lost acknowledged
// records: the checkpoint is lowered, and they are published again.
package relay
