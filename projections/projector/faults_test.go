package projector_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"
	"github.com/stretchr/testify/require"
	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kfake"
	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/dopaminestore/dopamine/domain"
	"github.com/dopaminestore/dopamine/eventstore"
	"github.com/dopaminestore/dopamine/internal/kafka"
	"github.com/dopaminestore/dopamine/projections"
	"github.com/dopaminestore/dopamine/projections/projector"
	"github.com/dopaminestore/dopamine/relay"
	"github.com/dopaminestore/dopamine/tools/storetest"
	"github.com/dopaminestore/dopamine/tools/testkit"
)

func (s *system) published(ctx context.Context) (projections.Head, error) {
	c, err := relay.ReadCheckpoint(ctx, s.pool)
	if err != nil {
		return projections.Head{}, err
	}
	head, err := s.reader.Head(ctx)
	return projections.Head{Position: head, Published: c.Position, Last: c.Last, TopicID: c.TopicID, Topic: s.topic}, err
}

// awaitPublished waits until the relay has published a position.
func (s *system) awaitPublished(position int64) {
	s.t.Helper()
	testkit.Eventually(s.t, 60*time.Second, "published", func() error {
		h, err := s.published(context.Background())
		if err == nil && h.Published < position {
			err = fmt.Errorf("at %d", h.Published)
		}
		return err
	})
}

// createIn creates a product whose key belongs to the given one of 12 partitions.
func (s *system) createIn(partition int32, stock int) uuid.UUID {
	product := uuid.New()
	for kafka.Partition(product, 12) != partition {
		product = uuid.New()
	}
	s.append(product, product, domain.ProductCreated{Name: "Lamp", Description: "A lamp", Price: storetest.KRW(s.t, 259000), Stock: stock,
		SaleDate: time.Now().Add(time.Hour).UTC().Truncate(time.Millisecond)})
	return product
}

func (s *system) admin() *kadm.Client {
	client, err := kgo.NewClient(kgo.SeedBrokers(s.brokers...))
	require.NoError(s.t, err)
	s.t.Cleanup(client.Close)
	return kadm.NewClient(client)
}

func (s *system) relayWith(partitions int32) func() error {
	return testkit.Background(s.t, func(ctx context.Context) error {
		notifier := eventstore.Listen(ctx, s.pool)
		defer notifier.Close()
		return relay.New(relay.Config{Pool: s.workers, Store: s.reader, Notifier: notifier, Kafka: kafka.Cluster{Brokers: s.brokers}, Topic: s.topic, Logger: s.log,
			TopicSettings: kafka.TopicSettings{Partitions: partitions}}).Run(ctx)
	})
}

// startRunner starts a projector and returns it.
func (s *system) startRunner(cfg projector.Config) *projector.Runner {
	r := projector.NewRunner(cfg)
	testkit.Background(s.t, r.Run)
	return r
}

func awaitBlocked(t *testing.T, r *projector.Runner, reason string) {
	t.Helper()
	testkit.Eventually(t, 60*time.Second, "blocked: "+reason, func() error {
		for _, text := range r.Health() {
			if strings.Contains(text, reason) {
				return nil
			}
		}
		return fmt.Errorf("health: %q", r.Health())
	})
}

func (s *system) stock(product uuid.UUID) int64 {
	return s.count("SELECT stock FROM products WHERE id = $1", product)
}

// blackHole forwards connections to a Postgres. After close, the existing connections carry nothing
// more but stay open, as if the host had disappeared. New connections are forwarded, as they are to
// a promoted standby.
type blackHole struct {
	l      net.Listener
	mu     sync.Mutex
	closed chan struct{}
	refuse bool
}

