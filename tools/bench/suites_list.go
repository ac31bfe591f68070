package main

// milli is from a metric in µs to a row in ms.
const milli = 0.001

// suites are the benchmarks that become rows. The rounds are chosen so that each takes well below a
// minute, except for the expiries, which need a minute.
var suites = []suite{
	{
		name: "gate", about: "refusals of the gate compared with raw script calls", pkg: "./redis", bench: "^BenchmarkSoldOut$", rounds: "2s",
		measures: []measure{
			{what: "gate, sold out, 1,000 callers", of: "BenchmarkSoldOut/1000-callers", unit: "refusals/s", limitOf: "BenchmarkSoldOut/raw-pipelined", limit: "refusals/s", limitIs: "one script call each, pipelined"},
		},
	}, {
		name: "recovery", about: "Redis loses everything under load, 1,000 products, 4 nodes", pkg: "./redis", bench: "^BenchmarkRecovery$", rounds: "1x",
		measures: []measure{
			{what: "recovery, until every product decides again", of: "BenchmarkRecovery", unit: "s-last", shown: "s", aim: atMost(5, "s")},
			{what: "recovery, new epochs of a product at most", of: "BenchmarkRecovery", unit: "epochs-most", shown: "epochs", aim: atMost(1, "epochs")},
			{what: "recovery, requests that failed", of: "BenchmarkRecovery", unit: "failed", limit: "requests", limitIs: "requests in that time", shown: "requests"},
		},
	}, {
		name: "leases", about: "lease statements of 20 nodes that use the same products", pkg: "./redis", bench: "^BenchmarkLeases$", rounds: "1x",
		measures: []measure{
			{what: "lease statements, 20 nodes", of: "BenchmarkLeases", unit: "statements/s", limit: "product-nodes", limitIs: "one for each product and node a second", aim: atMost(1000, "statements/s")},
		},
	}, {
		name: "isolation", about: "products beside a master that hangs, and beside a product that is rebuilt", pkg: "./worker", bench: "^BenchmarkIsolation$", rounds: "5x",
		measures: []measure{
			{what: "one of three masters hangs: other products' decisions, p99", of: "BenchmarkIsolation/hung-master", unit: "decision-p99-µs", limit: "decision-healthy-p99-µs", limitIs: "the same without", shown: "ms", scale: milli, aim: ratioAtMost(2)},
			{what: "  until their freed unit is granted, p99", of: "BenchmarkIsolation/hung-master", unit: "freed-p99-µs", limit: "freed-healthy-p99-µs", limitIs: "the same without", shown: "ms", scale: milli, aim: atMost(1000, "ms")},
			{what: "  until their decision is in the stored log, p99", of: "BenchmarkIsolation/hung-master", unit: "logged-p99-µs", limit: "logged-healthy-p99-µs", limitIs: "the same without", shown: "ms", scale: milli, aim: atMost(2000, "ms")},
			{what: "a product with 50,000 holders is rebuilt: other products' decisions, p99", of: "BenchmarkIsolation/rebuild", unit: "decision-p99-µs", limit: "decision-healthy-p99-µs", limitIs: "the same without", shown: "ms", scale: milli, aim: ratioAtMost(2)},
			{what: "  until their freed unit is granted, p99", of: "BenchmarkIsolation/rebuild", unit: "freed-p99-µs", limit: "freed-healthy-p99-µs", limitIs: "the same without", shown: "ms", scale: milli, aim: atMost(1000, "ms")},
			{what: "  until their decision is in the stored log, p99", of: "BenchmarkIsolation/rebuild", unit: "logged-p99-µs", limit: "logged-healthy-p99-µs", limitIs: "the same without", shown: "ms", scale: milli, aim: atMost(2000, "ms")},
		},
	}, {
		name: "append", about: "appends of 64 callers compared with bare inserts", pkg: "./eventstore", bench: "^BenchmarkAppend$", rounds: "30x",
		measures: []measure{
			{what: "append, 64 callers", of: "BenchmarkAppend", unit: "events/s", limit: "bare-events/s", limitIs: "bare unnest inserts of 64"},
			{what: "append p50", of: "BenchmarkAppend", unit: "p50-µs", shown: "ms", scale: milli},
			{what: "append p99", of: "BenchmarkAppend", unit: "p99-µs", shown: "ms", scale: milli},
		},
	}, {
		name: "claims", about: "appends with claims compared with the same events alone", pkg: "./command/claims", bench: "^BenchmarkClaims$", rounds: "20000x",
		measures: []measure{
			{what: "grants made durable, 64 callers", of: "BenchmarkClaims/with-claims", unit: "claims/s", limitOf: "BenchmarkClaims/events-alone", limit: "claims/s", limitIs: "the same events alone"},
		},
	}, {
		name: "read", about: "reading the log compared with bare rows", pkg: "./eventstore", bench: "^BenchmarkRead$", rounds: "10x",
		measures: []measure{
			{what: "read the log", of: "BenchmarkRead", unit: "events/s", limit: "bare-events/s", limitIs: "fetching the rows"},
		},
	}, {
		name: "relay", about: "the relay compared with raw sarama batches", pkg: "./relay", bench: "^BenchmarkRelay$", rounds: "7x",
		measures: []measure{
			{what: "relay", of: "BenchmarkRelay", unit: "events/s", limit: "raw-events/s", limitIs: "sarama, encoded records from memory"},
		},
	}, {
		name: "projector", about: "projections compared with fold and unnest from memory", pkg: "./projections/projector", bench: "^BenchmarkProjector$", rounds: "7x",
		measures: []measure{
			{what: "projector, one product", of: "BenchmarkProjector/products=1", unit: "events/s", limit: "memory-events/s", limitIs: "fold and unnest from memory"},
			{what: "projector, 100 products", of: "BenchmarkProjector/products=100", unit: "events/s", limit: "memory-events/s", limitIs: "fold and unnest from memory"},
		},
	}, {
		name: "lateness", about: "expiry of 10,000 slots due within a minute", pkg: "./worker", bench: "^BenchmarkExpiryLateness$", rounds: "1x",
		measures: []measure{
			{what: "expiry, 10,000 due in a minute, p50", of: "BenchmarkExpiryLateness", unit: "p50-ms", shown: "ms"},
			{what: "expiry, 10,000 due in a minute, p99", of: "BenchmarkExpiryLateness", unit: "p99-ms", shown: "ms", aim: atMost(1000, "ms")},
		},
	}, {
		name: "expiry", about: "100,000 slots due at the same instant", pkg: "./worker", bench: "^BenchmarkMassExpiry$", rounds: "1x",
		measures: []measure{
			{what: "mass expiry, one worker, until on sale again", of: "BenchmarkMassExpiry/workers=1", unit: "s-on-sale", shown: "s"},
			{what: "mass expiry, two workers, until on sale again", of: "BenchmarkMassExpiry/workers=2", unit: "s-on-sale", shown: "s", aim: atMost(10, "s")},
			{what: "mass expiry, one worker", of: "BenchmarkMassExpiry/workers=1", unit: "slots/s", limit: "bare-appends/s", limitIs: "bare appends, same concurrency", shown: "slots/s"},
		},
	}, {
		name: "payments", about: "payment starts and callbacks of 64 callers compared with bare appends", pkg: "./command", bench: "^BenchmarkPayment(s|History)$", rounds: "1x",
		measures: []measure{
			{what: "payment start, 64 callers, p50", of: "BenchmarkPayments", unit: "start-p50-ms", limit: "append-p50-ms", limitIs: "bare append", shown: "ms"},
			{what: "payment start, 64 callers, p99", of: "BenchmarkPayments", unit: "start-p99-ms", limit: "append-p99-ms", limitIs: "bare append", shown: "ms", aim: atMost(500, "ms")},
			{what: "payment callback, 64 at a time, p50", of: "BenchmarkPayments", unit: "callback-p50-ms", limit: "append-p50-ms", limitIs: "bare append", shown: "ms"},
			{what: "payment callback, 64 at a time, p99", of: "BenchmarkPayments", unit: "callback-p99-ms", limit: "append-p99-ms", limitIs: "bare append", shown: "ms", aim: atMost(500, "ms")},
			{what: "payment callback, slot with 10 payments, p50", of: "BenchmarkPaymentHistory", unit: "payments-10-p50-ms", limit: "payments-1-p50-ms", limitIs: "slot with 1 payment", shown: "ms"},
		},
	}, {
		name: "replay", about: "replay of all projections compared with reading and COPY of the same rows", pkg: "./projections/replay", bench: "^BenchmarkReplay$/^all$", rounds: "2x",
		measures: []measure{
			{what: "replay of all projections", of: "BenchmarkReplay/all", unit: "events/s", limit: "raw-events/s", limitIs: "reading, and COPY of the same rows", aim: atLeast(100_000, "events/s")},
			{what: "replay, most heap", of: "BenchmarkReplay/all", unit: "heap-MB", shown: "MiB"},
		},
	},
}
