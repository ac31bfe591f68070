// Package replay builds the next generation of projections from the event store
// beside the live one, which goes on, and swaps.
//
// It imports nothing that could cause anything outside the read database: no
// payment, no message and no webhook can come of a replay.
//
// # States
//
//	reading      pages of the log are decoded on all cores, folded by the
//	             projections' own folds (projections.Bulk) and written with COPY
//	             into tables that have no index yet. Rows that have not changed
//	             for long leave memory; where one of them changes after all, its
//	             key is built early and it is read back.
//	indexing     what is left of memory is written, keys and indexes are built
//	catching up  what was recorded meanwhile is applied as live processing does
//	comparing    if asked: differences are reported, and where one of the projections
//	             differs none of them swaps
//	swapping     one short transaction; where the live generation is ahead, or a
//	             lock is not free at once, catching up goes on and it is tried again
//
// # The swap
//
// It locks the live checkpoints, so that no batch of the projector and no order
// for a parked event is under way, and no later one counts for the old
// generation. Then it refuses where the live generation is beyond the replay, or
// where an event was skipped that the replay had applied before: then the
// replay begins again. Else the checkpoints are taken over with their offsets and
// the replay's position, so that what Kafka still brings from below it is
// passed over. The query API reads generation number and rows in one snapshot and
// never notices. The view of the projection's name is replaced in the same
// transaction, unless a transaction of more than a second holds it, and with a
// lock timeout of 100 ms, so that no reader waits behind a long SELECT. Where it
// is held for many tries, the swap goes ahead without and the view follows as soon
// as that SELECT has ended; where the replay has ended before, a projector sees to
// it.
//
// # From Kafka
//
// With a Topic the events come from there, up to what the relay has published; each
// partition is a chain by previous-position. Every record is compared with the store:
// one that it does not have is of a history that a restore lost. Markers of
// incarnations are no events. A topic that lacks an event, or is not the one that the
// relay publishes to, is refused.
//
// # What can go wrong
//
// A replay holds an advisory lock for each projection and ends when it loses it.
// A killed one leaves a generation in state building, which the next one drops;
// numbers of generations never come twice, so that a replay that was believed
// dead cannot write into another one's tables. An event that cannot be applied
// and was not skipped ends the replay.
package replay
