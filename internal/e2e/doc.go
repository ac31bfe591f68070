// Package e2e tests the system from outside, like buyers, admins and operators: the tests build the
// program and run its processes.
//
// - The contract tests use one `dopamine dev` over HTTP and check the contract's tables of
// products, slots, audit and fairness.
// - The fleet tests run every process, two of each that may have several, on a separate
// Redis and Apache Kafka and a real Postgres, and kill processes and services in the middle of a
// rush.
// - The replay tests run such a fleet on a long history and a separate Postgres. They rebuild the
// read models while buyers buy and readers read, and kill replay, projectors and Postgres
// meanwhile.
// - The dev tests start, stop and restart the system as in the README.
//
// The rush on the fleet has 20,000 buyers; with DOPAMINE_E2E_BUYERS=100000 it is the full one. The
// history has 40,000 events; DOPAMINE_E2E_EVENTS=2000000 makes it a long one.
// DOPAMINE_E2E_LONG_SELECT=10m makes the SELECT across a swap last that long.
package e2e
