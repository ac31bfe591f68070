// Package eventstore is an append-only log in Postgres: append, read, be woken.
// It knows streams, versions and a partition key, and no product and no slot:
// what a command has to check and write beside its events it hands in as a Guard.
//
// # Order
//
// Identity values are handed out before the commit, so a reader that trusts
// "position above the last I saw" would skip events that commit late. Here every
// transaction that appends takes one advisory lock (AppendLock) before it looks
// at anything and holds it to its commit; Postgres makes a commit visible before
// it lets go of the transaction's locks. A position is the last one plus one,
// read under that lock: positions have no gap, their order is the order of
// commits, and a place in the log is one integer. An append that would bypass the
// lock runs into the primary key.
//
// The lock is taken by a statement of its own in READ COMMITTED, so that the
// next statement's snapshot is younger than the wait: versions, guards' reads and
// the clock see everything that was appended before. Whoever changes what guards
// read without appending (an epoch, for instance) takes the same lock the same
// way. Nobody locks a row before it takes the append lock: that deadlocks with
// the batch that has the lock and wants the row.
//
// # Group commit
//
// The lock costs nothing once appends share a transaction. A store has one writer
// and a bounded queue; while a transaction is under way the next batch gathers,
// without a timer. A batch is two round trips:
//
//	begin; lock; head and time; events of these ids; versions; guards' checks
//	    then, in Go: each append in order is a repeat, refused, put off or accepted
//	guards' writes; insert; notify; commit
//
// Appends fail alone. A repeat (all event ids there, with the same stream, type
// and payload) is answered with the first result; a conflict, a guard's refusal,
// an id in use for something else are their append's only; what cannot be decided
// beside another of the same batch (ErrDefer, and a repeat of something in the
// batch) waits for the next one. A statement that fails fails the transaction;
// the batch is then halved until what is at fault stands alone.
//
// # When Postgres does not answer
//
// Every wait is bounded: for a connection, for the lock, for each round trip. A
// process that stops while it holds the lock is disconnected by Postgres
// (idle_in_transaction_session_timeout) before the others give up waiting.
//
//   - Before the commit was sent: nothing is in the log, nor will it be. A
//     connection that had died since the last batch is replaced and the batch
//     tried again, else the batch and all that waits is answered at once with
//     UnavailableError, Sent false. The next append tries to connect anew.
//   - After it was sent: a new connection takes the append lock, which the old
//     backend keeps until its transaction has ended one way or the other, and
//     looks for the batch's events. There, at their positions and with their
//     time: committed. Not all there: rolled back, so the batch runs again.
//     Only where that cannot be found out in time is the answer Sent true, and
//     the same append again finds it out. A batch of nothing but guards has no
//     event that would tell, and is always answered so.
package eventstore
