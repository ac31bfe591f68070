// Package testkit provides tests and benchmarks with real services: a database, a Redis, Kafka
// brokers.
//
// # Shared by the whole run
//
// `go test ./...` runs one binary for each package, several at a time. They share one server of
// each kind. The first test that needs it starts a keeper: the test binary itself, executed again
// in a separate session (see init), which starts the server, records its address, and stays.
// Everything is under $TMPDIR/dopamine-testkit-<uid>:
//
//	<service>.start   flock, exclusive: one test binary at a time checks or starts
//	<service>.users   flock, shared: held by every binary that uses the server
//	<service>.alive   flock, exclusive: held by the keeper
//	<service>.json    the server's address, or why there is none
//	<service>.log     the keeper's output
//
// If a keeper can take the users' lock exclusively after idleTimeout, it is no longer needed: it
// stops its server and ends. Locks end with their holders, so a killed test binary no longer
// counts, and a killed keeper's server dies with it (devservices ensures that) and is replaced.
// Shared servers start empty with each keeper.
//
// # Missing services
//
// If a real service is not available, a test gets the nearest substitute (miniredis, kfake) or is
// skipped. What was not run against the real service is reported: in the test's log, and as a line
// "NOT RUN: what (why)" in the file named by DOPAMINE_NOT_RUN_FILE (a relative name is resolved
// against the parent folder). With DOPAMINE_REQUIRE_REAL=1 the test fails instead.
package testkit
