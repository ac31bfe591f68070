// Package projector maintains the read models. It consumes events from Kafka, folds them into rows,
// and commits the rows of a batch together with its checkpoints. A read model defines which row an
// event belongs to, how the event changes the row, and how rows are written; see
// projections.Projection.
//
// # A batch
//
// The records that arrived while the previous batch was written are the next batch, up to a limit:
// no timer delays anything. The projections apply it in parallel, each in its own transaction:
//
//  1. Advance the checkpoints of the batch's partitions by compare-and-swap on what this
//     process remembers (topic id, offset, position, version). If two owners of a partition
//     overlap in a rebalance, one of them wins.
//  2. Under that lock read the live generation's number, the parked keys, the skipped events
//     and the rows that will change.
//  3. Fold, write the rows with one statement per table, commit.
//  4. Only then remember the new checkpoints and acknowledge the records.
//
// If a checkpoint could not be advanced, a replay may have swapped generations. The checkpoints are
// then read again. If only the generation differs, the batch is compared with the event store again
// and repeated, and records that were below the old checkpoints are decoded now. Otherwise, and on
// any error of the database that concerns all projections, the session in the consumer group ends.
// Every statement has a deadline: the transaction of a batch or of a request 15 s
// (Config.BatchTimeout), everything else 8 s (Config.ReadTimeout). A process that cannot reach
// Postgres stays out of the group, so that another one takes its partitions.
//
// # One read model that cannot be written
//
// If the transaction of one projection fails because of its read model (its table is locked for
// more than a third of BatchTimeout, or the transaction takes too long) and those of others
// succeed, it is detached: the others continue without it. In the background it reads its
// checkpoints again and applies what follows them, in pages of all partitions, read from the event
// store up to the positions of the others. With the last page it takes over their offsets, because
// they have applied or skipped every record before those; then it is attached again. Each page is
// a transaction like that of a batch, with the same compare-and-swap. After a page was read, the
// store is asked for the events of the others' checkpoints and of its own: only then is the page of
// their history. Records that are no events of the store are parked only for projections that are
// attached. Reading begins at the lowest position of a partition that has events to apply: the
// relay's last positions show which have none. A projection that is far behind the others at the
// begin of a session begins detached. A request for parked events that fails for such a reason is
// served in the background too, before the projection is attached.
//
// # Once, in order, none missed
//
// If an event's position is at or below the partition's, it was applied already and is skipped. If
// a record's previous-position is above the partition's position, events are missing; they are read
// from the event store first. The same applies to events that the relay published and the topic
// does not deliver within a few seconds. Offsets belong to one topic, identified by its id. If the
// topic does not have a checkpoint's offset (another topic, retention, a loss in Kafka), the
// partition continues at the nearest offset that exists, and positions decide what is applied.
//
// # Which history
//
// A topic keeps events that a restore or a failover of Postgres lost. Therefore each event of a
// batch is compared with the store before it is applied, and again if generations were swapped
// since: `dopamine recover` may have done that, after the store lost the event. A record of an
// earlier incarnation, or one that names no incarnation, is skipped if the store does not have its
// event.
//
// These block the projector: a record of another store, a record that the store should have but
// does not, read models of another incarnation, a topic whose partition count differs from the
// configured one, and an event that only a newer program can apply. A blocked projector applies
// nothing, reports the reason in Health, and continues when the reason is gone. Events before one
// that needs a newer program are applied; then the process stays out of the group until a newer one
// has applied it.
//
// If the topic is recreated under a running projector, this is noticed before anything is written:
// by the partition of each key, by the topic's id and partition count every three seconds, and by
// the topic id in the compare-and-swap.
//
// # What cannot be applied
//
// If a batch fails because of its content (not because of the database's state), it is retried a
// few times and then split by row key. An event that fails is parked with its error, later events
// of its key are parked behind it, and the others are applied, all in the batch's transaction.
// Events after one that cannot be decoded are parked behind it, whatever their own key is. If a
// record cannot be decoded, the store's copy is used instead. A record that is no event of the
// store is parked alone.
//
// The partition's owner serves requests to retry or skip between batches, in pages, which are
// smaller after one that took too long. Each page is a transaction that raises the checkpoint's
// version. An owner that was deposed meanwhile, and does not know of the request, can therefore
// write no more.
//
// The section "Why a read model lags" of docs/operations.md has every cause with its log line and
// metric.
//
// The model of all this is docs/model/Relay.tla.
package projector