func newBlackHole(t *testing.T, network, target string) *blackHole {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	b := &blackHole{l: l, closed: make(chan struct{})}
	var conns sync.WaitGroup
	done := make(chan struct{})
	t.Cleanup(func() { close(done); _ = l.Close(); conns.Wait() })
	conns.Go(func() {
		for {
			in, err := l.Accept()
			if err != nil {
				return
			}
			b.mu.Lock()
			closed, refuse := b.closed, b.refuse
			b.mu.Unlock()
			if refuse { // accepted, but never served
				conns.Go(func() { <-done; _ = in.Close() })
				continue
			}
			out, err := net.Dial(network, target)
			if err != nil {
				_ = in.Close()
				continue
			}
			conns.Go(func() { <-done; _ = in.Close(); _ = out.Close() })
			pump := func(dst, src net.Conn) {
				buf := make([]byte, 32<<10)
				for {
					n, err := src.Read(buf)
					select {
					case <-closed:
						_, _ = io.Copy(io.Discard, src)
						return
					default:
					}
					if n > 0 {
						_, _ = dst.Write(buf[:n])
					}
					if err != nil {
						_ = dst.Close()
						return
					}
				}
			}
			conns.Go(func() { pump(in, out) })
			conns.Go(func() { pump(out, in) })
		}
	})
	return b
}

func (b *blackHole) close(newToo bool) {
	b.mu.Lock()
	defer b.mu.Unlock()
	close(b.closed)
	b.closed, b.refuse = make(chan struct{}), newToo
}

// behindBlackHole returns a pool of the system's database that connects through a black hole.
func (s *system) behindBlackHole(t *testing.T) (*pgxpool.Pool, *blackHole) {
	cfg := s.pool.Config()
	network, target := "tcp", net.JoinHostPort(cfg.ConnConfig.Host, strconv.Itoa(int(cfg.ConnConfig.Port)))
	if cfg.ConnConfig.Host[0] == '/' {
		network, target = "unix", fmt.Sprintf("%s/.s.PGSQL.%d", cfg.ConnConfig.Host, cfg.ConnConfig.Port)
	}
	hole := newBlackHole(t, network, target)
	addr := hole.l.Addr().(*net.TCPAddr)
	cfg.ConnConfig.Host, cfg.ConnConfig.Port, cfg.ConnConfig.Fallbacks = "127.0.0.1", uint16(addr.Port), nil
	cfg.ConnConfig.LookupFunc, cfg.ConnConfig.DialFunc = net.DefaultResolver.LookupHost, (&net.Dialer{}).DialContext
	cfg.ConnConfig.ConnectTimeout = time.Second
	cfg.PingTimeout = time.Second
	pool, err := pgxpool.NewWithConfig(context.Background(), cfg)
	require.NoError(t, err)
	t.Cleanup(pool.Close)
	return pool, hole
}

func TestProjector_ContinuesBehindAPostgresThatIsGoneWithoutAWord(t *testing.T) {
	t.Parallel()
	s := newSystem(t, testkit.FakeKafka(t))
	pool, hole := s.behindBlackHole(t)
	s.relay()
	cfg := s.config()
	cfg.ReadPool, cfg.Store = pool, eventstore.NewReader(pool)
	cfg.ReadTimeout, cfg.BatchTimeout = time.Second, 2*time.Second
	s.startRunner(cfg)
	product := s.create(100)
	_, _, at := s.acquire(product, 1, 1)
	s.awaitReached(product, at)
	hole.close(false)
	_, _, at = s.acquire(product, 2, 2)
	s.awaitReached(product, at)
}

func TestProjector_AnotherOneTakesOver_AndTheLagIsMeasured(t *testing.T) {
	t.Parallel()
	s := newSystem(t, testkit.FakeKafka(t))
	pool, hole := s.behindBlackHole(t)
	s.relay()
	registry := prometheus.NewRegistry()
	cfg := s.config()
	cfg.ReadPool, cfg.Store, cfg.Registerer, cfg.Published = pool, eventstore.NewReader(pool), registry, s.published
	cfg.ReadTimeout, cfg.BatchTimeout = time.Second, 2*time.Second
	s.startRunner(cfg)
	product := s.create(100)
	_, _, at := s.acquire(product, 1, 1)
	s.awaitReached(product, at)
	hole.close(true)
	_, _, at = s.acquire(product, 2, 2)
	testkit.Eventually(t, 30*time.Second, "a time without progress", func() error {
		metrics, err := registry.Gather()
		if err != nil {
			return err
		}
		for _, m := range metrics {
			if m.GetName() == "dopamine_projector_stalled_seconds" && m.GetMetric()[0].GetGauge().GetValue() > 1 {
				return nil
			}
		}
		return errors.New("not yet")
	})
	s.startRunner(s.config()) // in the same group, connected to Postgres
	s.awaitReached(product, at)
}

