// Package claims makes grants final. The table slot_claims assigns each unit to at most one
// slot, and each buyer at most one slot of a product; rules R1 and R3 hold in Postgres alone,
// whatever a gate believes.
//
// # Guard items
//
// A command appends its events together with items (items.go): a claim, the end of a slot, a
// change of a product. The guard (guard.go) checks all items of a batch under the append lock
// and writes them in the transaction of the events; a refusal is one of the errors of
// errors.go. The statements are in slots.go, products.go and payments.go. Items that cannot be
// decided in the same batch are deferred to the next one.
//
// The constraints and triggers of db/write/*_gate.sql refuse the same writes if they come from
// anything else.
//
// # Reads
//
// Store reads claims outside of an append. Such a read may be outdated: only the guard decides.
package claims
