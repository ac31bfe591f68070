// Package gateway is the way to the payment gateway: the port [Gateway] and its
// adapter for HTTP, [Client].
//
// Everything is asked under our payment id, which is the idempotency key too, so
// that asking again is always harmless; whoever calls does that, nothing is
// repeated in here. An answer is one of
//
//	200, 201, 202 with JSON that makes sense    what it says
//	4xx but 408, 425, 429                       a refusal (of a look only 404 means something: never heard of)
//	anything else, no answer, nonsense          not known: ask again
//
// A gateway that fails many times in a row is left alone for a few seconds, so
// that what waits for it does not wait for each timeout; a refusal is no failure.
package gateway
