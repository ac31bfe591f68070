// Package query is the query API. It serves products, slots, payments, purchases and the audit log
// from the projections (package readmodel), a product's fairness report from its decision log
// (decisionlog), earlier states of products and slots from the event store (timetravel), and
// server-sent events (streams). New lists all routes.
//
// # Bounds
//
// Requests without a token cause only a bounded amount of work. Lists of products are read once per
// second for all clients. Past states are read once and kept, and their counts are computed from
// pages that are counted once. Decision logs are folded incrementally, and their pages are shared.
// Only a few such reads run concurrently; a request that cannot start within a second is answered
// 503 overloaded. See package cache. Lists of a user are pages with a cursor.
//
// # The write side
//
// Time travel and fairness read the event store and the decision log. Without that database they
// respond 503 and everything else works; the stats omit the values that only the write side has.
package query
