package projector_test

import (
	"context"
	"strconv"
	"testing"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
	"github.com/stretchr/testify/require"

	"github.com/dopaminestore/dopamine/avsc"
	"github.com/dopaminestore/dopamine/domain"
	"github.com/dopaminestore/dopamine/eventstore"
	"github.com/dopaminestore/dopamine/internal/kafka"
	"github.com/dopaminestore/dopamine/projections/projector"
	"github.com/dopaminestore/dopamine/tools/pipelinetest"
)

// fakeTopic delivers records without Kafka: it stands in for a topic and keeps its offsets.
type fakeTopic struct {
	s          *system
	store      string // header
	partitions int32
	next       map[int32]int64
	log        map[int32][]projector.Delivered // records of each partition
	last       map[int32]int64                 // previous-position
}

func newFakeTopic(s *system, partitions int32) *fakeTopic {
	id, err := s.Reader.Identity(context.Background())
	require.NoError(s.TB, err)
	return &fakeTopic{s: s, store: id.String(), partitions: partitions, next: map[int32]int64{}, log: map[int32][]projector.Delivered{}, last: map[int32]int64{}}
}

// published is an event in the form in which the relay publishes it.
type published struct {
	event    eventstore.Recorded
	value    []byte
	previous int64
}

// eventsAfter reads the events after a position, in the form in which they are published.
func (f *fakeTopic) eventsAfter(after int64) []published {
	events, err := f.s.Reader.ReadAll(context.Background(), after, 10000)
	require.NoError(f.s.TB, err)
	out := make([]published, len(events))
	for i, e := range events {
		p := kafka.Partition(e.Key, f.partitions)
		out[i] = published{event: e, previous: f.last[p]}
		f.last[p] = e.Position
		if env, err := avsc.Decode(e); err == nil {
			out[i].value, err = avsc.Marshal(nil, env)
			require.NoError(f.s.TB, err)
		}
	}
	return out
}

// produce appends a record to the topic.
func (f *fakeTopic) produce(e published) projector.Delivered {
	h := map[string]string{kafka.HeaderPreviousPosition: strconv.FormatInt(e.previous, 10), kafka.HeaderStore: f.store}
	avsc.Headers{EventID: e.event.ID, EventType: e.event.Type, StreamID: e.event.Stream, StreamVersion: e.event.Version, Position: e.event.Position,
		Traceparent: e.event.Meta.Traceparent, CorrelationID: e.event.Meta.CorrelationID, CausationID: e.event.Meta.CausationID}.
		Each(func(name, text string) { h[name] = text })
	return f.putRaw(e.event.Key, h, e.value)
}

func (f *fakeTopic) putRaw(key uuid.UUID, headers map[string]string, value []byte) projector.Delivered {
	p := kafka.Partition(key, f.partitions)
	d := projector.Delivered{Message: kafka.NewMessage(key, headers, value), Partition: p, Offset: f.next[p]}
	f.next[p]++
	f.log[p] = append(f.log[p], d)
	return d
}

// produceAll appends all events to the topic and returns the records.
func (f *fakeTopic) produceAll(events []published) []projector.Delivered {
	var out []projector.Delivered
	for _, e := range events {
		out = append(out, f.produce(e))
	}
	return out
}

func (s *system) createGeneration(generation int) {
	for _, name := range s.names() {
		s.Exec("SELECT projection_create_generation($1, $2)", name, generation)
	}
}

// foldInto folds the store's events after a position, in order, into the tables of another
// generation, without the engine.
func (s *system) foldInto(generation int, after int64) {
	ctx := context.Background()
	events, err := s.Reader.ReadAll(ctx, after, 100000)
	require.NoError(s.TB, err)
	for _, p := range pipelinetest.Projections() {
		err := pgx.BeginFunc(ctx, s.Pool, func(tx pgx.Tx) error {
			for _, e := range events {
				env, err := avsc.Decode(e)
				require.NoError(s.TB, err)
				if _, ok := p.Key(env); !ok {
					continue
				}
				fold := p.NewFold(generation)
				b := &pgx.Batch{}
				fold.Load(b, []domain.Envelope{env})
				if err := tx.SendBatch(ctx, b).Close(); err != nil {
					return err
				}
				require.NoError(s.TB, fold.Apply(env))
				b = &pgx.Batch{}
				fold.Write(b)
				if err := tx.SendBatch(ctx, b).Close(); err != nil {
					return err
				}
			}
			return nil
		})
		require.NoError(s.TB, err)
	}
}

func newOwner(t testing.TB, s *system, partitions int32) *projector.Owner {
	w, err := projector.NewRunner(s.ProjectorConfig()).TakeAllPartitions(context.Background(), partitions)
	require.NoError(t, err)
	return w
}
