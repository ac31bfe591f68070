// Package query is the query API: products, slots, payments, purchases and the
// audit as the projections have them, a product's fairness as its decision log
// has it, and products and slots as they once were.
//
// # One snapshot
//
// A projection's rows lie in tables of its live generation (products_g3, …), and
// a replay swaps generations at any moment. So the API names the tables itself:
// it remembers the live generations and sends, in one pipeline and one REPEATABLE
// READ transaction, the question which generations are live and the queries over
// the tables that it remembers. Where the answer differs from its memory, or a
// table is gone, what was read is thrown away and asked again. Rows, generation,
// checkpoints and clock are therefore of one moment, and a swap shows as nothing.
// The views of the same names are for people.
//
// # Reading your own writes
//
// X-Min-Position names places in the store's order that this answer has to
// include. The partition of each place's product has a checkpoint in every
// projection that the query reads; the request waits until they are at or past
// it, by asking for all checkpoints once for all who wait, and the snapshot that
// it then reads checks them again, together with parked events: what is parked
// has not been applied. After waitLimit the answer is 503 read-model-behind.
//
// # Exports
//
// CSV and NDJSON are read in pages ordered by key, each a snapshot of its own,
// and written as they come: memory does not grow with the answer, and no
// transaction outlives a page. An export that fails after it has begun is cut off.
//
// # Streams
//
// A process has one reader for all its streams of products and slots, and one
// for stats; each reads only while somebody listens. A product's event is encoded
// once and its bytes are written to all. Every stream is of a state, of a product,
// a buyer, the stats: it shows the newest and skips what a listener was too slow
// for, so the reader waits for nobody, and who takes nothing for as long as the
// server's write timeout is let go. A buyer's stream compares each state with what
// the buyer was told, by content: whatever happened to the read models, an event
// applied late, a generation swapped in, a row mended, listeners end up with what
// they say now, and are told it once. See feed for how it knows what to read.
//
// A stream that needs a token ends, properly, when the token expires; its client
// comes back and is answered 401.
//
// # The write side
//
// Time travel and fairness read the event store and the decision log. Without
// them they answer 503, and everything else serves; the stats leave out what
// only the write side knows.
package query
