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

	"github.com/dopaminestore/dopamine/eventstore"
	"github.com/dopaminestore/dopamine/internal/kafka"
	"github.com/dopaminestore/dopamine/projections/projector"
	"github.com/dopaminestore/dopamine/relay"
	"github.com/dopaminestore/dopamine/tools/storetest"
	"github.com/dopaminestore/dopamine/tools/testkit"
)

// createIn creates a product whose key belongs to the given one of 12 partitions.
func (s *system) createIn(partition int32, stock int) uuid.UUID {
	product := uuid.New()
	for kafka.Partition(product, 12) != partition {
		product = uuid.New()
	}
	s.Record(product, product, storetest.Lamp(s.TB, stock))
	return product
}

func (s *system) admin() *kadm.Client {
	client, err := kgo.NewClient(kgo.SeedBrokers(s.Kafka.Brokers...))
	require.NoError(s.TB, err)
	s.TB.Cleanup(client.Close)
	return kadm.NewClient(client)
}

// relayWith runs a relay that creates the topic with so many partitions.
func (s *system) relayWith(partitions int32) (stop func() error) {
	_, stop = s.StartRelay(func(c *relay.Config) { c.TopicSettings.Partitions = partitions })
	return stop
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
	return s.Count("SELECT stock FROM products WHERE id = $1", product)
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
	cfg := s.Pool.Config()
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
	s.StartRelay()
	s.StartProjector(func(c *projector.Config) {
		c.ReadPool, c.Store = pool, eventstore.NewReader(pool)
		c.ReadTimeout, c.BatchTimeout = time.Second, 2*time.Second
	})
	product := s.Create(100)
	_, _, at := s.Acquire(product, 1, 1)
	s.awaitReached(product, at)
	hole.close(false)
	_, _, at = s.Acquire(product, 2, 2)
	s.awaitReached(product, at)
}

func TestProjector_AnotherOneTakesOver_AndTheLagIsMeasured(t *testing.T) {
	t.Parallel()
	s := newSystem(t, testkit.FakeKafka(t))
	pool, hole := s.behindBlackHole(t)
	s.StartRelay()
	registry := prometheus.NewRegistry()
	s.StartProjector(func(c *projector.Config) {
		c.ReadPool, c.Store, c.Registerer, c.Published = pool, eventstore.NewReader(pool), registry, s.Published
		c.ReadTimeout, c.BatchTimeout = time.Second, 2*time.Second
	})
	product := s.Create(100)
	_, _, at := s.Acquire(product, 1, 1)
	s.awaitReached(product, at)
	hole.close(true)
	_, _, at = s.Acquire(product, 2, 2)
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
	s.StartProjector() // in the same group, connected to Postgres
	s.awaitReached(product, at)
}

