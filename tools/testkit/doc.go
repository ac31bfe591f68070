// Package testkit gives tests and benchmarks the real services: a database, a
// Redis, Kafka brokers.
//
// # Shared by the whole run
//
// `go test ./...` runs one binary for each package, several at a time. They
// share one server of each kind. The first test that needs it starts a keeper:
// the test binary itself, executed again in a session of its own (see init),
// which starts the server, writes down where it is, and stays. Everything is
// under $TMPDIR/dopamine-testkit-<uid>:
//
//	<service>.start   flock, exclusive: one test binary at a time looks or starts
//	<service>.users   flock, shared: held by every binary that uses the server
//	<service>.alive   flock, exclusive: held by the keeper
//	<service>.json    where the server is, or why there is none
//	<service>.log     what keeper said
//
// A keeper that for idleFor could take the users' lock for itself is not needed
// any more: it stops its server and ends. Locks end with their holders, so a
// killed test binary counts no longer, and a killed keeper takes its server
// along (stack sees to that) and is replaced. Servers of the shared kind begin
// empty with each keeper.
//
// # What is not there
//
// Where a real service cannot be had, a test gets the nearest there is
// (miniredis, kfake) or is skipped, and what was not run against the real thing
// is said: in the test's log, and as a line "NOT RUN: what (why)" in the file
// named by DOPAMINE_NOT_RUN_FILE (a relative name lies in the folder above).
// With DOPAMINE_REQUIRE_REAL=1 the test fails instead.
package testkit
