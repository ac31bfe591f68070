// Package command carries out what users ask the system to do, and is the
// command API: products are created, changed and deleted, slots acquired, paid
// for and ended, over HTTP, and the payment gateway calls back.
//
// A command reads a stream, decides (package domain), and appends; what the
// claims in Postgres forbid is found in the same transaction (package claims).
// What all commands share is in decorate: the span, the ids that the events
// bear, reading and deciding again when another append came first, counting.
//
// # A grant
//
// AcquireSlot takes a place in the append queue, then asks the gate. A refusal
// gives the place back and is answered at once. A grant is appended, whatever
// became of its client, and is final only then: the claim, written in the same
// transaction, is the arbiter. Where the append is refused, the gate knew less
// than Postgres:
//
//	epoch raised, number withdrawn   the gate is fed, which opens it anew where it must
//	unit held by another slot        the gate is wrong, and is rebuilt
//	buyer holds a slot               another try of the same buyer came first: the claim is read
//	product deleted                  404
//	no answer                        503; the unit goes back at once where nothing was sent
//	                                 and only this node was told of the grant, else the worker
//	                                 settles it
//
// and the same request asks again, a bounded number of times.
//
// "You hold one already" is the gate's memory, so the claim is looked at before
// it is answered: gone means that the gate has not heard of the slot's end.
//
// # A payment
//
// StartPayment and HearGateway say over HTTP what package payments does. What is
// refused is refused in the order of the code: the request by itself, the slot,
// its owner, a place for the append, the remembered key, then the slot's state. A
// callback is believed by its signature alone, looked at before its body is read.
//
// # What the gate is told
//
// A command that frees, opens or closes units feeds the gate after its append
// and answers then, or after one second; if that did not work, the worker feeds
// it, since the gate is a projection of the store.
package command
