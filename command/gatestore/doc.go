// Package gatestore is the Postgres side of the gate: Store implements redis.Store on the
// tables product_gates, gate_epochs, gate_decisions and gate_shipments.
//
//	lease.go      the rows of products, leases, and heartbeats of rebuilds
//	raise.go      epochs raised for rebuilds, under the append lock
//	snapshot.go   row, head position and claims as of one moment, from which a gate is rebuilt
//	events.go     the events with which a gate is synced
//	decisions.go  the decision log, shipped from Redis
//
// For the worker and for operators it also lists gates (list.go), counts a product's units, and
// compares a gate with the claims (counts.go).
//
// A change of a sale raises the epoch too, but inside its own append: package claims does that.
//
// # Locks
//
// Only Raise and Snapshot use a transaction of several round trips. All others are single
// statements, so that a process that dies leaves no row lock for which the holder of the append
// lock would wait. Statements that change several rows skip those that are locked, or change
// them in the order of their keys, so that they cannot deadlock.
package gatestore
