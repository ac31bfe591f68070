package devservices

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kgo"
)

// KafkaOptions configures a Kafka.
type KafkaOptions struct {
	// Dir keeps topics, records and group offsets across starts. Required for the
	// real one. Default "" for the fake: in memory.
	Dir string
	// Port to listen on at 127.0.0.1. Default 0: a free one.
	Port int
	// Properties are further lines of the real broker's server.properties, which
	// replace those of the same name; {port} and {controller} in them are the ports
	// of its listeners. Default: none.
	Properties []string
	// NoInstall keeps apt-get and Maven out of it. Default: used when needed.
	NoInstall bool
	// Log receives what is installed and started. Default: discarded.
	Log *slog.Logger
}

// Kafka is a running single-broker Kafka: Apache's as a child process, or kfake in this process.
type Kafka struct {
	broker broker
	lock   *fileLock
	kind   string

	mu   sync.Mutex
	port int
}

// broker is implemented by the two kinds. start is called with the port to use and may be called
// again after stop or kill.
type broker interface {
	start(ctx context.Context, port int) (taken bool, err error)
	stop(ctx context.Context) error
	kill()
	done() <-chan struct{}
}

func startKafka(ctx context.Context, b broker, kind string, port int, lock *fileLock) (*Kafka, error) {
	k := &Kafka{broker: b, lock: lock, kind: kind, port: port}
	if err := k.start(ctx); err != nil {
		lock.unlock()
		return nil, err
	}
	return k, nil
}

func (k *Kafka) start(ctx context.Context) error {
	return onFreePort(k.port, func(port int) (bool, error) {
		taken, err := k.broker.start(ctx, port)
		if err == nil {
			k.port = port
		}
		return taken, err
	})
}

// Brokers are the addresses to begin with, host:port.
func (k *Kafka) Brokers() []string {
	k.mu.Lock()
	defer k.mu.Unlock()
	return []string{loopback(k.port)}
}

// URL returns the address of the broker, host:port.
func (k *Kafka) URL() string { return k.Brokers()[0] }

// Kind returns a description.
func (k *Kafka) Kind() string { return k.kind }

// Done is closed when the broker has ended, wanted or not. It is nil, and so
// never ready, for the fake.
func (k *Kafka) Done() <-chan struct{} {
	k.mu.Lock()
	defer k.mu.Unlock()
	return k.broker.done()
}

// Stop ends it in order, or kills it when ctx ends first. Stopping twice is fine.
func (k *Kafka) Stop(ctx context.Context) error {
	k.mu.Lock()
	defer k.mu.Unlock()
	err := k.broker.stop(ctx)
	k.lock.unlock()
	return err
}

// Kill9 ends it without a chance to save anything; the fake, which lives in this
// process, can only be stopped.
func (k *Kafka) Kill9() {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.broker.kill()
}

// Restart starts it again on the same port and data, after Kill9 or instead of it.
func (k *Kafka) Restart(ctx context.Context) error {
	k.Kill9()
	k.mu.Lock()
	defer k.mu.Unlock()
	return k.start(ctx)
}

// readyTopic exists while a starting broker is tried.
const readyTopic = "dopamine-ready"

// tryKafka succeeds if the broker of that cluster accepts a record with acks=all. It answers
// metadata requests long before that.
func tryKafka(ctx context.Context, addr, clusterID string, node int) error {
	topic := fmt.Sprintf("%s-%d", readyTopic, node)
	client, err := kgo.NewClient(kgo.SeedBrokers(addr), kgo.RequestRetries(0), kgo.RecordRetries(0),
		kgo.RequiredAcks(kgo.AllISRAcks()), kgo.MetadataMinAge(readyPoll))
	if err != nil {
		return err
	}
	defer client.Close()
	admin := kadm.NewClient(client)
	meta, err := admin.BrokerMetadata(ctx)
	if err != nil {
		return err
	}
	if meta.Cluster != clusterID {
		return fmt.Errorf("%s belongs to another cluster, %q", addr, meta.Cluster)
	}
	if _, err := admin.CreateTopic(ctx, 1, -1, nil, topic); err != nil && !errors.Is(err, kerr.TopicAlreadyExists) {
		return err
	}
	if err := client.ProduceSync(ctx, &kgo.Record{Topic: topic, Value: []byte("ready")}).FirstErr(); err != nil {
		return err
	}
	_, err = admin.DeleteTopic(ctx, topic)
	return err
}
