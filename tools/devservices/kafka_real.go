package devservices

import (
	"context"
	"crypto/rand"
	"encoding/base64"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"
)

const (
	kafkaVersion = "4.3.1"
	// kafkaReadyWithin bounds a start, recovery after a crash included.
	kafkaReadyWithin = 90 * time.Second
	// kafkaTry bounds one try whether a starting broker takes a record.
	kafkaTry = 5 * time.Second
)

// StartKafka runs a single-broker Apache Kafka from its Maven packages, which are downloaded once.
// It returns when a record was accepted. As root it installs missing Java and Maven with apt-get;
// otherwise it returns [ErrNotHere]. It returns [ErrInUse] if another process owns Dir.
func StartKafka(ctx context.Context, opts KafkaOptions) (*Kafka, error) {
	if opts.Dir == "" {
		return nil, errors.New("kafka: no folder given for its data")
	}
	java, lib, err := findKafka(ctx, opts.NoInstall, quiet(opts.Log))
	if err != nil {
		return nil, err
	}
	dir, lock, err := ownFolder(opts.Dir)
	if err != nil {
		return nil, fmt.Errorf("folder for Kafka: %w", err)
	}
	b := &apacheBroker{java: java, lib: lib, dir: dir, more: opts.Properties}
	return startKafka(ctx, b, fmt.Sprintf("Apache Kafka %s (%s)", kafkaVersion, lib), opts.Port, lock)
}

// apacheBroker is broker and controller in one process.
type apacheBroker struct {
	java, lib, dir string
	controller     int // its port, kept across restarts
	child          *child
	member         *groupMember // nil: a cluster of one
	more           []string     // lines of server.properties
}

func (b *apacheBroker) start(ctx context.Context, port int) (bool, error) {
	controller, err := b.controllerPort()
	if err != nil {
		return false, err
	}
	config := filepath.Join(b.dir, "server.properties")
	if err := os.WriteFile(config, []byte(b.properties(port, controller)), 0o644); err != nil {
		return false, fmt.Errorf("settings of Kafka: %w", err)
	}
	cluster, err := b.format(ctx, config)
	if err != nil {
		return false, err
	}
	c, err := startChild(childSpec{
		name: "kafka", path: b.java, dir: b.dir,
		args: []string{"-Xmx512m", "-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1", "-cp", filepath.Join(b.lib, "*"), "kafka.Kafka", config},
		log:  filepath.Join(b.dir, "kafka.log"),
		// What it has acknowledged is with the kernel already.
		orphaned: syscall.SIGKILL,
	})
	if err != nil {
		return false, err
	}
	err = c.awaitReady(ctx, kafkaReadyWithin, func(ctx context.Context) error {
		ctx, cancel := context.WithTimeout(ctx, kafkaTry)
		defer cancel()
		return tryKafka(ctx, loopback(port), cluster, b.node())
	})
	if err != nil {
		c.kill()
		return c.portTaken(), err
	}
	b.child, b.controller = c, controller
	return false, nil
}

func (b *apacheBroker) controllerPort() (int, error) {
	if b.controller != 0 {
		return b.controller, nil
	}
	return FreePort()
}

// properties of one broker that need not share its machine fairly. The short
// session makes a restart after kill -9 take 5 s instead of 12 (it waits out the
// session of the one that was killed).
func (b *apacheBroker) properties(port, controller int) string {
	voters, copies, inSync := "1@"+loopback(controller), "1", "1"
	if m := b.member; m != nil {
		voters, copies, inSync = m.voters, strconv.Itoa(m.size), strconv.Itoa(m.size/2+1)
	}
	ports := strings.NewReplacer("{port}", strconv.Itoa(port), "{controller}", strconv.Itoa(controller))
	return strings.Join(append([]string{
		"process.roles=broker,controller",
		"node.id=" + strconv.Itoa(b.node()),
		"controller.quorum.voters=" + voters,
		"default.replication.factor=" + copies,
		"min.insync.replicas=" + inSync,
		"listeners=PLAINTEXT://" + loopback(port) + ",CONTROLLER://" + loopback(controller),
		"advertised.listeners=PLAINTEXT://" + loopback(port),
		"controller.listener.names=CONTROLLER",
		"log.dirs=" + b.data(),
		"offsets.topic.replication.factor=" + copies,
		"offsets.topic.num.partitions=4",
		"transaction.state.log.replication.factor=" + copies,
		"transaction.state.log.min.isr=" + inSync,
		"transaction.state.log.num.partitions=4",
		"group.initial.rebalance.delay.ms=0",
		"group.min.session.timeout.ms=500",
		"auto.create.topics.enable=false",
		"broker.session.timeout.ms=2000",
		"broker.heartbeat.interval.ms=500",
	}, ports.Replace(strings.Join(b.more, "\n"))), "\n") + "\n"
}

// node returns the broker's id.
func (b *apacheBroker) node() int {
	if b.member != nil {
		return b.member.node
	}
	return 1
}

func (b *apacheBroker) data() string { return filepath.Join(b.dir, "data") }

// format makes the data folder the first time. It returns the cluster's id.
func (b *apacheBroker) format(ctx context.Context, config string) (string, error) {
	file := filepath.Join(b.data(), "meta.properties")
	meta, err := os.ReadFile(file)
	if errors.Is(err, fs.ErrNotExist) {
		err = run(ctx, nil, b.dir, nil, b.java, "-XX:TieredStopAtLevel=1", "-cp", filepath.Join(b.lib, "*"),
			"kafka.tools.StorageTool", "format", "-t", b.clusterID(), "-c", config)
		if err != nil {
			return "", fmt.Errorf("make Kafka's data folder: %w", err)
		}
		meta, err = os.ReadFile(file)
	}
	if err != nil {
		return "", fmt.Errorf("data folder of Kafka: %w", err)
	}
	for line := range strings.Lines(string(meta)) {
		if id, ok := strings.CutPrefix(strings.TrimSpace(line), "cluster.id="); ok {
			return id, nil
		}
	}
	return "", fmt.Errorf("%s has no cluster.id: move %s away to start empty", file, b.data())
}

func (b *apacheBroker) clusterID() string {
	if b.member != nil {
		return b.member.cluster
	}
	return newClusterID()
}

// newClusterID returns a random uuid in Kafka's form. It does not begin with a dash, which
// StorageTool would interpret as a flag.
func newClusterID() string {
	b := make([]byte, 16)
	_, _ = rand.Read(b) // never fails
	b[0] &= 0x7f
	return base64.RawURLEncoding.EncodeToString(b)
}

func (b *apacheBroker) stop(ctx context.Context) error {
	if b.child == nil {
		return nil
	}
	return b.child.stop(ctx, syscall.SIGTERM)
}

func (b *apacheBroker) kill() {
	if b.child != nil {
		b.child.kill()
	}
}

func (b *apacheBroker) done() <-chan struct{} {
	if b.child == nil {
		return nil
	}
	return b.child.done
}
