// Package projections is the engine of the read models: it takes events from
// Kafka, folds them into rows, and commits the rows of a batch together with
// how far it has got. Each read model is a package below; it says which row an
// event belongs to, how it changes it, and how rows are written.
//
// # A batch
//
// What has arrived while the batch before was written is the next batch, up to
// a limit: no timer delays anything. Each projection applies it in a
// transaction of its own, all at the same time:
//
//  1. move the checkpoints of the batch's partitions, where they still say
//     what this process remembers (offset, position, version): compare and swap.
//     Two owners of a partition may overlap in a rebalance; one of them wins.
//  2. read, after that lock: the live generation's number, which keys are
//     parked, which events were skipped, the rows that will change.
//  3. fold, write the rows with one statement a table, commit.
//  4. only then remember the new places and acknowledge.
//
// Where a checkpoint did not move, a replay may have swapped generations: the
// places are read again, and where only the generation is another one the
// batch goes again. Otherwise, and upon any error of the database, the session
// in the group ends: join again, read the places again.
//
// # Once, in order, none missed
//
// An event at or below the partition's position was applied and is skipped. A
// record whose previous-position is above it shows a gap, and what lies
// between is read from the event store first. Offsets are those of one topic
// (by its id); in another one they begin at 0 and positions skip what was
// applied. Refused at the start, with what to do: another event store, or this
// one restored to an earlier moment; a topic with another number of partitions;
// offsets that the topic does not have any more.
//
// # What cannot be applied
//
// A batch that fails for what is in it (not for the database's state) is tried
// again a few times, then taken apart by row key: what fails is parked with its
// error, later events of its key behind it, and the rest goes on, all in the
// batch's own transaction. A record that cannot be decoded is replaced by the
// store's copy; one that is no event of the store is set aside on its own.
// Orders to retry or to skip are carried out by the partition's owner, in a
// transaction that raises the checkpoint's version, so that an owner deposed
// meanwhile, who does not know of it, cannot write on.
//
// # Replays
//
// A Fold neither knows where events come from nor commits: a replay folds what
// it reads from the store with the same code into the tables of the next
// generation. The model of all this is docs/model/Relay.tla.
package projections
