// Package worker does what happens by itself: slots expire and their owners are
// warned, payments get their next step, gates are fed, grants whose append never
// came are withdrawn, decision logs are written down. Any number of workers run
// side by side; nothing is handed out or locked among them, and each step may be
// done twice, at the same time, or be cut off anywhere.
//
// # Deadlines
//
// slot_claims says what is due, by Postgres' clock. A sweep (sweep.go) finds what
// is due without a row lock, reads the slots' streams many at a time, decides on
// each (package domain), and appends each by itself with the version that it read:
// appends that come together share a transaction, and who was slower conflicts
// alone. So payment and expiry, two workers, a worker and an admin need not know
// of each other. A sweep that finds nothing sleeps until the next slot is due, a
// quarter of a second at most, since slots and ends are made by others.
//
// Workers that find the same slots begin at different ones, by hash of the id, and
// go round; one that meets another all the time begins anew elsewhere.
//
//	a slot's deadline passes        SlotExpired, the claim released, the gate fed
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
// What is due of payments (ask for the money again, ask what became of it, give it
// back) is in Postgres as well; a step is taken by moving its time on, so that no
// two workers ask at once. See package payments.
//
// # Feeding
//
// The worker follows the event log from its end at the start (woken by NOTIFY)
// and feeds the gate of each product to which something happened; the gate itself
// knows up to where it was told. What happened while no worker ran is found by
// one look at every gate that ever decided. A gate that cannot be told is tried
// again, with pauses of up to a second, until it is told or the product is gone.
//
// # Watching
//
// A gate that took a lease within the last half minute may have decided: about
// once a second its decision log is carried to Postgres, and what has been on its
// way for ten seconds is settled, by GrantWithdrawn under a constraint that lets
// a number be claimed or withdrawn, once. A gate that decides no more stays on
// watch until nothing of it is unsettled; then it costs nothing. Once a minute the
// gates' counts are compared with the claims: an alarm, never a repair.
//
// # Failure
//
// Each loop that fails begins again by itself, with pauses of up to a second.
package worker
