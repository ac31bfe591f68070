// Package payments carries payments from their start to their end: it begins
// them, hears whatever the gateway says of them, gives late money another unit
// or back, and knows when the gateway is to be asked next. The rules themselves
// are package domain's (Slot.StartPayment, Hear, Expire, RefundMade).
//
// # States
//
//	PENDING   begun; its slot's end waits for it. One of a slot at a time
//	SUCCESS   the slot's payment, or that of a slot granted again in its place
//	FAILED    refused, timed out or over another amount. Money that comes all the
//	          same completes its slot, gets another unit, or is owed back:
//	          no refund, then DUE, then REFUNDED
//
// The slot's stream is the truth. The table payments (the ledger) says what is
// to be done next, and is written by a guard in the transaction of the events,
// together with the idempotency key of a start and the id of a callback. Two
// things stand in the ledger alone, since they are no event: that a payment is
// unsettled (we failed it, and what the gateway did is not known), and what the
// gateway says that it took where that is no money.
//
// # One decision
//
// A callback, the answer to our asking for the money, the answer to our asking
// about it and the last look before a time-out all end in Hear. It reads the
// slot, decides, and appends with the version that it read; who loses reads and
// decides again. A word that says nothing new is no event; it still remembers a
// callback's id, and that the gateway need not be asked any more.
//
// Late money for a slot that has expired asks the gate for a unit, like any
// request. Granted, one append holds the new slot with its claim and its payment,
// and the old slot's PaymentRegranted; a grant that is not needed in the end goes
// back. Refused, the money is owed back. A gate that cannot answer decides
// nothing: the word is forgotten (a callback is answered 503), the payment stays
// unsettled, and the gateway is asked again later.
//
// # By whose clock
//
// A start is judged by the event store's clock, like the expiry: first by a look
// at it, which gives the refusals their order, then under the append lock, by the
// guard claims.PaymentBegun, which refuses from the deadline on. Either the
// payment is recorded before the deadline, and the slot's due_at moves, or it is
// not recorded.
//
// # Who asks when
//
// Whoever begins a payment asks the gateway in the background; the worker asks
// where that did not happen, or failed:
//
//	not known to have arrived   after 10 s, then after 1 s up to each 30 s: asked for again
//	accepted, nothing heard     each 30 s: asked about; "never heard of it" is asked for again
//	its slot's wait is over     once more, unless that is ten seconds ago, then it fails (TIMEOUT)
//	                            and the slot expires
//	failed by us, unsettled     each minute for an hour, each hour for 7 days, until the
//	                            gateway says how it ended; "never heard of it" counts one
//	                            hour after it was asked for last
//	refund due                  at once, then after 10 s up to each 5 min; refused: each hour
//
// All under the payment's id, so that asking twice is harmless. To ask, a process
// moves ask_at on by one statement; who moves it is the one who asks, and if it
// dies, the moment comes again. No process holds a row while it asks.
//
// # What a crash leaves
//
//	after PaymentInitiated       the worker asks for the money
//	after the gateway took it    its callback, or the worker's next look
//	after the gate's grant       the grant is withdrawn, and the word comes again
//	after a refund was made      it is asked for again, under the same id, and recorded then
//
// What only a person can settle is listed by ListWaiting.
package payments
