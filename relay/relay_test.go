package relay

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"strconv"
	"sync"
	"testing"
	"time"

	"github.com/ThreeDotsLabs/watermill/message"
	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/stretchr/testify/require"
	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kgo"
	"go.uber.org/goleak"

	"github.com/dopaminestore/dopamine/avsc"
	"github.com/dopaminestore/dopamine/domain"
	"github.com/dopaminestore/dopamine/eventstore"
	"github.com/dopaminestore/dopamine/internal/kafka"
	"github.com/dopaminestore/dopamine/tools/dbtest"
	"github.com/dopaminestore/dopamine/tools/storetest"
	"github.com/dopaminestore/dopamine/tools/testkit"
)

func TestMain(m *testing.M) {
	// sarama's metrics have one ticker for the whole process.
	goleak.VerifyTestMain(m, goleak.IgnoreAnyFunction("github.com/rcrowley/go-metrics.(*meterArbiter).tick"))
}

// source is an event store of a single test.
type source struct {
	t      testing.TB
	url    string
	pool   *pgxpool.Pool
	store  *eventstore.Store
	reader *eventstore.Reader
}

func newSource(t testing.TB) *source {
	db := dbtest.WriteDB(t)
	pool := db.Pool
	return &source{t: t, url: db.URL, pool: pool, store: storetest.Open(t, pool), reader: eventstore.NewReader(pool)}
}

// warn appends n events to each of the products, in turn, in one append each.
func (s *source) warn(n int, products ...uuid.UUID) {
	typ, version, payload, err := avsc.Encode(domain.SlotExpiringSoon{UserID: uuid.New(), Deadline: time.UnixMilli(1_800_000_000_000).UTC()})
	require.NoError(s.t, err)
	s.raw(n, typ, version, payload, products...)
}

func (s *source) raw(n int, typ string, version int, payload []byte, products ...uuid.UUID) {
	for i := range n {
		p := products[i%len(products)]
		_, err := s.store.Append(context.Background(), eventstore.Append{Key: p, Streams: []eventstore.StreamAppend{{
			Stream: p, Expected: eventstore.Any, Events: []eventstore.NewEvent{{ID: uuid.New(), Type: typ, SchemaVersion: version, Payload: payload,
				Meta: eventstore.Meta{Traceparent: "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01", CorrelationID: "c", CausationID: "d", Actor: "system"}}}}}})
		require.NoError(s.t, err)
	}
}

func (s *source) relay(brokers []string, topic string, chunk int) *Relay {
	return New(Config{Pool: s.pool, Store: s.reader, Kafka: kafka.Cluster{Brokers: brokers}, Topic: topic, Chunk: chunk, Logger: slog.New(slog.DiscardHandler)})
}

// run runs a relay until the test ends or stop is called.
func (s *source) run(r *Relay) (stop func()) {
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	notifier := eventstore.Listen(ctx, s.pool)
	r.cfg.Notifier = notifier
	go func() {
		defer close(done)
		defer notifier.Close()
		if err := r.Run(ctx); err != nil {
			s.t.Errorf("the relay refused: %v", err)
		}
	}()
	stop = func() { cancel(); <-done }
	s.t.Cleanup(stop)
	return stop
}

func (s *source) awaitPlace(position int64) {
	s.t.Helper()
	testkit.Eventually(s.t, 60*time.Second, "the relay's checkpoint", func() error {
		p, err := ReadCheckpoint(context.Background(), s.pool)
		if err == nil && p.Position < position {
			err = fmt.Errorf("at %d of %d", p.Position, position)
		}
		return err
	})
}

// depose takes the lead from the leading relay.
func (s *source) depose() {
	s.t.Helper()
	testkit.Eventually(s.t, 30*time.Second, "a relay that leads", func() error {
		tag, err := s.pool.Exec(context.Background(), `
			SELECT pg_terminate_backend(pid) FROM pg_locks WHERE locktype = 'advisory' AND granted
			AND database = (SELECT oid FROM pg_database WHERE datname = current_database())
			AND classid = ($1::bigint >> 32)::int::oid AND objid = ($1::bigint & 4294967295)::oid`, int64(lockKey))
		if err == nil && tag.RowsAffected() != 1 {
			err = fmt.Errorf("%d lead", tag.RowsAffected())
		}
		return err
	})
}

