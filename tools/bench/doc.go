// Command bench prints each figure that the system must reach next to its limit, measured in the
// same run on the same machine: `./bench.sh [section…]`.
//
// There are two kinds of sections: Go benchmarks that alternate with their limit and report both
// (see [suites]; their metrics become rows), and measurements of the whole system. The system is
// started as in production: every role is a process, on a Postgres that commits to disk, a
// redis-server and, if there is Java, Apache Kafka. The limit of the sold-out response, a bare Echo
// handler, is a process as well: this program as `bench bare`; so is the limit of streams, a bare
// loop of writes.
//
// Other load on the machine influences the outcome. Ratios of medians of interleaved rounds are
// robust against that, single latencies are not, so run it on a quiet machine. It is not a test: a
// figure that misses its target is marked, and the exit status is 0; it is 1 if something could not
// be measured.
package main
