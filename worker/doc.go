// Package worker runs the background work: slots expire and their owners are
// warned, payments advance, gates are synced, grants that were never appended
// are withdrawn, decision logs are shipped. Any number of workers run
// concurrently. They share no locks, and each step may be executed twice, at
// the same time, or be interrupted at any point.
//
// # Sharing
//
// Each process has a row whose counter it increments (internal/presence). Live workers share
// the products by rendezvous hash (owners.go): a worker syncs, watches and audits
// the gates of its own products only. A worker that makes no progress for two seconds
// loses its products; workers that cannot reach a Redis master lose the products
// there. Each worker remembers recent events of products of others, and syncs those
// that it takes over. While the workers' lists differ a
// product may have two owners, which does no harm, or for a second or two none.
//
// Expiry, warnings and payments are not shared: every worker handles all of them.
//
// # Tasks of gates
//
// schedule.go runs a task for each product, at the product's own time. It limits
// how many run at the same time for each Redis master and has a circuit breaker for
// each: after three products of a master failed in a row, it is called by one task at a time. A
// master that hangs therefore delays the products on it and no others.
//
// # Expiry
//
// slot_claims records what is due, by the event store's clock: the time that the next
// event would have, which also decides about payments. A sweep (expiry.go) finds
// due slots without a row lock, reads the slots' streams many at a time, decides
// about each (package domain), and appends each separately with the version that it
// read: concurrent appends share a transaction, and of two conflicting ones only the slower
// one fails. So payment and expiry, two workers, a worker and an admin need
// no coordination. A sweep that finds nothing sleeps until the next slot is
// due, at most a quarter of a second, since other processes create slots and move deadlines.
//
// Workers that find the same slots begin at different ones, by hash of the id, and
// continue in a cycle; a worker that conflicts repeatedly begins at another one.
//
//	a slot's deadline passes        SlotExpired, the claim released, the gate synced
//	its payment is pending          left alone until the payment's timeout,
//	                                then payments.Service.TimeOut ends both
//	its warning is due              SlotExpiringSoon, warn_at cleared
//	its deadline passed unwarned    no warning
//	it cannot be read or appended   logged, counted, left alone for half a minute
//
// A worker that was down for an hour finds everything due, the longest first, and
// appends it as fast as Postgres accepts it.
//
// # Payments
//
// Due payment jobs are in Postgres as well. A step begins by moving its due
// time, so that no two workers call the gateway at the same time. See package payments.
//
// # Sync
//
// The worker follows the event log from its end at the start (notified by NOTIFY)
// and syncs the gate of each of its products that has new events; the gate
// itself knows up to where it was synced (gate_sync.go). Events from before the
// start are found by one check of every gate that ever decided. If a gate
// cannot be synced, the sync is retried with a backoff of up to a second, until it succeeds
// or the product is gone.
//
// # Watch
//
// A gate that took a lease in the last half minute may have decided. About once
// a second its decision log is read and stored (gate_watch.go), many products in one
// statement (shipper.go). A gate that is found lost twice in a row and receives no
// requests is rebuilt.
//
// The log is complete only if it was read after everything had been decided that
// leases allowed: once the gate's clock shows 3 s more than at some read after its
// last lease was seen in Postgres, and its own lease has run out. That is recorded as
// covered (gate_shipments), and only then a gate that decides no more is no longer
// watched. A worker that starts, or takes over, watches every gate whose last lease
// is not covered. The fairness report is complete if each epoch that ended is
// covered or was stored completely, and the present one was stored within 5 s.
//
// # Withdrawal
//
// A pending grant is withdrawn by GrantWithdrawn under a constraint that allows a
// number to be claimed or withdrawn, once, so that withdrawing too early costs its buyer
// another decision and nothing else (withdraw.go). It is withdrawn
//
//   - 6 s after the worker first saw that its number was assigned. Numbers only
//     increase, so the highest number at each read stands for all below it. Redis' clock
//     does not matter: if it is stepped, nothing is withdrawn early or kept.
//   - at once if every process that received the grant is dead or has left the
//     list. If a commit of such a process is still in progress in Postgres, it comes
//     before the withdrawal or is refused after it.
//
// A log that cannot be stored does not prevent withdrawals.
//
// # Audit
//
// Once a minute the gates' counts are compared with the claims (gate_audit.go). A
// difference raises an alarm and is never repaired automatically.
//
// # Failure
//
// Each loop that fails restarts, with a backoff of up to a second.
package worker
