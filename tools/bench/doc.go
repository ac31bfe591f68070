// Command bench prints each figure that the system must reach beside its limit,
// measured in the same run on the same machine: `./bench.sh [section…]`.
//
// Two kinds of sections: Go benchmarks that already measure themselves beside
// their limit by turns and report both (see [suites]; their metrics become rows),
// and what needs the whole system, which is started as in production: every role
// a process of its own, on a Postgres that commits to the disk, a redis-server
// and, where there is Java, Apache Kafka. The limit of the sold-out answer, a
// bare Echo handler, is a process of its own as well: this program as `bench
// bare`; so is that of streams, a bare loop of writes.
//
// Whatever shares the machine shares the outcome. Ratios of medians of
// interleaved rounds stand that; single latencies do not, so run it on a quiet
// machine. It is no test: a figure below its aim is marked, and the exit status
// is 0; it is 1 where something could not be measured.
package main
