// Package worker does what happens by itself: it feeds the gates, withdraws
// grants whose append never came, and keeps the decision logs. Any number of
// workers run side by side; nothing is handed out or locked among them, and each
// step may be done twice, at the same time, or be cut off anywhere.
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
// watch until nothing of it is unsettled; then it costs nothing.
//
// # Failure
//
// Each loop that fails begins again by itself, with pauses of up to a second.
package worker