func TestProjector_LagRisesWhileKafkaIsAway(t *testing.T) {
	t.Parallel()
	s := newSystem(t, testkit.FakeKafka(t))
	_, stopRelay := s.StartRelay()
	registry := prometheus.NewRegistry()
	r, _ := s.StartProjector(func(c *projector.Config) {
		c.Registerer, c.Published, c.StallTimeout = registry, s.Published, time.Second
	})
	product := s.Create(100)
	s.awaitReached(product, 1)
	testkit.EventuallyEqual(t, 10*time.Second, "no reason", nil, r.Health)
	require.NoError(t, stopRelay()) // nothing reaches the topic
	for n := int64(1); n <= 5; n++ {
		s.Acquire(product, int(n), n)
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
	testkit.EventuallyTrue(t, 30*time.Second, "no progress", func() bool {
		return len(r.Health()) == 1 && strings.Contains(r.Health()[0], "applied to products, purchase_slots, purchases, slot_audit_log;")
	})
	s.StartRelay()
	testkit.EventuallyEqual(t, 30*time.Second, "progress", nil, r.Health)
}

// The topic is recreated with another partition count under a running projector: products are in
// other partitions, whose checkpoints are lower than their events.
func TestProjector_AppliesNothingOfARepartitionedTopic(t *testing.T) {
	t.Parallel()
	s := newSystem(t, testkit.Kafka(t))
	stopRelay := s.relayWith(12)
	a, z := s.createIn(5, 100), s.createIn(0, 100)
	r, _ := s.StartProjector(func(c *projector.Config) { c.TopicSettings.Partitions = 12 })
	var at int64
	for n := int64(1); n <= 3; n++ {
		_, _, at = s.Acquire(a, int(n), n)
	}
	s.awaitReached(a, at)
	s.awaitReached(z, 2)
	require.EqualValues(t, 97, s.stock(a))
	require.NoError(t, stopRelay())
	_, err := s.admin().DeleteTopic(context.Background(), s.Topic)
	require.NoError(t, err)
	stopRelay = s.relayWith(1)
	s.AwaitPublished() // into the only partition; if the relay refuses, the test ends here
	awaitBlocked(t, r, "topic "+s.Topic+" has 1 partitions, --kafka-partitions is 12")
	require.EqualValues(t, 97, s.stock(a))
	require.NoError(t, stopRelay())
}

func TestClients_NeverLetTheBrokerCreateTheTopic(t *testing.T) {
	t.Parallel()
	c, err := kfake.NewCluster(kfake.NumBrokers(1), kfake.AllowAutoTopicCreation(), kfake.DefaultNumPartitions(1), kfake.GroupMinSessionTimeout(500*time.Millisecond))
	require.NoError(t, err)
	t.Cleanup(c.Close)
	s := newSystem(t, c.ListenAddrs())
	s.Start()
	product := s.Create(100)
	_, _, at := s.Acquire(product, 1, 1)
	s.awaitReached(product, at)
	before, err := kafka.DescribeTopic(context.Background(), s.Kafka, s.Topic)
	require.NoError(t, err)
	_, err = s.admin().DeleteTopic(context.Background(), s.Topic)
	require.NoError(t, err)
	testkit.Eventually(t, 60*time.Second, "the recreated topic", func() error {
		info, err := kafka.DescribeTopic(context.Background(), s.Kafka, s.Topic)
		if err == nil && info.TopicID == before.TopicID {
			err = errors.New("still the old one")
		}
		if err == nil {
			require.EqualValues(t, 12, info.Partitions, "by the relay, not by the broker")
			require.Zero(t, info.Retention)
		}
		return err
	})
	_, _, at = s.Acquire(product, 2, 2)
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
				s.StartRelay()
				product := s.Create(100)
				_, _, at := s.Acquire(product, 1, 1)
				if !fresh {
					_, stop := s.StartProjector()
					s.awaitReached(product, at)
					require.NoError(t, stop())
				}
				for n := int64(2); n <= 9; n++ {
					_, _, at = s.Acquire(product, int(n), n)
				}
				s.AwaitPublished()
				to := int64(10)
				if last {
					to = 7
				}
				var offsets kadm.Offsets
				offsets.AddOffset(s.Topic, kafka.Partition(product, 12), to, -1)
				deleted, err := s.admin().DeleteRecords(context.Background(), offsets)
				require.NoError(t, err)
				require.NoError(t, deleted.Error())

				s.StartProjector(func(c *projector.Config) { c.Published = s.Published })
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
	_, stopRelay := s.StartRelay()
	s.StartProjector(func(c *projector.Config) { c.Published = s.Published })
	a := s.createIn(5, 100)
	_, _, at := s.Acquire(a, 1, 1)
	s.awaitReached(a, at)
	require.NoError(t, stopRelay())
	_, _, lost := s.Acquire(a, 2, 2)
	e, err := s.Reader.At(context.Background(), lost)
	require.NoError(t, err)
	s.Exec("UPDATE relay_place SET position = $1, event_id = $2, last[$3] = $1", lost, e.ID, kafka.Partition(a, 12)+1)
	s.awaitReached(a, lost)
	require.EqualValues(t, 98, s.stock(a))
}

// Two installations on one cluster.
func TestInstallations_ShareAClusterAndNotATopic(t *testing.T) {
	t.Parallel()
	brokers := testkit.Kafka(t)
	one, two := newSystem(t, brokers), newSystem(t, brokers)
	one.Start()
	two.Start()
	a, b := one.Create(100), two.Create(100)
	_, _, atA := one.Acquire(a, 1, 1)
	_, _, atB := two.Acquire(b, 1, 1)
	one.awaitReached(a, atA)
	two.awaitReached(b, atB)
	require.EqualValues(t, 1, one.Count("SELECT count(*) FROM products"))
	require.EqualValues(t, 1, two.Count("SELECT count(*) FROM products"))

	// The third installation uses the topic of the first.
	three := newSystem(t, brokers)
	three.Topic = one.Topic
	r, _ := three.StartProjector(func(c *projector.Config) { c.Group = testkit.Topic(t) })
	awaitBlocked(t, r, "another event store")
	id, err := three.Reader.Identity(context.Background())
	require.NoError(t, err)
	other, err := one.Reader.Identity(context.Background())
	require.NoError(t, err)
	awaitBlocked(t, r, id.Store.String())
	awaitBlocked(t, r, other.String())
	require.Zero(t, three.Count("SELECT count(*) FROM products"))
	_, _, atA = one.Acquire(a, 2, 2)
	one.awaitReached(a, atA)
}
