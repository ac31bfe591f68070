// Package query is the query API. It serves products, slots, payments, purchases and the audit log
// from the projections, a product's fairness report from its decision log, and earlier states of
// products and slots from the event store.
//
// # One snapshot
//
// The rows of a projection are in tables of its live generation (products_g3, …), and a replay can
// swap generations at any moment. Therefore the API names the tables itself. It remembers the live
// generations and sends, in one pipeline and one REPEATABLE READ transaction, a query for the live
// generations and the queries on the tables that it remembers. If the result differs from its
// memory, or if a table is gone, the read is discarded and repeated. Rows, generation, checkpoints
// and clock are therefore from one snapshot, and clients do not notice a swap. The views of the
// same names are for people.
//
// # Reading your own writes
//
// X-Min-Position has positions in the store's order that the response must include. The partition
// of each position's product has a checkpoint in every projection that the query reads, and the
// request waits until all of these are at or past the position. One query of all checkpoints serves
// all waiting requests. The snapshot that is read then checks the checkpoints again, and also
// parked events, which have not been applied. After waitLimit the response is 503
// read-model-behind.
//
// # Lists in the order of positions
//
// The order of positions is the order of commits in the store, not the order in which rows appear
// in a projection, because each partition is applied separately. A page of the audit therefore ends
// at its low-water mark, the position up to which every partition is complete. If a partition has
// applied everything the relay published to it, it is complete up to the relay's position; if it
// lags, up to its checkpoint. A parked event is a limit too. Entries after the mark are held back,
// so that a client that follows nextCursor misses none. With a filter by product or slot only that
// partition counts. Exports end at the mark too and send it as X-Complete-Position.
//
// # Bounds
//
// Requests without a token cause only a bounded amount of work. Lists of products are read once per
// second for all clients. Past states are read once and kept, and their counts are computed from
// pages that are counted once. Decision logs are folded incrementally, and their pages are shared.
// Only a few such reads run concurrently; a request that cannot start within a second is answered
// 503 overloaded. See package cache. Lists of a user are pages with a cursor.
//
// # Exports
//
// CSV and NDJSON are read in pages ordered by key, each in its own snapshot, and written as they
// are read: memory does not grow with the response, and no transaction outlives a page. If an
// export fails after it has begun, the response is cut off.
//
// # Streams
//
// A process has one reader for all its streams of products and slots, and one for stats. Each reads
// only while there are subscribers. A product's event is encoded once and the same bytes are
// written to all subscribers. Every stream shows the newest state (of a product, a buyer, the
// stats) and skips states that a subscriber was too slow for, so the reader waits for no
// subscriber. A client that accepts no data for the server's write timeout is disconnected. A
// buyer's stream compares each state with what was sent, by content. Therefore subscribers always
// end up with the content of the read models, once, also if an event was applied late, a generation
// was swapped in or a row was corrected. See feed for how it finds what to read.
//
// A stream that needs a token ends when the token expires; the client reconnects and gets 401.
//
// # The write side
//
// Time travel and fairness read the event store and the decision log. Without that database they
// respond 503 and everything else works; the stats omit the values that only the write side has.
package query