// consume reads a topic from its beginning to its current end.
func consume(t *testing.T, brokers []string, topic string, until int64) map[int32][]*kgo.Record {
	client, err := kgo.NewClient(kgo.SeedBrokers(brokers...), kgo.ConsumeTopics(topic), kgo.ConsumeResetOffset(kgo.NewOffset().AtStart()))
	require.NoError(t, err)
	defer client.Close()
	ctx, cancel := context.WithTimeout(context.Background(), 60*time.Second)
	defer cancel()
	out, seen := map[int32][]*kgo.Record{}, map[int64]bool{}
	for int64(len(seen)) < until {
		fetched := client.PollFetches(ctx) // errors such as that of a topic just made pass
		require.NoError(t, ctx.Err())
		fetched.EachRecord(func(r *kgo.Record) {
			out[r.Partition] = append(out[r.Partition], r)
			seen[position(t, r, "position")] = true
		})
	}
	return out
}

func header(r *kgo.Record, name string) string {
	for _, h := range r.Headers {
		if h.Key == name {
			return string(h.Value)
		}
	}
	return "(missing)"
}

func position(t *testing.T, r *kgo.Record, name string) int64 {
	n, err := strconv.ParseInt(header(r, name), 10, 64)
	require.NoError(t, err)
	return n
}

// requireChain checks that a reader that skips repeated records misses nothing.
func requireChain(t *testing.T, partitions map[int32][]*kgo.Record) (distinct int64) {
	for p, records := range partitions {
		last := int64(0)
		for _, r := range records {
			at := position(t, r, "position")
			if at <= last {
				continue
			}
			require.Equal(t, last, position(t, r, "previous-position"), "partition %d, position %d", p, at)
			last = at
			distinct++
		}
	}
	return distinct
}

func TestRelay_PublishesPartitionsInOrder(t *testing.T) {
	t.Parallel()
	s, brokers, topic := newSource(t), testkit.Kafka(t), testkit.Topic(t)
	products := []uuid.UUID{uuid.New(), uuid.New(), uuid.New(), uuid.New(), uuid.New()}
	s.warn(200, products...)
	s.run(s.relay(brokers, topic, 37))
	s.warn(100, products...)
	s.awaitPlace(300)
	partitions := consume(t, brokers, topic, 300)
	require.EqualValues(t, 300, requireChain(t, partitions))
	identity, err := s.reader.Identity(context.Background())
	require.NoError(t, err)
	require.EqualValues(t, 1, identity.Incarnation)
	for p, records := range partitions {
		for _, r := range records {
			at, err := s.reader.At(context.Background(), position(t, r, "position"))
			require.NoError(t, err)
			require.Equal(t, at.Key.String(), string(r.Key))
			require.Equal(t, kafka.Partition(at.Key, 12), p)
			require.Len(t, r.Headers, 10)
			require.Equal(t, identity.String(), header(r, "store"))
			require.Equal(t, []string{at.ID.String(), at.Type, at.Stream.String(), strconv.Itoa(at.Version), at.Meta.Traceparent, "c", "d"},
				[]string{header(r, "event-id"), header(r, "event-type"), header(r, "stream-id"), header(r, "stream-version"), header(r, "traceparent"), header(r, "correlation-id"), header(r, "causation-id")})
			h, err := avsc.ParseHeaders(func(name string) string { return header(r, name) })
			require.NoError(t, err)
			got, err := avsc.Unmarshal(r.Value, h)
			require.NoError(t, err)
			want, err := avsc.Decode(at)
			require.NoError(t, err)
			require.Equal(t, want, got)
		}
	}
}

func TestRelay_DeposedDoesNoHarm(t *testing.T) {
	t.Parallel()
	s, brokers, topic := newSource(t), testkit.Kafka(t), testkit.Topic(t)
	products := []uuid.UUID{uuid.New(), uuid.New(), uuid.New()}
	for range 3 {
		s.run(s.relay(brokers, topic, 10))
	}
	for round := range 5 {
		s.warn(60, products...)
		s.depose()
		s.warn(60, products...)
		s.awaitPlace(int64(120 * (round + 1)))
	}
	require.EqualValues(t, 600, requireChain(t, consume(t, brokers, topic, 600)))
}

func TestRelay_StoppedLeaderIsReplaced(t *testing.T) {
	t.Parallel()
	s := newSource(t)
	s.warn(3, uuid.New())
	brokers, topic := testkit.FakeKafka(t), testkit.Topic(t)
	stopped, err := s.relay(brokers, topic, 10).elect(context.Background()) // and nothing more
	require.NoError(t, err)
	defer stopped.resign(context.Background())
	s.run(s.relay(brokers, topic, 10))
	s.awaitPlace(3)
	require.Error(t, stopped.ping(context.Background()))
}

