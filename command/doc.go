// Package command carries out what users ask the system to do, and is the
// command API: products are created, changed and deleted, slots acquired, paid
// for and ended, over HTTP, and the payment gateway calls back.
//
// A command reads a stream, decides (package domain), and appends; what the
// claims in Postgres forbid is found in the same transaction (package claims).
// What all commands share is in decorate: the span, the ids that the events
// bear, reading and deciding again when another append came first, counting.
//
// # Admission
//
// An acquire request needs an entry in the append queue before the gate is asked, so
// that no granted request is turned away for load (admission.go). Requests wait for
// one in the order of their arrival, per product, and the products take turns. It is
// the bulkhead between them:
//
//	any product                      at most 7/8 of the entries
//	one whose gate cannot decide     1/8: it is being rebuilt, or its Redis master did
//	                                 not answer the last call
//	all of these on one master       1/4
//	beyond its waiting room of 1/8   503 unavailable with Retry-After, after 200 ms
//	nobody admitted for a second     503 overloaded
//
// # A grant
//
// AcquireSlot takes its entry, then asks the gate. A refusal returns the entry and is
// answered at once. A grant is appended, whatever became of its client, and is final
// only then: the claim, written in the same transaction, is the arbiter. If the
// append is refused, the gate knew less than Postgres:
//
//	epoch raised, number withdrawn   the gate is synced, which opens it anew if it must
//	unit held by another slot        the gate is wrong, and is rebuilt
//	buyer holds a slot               another try of the same buyer came first: the claim is read
//	product deleted                  404
//	no answer                        503; the unit goes back at once if nothing was sent and
//	                                 only this node was handed the grant, else the worker
//	                                 withdraws it
//
// and the same request asks again, a bounded number of times.
//
// "You hold one already" is the gate's memory, so the claim is looked at before it is
// answered: if it is gone, the gate has not seen the slot's end.
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
