// Package streams serves streams of server-sent events: of products, of a buyer's slots and
// payments, and of the stats and operations that admins watch.
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
package streams
