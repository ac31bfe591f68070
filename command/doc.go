// Package command executes the requests of users and serves them as the
// command API: products are created, changed and deleted, slots acquired, paid
// and ended, over HTTP, and the payment gateway calls back.
//
// A command reads a stream, decides (package domain), and appends; conflicts with the
// claims in Postgres are detected in the same transaction (package claims).
// execute (commands.go) contains what all commands share: the span, the ids in the events,
// reading and deciding again if another append came first, counting.
//
// # Admission
//
// An acquire request needs an entry in the append queue before the gate decides, so
// that no granted request is rejected for load (admission.go). Requests wait for
// one in the order of their arrival, per product, and the products take turns. This is
// the bulkhead between them:
//
//	any product                      at most 7/8 of the entries
//	one whose gate cannot decide     1/8: it is being rebuilt, or its Redis master did
//	                                 not answer the last call
//	all of these on one master       1/4
//	beyond its waiting room of 1/8   503 unavailable with Retry-After, after 200 ms
//	none admitted for a second       503 overloaded
//
// # A grant
//
// AcquireSlot takes its entry, then asks the gate. A refusal returns the entry and is
// answered at once. A grant is appended even if its client has disconnected, and is final
// only then: the claim, written in the same transaction, decides. What a refused append makes of
// the grant, and how the gate is corrected, is in package grants, which re-grants use too. The
// request is retried a bounded number of times; with no answer of the store it ends as 503.
//
// "You hold a slot already" is the gate's state, so the claim is read before it is
// answered: if it is gone, the gate has not applied the slot's end.
//
// # A payment
//
// Package payments decides; the handlers here translate HTTP. Requests are refused in
// the order of the code: the request itself, the slot,
// its owner, an entry for the append, the idempotency key, then the slot's state. A
// callback is authenticated by its signature, which is verified before its body is parsed.
//
// # Synchronising the gate
//
// A command that frees, opens or closes units syncs the gate after its append
// and responds then, or after one second; if the sync fails, the worker retries
// it, since the gate is a projection of the store.
package command
