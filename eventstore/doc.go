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
// # When Postgres does not respond
//
// Every wait is bounded: for a connection, for the lock, for each round trip. A
// process that stops while it holds the lock is disconnected, by Postgres
// (idle_in_transaction_session_timeout, tcp_user_timeout, from Postgres 17 on
// transaction_timeout) or, if it stopped while it was sending, by the next process
// that waits for the lock in vain.
//
//   - Before the commit was sent: nothing is in the log, nor will it be. A
//     connection that had died since the last batch is replaced and the batch
//     retried, else the batch and all that waits get an UnavailableError at once,
//     Sent false. The next append connects anew.
//   - After it was sent: a new connection takes the append lock, which the old
//     backend keeps until its transaction has ended one way or the other, and
//     looks for the batch's events. There, at their positions and with their
//     time: committed. Not all there: rolled back, so the batch runs again.
//     Only if that cannot be found out in time is the answer Sent true, and
//     the same append again finds it out. A batch of nothing but guards has no
//     event to look for, and is always answered so.
//
// # Synchronous standbys
//
// With synchronous_standby_names set, what was acknowledged is on the standby.
// A commit waits for it inside Postgres, and the append lock is held meanwhile;
// if the standby is away nobody is acknowledged anything. Three rules see to it:
//
//   - The wait is never cancelled (see connectAppender): Postgres would then show
//     the commit to everybody, although the standby does not have it.
//   - A commit that is merely visible is not trusted, since a restart of the
//     primary ends such a wait too. Whoever answers from what it has read (a
//     repeat, a commit whose answer was lost, Confirm) first commits a message of
//     its own in the write-ahead log, which waits for everything before it.
//   - synchronous_commit off and local are raised to on.
//
// # Incarnations
//
// A restore of the database to an earlier moment (a backup, point-in-time
// recovery, a standby that lagged) forgets events that others have seen, and
// positions are given out again. An Identity names one history of the log: the
// store's id and its incarnation, which `dopamine recover` raises under the
// append lock. Whoever keeps a position keeps the event's id or the Identity
// beside it, and compares: IDs and Identity.OriginOf.
package eventstore
