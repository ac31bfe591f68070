package projector_test

import (
	"context"
	"fmt"
	"testing"

	"github.com/google/uuid"
	"github.com/stretchr/testify/require"

	"github.com/dopaminestore/dopamine/eventstore"
	"github.com/dopaminestore/dopamine/internal/kafka"
	"github.com/dopaminestore/dopamine/projections"
	"github.com/dopaminestore/dopamine/projections/projector"
)

// loseEvents removes the events after a position, as a restore does, or a failover to a standby that
// lagged.
func (s *system) loseEvents(after int64) {
	for _, table := range []string{"events"} {
		s.Exec(fmt.Sprintf("ALTER TABLE %s DISABLE TRIGGER USER", table))
		s.Exec(fmt.Sprintf("DELETE FROM %s WHERE position > $1", table), after)
		s.Exec(fmt.Sprintf("ALTER TABLE %s ENABLE TRIGGER USER", table))
	}
}

func (s *system) audited() int64 { return s.Count("SELECT count(*) FROM slot_audit_log") }

func TestProjector_AppliesNothingThatTheStoreLost(t *testing.T) {
	s, f, owner := newOfflineSystem(t)
	ctx := context.Background()
	product := s.Create(10)
	_, _, kept := s.Acquire(product, 1, 1)
	require.NoError(t, owner.Apply(ctx, f.produceAll(f.eventsAfter(0))))
	s.Acquire(product, 2, 2)
	lost := f.produceAll(f.eventsAfter(kept))
	s.loseEvents(kept)
	s.Acquire(product, 3, 3) // at the position of the lost event
	records := append(lost, f.produceAll(f.eventsAfter(kept))...)

	var blocked *projector.BlockedError
	require.ErrorAs(t, owner.Apply(ctx, records), &blocked)
	require.Contains(t, blocked.Reason, "restored to an earlier moment")
	require.EqualValues(t, 1, s.audited())
	require.EqualValues(t, 4, s.Count("SELECT count(*) FROM projection_checkpoints WHERE position = $1", kept))
}

func TestProjector_NoticesThatTheStoreLostWhatItApplied(t *testing.T) {
	s, f, owner := newOfflineSystem(t)
	ctx := context.Background()
	product := s.Create(10)
	_, _, kept := s.Acquire(product, 1, 1)
	s.Acquire(product, 2, 2)
	require.NoError(t, owner.Apply(ctx, f.produceAll(f.eventsAfter(0))))
	s.loseEvents(kept)
	s.Acquire(product, 3, 3)
	s.Acquire(product, 4, 4)
	records := f.produceAll(f.eventsAfter(kept)) // the first is below the checkpoint, the second above it

	var blocked *projector.BlockedError
	require.ErrorAs(t, owner.Apply(ctx, records), &blocked)
	require.Contains(t, blocked.Reason, "which was applied")
	require.EqualValues(t, 2, s.audited())
}

func TestProjector_SkipsRecordsOfAnEarlierIncarnationThatTheStoreLost(t *testing.T) {
	s, f, _ := newOfflineSystem(t)
	ctx := context.Background()
	product := s.Create(10)
	_, _, kept := s.Acquire(product, 1, 1)
	s.Acquire(product, 2, 2)
	records := f.produceAll(f.eventsAfter(0)) // two of them are in both histories
	s.loseEvents(kept)
	s.Exec("INSERT INTO store_incarnations (incarnation, shared_position, marked_at) VALUES (2, $1, now())", kept)
	s.Exec("UPDATE projection_source SET incarnation = 2")
	owner := newOwner(t, s, 3)
	id, err := s.Reader.Identity(ctx)
	require.NoError(t, err)
	require.EqualValues(t, 2, id.Incarnation)
	f.store = id.String()
	mark := f.putRaw(product, map[string]string{"event-type": kafka.TypeIncarnation, kafka.HeaderStore: id.String()}, nil)
	s.Acquire(product, 3, 3)
	f.last[kafka.Partition(product, 3)] = kept
	require.NoError(t, owner.Apply(ctx, append(append(records, mark), f.produceAll(f.eventsAfter(kept))...)))
	require.EqualValues(t, 2, s.audited(), "one of both histories, one of the second")
	require.EqualValues(t, 1, s.Count("SELECT count(*) FROM purchase_slots WHERE unit = 3"))
	require.Zero(t, s.Count("SELECT count(*) FROM parked_events"))
}

func TestProjector_RefusesAnotherStoresRecords(t *testing.T) {
	s, f, owner := newOfflineSystem(t)
	ctx := context.Background()
	product := s.Create(10)
	s.Acquire(product, 1, 1)
	own := f.store
	f.store = eventstore.Identity{Store: uuid.New(), Incarnation: 1}.String()
	var blocked *projector.BlockedError
	require.ErrorAs(t, owner.Apply(ctx, f.produceAll(f.eventsAfter(0))), &blocked)
	require.Contains(t, blocked.Reason, f.store, "the record's store")
	require.Contains(t, blocked.Reason, own[:36], "our store")
	require.Contains(t, blocked.Reason, "--kafka-topic")
	require.Zero(t, s.audited())
	require.Zero(t, s.Count("SELECT count(*) FROM projection_checkpoints WHERE position > 0 OR next_offset > 0"))
}

func TestProjector_WaitsForReadModelsOfTheCurrentIncarnation(t *testing.T) {
	s, _, _ := newOfflineSystem(t)
	s.Exec("INSERT INTO store_incarnations (incarnation, shared_position, marked_at) VALUES (2, 0, now())")
	_, err := projector.NewRunner(s.ProjectorConfig()).TakeAllPartitions(context.Background(), 3)
	var blocked *projector.BlockedError
	require.ErrorAs(t, err, &blocked)
	require.Contains(t, blocked.Reason, "dopamine recover")
}

