// Package replay builds the next generation of projections from the event store while the live one
// is served and updated, and swaps them.
//
// It imports nothing that could have an effect outside the read database: a replay cannot cause a
// payment, a message or a webhook.
//
// # States
//
//	reading      Pages of the log are decoded on all cores, folded by the
//	             projections' own folds (projections.Bulk) and written with COPY
//	             into tables that have no index yet. Rows that have not changed
//	             for a while are removed from memory. If such a row changes later,
//	             the table's key is built early and the row is read back.
//	indexing     The rows left in memory are written; keys and indexes are built.
//	catching up  Events recorded meanwhile are applied, as in live processing.
//	comparing    If requested: differences are reported. If one of the projections
//	             differs, none of them is swapped.
//	swapping     One short transaction. If the live generation is ahead, or a lock
//	             is not available at once, the replay catches up and retries.
//
// # The swap
//
// The swap locks the live checkpoints, so that no batch of the projector and no request for a
// parked event is in progress, and no later one applies to the old generation. It then refuses if
// the live generation is ahead of the replay. It also refuses if an event that the replay applied
// has been skipped since; then the replay starts over. Otherwise the next generation takes over the
// checkpoints' offsets with the replay's position, so that events below it that Kafka still
// delivers are skipped. The query API reads the generation number and the rows in one snapshot and
// does not notice the swap.
//
// The view with the projection's name is replaced in the same transaction, with a lock timeout of
// 100 ms, so that no reader waits behind a long SELECT. It is not replaced if a transaction has
// held it for more than a second. If that remains so for many attempts, the swap proceeds without
// the view, which follows when the SELECT has ended. If the replay has ended before, a projector
// replaces the view.
//
// # From Kafka
//
// With a Topic the events are read from there, up to what the relay has published. The records of
// each partition form a chain by previous-position. Every record is compared with the store: a
// record whose event the store does not have belongs to a history that a restore lost. Markers of
// incarnations are not events. A topic that lacks an event, or is not the one that the relay
// publishes to, is refused.
//
// # Failures
//
// A replay holds an advisory lock for each projection and ends if it loses it. A killed replay
// leaves a generation in state building, which the next one drops. Generation numbers are never
// reused, so that a replay that is wrongly considered dead cannot write into another one's tables.
// If an event cannot be applied and was not skipped, the replay ends.
package replay
