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
//  1. move the checkpoints of the batch's partitions if they still are what this
//     process remembers (topic id, offset, position, version): compare and swap.
//     Two owners of a partition may overlap in a rebalance; one of them wins.
//  2. read, after that lock: the live generation's number, which keys are
//     parked, which events were skipped, the rows that will change.
//  3. fold, write the rows with one statement a table, commit.
//  4. only then remember the new checkpoints and acknowledge.
//
// If a checkpoint did not move, a replay may have swapped generations: the
// checkpoints are read again, and if only the generation is another one the batch
// is repeated; what was not decoded because it was below the old checkpoints is
// decoded now. Otherwise, and upon any error of the database, the session in the
// group ends. Every statement has a deadline (Config.BatchTimeout, ReadTimeout);
// a process that cannot reach Postgres stays out of the group, so that another one
// takes its partitions.
//
// # Once, in order, none missed
//
// An event at or below the partition's position was applied and is skipped. A
// record whose previous-position is above it shows a gap, and what lies between is
// read from the event store first; so is what the relay published and the topic
// does not deliver within some seconds. Offsets are those of one topic, by its id.
// If the topic does not have a checkpoint's offset (another topic, retention, a loss
// of Kafka), the partition continues at the nearest one that it has, and positions
// decide what is applied.
//
// # Which history
//
// Before a batch is applied each of its events is compared with the store, since a
// topic keeps what a restore or a failover of Postgres loses. A record of an earlier
// incarnation, or one that names none, is skipped if the store does not have its
// event. A record of another store, a record that the store should have and has not,
// and read models of another incarnation block the projector: it applies nothing,
// Health has the reason, and it continues by itself once the reason is gone. So do a
// topic with another partition count than configured, and an event that only a newer
// program can apply: what is before it is applied, and the process stays out of the
// group until a newer one has applied it. A topic that is made anew under a running
// projector is recognised before anything is written: by the partition of each key,
// by id and partition count every three seconds, and by the topic id in the
// compare-and-swap.
//
// # What cannot be applied
//
// A batch that fails because of its content (not the database's state) is tried a
// few times, then split by row key: what fails is parked with its error, later
// events of its key behind it, and the rest goes on, all in the batch's own
// transaction. What follows an event that cannot be decoded waits behind it, whatever
// its own key is. A record that cannot be decoded is replaced by the store's copy;
// one that is no event of the store is parked alone. Requests to retry or skip are
// served by the partition's owner, in pages between batches, each in a transaction
// that raises the checkpoint's version, so that an owner deposed meanwhile, who does
// not know of it, cannot write on.
//
// # Replays
//
// A Fold neither knows where events come from nor commits: a replay folds what
// it reads from the store with the same code into the tables of the next
// generation. The model of all this is docs/model/Relay.tla.
package projections