func TestProjector_LagRisesWhileKafkaIsAway(t *testing.T) {
	t.Parallel()
	s := newSystem(t, testkit.FakeKafka(t))
	stopRelay := s.relay()
	registry := prometheus.NewRegistry()
	cfg := s.config()
	cfg.Registerer, cfg.Published = registry, s.published
	s.startRunner(cfg)
	product := s.create(100)
	s.awaitReached(product, 1)
	require.NoError(t, stopRelay()) // nothing reaches the topic
	for n := int64(1); n <= 5; n++ {
		s.acquire(product, int(n), n)
	}
	testkit.Eventually(t, 30*time.Second, "lag", func() error {
		return testutil.GatherAndCompare(registry, strings.NewReader(`
# HELP dopamine_projector_lag_events Events in the store that the projection has not applied yet, measured once a second.
# TYPE dopamine_projector_lag_events gauge
dopamine_projector_lag_events{projection="products"} 5
dopamine_projector_lag_events{projection="purchase_slots"} 5
dopamine_projector_lag_events{projection="purchases"} 5
dopamine_projector_lag_events{projection="slot_audit_log"} 5
`), "dopamine_projector_lag_events")
	})
}

// The topic is recreated with another partition count under a running projector: products are in
// other partitions, whose checkpoints are lower than their events.
func TestProjector_AppliesNothingOfARepartitionedTopic(t *testing.T) {
	t.Parallel()
	s := newSystem(t, testkit.Kafka(t))
	stopRelay := s.relayWith(12)
	a, z := s.createIn(5, 100), s.createIn(0, 100)
	cfg := s.config()
	cfg.TopicSettings.Partitions = 12
	r := s.startRunner(cfg)
	var at int64
	for n := int64(1); n <= 3; n++ {
		_, _, at = s.acquire(a, int(n), n)
	}
	s.awaitReached(a, at)
	s.awaitReached(z, 2)
	require.EqualValues(t, 97, s.stock(a))
	require.NoError(t, stopRelay())
	_, err := s.admin().DeleteTopic(context.Background(), s.topic)
	require.NoError(t, err)
	stopRelay = s.relayWith(1)
	s.awaitPublished(at) // into the only partition; if the relay refuses, the test ends here
	awaitBlocked(t, r, "topic "+s.topic+" has 1 partitions, --kafka-partitions is 12")
	require.EqualValues(t, 97, s.stock(a))
	require.NoError(t, stopRelay())
}

func TestClients_NeverLetTheBrokerCreateTheTopic(t *testing.T) {
	t.Parallel()
	c, err := kfake.NewCluster(kfake.NumBrokers(1), kfake.AllowAutoTopicCreation(), kfake.DefaultNumPartitions(1), kfake.GroupMinSessionTimeout(500*time.Millisecond))
	require.NoError(t, err)
	t.Cleanup(c.Close)
	s := newSystem(t, c.ListenAddrs())
	s.relay()
	s.projector()
	product := s.create(100)
	_, _, at := s.acquire(product, 1, 1)
	s.awaitReached(product, at)
	before, err := kafka.DescribeTopic(context.Background(), kafka.Cluster{Brokers: s.brokers}, s.topic)
	require.NoError(t, err)
	_, err = s.admin().DeleteTopic(context.Background(), s.topic)
	require.NoError(t, err)
	testkit.Eventually(t, 60*time.Second, "the recreated topic", func() error {
		info, err := kafka.DescribeTopic(context.Background(), kafka.Cluster{Brokers: s.brokers}, s.topic)
		if err == nil && info.TopicID == before.TopicID {
			err = errors.New("still the old one")
		}
		if err == nil {
			require.EqualValues(t, 12, info.Partitions, "by the relay, not by the broker")
			require.Zero(t, info.Retention)
		}
		return err
	})
	_, _, at = s.acquire(product, 2, 2)
	s.awaitReached(product, at)
	require.EqualValues(t, 98, s.stock(product))
}

