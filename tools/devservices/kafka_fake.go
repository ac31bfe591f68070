package devservices

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"syscall"
	"time"

	"github.com/twmb/franz-go/pkg/kfake"
)

// StartFakeKafka runs kfake in this process: it implements Kafka's protocol, including consumer
// groups, and keeps its data in Dir. It returns [ErrInUse] if another process owns Dir.
func StartFakeKafka(ctx context.Context, opts KafkaOptions) (*Kafka, error) {
	b := &fakeBroker{}
	var lock *fileLock
	kind := "kfake (in process, in memory)"
	if opts.Dir != "" {
		dir, l, err := ownFolder(opts.Dir)
		if err != nil {
			return nil, fmt.Errorf("folder for Kafka: %w", err)
		}
		lock, b.data = l, filepath.Join(dir, "data")
		kind = "kfake (in process, data in " + dir + ")"
	}
	return startKafka(ctx, b, kind, opts.Port, lock)
}

type fakeBroker struct {
	data    string // "": in memory
	cluster *kfake.Cluster
}

func (b *fakeBroker) start(_ context.Context, port int) (bool, error) {
	// The cluster id is unique, so that the relay notices another data folder; kfake keeps the id
	// with which its data folder was created.
	opts := []kfake.Opt{kfake.NumBrokers(1), kfake.Ports(port), kfake.ClusterID(randomHex(11)),
		kfake.GroupMinSessionTimeout(500 * time.Millisecond)}
	if b.data != "" {
		opts = append(opts, kfake.DataDir(b.data))
	}
	c, err := kfake.NewCluster(opts...)
	if err != nil {
		return errors.Is(err, syscall.EADDRINUSE), fmt.Errorf("kfake: %w", err)
	}
	b.cluster = c
	return false, nil
}

func (b *fakeBroker) stop(context.Context) error {
	b.kill()
	return nil
}

func (b *fakeBroker) kill() {
	if b.cluster != nil {
		b.cluster.Close()
		b.cluster = nil
	}
}

func (b *fakeBroker) done() <-chan struct{} { return nil }
