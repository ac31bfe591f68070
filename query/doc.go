// Package query is the query API: products, slots, payments, purchases and the
// audit as the projections have them, a product's fairness as its decision log
// has it, and products and slots as they once were.
//
// # One snapshot
//
// A projection's rows are in tables of its live generation (products_g3, …), and
// a replay swaps generations at any moment. So the API names the tables itself:
// it remembers the live generations and sends, in one pipeline and one REPEATABLE
// READ transaction, a query for the live generations and the queries over the tables
// that it remembers. If the result differs from its memory, or a table is gone, the
// read is discarded and repeated. Rows, generation, checkpoints and clock are therefore
// of one moment, and clients do not notice a swap. The views of the same names are for
// people.
//
// # Reading your own writes
//
// X-Min-Position names positions in the store's order that the response has to
// include. The partition of each position's product has a checkpoint in every
// projection that the query reads; the request waits until they are at or past
// it, by reading all checkpoints once for all that wait, and the snapshot that
// it then reads compares them again, together with parked events: what is parked
// has not been applied. After waitLimit the response is 503 read-model-behind.
//
// # Lists in the order of positions
//
// The order of positions is the order of commits in the store, not that in which rows
// arrive here: each partition is applied by itself. A page of the audit therefore ends
// at its low-water mark, the position up to which every partition is complete: a
// partition that has applied all that the relay had published into it is complete up to
// where the relay was, one that lags up to its checkpoint, and a parked event is a limit
// too. Entries behind the mark are held back, so that a client that walks by nextCursor
// never passes one that is still to come. With a filter by product or slot only that
// one's partition counts. Exports end at the mark as well and send it as
// X-Complete-Position.
//
// # Bounds
//
// What strangers can ask for costs a bounded amount of work. Lists of products are read
// once a second for everybody; states of the past are read once and kept, their counts
// are made of pages that are counted once; decision logs are folded as they grow, and
// their pages are shared. Only a few such reads run at the same time, and what does not
// get its turn within a second is 503 overloaded. See cache. Lists of a user are pages
// with a cursor.
//
// # Exports
//
// CSV and NDJSON are read in pages ordered by key, each a snapshot of its own,
// and written as they come: memory does not grow with the response, and no
// transaction outlives a page. An export that fails after it has begun is cut off.
//
// # Streams
//
// A process has one reader for all its streams of products and slots, and one
// for stats; each reads only while somebody listens. A product's event is encoded
// once and its bytes are written to all. Every stream is of a state, of a product,
// a buyer, the stats: it shows the newest and skips what a listener was too slow
// for, so the reader waits for nobody, and a client that takes nothing for as long as
// the server's write timeout is disconnected. A buyer's stream compares each state with
// what was sent, by content: whatever happened to the read models, an event applied
// late, a generation swapped in, a row corrected, listeners end up with what they
// contain now, once. See feed for how it knows what to read.
//
// A stream that needs a token ends when the token expires; its client reconnects and
// gets 401.
//
// # The write side
//
// Time travel and fairness read the event store and the decision log. Without
// them they are 503, and everything else serves; the stats leave out what
// only the write side knows.
package query
