// Package gateway defines the port to a payment provider, [Gateway], and implements it over the
// project's own HTTP contract (contract 4.5) with [Client]. Package stripe, a subpackage,
// implements it over Stripe's API.
//
// # Outcomes
//
// Every call ends in one of these ways:
//
//	result                  the provider's report
//	*Rejected               the provider decided against the request
//	ErrUnknownReference     the provider does not know the payment or refund
//	ErrNotSent              nothing was sent: circuit breaker open, or all calls in use
//	any other error         unknown outcome: the provider may have acted
//
// An error that wraps ErrCredentials means that the provider refused the credentials; it is no
// evidence about the payment.
//
// The adapters never retry. In particular, net/http is kept from repeating a POST on a broken
// connection (http.Request.GetBody is nil): a repeated request whose second response is a 4xx would
// hide that the first one took effect. Callers retry with the same reference and the same bytes.
//
// # Which responses count
//
// A 4xx is a rejection only if its body has a failureReason, or if it is 402: other 4xx (a proxy's
// 403 or 407, a 409 for a request in progress) are no evidence about the payment. A 404 means
// "unknown reference" only if its body is JSON. JSON is read strictly: member names are
// case-sensitive, duplicates are an error. Currency codes are folded to upper case, failure reasons
// become codes ([Code]), ids that are not 1 to 255 printable ASCII characters are dropped.
//
// # Isolation
//
// [Calls] gives each kind of call its own concurrency limit and its own circuit breaker, so that
// slow look-ups delay neither payments nor refunds.
//
// # Webhooks
//
// A [WebhookParser] verifies a callback and normalises it into a [Notification]; [Webhooks] does so
// for the HTTP contract.
package gateway
