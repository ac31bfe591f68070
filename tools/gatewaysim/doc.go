// Package gatewaysim is a payment gateway that takes no money. It implements the HTTP contract of
// the payment port (contract 4.5), keeps its books on disk, and can simulate every fault that the
// contract allows for.
//
//	POST /payments                     202, pending or requires_action
//	GET  /payments/{reference}         present state
//	POST /payments/{reference}/cancel  canceled, or the state for which it was too late
//	POST /refunds                      200 succeeded or 202 pending
//	GET  /refunds/{refund id}          present state
//	GET  /action/{token}               the page on which a buyer confirms or declines
//	GET  /balance                      amounts taken, returned and lost, by charge
//	GET  /health/live
//
// # Fates
//
// What will happen to a payment is drawn when it arrives, and stored with it, so that a restart
// continues it: whether it needs the buyer's confirmation, succeeds, is charged twice, is disputed
// and how that ends. Each share in [Options] is the probability of one such event.
//
// # Callbacks
//
// Callbacks are signed after the Standard Webhooks convention and retried until their response is
// 2xx. A callback is randomly lost (never sent), repeated (sent twice at the same instant, under
// the same id or two) or reordered (delayed, so that later ones overtake it). A callback that
// reports what a look-up cannot find, such as a second charge or a dispute, is never lost: it is
// stored and retried across restarts.
//
// # Books
//
// The journal has one JSON line per change, written before the response is sent. It is read at
// start; an incomplete last line is dropped.
package gatewaysim
