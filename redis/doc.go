// Package redis is the gate: the structure in Redis that decides, in one atomic
// step, who gets a unit of a product. It can be lost and rebuilt at any time;
// what is true is in Postgres, which the gate reaches through the port [Store].
// The protocol is model-checked (docs/model, Gate.tla and Log.tla): whatever looks
// fussy below has a counterexample without it.
//
// # What lies in Redis
//
// Five keys of a product, under one hash tag (keys.go), used by scripts alone
// (lua/; each begins with gate.lua):
//
//	product:{id}:stock    hash: epoch, stamp, position, lease, sale, counters, the open run
//	product:{id}:queue    list: units that were returned; the never used are a counter
//	product:{id}:holders  hash: buyer -> grant on its way (P) or slot held (H)
//	product:{id}:pending  sorted set: buyers of grants on their way, by number
//	product:{id}:log      list: closed lines of the decision log
//
// # Deciding
//
// [Gate.Decide] puts a request into its product's queue. Requests that arrive
// while calls are in flight form the next call, of up to 256, decided in order by
// decide.lua. Nothing waits for a timer. An equal key and a grant on its way are
// answered before the state is looked at and take no number; everything else
// takes the next one: epoch × 10^10 + counter.
//
// A grant is not final until it is claimed in Postgres. Until then it is pending,
// and whoever asks for the same buyer gets the same grant again. It ends as a slot
// (SlotAcquired is fed), withdrawn (GrantWithdrawn is fed), given back by the node
// that never sent it, if nobody else was handed it, or void with its epoch.
//
// # Which Redis
//
// One server, the master that Sentinels name, or the masters of a Redis Cluster
// (nodes.go): each master has lanes of its own, and a product's keys are where the
// slot of {id} is. Who the masters are is asked for each second, and whenever a call
// gives reason to; of servers that say differently the one with the higher
// configuration epoch is right. All this may be old, and does no harm then: what
// makes a gate believed, below, knows processes, not addresses. So a failover, or a
// slot that went to another master, is a lost gate like any other.
//
// MOVED did nothing, and the node that it names is asked, once. With ASK and
// TRYAGAIN the slot is on its way, and nobody decides until it has arrived.
//
// # When a gate may be believed
//
// Epoch. Postgres holds the product's epoch and refuses claims of any other. It is
// raised under the append lock only: by a change of the sale, or by a rebuild,
// which compares and swaps on the epoch that it found dead.
//
// Stamp. A gate bears the run_id and master_replid of the process on which it was
// built. Each connection (lane) knows its own process, looked at when it opens and
// about once a second, and each call carries that stamp. A gate of another process
// or of another life of it, a closed one, and one whose stored counts differ from
// its keys' lengths is lost.
//
// Lease. A gate decides only while its lease runs on its own clock (lease.go): a
// node reads the gate's time t, sets leased_at in Postgres where the epoch is
// still this gate's, and only then sets the lease to t + 3 s. So three seconds
// after leased_at the gate does not decide, whatever was paused in between. Since
// a Redis' clock may stand still, a node believes a refusal only while its own
// last renewal, timed on its own clock from before the statement was sent, is
// younger than three seconds; else it renews and asks again.
//
// # Feeding, and putting right
//
// The gate keeps the position in the event log up to which it was told.
// [Gate.Feed] (tend.go) reads Postgres' row, then looks at the gate, and does what
// is needed until nothing is left to do; all who wait share it:
//
//	there, of the row's epoch         hand over the events beyond its position; the script
//	                                  applies them only if that is still its position
//	there, older, but not older than  hand over the events, then open the row's epoch in
//	the last rebuild                  place: the sale was changed. The gate of the last
//	                                  rebuild or a later one lives on one process only, so
//	                                  the new epoch cannot be opened twice. One that is
//	                                  older may not: the rebuild's may be elsewhere
//	a rebuild is under way            wait, until 5 s after its last sign of life
//	product deleted                   close it, carry its log off, remove it
//	else                              rebuild (rebuild.go)
//
// A rebuild raises the epoch, closes the old gate, waits until 3 s after leased_at
// unless that lease was taken for the very process that it stands on, carries the
// old log off, writes claims of a snapshot younger than the raise under keys that
// bear its epoch, and puts them in place if no gate of its epoch or a later one is
// there. If it dies on the way, nothing is in the next one's way.
//
// Events free and hold by number, never by unit. What feeding finds impossible (a
// slot that was never pending) closes the gate. A gate that a claim shows to be
// wrong is replaced by [Gate.Rebuild], not patched; opening in place does not do.
//
// # Failure
//
// A call is never repeated behind our back; a lost answer is asked for once more.
// No answer, LOADING, ASK, TRYAGAIN, CLUSTERDOWN, READONLY, a Postgres that gives no lease: [ErrUnavailable],
// and nothing is lost. Callers that meet a rebuild wait for it, five seconds at
// the most.
//
// # Decision log
//
// A refusal moves counters of the open run; a grant, a return, an opening closes
// the run into the list. [Gate.Carry] stores closed lines under their number in
// the epoch, the open run under the next one (a stored run only grows), and trims
// up to the place that it read. Any number of carriers may be delayed or die at
// every step.
package redis
