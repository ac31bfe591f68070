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

// StartFakeKafka runs kfake in this process: it speaks Kafka's protocol, consumer
// groups included, and keeps its data in Dir. It fails with [ErrInUse] where
// another process owns that.
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
	// A cluster id of its own, so that the relay sees when the data folder is
	// another one; kfake keeps the id that its data folder was made with.
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
