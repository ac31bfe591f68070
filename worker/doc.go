// Package worker does what happens by itself: slots expire and their owners are
// warned, payments get their next step, gates are synced, grants whose append
// never came are withdrawn, decision logs are shipped. Any number of workers run
// side by side. Nothing is locked among them, and each step may be done twice, at
// the same time, or be cut off anywhere.
//
// # Sharing
//
// Each process has a row that it counts up (internal/presence). Live workers share
// the products by rendezvous hash (owners.go): a worker syncs, watches and audits
// the gates of its own products only. A worker that stands still for two seconds
// loses its products; so do, for the products of one Redis master, workers that
// cannot reach it. What happened to products of others in the last seconds is
// remembered and synced by whoever takes over. While the workers' lists differ a
// product may have two owners, which does no harm, or for a second or two none.
//
// Expiry, warnings and payments are not shared: every worker looks for all of them.
//
// # Tasks of gates
//
// schedule.go runs a task for each product, at the product's own time. It limits
// how many run at the same time for each Redis master and has a circuit breaker for
// each: after three products of a master failed in a row, one at a time asks it. A
// master that hangs therefore delays the products on it and no others.
//
// # Expiry
//
// slot_claims says what is due, by the event store's clock: the time that the next
// event would bear, by which payments are judged, too. A sweep (expiry.go) finds
// what is due without a row lock, reads the slots' streams many at a time, decides
// on each (package domain), and appends each by itself with the version that it
// read: appends that come together share a transaction, and the slower one of two
// conflicts alone. So payment and expiry, two workers, a worker and an admin need
// not know of each other. A sweep that finds nothing sleeps until the next slot is
// due, a quarter of a second at most, since slots and ends are made by others.
//
// Workers that find the same slots begin at different ones, by hash of the id, and
// go round; one that meets another all the time begins anew elsewhere.
//
//	a slot's deadline passes        SlotExpired, the claim released, the gate synced
//	its payment is pending          left alone until the payment's wait is over,
//	                                then payments.Service.TimeOut ends both
//	its warning is due              SlotExpiringSoon, warn_at cleared
//	its deadline passed unwarned    no warning: it has lost its sense
//	it cannot be read or appended   logged, counted, left alone for half a minute
//
// A worker that was off for an hour finds everything due, the longest first, and
// appends it at the rate at which Postgres takes it.
//
// # Payments
//
// What is due of payments is in Postgres as well; a step is taken by moving its
// time on, so that no two workers ask at the same time. See package payments.
//
// # Sync
//
// The worker follows the event log from its end at the start (woken by NOTIFY)
// and syncs the gate of each of its products to which something happens; the gate
// itself knows up to where it was synced (gate_sync.go). What happened while no
// worker ran is found by one look at every gate that ever decided. A gate that
// cannot be synced is retried, with pauses of up to a second, until it is or the
// product is gone.
//
// # Watch
//
// A gate that took a lease within the last half minute may have decided. About once
// a second its decision log is read and stored (gate_watch.go), many products by one
// statement (shipper.go). A gate that is found lost twice, and that nobody asks, is
// rebuilt.
//
// The log is complete only if it was read after everything had been decided that
// leases allowed: once the gate's clock shows 3 s more than at some read after its
// last lease was seen in Postgres, and its own lease has run out. That is noted as
// covered (gate_shipments), and only then a gate that decides no more is left
// alone. A worker that starts, or takes over, watches every gate whose last lease
// is not covered. The fairness report is complete if each epoch that ended is
// covered or was handed over whole, and the present one was stored within 5 s.
//
// # Withdrawal
//
// A grant on its way is withdrawn by GrantWithdrawn under a constraint that lets a
// number be claimed or withdrawn, once, so that withdrawing too early costs its buyer
// another decision and nothing else (withdraw.go). It is withdrawn
//
//   - 6 s after the worker first saw that its number was given out. Numbers only
//     rise, so the highest number at each look stands for all below it. No clock of
//     Redis counts: one that is stepped withdraws nothing early and keeps nothing.
//   - at once if every process that was handed the grant is dead or has left the
//     list. A commit of such a process that is still under way in Postgres comes
//     before the withdrawal or is refused after it.
//
// That a log cannot be stored keeps no grant from being withdrawn.
//
// # Audit
//
// Once a minute the gates' counts are compared with the claims (gate_audit.go): an
// alarm, never a repair.
//
// # Failure
//
// Each loop that fails begins again by itself, with pauses of up to a second.
package worker
