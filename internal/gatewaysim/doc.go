// Package gatewaysim is a payment gateway that takes no money: it speaks the HTTP
// that the gateway's adapter speaks, keeps books in memory, and can be as unreliable as one likes.
//
//	POST /payments               asks for money; 202, pending
//	GET  /payments/{reference}   what became of it
//	POST /refunds                gives it back
//	GET  /balance                what was taken and given back, in all and by payment
//	GET  /health/live
//
// Both POSTs are idempotent by their Idempotency-Key; the same key with another
// body is refused. After the latency a payment succeeds or fails, once and for
// ever, and is told to its callbackUrl: signed after the Standard Webhooks
// convention, tried a few times until it is answered 2xx. Chance decides for each
// payment whether its callback is lost (never sent), repeated (sent twice, under
// the same id or under two), reordered (held back, so that later ones overtake).
package gatewaysim