func TestRelay_FillsRecreatedTopicFromBeginning(t *testing.T) {
	t.Parallel()
	s, brokers, topic := newSource(t), testkit.Kafka(t), testkit.Topic(t)
	product := uuid.New()
	s.warn(3, product)
	s.run(s.relay(brokers, topic, 10))
	s.awaitPlace(3)
	before, err := ReadCheckpoint(context.Background(), s.pool)
	require.NoError(t, err)
	client, err := kgo.NewClient(kgo.SeedBrokers(brokers...))
	require.NoError(t, err)
	defer client.Close()
	_, err = kadm.NewClient(client).DeleteTopic(context.Background(), topic)
	require.NoError(t, err)
	s.warn(1, product)
	testkit.Eventually(t, 60*time.Second, "a checkpoint in another topic", func() error {
		now, err := ReadCheckpoint(context.Background(), s.pool)
		if err == nil && (now.TopicID == before.TopicID || now.Position < 4) {
			err = fmt.Errorf("at %d in %s", now.Position, now.TopicID)
		}
		return err
	})
	// A chunk that was in progress when the topic was deleted may come first in the new one, with
	// a previous-position that reveals it; everything else follows.
	consume(t, brokers, topic, 4)
}

// partly is a publisher that sometimes fails after a part of a batch arrived.
type partly struct {
	mu      sync.Mutex
	calls   int
	batches [][]string // positions that arrived, by call
	fail    func(call int) (arrive int, err error)
}

func (p *partly) Publish(_ string, messages ...*message.Message) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.calls++
	arrive, err := len(messages), error(nil)
	if p.fail != nil {
		if n, e := p.fail(p.calls); e != nil {
			arrive, err = min(n, len(messages)), e
		}
	}
	var got []string
	for _, m := range messages[len(messages)-arrive:] { // the first ones fail, later ones arrive
		got = append(got, m.Metadata["position"])
	}
	p.batches = append(p.batches, got)
	return err
}

func (p *partly) Close() error { return nil }

func TestRelay_RetriesSameChunkFirst(t *testing.T) {
	t.Parallel()
	s, brokers := newSource(t), testkit.FakeKafka(t)
	s.warn(6, uuid.New())
	r := s.relay(brokers, testkit.Topic(t), 3)
	pub := &partly{fail: func(call int) (int, error) {
		if call == 1 || call == 3 {
			return 2, errors.New("not acknowledged")
		}
		return 0, nil
	}}
	opened := 0
	r.open = func(int32) (message.Publisher, error) { opened++; return pub, nil }
	stop := s.run(r)
	s.awaitPlace(6)
	stop()
	require.Equal(t, [][]string{{"2", "3"}, {"1", "2", "3"}, {"5", "6"}, {"4", "5", "6"}}, pub.batches)
	require.Equal(t, 3, opened, "with a new producer after each failure")
}

// blocked is a publisher that blocks in the middle of a batch until it is released.
type blocked struct {
	partly
	in, out chan struct{}
}

func (b *blocked) Publish(topic string, messages ...*message.Message) error {
	b.in <- struct{}{}
	<-b.out
	return b.partly.Publish(topic, messages...)
}

func TestRelay_SavesCheckpointOnlyAfterAckAndWhileLeading(t *testing.T) {
	t.Parallel()
	s, brokers, topic := newSource(t), testkit.FakeKafka(t), testkit.Topic(t)
	ctx := context.Background()
	s.warn(3, uuid.New())
	first := &blocked{in: make(chan struct{}), out: make(chan struct{})}
	r := s.relay(brokers, topic, 3)
	r.open = func(int32) (message.Publisher, error) { return first, nil }
	stop := s.run(r)
	<-first.in
	_, err := ReadCheckpoint(ctx, s.pool)
	require.ErrorIs(t, err, pgx.ErrNoRows)

	// Another relay leads and continues; the first one's chunk arrives late.
	s.depose()
	second := s.relay(brokers, topic, 2)
	pub := &partly{}
	second.open = func(int32) (message.Publisher, error) { return pub, nil }
	s.run(second)
	s.awaitPlace(3)
	s.warn(2, uuid.New())
	s.awaitPlace(5)
	close(first.out)
	stop()
	place, err := ReadCheckpoint(ctx, s.pool)
	require.NoError(t, err)
	require.EqualValues(t, 5, place.Position, "the deposed one saved nothing")
}

func TestRelay_PublishesUnencodableEventWithoutValue(t *testing.T) {
	t.Parallel()
	s, brokers, topic := newSource(t), testkit.FakeKafka(t), testkit.Topic(t)
	product := uuid.New()
	s.warn(1, product)
	s.raw(1, "SlotExpiringSoon", 1, []byte(`{"userId":7}`), product)
	s.warn(1, product)
	s.run(s.relay(brokers, topic, 10))
	partitions := consume(t, brokers, topic, 3)
	require.EqualValues(t, 3, requireChain(t, partitions))
	require.Empty(t, partitions[kafka.Partition(product, 12)][1].Value)
}
