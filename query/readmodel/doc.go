// Package readmodel reads the projections for the query API: snapshots that include the positions a
// client requests, how complete a list is, and the rows of the tables as JSON objects. It also has
// the errors and the timeout that all reads of the API share.
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
package readmodel