// A projector was away for longer than the topic keeps its records, or the read database is new.
func TestProjector_FillsWhatRetentionDeleted(t *testing.T) {
	t.Parallel()
	for name, fresh := range map[string]bool{"old checkpoint": false, "fresh read database": true} {
		for kept, last := range map[string]bool{"some records left": true, "no record left": false} {
			t.Run(name+", "+kept, func(t *testing.T) {
				t.Parallel()
				s := newSystem(t, testkit.Kafka(t))
				s.relay()
				product := s.create(100)
				_, _, at := s.acquire(product, 1, 1)
				if !fresh {
					stop := s.projector()
					s.awaitReached(product, at)
					require.NoError(t, stop())
				}
				for n := int64(2); n <= 9; n++ {
					_, _, at = s.acquire(product, int(n), n)
				}
				s.awaitPublished(at)
				to := int64(10)
				if last {
					to = 7
				}
				var offsets kadm.Offsets
				offsets.AddOffset(s.topic, kafka.Partition(product, 12), to, -1)
				deleted, err := s.admin().DeleteRecords(context.Background(), offsets)
				require.NoError(t, err)
				require.NoError(t, deleted.Error())

				cfg := s.config()
				cfg.Published = s.published
				s.startRunner(cfg)
				s.awaitReached(product, at)
				require.EqualValues(t, 91, s.stock(product))
			})
		}
	}
}

// Kafka loses the end of a partition that it had acknowledged: the relay's checkpoint is past a
// record that the topic does not have, and no record follows.
func TestProjector_FillsALostTail(t *testing.T) {
	t.Parallel()
	s := newSystem(t, testkit.FakeKafka(t))
	stopRelay := s.relay()
	cfg := s.config()
	cfg.Published = s.published
	s.startRunner(cfg)
	a := s.createIn(5, 100)
	_, _, at := s.acquire(a, 1, 1)
	s.awaitReached(a, at)
	require.NoError(t, stopRelay())
	_, _, lost := s.acquire(a, 2, 2)
	e, err := s.reader.At(context.Background(), lost)
	require.NoError(t, err)
	s.exec("UPDATE relay_place SET position = $1, event_id = $2, last[$3] = $1", lost, e.ID, kafka.Partition(a, 12)+1)
	s.awaitReached(a, lost)
	require.EqualValues(t, 98, s.stock(a))
}

// Two installations on one cluster.
func TestInstallations_ShareAClusterAndNotATopic(t *testing.T) {
	t.Parallel()
	brokers := testkit.Kafka(t)
	one, two := newSystem(t, brokers), newSystem(t, brokers)
	one.relay()
	two.relay()
	one.projector()
	two.projector()
	a, b := one.create(100), two.create(100)
	_, _, atA := one.acquire(a, 1, 1)
	_, _, atB := two.acquire(b, 1, 1)
	one.awaitReached(a, atA)
	two.awaitReached(b, atB)
	require.EqualValues(t, 1, one.count("SELECT count(*) FROM products"))
	require.EqualValues(t, 1, two.count("SELECT count(*) FROM products"))

	// The third installation uses the topic of the first.
	three := newSystem(t, brokers)
	three.topic = one.topic
	cfg := three.config()
	cfg.Group = testkit.Topic(t)
	r := three.startRunner(cfg)
	awaitBlocked(t, r, "another event store")
	id, err := three.reader.Identity(context.Background())
	require.NoError(t, err)
	other, err := one.reader.Identity(context.Background())
	require.NoError(t, err)
	awaitBlocked(t, r, id.Store.String())
	awaitBlocked(t, r, other.String())
	require.Zero(t, three.count("SELECT count(*) FROM products"))
	_, _, atA = one.acquire(a, 2, 2)
	one.awaitReached(a, atA)
}
