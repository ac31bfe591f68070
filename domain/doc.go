// Package domain contains the rules of a sale: products, slots and their payments, as
// events and as pure decisions.
//
// A command handler reads a stream, folds it with Evolve into a state, asks
// the state to decide, and appends the resulting events. Nothing here
// reads a clock, draws a random number or does I/O: times and ids are parameters,
// so that every rule can be tested without a database.
package domain
