// Package eventstore is an append-only log in Postgres: append, read, subscribe.
// It knows streams, versions and a partition key, but no products and slots:
// a command passes its own checks and writes with its events, as a Guard.
//
// # Order
//
// Postgres assigns identity values before the commit, so a reader that trusts
// "position above the last one read" would skip events that commit late. Here every
// transaction that appends takes one advisory lock (AppendLock) before it reads
// anything and holds it until its commit; Postgres makes a commit visible before
// it releases the transaction's locks. A position is the last one plus one,
// read under that lock: positions have no gaps, their order is the order of
// commits, and a checkpoint in the log is one integer. An append that bypassed the
// lock would violate the primary key.
//
// A separate statement takes the lock in READ COMMITTED, so that the
// next statement's snapshot is younger than the wait: versions, guards' reads and
// the clock see everything that was appended before. Code that changes what guards
// read without appending (an epoch, for instance) takes the same lock in the same
// way. No code locks a row before it takes the append lock: that would deadlock with
// the batch that has the lock and waits for the row.
//
// # Group commit
//
// The lock costs nothing if appends share a transaction. A store has one writer
// and a bounded queue; while a transaction is in progress the next batch collects,
// without a timer. A batch is two round trips:
//
//	begin; lock; head and time; events of these ids; versions; guards' checks
//	    then, in Go: each append in order is a repeat, refused, deferred or accepted
//	guards' writes; insert; notify; commit
//
// Appends fail independently. A repeat (all event ids exist, with the same stream, type
// and payload) returns the first result; a conflict, a guard's refusal, or
// an id in use for another event affects only its own append. An append that cannot be decided
// in the same batch as another one (ErrDefer, and a repeat of an event in the
// batch) waits for the next batch. A statement that fails fails the transaction;
// the batch is then halved until the append that caused it is alone.
//
// A row that another session has locked is waited for a quarter of a second, since every
// append of every product waits behind the append lock. The batch is then halved in the same
// way, with shorter waits, and the append that needs the row gets an UnavailableError
// (nothing sent). If the halving lasts more than a second (a table is locked), the
// rest of the batch gets it too.
//
// # When Postgres does not respond
//
// Every wait is bounded: for a connection, for the lock, for each round trip. A
// process that stops while it holds the lock is disconnected, by Postgres
// (idle_in_transaction_session_timeout, tcp_user_timeout, from Postgres 17 on
// transaction_timeout) or, if it stopped while it was sending, by the next process
// that times out waiting for the lock.
//
//   - Before the commit was sent: nothing is in the log, nor will it be. A
//     connection that had broken since the last batch is replaced and the batch
//     retried, otherwise the batch and all waiting appends get an UnavailableError at once,
//     with Sent false. The next append connects again.
//   - After it was sent: a new connection takes the append lock, which the old
//     backend keeps until its transaction has ended in either way, and
//     reads the batch's events. If all exist, at their positions and with their
//     time, they were committed. Otherwise they were rolled back, so the batch runs again.
//     Only if the outcome cannot be determined in time, Sent is true, and
//     a retry of the same append determines it. A batch of guards without events has no
//     event to read, so its outcome is always unknown then.
//
// # Synchronous standbys
//
// With synchronous_standby_names set, every acknowledged append is on the standby.
// A commit waits for it inside Postgres, and the append lock is held meanwhile;
// if the standby is unavailable no append is acknowledged. Three rules ensure this:
//
//   - The wait is never cancelled (see connectAppender): Postgres would then make
//     the commit visible, although the standby does not have it.
//   - A commit that is merely visible is not trusted, since a restart of the
//     primary ends such a wait too. Code that answers from what it has read (a
//     repeat, a commit whose answer was lost, Confirm) first commits a separate
//     message to the write-ahead log, which waits for everything before it.
//   - synchronous_commit off and local are raised to on.
//
// # Incarnations
//
// A restore of the database to an earlier moment (a backup, point-in-time
// recovery, a standby that lagged) loses events that others have seen, and
// positions are assigned again. An Identity names one history of the log: the
// store's id and its incarnation, which `dopamine recover` raises under the
// append lock. Code that stores a position also stores the event's id or the Identity
// and compares them: IDs and Identity.OriginOf.
package eventstore
