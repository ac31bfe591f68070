// Package e2e holds the tests that see the system from outside, as buyers,
// admins and operators do: they build the program and run its processes.
//
//   - The contract tests speak HTTP to one `dopamine dev` and go through the
//     contract's tables of products, slots, audit and fairness.
//   - The fleet tests run every role as a process of its own, two of each that
//     may be more than one, on a Redis and an Apache Kafka of their own and a
//     real Postgres, and kill what can be killed in the middle of a rush.
//   - The replay tests run such a fleet on a long history and a Postgres of its
//     own, and rebuild the read models while buyers buy and readers read, with
//     replay, projectors and Postgres killed in the midst of it.
//   - The dev tests start, stop and start again what the README starts.
//
// The rush on the fleet is one of 20,000 buyers; with DOPAMINE_E2E_BUYERS=100000
// it is the full one. The history is of 40,000 events; with DOPAMINE_E2E_EVENTS=2000000
// it is a long one. DOPAMINE_E2E_LONG_SELECT=10m makes the SELECT across a swap
// last that long.
package e2e