// A record that was below the checkpoints, and therefore not decoded, is above the checkpoints of a
// generation that a replay swaps in while the batch is applied.
func TestProjector_DecodesWhatASwapMakesNew(t *testing.T) {
	s, f, owner := newOfflineSystem(t)
	ctx := context.Background()
	product := s.Create(10)
	s.Acquire(product, 1, 1)
	events := f.eventsAfter(0)
	require.NoError(t, owner.Apply(ctx, f.produceAll(events)))
	again := f.produceAll(events) // published twice
	_, _, at := s.Acquire(product, 2, 2)
	batch := append(again, f.produceAll(f.eventsAfter(events[1].event.Position))...)

	for _, name := range s.names() {
		s.Exec("SELECT projection_create_generation($1, 2)", name)
		s.Exec("UPDATE projection_generations SET state = 'old' WHERE projection = $1", name)
		s.Exec("INSERT INTO projection_generations (projection, generation, state, live_at) VALUES ($1, 2, 'live', now())", name)
		s.Exec(`INSERT INTO projection_checkpoints (projection, generation, topic, partition, partitions, topic_id, next_offset, position)
			SELECT projection, 2, topic, partition, partitions, topic_id, next_offset, 0 FROM projection_checkpoints WHERE projection = $1 AND generation = 1`, name)
	}
	require.NoError(t, owner.Apply(ctx, batch))
	require.EqualValues(t, 4, s.Count("SELECT count(*) FROM projection_checkpoints WHERE generation = 2 AND position = $1", at))
	s.createGeneration(9)
	s.foldInto(9, 0)
	require.Equal(t, s.Rows(9), s.Rows(2))
}

// pausedStore calls paused once, after a comparison of records and before its result is used.
type pausedStore struct {
	projections.Store
	paused func()
}

func (p *pausedStore) IDs(ctx context.Context, positions []int64) (map[int64]uuid.UUID, error) {
	ids, err := p.Store.IDs(ctx, positions)
	if paused := p.paused; paused != nil {
		p.paused = nil
		paused()
	}
	return ids, err
}

// A projector is paused after it compared a batch with the store. Meanwhile the store is restored,
// and `dopamine recover` swaps in read models without an event of the batch.
func TestProjector_ComparesAgainAfterASwap(t *testing.T) {
	s, f, _ := newOfflineSystem(t)
	ctx := context.Background()
	store := &pausedStore{Store: s.Reader}
	cfg := s.ProjectorConfig()
	cfg.Store = store
	owner, err := projector.NewRunner(cfg).TakeAllPartitions(ctx, 3)
	require.NoError(t, err)
	product := s.Create(10)
	_, _, kept := s.Acquire(product, 1, 1)
	require.NoError(t, owner.Apply(ctx, f.produceAll(f.eventsAfter(0))))
	s.Acquire(product, 2, 2)
	lost := f.produceAll(f.eventsAfter(kept))

	store.paused = func() {
		s.loseEvents(kept)
		s.Exec("INSERT INTO store_incarnations (incarnation, shared_position, marked_at) VALUES (2, $1, now())", kept)
		s.createGeneration(2)
		s.foldInto(2, 0)
		s.Exec("UPDATE projection_generations SET state = 'old'")
		s.Exec("INSERT INTO projection_generations (projection, generation, state, live_at) SELECT projection, 2, 'live', now() FROM projection_generations")
		s.Exec(`INSERT INTO projection_checkpoints (projection, generation, topic, partition, partitions, topic_id, next_offset, position, event_id, version)
			SELECT projection, 2, topic, partition, partitions, topic_id, next_offset, $1, (SELECT event_id FROM projection_checkpoints WHERE position = $1 LIMIT 1), version + 1
			FROM projection_checkpoints`, kept)
		s.Exec("UPDATE projection_source SET incarnation = 2")
	}
	require.ErrorIs(t, owner.Apply(ctx, lost), projector.ErrMoved)
	require.EqualValues(t, 9, s.Count("SELECT stock FROM products_g2"))
	require.EqualValues(t, 9, s.Count("SELECT stock FROM products_g1"))

	// The next session skips the record.
	require.NoError(t, newOwner(t, s, 3).Apply(ctx, lost))
	require.EqualValues(t, 9, s.Count("SELECT stock FROM products_g2"))
	require.EqualValues(t, 4, s.Count("SELECT count(*) FROM projection_checkpoints WHERE generation = 2 AND position = $1 AND next_offset = 3", kept))
}

func TestProjector_RefusesARecordOfAnotherPartitioning(t *testing.T) {
	s, f, owner := newOfflineSystem(t)
	ctx := context.Background()
	s.Create(10)
	records := f.produceAll(f.eventsAfter(0))
	records[0].Partition = (records[0].Partition + 1) % 3
	require.Error(t, owner.Apply(ctx, records), "without a Kafka it cannot know why")
	require.Zero(t, s.Count("SELECT count(*) FROM products"))
	require.Zero(t, s.Count("SELECT count(*) FROM projection_checkpoints WHERE next_offset > 0"))
}

func TestProjector_CheckpointBelongsToOneTopic(t *testing.T) {
	s, f, owner := newOfflineSystem(t)
	ctx := context.Background()
	s.Create(10)
	records := f.produceAll(f.eventsAfter(0))
	s.Exec("UPDATE projection_checkpoints SET topic_id = 'recreated'")
	require.ErrorIs(t, owner.Apply(ctx, records), projector.ErrMoved)
	require.Zero(t, s.Count("SELECT count(*) FROM products"))
}
