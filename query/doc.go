// Package query is the query API. It serves products, slots, payments, purchases and the audit log
// from the projections (package readmodel), a product's fairness report from its decision log, and
// earlier states of products and slots from the event store. New lists all routes.
//
// # Bounds
//
// Requests without a token cause only a bounded amount of work. Lists of products are read once per
// second for all clients. Past states are read once and kept, and their counts are computed from
// pages that are counted once. Decision logs are folded incrementally, and their pages are shared.
// Only a few such reads run concurrently; a request that cannot start within a second is answered
// 503 overloaded. See package cache. Lists of a user are pages with a cursor.
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
