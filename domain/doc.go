// Package domain holds what a sale is: products, slots and their payments, as
// events and as pure decisions over them.
//
// A command handler reads a stream, folds it with Evolve into a state, asks
// the state to decide, and appends the events that come back. Nothing here
// reads a clock, draws a random number or does I/O: times and ids are handed
// in, so that every rule can be tested without a database.
package domain
