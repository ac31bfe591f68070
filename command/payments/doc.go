// Package payments carries payments from their start to their end: it begins them,
// judges whatever the gateway reports of them, gives late money another unit or
// back, refunds, records disputes and reversals, and knows when the gateway is to
// be called next. The rules themselves are package domain's; contract 4.5 is their
// source, and docs/money.md describes them for operators.
//
// # One transition
//
// Every change of a payment is a transition (transition.go): it reads the ledger's
// row and the slot's stream, decides, and appends with the version that it read,
// together with the claims and the ledger. If another append came first it reads
// and decides again; nothing else retries. A callback, the response to a post, the
// answer to a query and the last query before a time-out all end in ApplyReport.
//
// The slot's stream is the truth; after a re-grant that is the new slot's. The
// table payments (the ledger) contains what is to be done next. It is written by a
// guard in the transaction of the events, with idempotency keys and the ids of
// callbacks. In the ledger alone are: the stored request, the next action, that a
// payment is unsettled (we failed it, and what the gateway did is not known), and
// when the gateway is called next.
//
// # What a rejection means
//
// A post whose response was lost may have taken the money. So each attempt is
// counted before it is sent, and a rejection counts only if it is the first one.
// Otherwise the gateway is queried: its status is judged like any report; only if
// it does not know the payment the rejection stands, and the payment is queried
// further. The same holds for refunds.
//
// # Who calls when
//
// The process that starts a payment posts it in the background; the worker does so if that
// did not happen, or failed. The worker has a separate concurrency limit for each step:
//
//	Post     not known to have arrived: after 10 s, then after 1 s up to each 30 s
//	Query    accepted, no outcome: each 30 s, and once when it times out;
//	         failed by us, unsettled: each minute for an hour, each hour for 7 days
//	Cancel   requested, timed out, or of a cancelled sale: until it is answered
//	Refund   due: at once, then after 10 s up to each 5 min; one that was posted is
//	         queried before it is posted again
//
// To call, a process moves the time of the next call by one statement; who moves it
// is the one who calls, and if it dies the time comes again. No process holds a row
// during a call.
//
// # What a crash leaves
//
//	after PaymentInitiated        the worker posts the stored request
//	after the gateway took it     its callback, or the worker's next query
//	after the gate's grant        the grant is withdrawn, and the report comes again
//	after a refund was made       it is queried under its id, and recorded then
//	while a sale is cancelled     what is left follows from the tables
//
// What only an operator can decide is listed by package attention and decided by
// Resolve.
package payments
