// Package redis implements the gate: the structure in Redis that decides, in one atomic
// step, who gets a unit of a product. It can be lost and rebuilt at any time.
// Postgres, which the gate reaches through the port [Store], is the source of truth.
// The protocol is model-checked (docs/model, Gate.tla and Log.tla): each of its rules
// has a counterexample without it.
//
// # Keys in Redis
//
// A product has five keys under one hash tag (keys.go). Only scripts use them
// (lua/; each begins with gate.lua):
//
//	product:{id}:stock    hash: epoch, instance id, position and its event, lease, sale, counters, the open run
//	product:{id}:queue    list: units that were returned; those never used are a counter
//	product:{id}:holders  hash: buyer -> pending grant (P) or slot held (H)
//	product:{id}:pending  sorted set: buyers of pending grants, by number
//	product:{id}:log      list: closed lines of the decision log
//
// # Deciding
//
// [Gate.Decide] puts a request into its product's queue. Requests that arrive
// while calls are in flight form the next call, of up to 256, decided in order by
// decide.lua. Nothing waits for a timer. A request with the key of the slot held, and one
// that meets its buyer's pending grant, are answered before the state is checked and take
// no number; every other request takes the next one: epoch × 10^10 + counter.
//
// A grant is not final until it is claimed in Postgres. Until then it is pending,
// and every request of the same buyer returns the same grant. It ends as a slot
// (SlotAcquired is applied), withdrawn (GrantWithdrawn is applied), given back by the
// node that never appended it, if no other request received it, or void with its epoch.
//
// # Which Redis
//
// One server, the master that Sentinels name, or the masters of a Redis Cluster
// (package topology). Each master has its own connections, and a product's keys are on the
// master of the hash slot of {id}. The topology is refreshed each second, and when the
// error of a call suggests that it has changed. If servers disagree, the one with the
// higher configuration epoch counts. A stale topology is harmless: the checks that make a
// gate trusted, below, identify processes, not addresses. So a failover, or a slot that
// moved to another master, is a lost gate like any other.
//
// On MOVED the command was not executed; it is sent once to the node named. After ASK or
// TRYAGAIN the slot is moving, and no request is decided until it has arrived.
//
// A master that has not answered four calls in a row counts as silent: one call a second
// tries it, and all others fail at once. So a master that hangs delays no product of
// another one.
//
// # When a gate may be trusted
//
// Epoch. Postgres holds the product's epoch and refuses claims of any other. It is
// raised under the append lock only: by a change of the sale, or by a rebuild,
// which compares and swaps on the epoch that it found dead.
//
// Instance id. A gate carries the run_id and master_replid of the process on which it was
// built. Each connection reads those of its own process when it opens and about once a
// second, and each call carries them. A gate of another process or of another life of it,
// a closed one, and one whose stored counts differ from its keys' lengths is lost.
//
// Lease. A gate decides only while its lease runs on its own clock (lease.go): a
// node reads the gate's time t (the reply of a decision has it), renews the lease in Postgres if the epoch is still this
// gate's, and only then sets the gate's lease to t + 3 s. If the gate has more than two
// seconds of lease left, another node has just renewed it, and the node only asks
// Postgres whether the epoch still holds and the lease is this gate's. All products of a
// node that need a lease share one statement, at most one in 25 ms. Since the clock of a
// Redis may stand still, a node trusts a refusal only if its own last lease or question,
// timed on its monotonic clock from before the statement was sent, is less than three
// seconds old.
//
// After a raise no lease of an older epoch is granted. So three seconds after the answer
// to its raise, on its own clock, a rebuild may open a gate elsewhere. No wall clock of
// Postgres or Redis is involved. What remains: if a node and its Redis are frozen
// together (a snapshot of one virtual machine) while another node rebuilds elsewhere, all
// their clocks stand, and after the thaw the node trusts refusals of the old gate until
// its first renewal, which it begins at once if its last one is older than a second, and
// which is refused. Its grants are refused by the claims.
//
// # Synchronising and reconciling
//
// The gate keeps the position up to which it has applied the product's events, and the id
// of the event there. [Gate.Sync] (reconcile.go) reads the row in Postgres, then the
// gate's state, and acts until nothing is left to do; all callers that wait share it:
//
//	present, of the row's epoch       for Sync, apply the events beyond its position; the
//	                                  script applies them only if that is still its position
//	present, older, but not older     apply the events, then open the row's epoch in
//	than the last rebuild             place: the sale was changed. The gate of the last
//	                                  rebuild or a later one is on one process only, so
//	                                  the new epoch cannot be opened twice. One that is
//	                                  older may not: the rebuild's may be elsewhere.
//	                                  Pending grants are freed 500 at a time, so that no
//	                                  call takes long; meanwhile the gate decides nothing
//	an unfinished rebuild             wait until it has sent no heartbeat for 5 s
//	a lease on another instance       see below
//	the store lacks its last event    rebuild: the store lost its tail
//	of another rebuild's id           rebuild above its epoch: it is of a lost history
//	none, and the sale has ended      nothing, until a request arrives ([Gate.Unload])
//	product deleted                   close it, store its log, remove it
//	else                              rebuild (rebuild.go)
//
// A rebuild writes a key on the instance, because an epoch is raised only for a Redis
// that takes writes; raises the epoch; closes the old gate and stores its log; waits for
// the old lease if that was taken for another instance; writes the claims of a snapshot
// that is younger than the raise under keys of this attempt, and renames them into place
// if no gate of its epoch or a later one is there. At most eight gates of a master are
// built at a time by a node, in order of arrival, over connections that no request uses. An
// epoch is raised only when it is a gate's turn and the row is still as it was read, unless
// there is a lease to wait for: if a Redis loses everything, each product is in the queue of
// every node. Raises of many products are one transaction. The lease is based on the state
// that opening returns, and a request that met the rebuild goes on at once: only [Gate.Sync]
// applies events to a gate that exists.
//
// A rebuild that fails continues in its own epoch, on the same instance, with a growing
// backoff. Each attempt has a token in Redis, which the next one removes and no flush
// survives: without it a delayed call does not put its gate in place. A gate of the epoch
// that was put in place and lost again takes a new epoch, and so does another instance: an
// epoch has one gate. Heartbeats are sent from the raise until the gate is in place, also
// while it waits for its turn; after three failures in the epoch there are none, so that a
// node that sees a better Redis takes over, and requests are refused at once with
// [ErrRebuilding]. Nodes that wait read the gate's state again after 1.5 s without a
// heartbeat: the one that rebuilt it may have died before the lease.
//
// Events free and hold by number, never by unit. An impossible event (a slot that was
// never pending) closes the gate. A gate that contradicts a claim is replaced by
// [Gate.Rebuild], not patched; opening in place is not enough.
//
// # Nodes that see different masters
//
// If the last lease was taken for another instance, a node rebuilds at once only if its
// view of Sentinels or cluster has a higher configuration epoch than the one that took the
// lease, or if it has seen that instance replaced at the same address. Otherwise it watches
// the counter of renewals: a gate that is in use elsewhere is left alone, requests fail with
// [ErrOtherRedis] at once, and [Gate.Reasons] and the log name it. After 1.5 s without a
// renewal, measured on the node's own clock, it takes over; each time that the gate is then
// taken away again, it waits for longer. So only one of two masters is used. Safety does
// not depend on any of this.
//
// # Failure
//
// The client library retries nothing; a lost answer is asked for once more.
// No answer, LOADING, ASK, TRYAGAIN, CLUSTERDOWN, READONLY, a Postgres that grants no
// lease: [ErrUnavailable], and nothing is lost. Requests that meet a rebuild wait for it,
// five seconds at most, and at most 256 of a node once it has taken half a second.
//
// # Decision log
//
// A refusal increments counters of the open run; a grant, a return or an opening closes
// the run into the list. [Gate.Ship] stores closed lines under their number in
// the epoch, the open run under the next one (a stored run only grows), and trims
// up to the list index that it read. Any number of processes may be delayed or die at
// every step.
//
// # A store that was restored
//
// A store that returns to an earlier moment assigns positions, epochs and lines again.
// Each rebuild has an id, which its gate keeps and each lease compares, so that a gate of
// the lost history is not taken for the one that has its epoch now. A gate keeps the last
// line that was trimmed, and each shipment names it: if the store does not have it, the log
// is not complete, ever. Withdrawals and shipments name the rebuild as well: grants of a gate
// of the lost history are not withdrawn, since their numbers may be assigned again, and its lines
// are not stored. It is assumed that a restore takes longer than a lease or a request.
package redis
