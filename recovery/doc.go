// Package recovery begins the store's next incarnation after Postgres came back at
// an earlier moment: a restored backup, point-in-time recovery, or a failover to a
// standby that lagged. It is `dopamine recover`; docs/restore.md is the runbook.
//
// After such a restore the topic and the read models know events that the store
// does not have, and the store gives their positions to others. Relay and
// projectors notice that and wait. Run then does the following; each step can be
// repeated, and a Run that was killed is continued by the next one.
//
//  1. It takes the relay's lock, so that nothing is published meanwhile.
//  2. It compares the topic and the read models' checkpoints with the store. The
//     shared position is the last one up to which no record contradicts the
//     store. If nothing contradicts it, Run refuses (ErrNotNeeded).
//  3. It records the next incarnation with the shared position, under the append
//     lock. Its number is higher than every number seen in the store, the topic
//     and the read models: the store's own record went back too. With it go the
//     lists of lost refunds, which the worker queries at the gateway, and of lost payments
//     (LostMoney).
//  4. It writes one marker record into every partition, and moves the relay's
//     checkpoint down to the shared position. What follows is published again, as
//     part of the new incarnation.
//  5. It rebuilds all read models from the store and records that they belong to
//     the new incarnation, for which projectors have been waiting.
//
// # The marker
//
// A record with event-type IncarnationBegan and no value. Its headers are those of
// an event:
//
//	store              <store id>/<number of the incarnation that begins>
//	position           the shared position
//	previous-position  the last position of this partition at or below it
//	event-id           always the same for one incarnation and partition
//	stream-id          the store's id
//	stream-version     the number of the incarnation
//
// A consumer that keeps state discards what it derived from positions above the
// shared position, and continues with the records that follow. From then on it
// ignores records whose store header names an earlier incarnation: a relay that was
// cut off may still send some.
package recovery
