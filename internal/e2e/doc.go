// Package e2e holds the tests that see the system from outside, as buyers,
// admins and operators do: they build the program and run its processes.
//
//   - The contract tests speak HTTP to one `dopamine dev` and go through the
//     contract's tables of products, slots, audit and fairness.
//   - The fleet tests run every role as a process of its own, two of each that
//     may be more than one, on a Redis and an Apache Kafka of their own and a
//     real Postgres, and kill what can be killed in the middle of a rush.
//   - The dev tests start, stop and start again what the README starts.
//
// The rush on the fleet is one of 20,000 buyers; with DOPAMINE_E2E_BUYERS=100000
// it is the full one.
package e2e
